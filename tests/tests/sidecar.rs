//! Two applications that know nothing of proxies, each in a network namespace of its own with a sidecar that takes its
//! traffic: what goes between the namespaces is mutual TLS.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tests::{Leaf, Pki, Process, eventually};

const CLIENT: &str = "spiffe://mesh/ns/a/sa/client";
const SERVER: &str = "spiffe://mesh/ns/b/sa/server";
/// Who the sidecars run as: their own traffic is not taken.
const SIDECAR: &str = "1337";
const PORT: u16 = 8080;
const OUTBOUND: u16 = 15_001;
const INBOUND: u16 = 15_006;

/// An application that answers with what it was sent.
const APPLICATION: &str = r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = ("from %s\n" % self.client_address[0] + str(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("0.0.0.0", 8080), Echo).serve_forever()
"#;

/// Two namespaces with a wire between them. Gone with the value.
struct Pair {
    names: [String; 2],
    children: Vec<Child>,
}

impl Pair {
    /// None where this process may not make namespaces, or the tools for it are not there.
    fn new() -> Option<Self> {
        let names = ["a", "b"].map(|side| format!("weir{side}{}", std::process::id()));
        let pair = Self { names, children: Vec::new() };
        let [a, b] = &pair.names;
        let made = run(&["ip", "netns", "add", a]).status.success()
            && run(&["ip", "netns", "add", b]).status.success();
        if !made || !pair.within(0, &["iptables", "-t", "nat", "-S"]).status.success() {
            eprintln!("left out: no network namespaces or no iptables here");
            return None;
        }
        let wires = [format!("wa{}", std::process::id()), format!("wb{}", std::process::id())];
        let must = |command: &[&str]| {
            let output = run(command);
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        must(&["ip", "link", "add", &wires[0], "type", "veth", "peer", "name", &wires[1]]);
        for (side, wire) in wires.iter().enumerate() {
            let name = &pair.names[side];
            must(&["ip", "link", "set", wire, "netns", name]);
            let address = format!("{}/24", address(side));
            for command in [
                &["ip", "address", "add", &address, "dev", wire][..],
                &["ip", "link", "set", wire, "up"],
                &["ip", "link", "set", "lo", "up"],
            ] {
                assert!(pair.within(side, command).status.success(), "{command:?}");
            }
        }
        Some(pair)
    }

    /// Runs a command in a namespace, to its end.
    fn within(&self, side: usize, command: &[&str]) -> Output {
        run(&[&["ip", "netns", "exec", &self.names[side]], command].concat())
    }

    /// Starts one that stays.
    fn start(&mut self, side: usize, command: &[&str]) {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.names[side]])
            .args(command)
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        self.children.push(child);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.names {
            run(&["ip", "netns", "del", name]);
        }
    }
}

fn run(command: &[&str]) -> Output {
    Command::new("timeout").arg("20").args(command).output().expect("timeout runs")
}

const fn address(side: usize) -> &'static str {
    ["10.99.77.1", "10.99.77.2"][side]
}

fn tls(leaf: &Leaf, ca: &Path, peer: &str, kind: &str, more: &str) -> String {
    format!(
        "{{ name: tls, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}, {more} \
         common_tls_context: {{ tls_certificates: [ {} ], validation_context: {{ trusted_ca: {{ filename: {} }}, \
         match_typed_subject_alt_names: [ {{ san_type: URI, matcher: {{ exact: '{peer}' }} }} ] }} }} }} }}",
        leaf.yaml(),
        ca.display()
    )
}

/// A sidecar that sends on to wherever its traffic was going. `down` and `up`: what protects the two sides.
fn bootstrap(port: u16, admin: u16, direction: &str, down: &str, up: &str) -> String {
    format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
  listeners:
  - name: captured
    traffic_direction: {direction}
    address: {{ socket_address: {{ address: 0.0.0.0, port_value: {port} }} }}
    listener_filters: [ {{ name: o, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst }} }} ]
    filter_chains:
    - {{ {down} filters: [ {{ name: h, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {{ uri: true }}, route_config: {{ name: r, virtual_hosts: [ {{ name: v, domains: ['*'], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: wanted }} }} ] }} ] }}, http_filters: [ {{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ] }} }} ] }}
  clusters:
  - {{ name: wanted, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, {up} connect_timeout: 2s }}
"
    )
}

#[test]
fn two_applications_talk_by_mutual_tls_and_know_nothing_of_it() {
    let Some(mut pair) = Pair::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let (client, server) = (pki.leaf("client", &[CLIENT]), pki.leaf("server", &[SERVER]));
    let ca = pki.authority();
    let program: PathBuf = folder.path().join("weir-proxy");
    std::fs::copy(Process::path("weir-proxy"), &program).expect("copied");
    let up = format!("transport_socket: {},", tls(&client, &ca, SERVER, "UpstreamTlsContext", ""));
    let down = tls(&server, &ca, CLIENT, "DownstreamTlsContext", "require_client_certificate: true,");
    let down = format!("transport_socket: {down},");
    let configs = [
        (OUTBOUND, bootstrap(OUTBOUND, 15_000, "OUTBOUND", "", &up)),
        (INBOUND, bootstrap(INBOUND, 15_000, "INBOUND", &down, "")),
    ];
    let port = PORT.to_string();
    let redirect = |chain: &[&str], to: u16| {
        let to = to.to_string();
        let head = ["iptables", "-t", "nat", "-A"];
        let tail = ["-p", "tcp", "--dport", &port, "-j", "REDIRECT", "--to-ports", &to];
        [&head, chain, &tail].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let rules = [
        redirect(&["OUTPUT", "-m", "owner", "!", "--uid-owner", SIDECAR], OUTBOUND),
        redirect(&["PREROUTING"], INBOUND),
    ];
    for (side, (_, text)) in configs.iter().enumerate() {
        let rule: Vec<&str> = rules[side].iter().map(String::as_str).collect();
        let output = pair.within(side, &rule);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = folder.path().join(format!("sidecar-{side}.yaml"));
        std::fs::write(&file, text).expect("written");
    }
    // The sidecars are somebody else, who must read what lies here.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("opened");
    for entry in std::fs::read_dir(folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("opened");
    }
    for side in 0..2 {
        let file = folder.path().join(format!("sidecar-{side}.yaml")).display().to_string();
        let program = program.display().to_string();
        let user = [format!("--reuid={SIDECAR}"), format!("--regid={SIDECAR}")];
        let as_sidecar = ["setpriv", &user[0], &user[1], "--clear-groups"];
        let command = [&as_sidecar[..], &[&program, "-c", &file, "--concurrency", "1"]].concat();
        pair.start(side, &command);
    }
    pair.start(1, &["python3", "-c", APPLICATION]);

    let url = format!("http://{}:{PORT}/", address(1));
    let ask = |as_who: &[&str]| {
        let output = pair.within(0, &[as_who, &["curl", "-sS", "-m", "5", &url]].concat());
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let answer = eventually("the application answers", || {
        let (answer, _) = ask(&[]);
        answer.contains("from ").then_some(answer)
    });
    let answer = answer.to_ascii_lowercase();
    assert!(answer.contains(&format!("host: {}:{PORT}", address(1))), "{answer}");
    let told = answer.lines().find(|line| line.starts_with("x-forwarded-client-cert")).unwrap_or_default();
    assert!(told.contains(&format!("by={SERVER}")) && told.contains(&format!("uri={CLIENT}")), "{answer}");
    for _ in 0..20 {
        assert!(ask(&[]).0.contains("from "), "each of them");
    }
    // Past the client's sidecar, as the sidecar itself, without TLS: the wire takes nothing else.
    let user = [format!("--reuid={SIDECAR}"), format!("--regid={SIDECAR}")];
    let (plain, _) = ask(&["setpriv", &user[0], &user[1], "--clear-groups"]);
    assert_eq!(plain, "this port speaks TLS, not plain HTTP");
    let metrics = pair.within(1, &["curl", "-sS", "http://127.0.0.1:15000/metrics"]);
    let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
    assert!(metrics.contains("weir_connections_turned_away_total{reason=\"plain_on_tls\"} 1"), "{metrics}");
}

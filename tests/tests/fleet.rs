//! One `weir-control` and everybody who speaks xDS beside one another: Weir and Envoy, each in both forms of the stream, and
//! stock clients of gRPC. All follow the same weights.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tests::{Backend, Client, Control, Envoy, Leaf, Pki, Proxy, eventually, free_port, python, resources};

/// Of so many requests, how many each arm took.
fn shares(port: u16, count: usize) -> (usize, usize) {
    let mut client = Client::connect(port);
    let first = (0..count).filter(|_| client.get("/", "").text() == "v1").count();
    (first, count - first)
}

#[test]
fn weir_and_envoy_follow_the_same_weights_in_both_forms() {
    let (one, two) = (Backend::named("v1"), Backend::named("v2"));
    let weights = |a: u32, b: u32| resources(&[("v1", a, one.address), ("v2", b, two.address)]);
    let control = Control::start(&weights(100, 0), "reportIntervalMs: 100\n");
    let follow = |node: &str, form: &str| {
        let (port, admin) = (free_port(), free_port());
        Proxy::start(&control.bootstrap_listening(node, admin, form, port), port, admin, &[])
    };
    let weirs = [follow("weir-state", "GRPC"), follow("weir-delta", "DELTA_GRPC")];
    let envoy = |node: &str, form: &str| {
        let (port, admin) = (free_port(), free_port());
        Envoy::start(&control.bootstrap_listening(node, admin, form, port), port, admin)
    };
    let envoys: Vec<_> =
        [envoy("envoy-state", "GRPC"), envoy("envoy-delta", "DELTA_GRPC")].into_iter().flatten().collect();
    let ports: Vec<u16> =
        weirs.iter().map(|weir| weir.port).chain(envoys.iter().map(|envoy| envoy.port)).collect();
    for port in &ports {
        eventually("v1 answers", || (shares(*port, 5) == (5, 0)).then_some(()));
    }
    control.write(&weights(0, 100));
    for port in &ports {
        eventually("v2 answers", || (shares(*port, 5) == (0, 5)).then_some(()));
    }
    control.write(&weights(70, 30));
    let wanted = eventually("the third version", || {
        let fleet = control.fleet()?;
        (fleet["wanted"] == 3).then_some(fleet["wanted"].clone())
    });
    for node in ["weir-state", "weir-delta"] {
        let node = eventually("it is served", || control.node(node).filter(|node| node["served"] == wanted));
        assert_eq!(node["acknowledged"], wanted, "{node}");
    }
    let names: &[&str] = if envoys.is_empty() { &[] } else { &["envoy-state", "envoy-delta"] };
    for node in names {
        let node =
            eventually("it is acknowledged", || control.node(node).filter(|n| n["acknowledged"] == wanted));
        assert_eq!(node["served"], Value::Null, "nobody knows what Envoy serves");
    }
    for port in &ports {
        let (first, second) = shares(*port, 1_000);
        assert!((620..780).contains(&first), "{first} and {second}");
    }
    // What came of requests is told as well.
    let arms = eventually("the requests are counted", || {
        let arms = control.node("weir-delta")?["arms"].as_array()?.clone();
        let total: u64 = arms.iter().filter_map(|arm| arm["requests"].as_u64()).sum();
        (total >= 1_010).then_some(arms)
    });
    let of = |name: &str| arms.iter().find(|arm| arm["arm"] == name).cloned().unwrap_or_default();
    assert!(of("v1")["requests"].as_u64() > of("v2")["requests"].as_u64(), "{arms:?}");
    assert_eq!((&of("v1")["route"], &of("v1")["failures"]), (&json!("weir/*/shop/0"), &json!(0)));
}

#[test]
fn a_refusal_shows_in_the_fleet_and_nothing_is_served_of_it() {
    let backend = Backend::named("v1");
    let control = Control::start(&resources(&[("v1", 1, backend.address)]), "");
    let (port, admin) = (free_port(), free_port());
    let taken = std::net::TcpListener::bind(("127.0.0.1", control.gateway)).expect("the gateway's port");
    let proxy = Proxy::start_unready(&control.bootstrap("p", admin, "DELTA_GRPC"), port, admin, &[]);
    let refusal = eventually("the refusal", || {
        Some(control.node("p")?["types"]["Listener"]["refusal"].clone()).filter(|refusal| !refusal.is_null())
    });
    assert!(refusal["reason"].as_str().is_some_and(|text| text.contains("in use")), "{refusal}");
    assert_eq!(refusal["resources"], json!(["weir"]));
    let node = control.node("p").expect("a node");
    assert_eq!((&node["acknowledged"], &node["served"]), (&Value::Null, &Value::Null));
    drop((taken, proxy));
}

/// A client of `grpcio` that calls `xds:///NAME` as often as it is told, and says who answered.
struct GrpcClient {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

const SERVER: &str = r#"
import grpc, sys
from concurrent import futures
name = sys.argv[1].encode()
server = grpc.server(futures.ThreadPoolExecutor(8))
handler = grpc.unary_unary_rpc_method_handler(lambda request, context: name)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Is": handler}),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"#;

const CLIENT: &str = r#"
import collections, grpc, json, sys
channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/test.Who/Is")
for line in sys.stdin:
    seen = collections.Counter()
    for _ in range(int(line)):
        try:
            seen[call(b"", timeout=10, wait_for_ready=True).decode()] += 1
        except grpc.RpcError as error:
            seen[error.code().name + " " + error.details()] += 1
    print(json.dumps(seen), flush=True)
"#;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server(python: &PathBuf, name: &str) -> (Server, u16) {
    let mut child =
        Command::new(python).args(["-c", SERVER, name]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a port");
    (Server(child), line.trim().parse().expect("a port"))
}

impl GrpcClient {
    fn start(python: &PathBuf, control: &Control, target: &str) -> Self {
        let bootstrap = json!({
            "xds_servers": [ {
                "server_uri": format!("127.0.0.1:{}", control.xds),
                "channel_creds": [ { "type": "insecure" } ],
                "server_features": [ "xds_v3" ],
            } ],
            "node": { "id": "grpc-client" },
        });
        let mut child = Command::new(python)
            .args(["-c", CLIENT, target])
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, commands, answers }
    }

    fn call(&mut self, count: usize) -> Value {
        writeln!(self.commands, "{count}").expect("it listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Drop for GrpcClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn stock_clients_of_grpc_follow_the_same_weights() {
    let Some(python) = python() else { return };
    let ((_a, one), (_b, two)) = (server(&python, "v1"), server(&python, "v2"));
    let at = |port: u16| ([127, 0, 0, 1], port).into();
    let weights = |a: u32, b: u32| resources(&[("v1", a, at(one)), ("v2", b, at(two))]);
    let control = Control::start(&weights(100, 0), "");
    let mut client = GrpcClient::start(&python, &control, "xds:///shop");
    assert_eq!(client.call(20), json!({ "v1": 20 }));
    control.write(&weights(0, 100));
    eventually("v2 answers", || (client.call(5) == json!({ "v2": 5 })).then_some(()));
    control.write(&weights(80, 20));
    eventually("both answer", || client.call(200)["v1"].as_u64().filter(|count| (130..190).contains(count)));
    let node = control.node("grpc-client").expect("it is in the fleet");
    assert!(node["userAgent"].as_str().is_some_and(|agent| agent.starts_with("gRPC")), "{node}");
    eventually("it has taken all", || control.node("grpc-client").filter(|n| n["acknowledged"] == 3));
}

/// What the control plane says of a node's resources, by type and name.
fn client_status(python: &PathBuf, control: &Control, node: &str) -> Vec<(String, String, String)> {
    const ASK: &str = r#"
import grpc, sys
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(grpc.insecure_channel("127.0.0.1:" + sys.argv[1]))
asked = csds_pb2.ClientStatusRequest(exclude_resource_contents=True)
asked.node.id = sys.argv[2]
fetched = stub.FetchClientStatus(asked, timeout=10)
assert list(stub.StreamClientStatus(iter([asked]), timeout=10)) == [fetched]
for config in fetched.config[0].generic_xds_configs:
    print(config.type_url.split(".")[-1], config.name, csds_pb2.ConfigStatus.Name(config.config_status))
"#;
    let output =
        Command::new(python).args(["-c", ASK, &control.xds.to_string(), node]).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let row = |line: &str| {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        (words[0].clone(), words[1].clone(), words[2].clone())
    };
    text.lines().map(row).collect()
}

#[test]
fn the_control_plane_tells_what_each_client_has_of_each_resource() {
    let Some(python) = python() else { return };
    let backend = Backend::named("v1");
    let control = Control::start(&resources(&[("v1", 1, backend.address)]), "");
    let (port, admin) = (free_port(), free_port());
    let proxy = Proxy::start(&control.bootstrap("p", admin, "GRPC"), control.gateway, admin, &[]);
    let synced = |kind: &str, name: &str| (kind.to_owned(), name.to_owned(), "SYNCED".to_owned());
    let wanted = [
        synced("Cluster", "v1"),
        synced("ClusterLoadAssignment", "v1"),
        synced("Listener", "weir"),
        synced("RouteConfiguration", "weir"),
    ];
    eventually("all is synced", || (client_status(&python, &control, "p") == wanted).then_some(()));
    // One that cannot open the port has refused the listener, and taken the rest.
    let other = Proxy::start_unready(&control.bootstrap("q", port, "DELTA_GRPC"), port, port, &[]);
    eventually("the refusal shows", || {
        let told = client_status(&python, &control, "q");
        let of = |kind: &str| told.iter().find(|row| row.0 == kind).map(|row| row.2.clone());
        (of("Listener").as_deref() == Some("ERROR") && of("Cluster").as_deref() == Some("SYNCED"))
            .then_some(())
    });
    drop((proxy, other));
}

#[test]
fn the_control_planes_port_is_protected_and_its_certificates_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let (old, new) = (pki.leaf("old", &["control.test"]), pki.leaf("new", &["control.test"]));
    let web = pki.leaf("web", &["spiffe://mesh/ns/a/sa/web"]);
    let (chain, key) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
    let show = |leaf: &Leaf| {
        std::fs::copy(&leaf.key, &key).expect("copied");
        std::fs::copy(&leaf.chain, &chain).expect("copied");
    };
    show(&old);
    let backend = Backend::named("v1");
    let tls = format!(
        "tls: {{ certificate: {}, key: {}, clientCa: {} }}\n",
        chain.display(),
        key.display(),
        pki.authority().display()
    );
    let mut control = Control::start(&resources(&[("v1", 1, backend.address)]), &tls);
    let socket = tests::mesh::upstream(&format!(
        "sni: control.test, common_tls_context: {{ tls_certificates: [ {} ], validation_context: {{ trusted_ca: {{ filename: {} }} }} }}",
        web.yaml(),
        pki.authority().display()
    ));
    let protected = |node: &str, admin: u16, port: u16| {
        let text = control.bootstrap_listening(node, admin, "DELTA_GRPC", port);
        text.replace(
            "  - name: control\n",
            &format!("  - name: control\n    {}\n", socket.trim_end_matches(',')),
        )
    };
    let (port, admin) = (free_port(), free_port());
    let weir = Proxy::start(&protected("weir", admin, port), port, admin, &[]);
    assert_eq!(Client::connect(port).get("/", "").text(), "v1", "{}", weir.process.log());
    let (port, admin) = (free_port(), free_port());
    let envoy = Envoy::start(&protected("envoy", admin, port), port, admin);
    if let Some(envoy) = &envoy {
        eventually("Envoy follows", || {
            (Client::connect(envoy.port).get("/", "").text() == "v1").then_some(())
        });
    }
    // Nobody without a certificate, and nobody in plain text.
    let asked = tests::mesh::openssl(control.xds, &["-alpn", "h2", "-tls1_2"]);
    assert!(asked.contains("alert"), "{asked}");
    let shown = |leaf: &Leaf| {
        let text = std::fs::read_to_string(&leaf.chain).expect("PEM");
        tests::mesh::openssl(control.xds, &[]).contains(text.lines().nth(2).expect("a line"))
    };
    assert!(shown(&old));
    // A pair that does not fit changes nothing; one that does is shown from the next handshake on.
    std::fs::copy(&new.key, &key).expect("copied");
    eventually("the log says so", || {
        control.process.as_ref()?.log().contains("those before them stay").then_some(())
    });
    assert!(shown(&old));
    show(&new);
    eventually("the new one is shown", || shown(&new).then_some(()));
    drop((weir, envoy));
    let process = control.process.take();
    drop(process);
}

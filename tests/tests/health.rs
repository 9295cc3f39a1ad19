//! Active health checks: what is asked, what an answer means, and who takes requests then.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tests::mesh::{Mesh, shown, upstream};
use tests::{Backend, Control, Envoy, Pki, Process, Proxy, Setup, eventually, free_port, http_get, python};

const PACE: &str =
    "timeout: 1s, interval: 0.02s, no_traffic_interval: 0.02s, unhealthy_threshold: 2, healthy_threshold: 2";

/// A check of these settings.
fn check(more: &str) -> String {
    format!("health_checks: [ {{ {PACE}, {more} }} ]")
}

/// A proxy with the cluster `c` of these endpoints.
fn proxy_to(endpoints: &[SocketAddr], fields: &str) -> Proxy {
    let (port, admin) = (free_port(), free_port());
    Proxy::start(&bootstrap(port, admin, endpoints, fields), port, admin, &[])
}

fn bootstrap(port: u16, admin: u16, endpoints: &[SocketAddr], fields: &str) -> String {
    let endpoints = assignment(endpoints, "");
    let text = Setup::default().bootstrap(port, admin);
    format!("{text}  - {{ name: c, connect_timeout: 1s, {fields}, load_assignment: {endpoints} }}\n")
}

fn assignment(endpoints: &[SocketAddr], of_each: &str) -> String {
    let endpoint = |at: &SocketAddr| {
        let address = format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", at.ip(), at.port());
        format!("{{ endpoint: {{ address: {address}{of_each} }} }}")
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    format!("{{ cluster_name: c, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }}", endpoints.join(", "))
}

/// An endpoint that serves its name, and what it says of its health under `/health`.
struct Patient {
    backend: Backend,
    answer: Arc<Mutex<String>>,
}

impl Patient {
    fn named(name: &'static str) -> Self {
        let answer = Arc::new(Mutex::new(said("200 OK", "")));
        let told = answer.clone();
        let backend = Backend::start(move |_, peer| {
            while let Some(head) = peer.head() {
                let health = told.lock().expect("no panic").clone();
                peer.send(if head.contains(" /health") { health } else { said("200 OK", name) });
            }
        });
        Self { backend, answer }
    }

    fn says(&self, status: &str, body: &str) {
        *self.answer.lock().expect("no panic") = said(status, body);
    }
}

fn said(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Who answers twelve requests, each once.
fn who(proxy: &Proxy) -> String {
    who_at(proxy.port)
}

fn who_at(port: u16) -> String {
    let answers = (0..12).map(|_| {
        let answer = http_get(port, "/").expect("an answer");
        if answer.status() == 200 { answer.text().to_owned() } else { answer.status().to_string() }
    });
    let mut names: Vec<_> = answers.collect();
    names.sort();
    names.dedup();
    names.join(" ")
}

fn becomes(proxy: &Proxy, wanted: &str) {
    let mut last = String::new();
    eventually(&format!("requests go to {wanted}"), || {
        last = who(proxy);
        (last == wanted).then_some(())
    });
}

#[test]
fn who_fails_takes_no_requests_until_it_passes_again() {
    let (a, b) = (Patient::named("a"), Patient::named("b"));
    let fields =
        check("http_health_check: { path: /health, retriable_statuses: [ { start: 500, end: 600 } ] }");
    let proxy = proxy_to(&[a.backend.address, b.backend.address], &fields);
    assert_eq!(who(&proxy), "a b");
    b.says("503 Service Unavailable", "");
    becomes(&proxy, "a");
    let page = http_get(proxy.admin, "/clusters").expect("a page");
    let flags = |flags: &str| format!("c::{}::health_flags::{flags}", b.backend.address);
    assert!(page.text().contains(&flags("/failed_active_hc")), "{}", page.text());
    assert_eq!(proxy.metric("weir_cluster_endpoints{cluster=\"c\",health=\"failing\"}"), 1);
    b.says("200 OK", "");
    becomes(&proxy, "a b");
    let page = http_get(proxy.admin, "/clusters").expect("a page");
    assert!(page.text().contains(&flags("healthy")), "{}", page.text());
    assert!(proxy.metric("weir_cluster_health_checks_total{cluster=\"c\",result=\"failed\"}") >= 2);
    assert!(proxy.process.log().contains("the status is 503"), "{}", proxy.process.log());

    // One that asks to be spared is used when it alone is left.
    b.says("200 OK\r\nx-envoy-degraded: 1", "");
    becomes(&proxy, "a");
    a.says("404 Not Found", "");
    becomes(&proxy, "b");
}

#[test]
fn where_nobody_is_well_the_panic_threshold_decides() {
    for (panic, after) in
        [("", "a b"), ("common_lb_config: { healthy_panic_threshold: { value: 0 } },", "503")]
    {
        let (a, b) = (Patient::named("a"), Patient::named("b"));
        let fields = format!("{panic} {}", check("http_health_check: { path: /health }"));
        let proxy = proxy_to(&[a.backend.address, b.backend.address], &fields);
        assert_eq!(who(&proxy), "a b");
        a.says("500 Internal Server Error", "");
        b.says("500 Internal Server Error", "");
        eventually("both fail", || {
            (proxy.metric("weir_cluster_endpoints{cluster=\"c\",health=\"failing\"}") == 2).then_some(())
        });
        becomes(&proxy, after);
    }
}

#[test]
fn a_proxy_is_ready_once_its_endpoints_were_checked() {
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let slow = Backend::start(move |_, peer| {
        while peer.head().is_some() {
            while !released.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            peer.send(said("200 OK", "slow"));
        }
    });
    let (port, admin) = (free_port(), free_port());
    let fields = "health_checks: [ { timeout: 60s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, \
                  http_health_check: { path: /health } } ]";
    let proxy = Proxy::start_unready(&bootstrap(port, admin, &[slow.address], fields), port, admin, &[]);
    eventually("it is asked", || (slow.connections() == 1).then_some(()));
    assert_eq!(http_get(admin, "/ready").expect("an answer").status(), 503);
    release.store(true, Ordering::SeqCst);
    eventually("it is ready", || http_get(admin, "/ready").filter(|r| r.status() == 200));
    assert_eq!(who(&proxy), "slow");
}

#[test]
fn the_question_is_the_one_that_was_configured() {
    let well = Backend::named("well");
    let fields = check(
        "reuse_connection: false, http_health_check: { host: health.example, path: \"/up?deep=1\", method: POST, \
         request_headers_to_add: [ { header: { key: x-from, value: weir } } ], request_headers_to_remove: [ user-agent ] }",
    );
    let proxy = proxy_to(&[well.address], &fields);
    let received = well.received();
    let (first, _) = received.split_once("\r\n\r\n").expect("a head");
    // RFC 9110 §8.6: a POST without content says so.
    let mut lines: Vec<_> = first.lines().map(str::to_ascii_lowercase).collect();
    lines.sort();
    assert_eq!(
        lines,
        ["content-length: 0", "host: health.example", "post /up?deep=1 http/1.1", "x-from: weir"]
    );
    eventually("each check has a connection of its own", || (well.connections() > 3).then_some(()));
    drop(proxy);

    let kept = Backend::named("kept");
    let _proxy = proxy_to(&[kept.address], &check("http_health_check: { path: /health }"));
    eventually("many checks", || (kept.received().matches("GET /health").count() > 5).then_some(()));
    assert_eq!(kept.connections(), 1);
    assert!(kept.received().contains("user-agent: weir-health-check"), "{}", kept.received());
    assert!(kept.received().contains("host: c\r\n"), "{}", kept.received());
}

/// H5: `/actuator/health` with JSON `status: UP`.
#[test]
fn an_answer_in_json_must_say_that_it_is_up() {
    let spring = Patient::named("spring");
    spring.says("200 OK", r#"{ "status" : "UP", "components": { "db": { "status": "UP" } } }"#);
    let fields = check(
        "custom_health_check: { name: weir.health, typed_config: { \"@type\": type.googleapis.com/weir.health.v1.Probe, \
         http: { path: /health }, json: { status: UP, components.db.status: UP } } }",
    );
    let fields = format!("common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}, {fields}");
    let proxy = proxy_to(&[spring.backend.address], &fields);
    assert_eq!(who(&proxy), "spring");
    spring.says("200 OK", r#"{"status":"DOWN","components":{"db":{"status":"UP"}}}"#);
    becomes(&proxy, "503");
    assert!(proxy.process.log().contains(r#"status is \"DOWN\", not \"UP\""#), "{}", proxy.process.log());
    spring.says("200 OK", r#"{"status":"UP","components":{"db":{"status":"UP"}}}"#);
    becomes(&proxy, "spring");
    spring.says("200 OK", "UP");
    becomes(&proxy, "503");
}

#[test]
fn a_tcp_check_connects_and_may_talk() {
    let state = Arc::new(AtomicUsize::new(0));
    let answers = state.clone();
    let redis = Backend::start(move |_, peer| {
        while let Some(line) = peer.until(b"\n") {
            if line == b"PING\r\n" {
                peer.send(if answers.load(Ordering::SeqCst) == 0 { "+PO" } else { "-NO" });
                peer.send("NG\r\n");
            } else {
                peer.head();
                peer.send(said("200 OK", "redis"));
            }
        }
    });
    // PING\r\n, and PO with NG after it.
    let fields = check(
        "tcp_health_check: { send: { text: 50494e470d0a }, receive: [ { text: \"504f\" }, { text: 4e47 } ] }",
    );
    let fields = format!(
        "common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}, {}",
        fields.replace("1s", "0.2s")
    );
    let proxy = proxy_to(&[redis.address], &fields);
    assert_eq!(who(&proxy), "redis");
    state.store(1, Ordering::SeqCst);
    becomes(&proxy, "503");
    state.store(0, Ordering::SeqCst);
    becomes(&proxy, "redis");

    // To connect is enough where nothing is to be said.
    let (up, down) = (Backend::named("up"), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let proxy = proxy_to(&[up.address, down], &check("tcp_health_check: {}"));
    assert_eq!(who(&proxy), "up");
}

#[test]
fn an_endpoint_may_be_checked_elsewhere_or_not_at_all() {
    let (served, health) = (Backend::named("served"), Patient::named("health"));
    let port = health.backend.address.port();
    for (config, after) in [
        (format!("port_value: {port}, hostname: by.name"), "503"),
        ("disable_active_health_check: true".to_owned(), "served"),
    ] {
        health.says("200 OK", "");
        let (listen, admin) = (free_port(), free_port());
        let text = Setup::default().bootstrap(listen, admin);
        let endpoints = assignment(&[served.address], &format!(", health_check_config: {{ {config} }}"));
        let check = check("http_health_check: { path: /health }");
        let text = format!(
            "{text}  - {{ name: c, common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}, {check}, \
             load_assignment: {endpoints} }}\n"
        );
        let proxy = Proxy::start(&text, listen, admin, &[]);
        assert_eq!(who(&proxy), "served");
        health.says("500 Internal Server Error", "");
        becomes(&proxy, after);
    }
    assert!(health.backend.received().contains("host: by.name\r\n"), "{}", health.backend.received());
    assert!(!served.received().contains("/health"), "it is asked nothing itself");
}

/// The check goes the way of the requests: through TLS, in HTTP/2.
#[test]
fn a_check_is_protected_as_requests_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let (leaf, backend) = (pki.leaf("server", &["shop.example"]), Backend::named("deep"));
    let server =
        Mesh::default().chain("only", "", &shown(&leaf), "").cluster("c", backend.address, "").start();
    let validation = format!(
        "sni: shop.example, common_tls_context: {{ validation_context: {{ trusted_ca: {{ filename: {:?} }} }} }}",
        pki.authority()
    );
    let check = check("http_health_check: { path: /health, codec_client_type: HTTP2 }");
    let fields = format!("{check}, {}", upstream(&validation));
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    let proxy = proxy_to(&[address], fields.trim_end_matches([',', ' ']));
    assert_eq!(who(&proxy), "deep");
    assert!(backend.received().contains("GET /health"), "{}", backend.received());
}

/// A change of all endpoints at once: the old ones serve until a new one is known to be well.
#[test]
fn endpoints_that_replace_all_others_are_checked_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("eds.yaml");
    let write = |endpoints: &str| {
        let new = folder.path().join("new");
        let resource = format!(
            "\"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, {}",
            &endpoints[1..]
        );
        std::fs::write(&new, format!("resources: [ {{ {resource} ]\n")).expect("written");
        std::fs::rename(&new, &file).expect("renamed");
    };
    let blue = Patient::named("blue");
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let green = Backend::start(move |_, peer| {
        while let Some(head) = peer.head() {
            while head.contains(" /health") && !released.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            peer.send(said("200 OK", "green"));
        }
    });
    write(&assignment(&[blue.backend.address], ""));
    let (port, admin) = (free_port(), free_port());
    let text = Setup::default().bootstrap(port, admin);
    let text = format!(
        "{text}  - {{ name: c, type: EDS, eds_cluster_config: {{ eds_config: {{ path_config_source: {{ path: {file:?} }} }} }}, \
         common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}, health_checks: [ {{ timeout: 60s, interval: 0.02s, \
         unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /health }} }} ] }}\n"
    );
    let proxy = Proxy::start(&text, port, admin, &[]);
    assert_eq!(who(&proxy), "blue");
    write(&assignment(&[green.address], ""));
    eventually("green is asked", || (green.connections() > 0).then_some(()));
    assert_eq!(who(&proxy), "blue");
    release.store(true, Ordering::SeqCst);
    becomes(&proxy, "green");
    // What is said again is no news, and nothing waits for it.
    write(&assignment(&[green.address, blue.backend.address], ""));
    becomes(&proxy, "blue green");
}

/// `grpc.health.v1` with the stock server.
#[test]
fn a_grpc_check_asks_for_a_service() {
    let Some(python) = python() else { return };
    let server = r#"
import grpc, sys
from concurrent import futures
states = {b"": 1, b"shop": 1}
def check(request, context):
    name = request[2:]
    if name not in states:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
    return b"\x08" + bytes([states[name]])
server = grpc.server(futures.ThreadPoolExecutor(4))
handler = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handler),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
for line in sys.stdin:
    states[b"shop"] = int(line)
    print("set", flush=True)
"#;
    struct Server(Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut command = Command::new(python);
    command.args(["-c", server]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = Server(command.spawn().expect("python runs"));
    let mut lines = BufReader::new(server.0.stdout.take().expect("its output")).lines();
    let port: u16 = lines.next().expect("a line").expect("text").parse().expect("a port");
    let mut told = server.0.stdin.take().expect("its input");
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let states = |proxy: &Proxy| {
        let of = |health: &str| format!("weir_cluster_endpoints{{cluster=\"c\",health=\"{health}\"}}");
        (proxy.metric(&of("healthy")), proxy.metric(&of("failing")))
    };
    let proxy = proxy_to(&[at], &check("grpc_health_check: { service_name: shop }"));
    assert_eq!(states(&proxy), (1, 0));
    writeln!(told, "2").expect("told");
    eventually("it does not serve", || (states(&proxy) == (0, 1)).then_some(()));
    writeln!(told, "1").expect("told");
    eventually("it serves", || (states(&proxy) == (1, 0)).then_some(()));
    let unknown = proxy_to(&[at], &check("grpc_health_check: { service_name: other }"));
    assert_eq!(states(&unknown), (0, 1));
    assert!(unknown.process.log().contains("grpc-status is 5"), "{}", unknown.process.log());
}

/// H4: a probe of Kubernetes as it stands, in a `Backend`; Weir and Envoy ask, and both leave out who does not answer.
#[test]
fn a_probe_of_kubernetes_reaches_weir_and_envoy() {
    let (a, b, health) = (Patient::named("a"), Patient::named("b"), Patient::named("health"));
    let (at_a, at_b, port) = (a.backend.address, b.backend.address, health.backend.address.port());
    let backend = |probe: &str, endpoints: &[SocketAddr]| {
        let endpoints: Vec<_> = endpoints.iter().map(|at| format!("{{ address: \"{at}\" }}")).collect();
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: shop }}\nspec:\n  rules:\n  - backendRefs: \
             [ {{ name: shop }} ]\n---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: shop }}\nspec:\n  endpoints: [ {} ]\n  \
             healthCheck:\n{probe}",
            endpoints.join(", ")
        )
    };
    let probe = "    httpGet: { path: /health }\n    periodSeconds: 1\n    timeoutSeconds: 5\n    failureThreshold: 1\n";
    let control = Control::start(&backend(probe, &[at_a, at_b]), "");
    let admin = free_port();
    let arguments = ["--concurrency", "1"].map(str::to_owned);
    let weir =
        Proxy::start(&control.bootstrap("weir", admin, "DELTA_GRPC"), control.gateway, admin, &arguments);
    let (own, admin) = (free_port(), free_port());
    let envoy = Envoy::start(&control.bootstrap_listening("envoy", admin, "GRPC", own), own, admin);
    let ports: Vec<_> = std::iter::once(weir.port).chain(envoy.iter().map(|envoy| envoy.port)).collect();
    let all = |wanted: &str| {
        for port in &ports {
            eventually(&format!("port {port} serves {wanted}"), || (who_at(*port) == wanted).then_some(()));
        }
    };
    all("a b");
    b.says("500 Internal Server Error", "");
    all("a");
    a.says("500 Internal Server Error", "");
    all("503");
    a.says("302 Found", "");
    b.says("200 OK", "");
    all("a b");

    // The port is honoured, and the answer's JSON: by Weir, as Envoy has no word for it.
    let probe = format!(
        "    httpGet: {{ path: /health, port: {port}, httpHeaders: [ {{ name: X-From, value: probe }} ] }}\n    periodSeconds: 1\n    \
         failureThreshold: 1\n    json: {{ status: UP }}\n"
    );
    health.says("200 OK", r#"{"status":"UP"}"#);
    control.write(&backend(&probe, &[at_a]));
    all("a");
    eventually("it is asked there", || {
        health.backend.received().to_ascii_lowercase().contains("x-from: probe").then_some(())
    });
    health.says("200 OK", r#"{"status":"DOWN"}"#);
    becomes(&weir, "503");
    health.says("200 OK", r#"{"status":"UP"}"#);
    becomes(&weir, "a");

    // An endpoint that joins is left alone for its initial delay: its first question comes no sooner.
    let late = Patient::named("late");
    let probe = "    httpGet: { path: /health }\n    periodSeconds: 1\n    initialDelaySeconds: 2\n    failureThreshold: 1\n";
    control.write(&backend(probe, &[at_a]));
    eventually("the version is served", || {
        let dump = http_get(weir.admin, "/config_dump")?;
        dump.text().contains("initial_delay").then_some(())
    });
    control.write(&backend(probe, &[at_a, late.backend.address]));
    eventually("it is known", || {
        let page = http_get(weir.admin, "/clusters")?;
        page.text()
            .contains(&format!("{}::health_flags::/failed_active_hc/pending_active_hc", late.backend.address))
            .then_some(())
    });
    let known = std::time::Instant::now();
    assert_eq!(who(&weir), "a");
    becomes(&weir, "a late");
    assert!(known.elapsed() > Duration::from_secs(1), "{:?}", known.elapsed());
}

#[test]
fn a_check_that_cannot_be_meant_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.yaml");
    for (check, said) in [
        ("{ exec: { command: [ls] } }", "exec"),
        ("{}", "spec.healthCheck: one of httpGet, tcpSocket and grpc is wanted"),
        (
            "{ httpGet: { port: http } }",
            "spec.healthCheck.httpGet.port: \"http\": ports of endpoints have no names here",
        ),
        ("{ httpGet: { host: a.b } }", "spec.healthCheck.httpGet.host: \"a.b\" is no IP address"),
        ("{ tcpSocket: {}, periodSeconds: 0 }", "spec.healthCheck.periodSeconds: 0 is not from 1 to 86400"),
        ("{ tcpSocket: {}, json: { a: b } }", "spec.healthCheck.json: goes with httpGet only"),
    ] {
        let text = format!(
            "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: a }}\nspec: {{ endpoints: [], healthCheck: {check} }}\n"
        );
        std::fs::write(&file, text).expect("written");
        let output = Process::run("weir", &["validate", &file.display().to_string()]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains(said), "{:?} lacks {said:?}", output.stderr);
    }
}

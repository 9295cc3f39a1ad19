//! What becomes of protected connections over time: certificates that end, chains that change, endpoints that are reached
//! otherwise, old clients that are passed through.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::mesh::{Mesh, curl, mutual, shown, upstream};
use tests::{Backend, Client, Http2, Leaf, Pki, Process, eventually, free_port};

const WEB: &str = "spiffe://mesh/ns/a/sa/web";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What `openssl s_client` reads, who writes so much at these times (in milliseconds).
fn converse(port: u16, leaf: &Leaf, more: &[&str], words: &[(u64, &str)]) -> String {
    let mut child = Command::new("timeout")
        .args([
            "20",
            "openssl",
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-connect",
            &format!("127.0.0.1:{port}"),
        ])
        .args(["-cert", &leaf.chain.display().to_string(), "-key", &leaf.key.display().to_string()])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let mut stdin = child.stdin.take().expect("piped");
    let began = Instant::now();
    for (at, word) in words {
        std::thread::sleep(Duration::from_millis(*at).saturating_sub(began.elapsed()));
        let _ = stdin.write_all(word.as_bytes()).and_then(|()| stdin.flush());
    }
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn nothing_outlives_the_clients_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let server = pki.leaf("server", &["shop.test"]);
    let strict = format!(
        "require_client_certificate: true, {}",
        mutual(&server, &pki.authority(), &format!("{{ exact: '{WEB}' }}"))
    );
    let backend = Backend::named("hello");
    let echo = Backend::start(|_, peer| {
        while let Some(bytes) = peer.some_bytes() {
            peer.send(bytes);
        }
    });
    let requests = Mesh::default().chain("a", "", &strict, "").cluster("c", backend.address, "").start();
    let mut bytes = Mesh::default().cluster("e", echo.address, "");
    bytes = bytes.protected_tcp("t", &strict, "cluster: e");
    let bytes = bytes.start();

    let session = folder.path().join("session.pem").display().to_string();
    let short = pki.leaf_for("short", &[WEB], Duration::from_secs(4));
    let began = Instant::now();
    let tunnel = {
        let (short, port) = (short.clone(), bytes.port);
        std::thread::spawn(move || {
            converse(port, &short, &[], &[(0, "one\n"), (1_000, "two\n"), (6_000, "late\n")])
        })
    };
    let kept =
        converse(requests.port, &short, &["-sess_out", &session], &[(0, GET), (1_000, GET), (6_000, GET)]);
    assert_eq!(kept.matches("200 OK").count(), 2, "it ended with the certificate: {kept}");
    let tunnel = tunnel.join().expect("the tunnel");
    assert!(tunnel.contains("two") && !tunnel.contains("late"), "{tunnel}");
    assert!(began.elapsed() >= Duration::from_secs(4));
    // Its session is known still, and is worth nothing.
    let again = converse(requests.port, &short, &["-sess_in", &session], &[(0, GET), (500, "")]);
    assert!(!again.contains("200 OK"), "{again}");
    let long = pki.leaf("long", &[WEB]);
    let resumed = folder.path().join("resumed.pem").display().to_string();
    let first = converse(requests.port, &long, &["-sess_out", &resumed], &[(0, GET), (500, "")]);
    assert!(first.contains("200 OK"), "{first}");
    let second = converse(requests.port, &long, &["-sess_in", &resumed], &[(0, GET), (500, "")]);
    assert!(second.contains("200 OK"), "a session of a certificate that holds is resumed: {second}");
    assert!(requests.metric("weir_tls_handshakes_total{kind=\"resumed\"}") >= 1);
}

#[test]
fn a_connection_is_never_handed_to_a_chain_that_would_not_have_taken_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (public, admin) = (Backend::named("public"), Backend::named("admin"));
    let (port, console) = (free_port(), free_port());
    let file = folder.path().join("lds.yaml");
    let chain = |matching: &str, cluster: &str| {
        format!(
            "{{ filter_chain_match: {{ {matching} }}, filters: [ {{ name: h, typed_config: {{ '@type': \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: s, route_config: {{ name: r, virtual_hosts: [ {{ name: v, domains: ['*'], routes: [ {{ match: {{ \
             prefix: / }}, route: {{ cluster: {cluster} }} }} ] }} ] }}, http_filters: [ {{ name: router, typed_config: {{ \
             '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ] }} }} ] }}"
        )
    };
    let publish = |chains: &[String]| {
        let text = format!(
            "resources: [ {{ '@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: in, address: {{ \
             socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}, filter_chains: [ {} ] }} ]",
            chains.join(", ")
        );
        let next = folder.path().join("next.yaml");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(&next, &file).expect("moved");
    };
    publish(&[chain("", "public")]);
    let cluster = |name: &str, backend: &Backend| {
        format!(
            "{{ name: {name}, load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ \
             address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }} ] }} ] }} }}",
            backend.address.port()
        )
    };
    let bootstrap = format!(
        "node: {{ id: a, cluster: b }}\nadmin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {console} }} }} \
         }}\ndynamic_resources: {{ lds_config: {{ path_config_source: {{ path: {} }} }} }}\nstatic_resources: {{ clusters: [ {}, {} ] }}\n",
        file.display(),
        cluster("public", &public),
        cluster("admin", &admin)
    );
    let proxy = tests::Proxy::start(&bootstrap, port, console, &[]);
    let mut client = Client::connect(port);
    assert_eq!(client.get("/", "").text(), "public");
    // Another chain stands first now; a connection of the old one stays with it.
    publish(&[chain("source_type: SAME_IP_OR_LOOPBACK", "admin"), chain("", "public")]);
    eventually("new connections go to the new chain", || {
        (Client::connect(port).get("/", "").text() == "admin").then_some(())
    });
    assert_eq!(client.get("/", "").text(), "public");
    // The old chain is gone: its connection is served once more, and ends.
    publish(&[chain("source_type: SAME_IP_OR_LOOPBACK", "admin")]);
    eventually("a connection whose chain is gone ends with its response", || {
        let response = client.get("/", "");
        assert_eq!(response.text(), "public");
        response.header("connection").is_some_and(|value| value == "close").then_some(())
    });
    assert!(client.is_closed());
    assert_eq!(proxy.metric("weir_failures_total{reason=\"listener_gone\",flag=\"NR\"}"), 0);
}

#[test]
fn old_clients_pass_through_to_whoever_takes_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["old.test"]);
    let port = free_port();
    let mut server = Command::new("timeout")
        .args(["30", "openssl", "s_server", "-quiet", "-www", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .args(["-cert", &leaf.chain.display().to_string(), "-key", &leaf.key.display().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    eventually("openssl listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let log = folder.path().join("tcp.log");
    let fields = format!(
        "cluster: old, access_log: [ {{ name: f, typed_config: {{ '@type': \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{ \
         text_format_source: {{ inline_string: \"%REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER%\\n\" }} }} }} }} ]",
        log.display()
    );
    let proxy = Mesh::default()
        .tcp("old", "server_names: [ old.test ]", &fields)
        .chain("own", "server_names: [ own.test ]", &shown(&leaf), "")
        .cluster("old", ([127, 0, 0, 1], port).into(), "")
        .cluster("c", ([127, 0, 0, 1], port).into(), "")
        .start();
    let speak = |name: &str| {
        let output = Command::new("timeout")
            .args(["10", "openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-servername", name])
            .args(["-connect", &format!("127.0.0.1:{}", proxy.port)])
            .stdin(Stdio::null())
            .output()
            .expect("openssl runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let passed = speak("old.test");
    assert!(passed.contains("Protocol  : TLSv1.1") && passed.contains("BEGIN CERTIFICATE"), "{passed}");
    let refused = speak("own.test");
    assert!(!refused.contains("BEGIN CERTIFICATE"), "{refused}");
    eventually("the log names whom it asked for", || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("old.test old").then_some(())
    });
    let _ = server.kill();
    let _ = server.wait();
}

#[test]
fn endpoints_are_reached_by_their_labels_and_what_they_choose_is_spoken() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["a.test"]);
    let (plain, behind) = (Backend::named("plain"), Backend::named("behind"));
    let protected =
        Mesh::default().chain("in", "", &shown(&leaf), "").cluster("c", behind.address, "").start();
    let trust = format!(
        "sni: a.test, common_tls_context: {{ validation_context: {{ trusted_ca: {{ filename: {} }} }} }}",
        pki.authority().display()
    );
    let endpoint = |port: u16, label: &str| {
        format!(
            "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}, metadata: {{ \
             filter_metadata: {{ envoy.transport_socket_match: {{ {label} }} }} }} }}"
        )
    };
    let file = folder.path().join("eds.yaml");
    let publish = |endpoints: &[String]| {
        let text = format!(
            "resources: [ {{ '@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: c, \
             endpoints: [ {{ lb_endpoints: [ {} ] }} ] }} ]",
            endpoints.join(", ")
        );
        let next = folder.path().join("next.yaml");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(&next, &file).expect("moved");
    };
    publish(&[endpoint(plain.address.port(), ""), endpoint(protected.port, "tls: 'yes'")]);
    let (port, admin) = (free_port(), free_port());
    let socket = upstream(&trust);
    let socket = socket.trim_end_matches(',').trim_start_matches("transport_socket: ").to_owned();
    let text = Mesh::default().chain("in", "", "", "").text(port, admin).replace(
        "clusters: ",
        &format!(
            "clusters:\n  - {{ name: c, type: EDS, eds_cluster_config: {{ eds_config: {{ path_config_source: {{ path: {} }} }} }}, \
             transport_socket_matches: [ {{ name: tls, match: {{ tls: 'yes' }}, transport_socket: {socket} }} ] }}",
            file.display()
        ),
    );
    let proxy = tests::Proxy::start(&text, port, admin, &["--concurrency".to_owned(), "1".to_owned()]);
    let mut client = Client::connect(proxy.port);
    let mut seen: Vec<_> = (0..4).map(|_| client.get("/", "").text().to_owned()).collect();
    seen.sort();
    assert_eq!(seen, ["behind", "behind", "plain", "plain"], "{}", proxy.process.log());
    // The label goes: the same endpoint is reached otherwise from now on, and its kept connection is not used.
    publish(&[endpoint(protected.port, "")]);
    eventually("no connection of old is used", || (client.get("/", "").status() == 400).then_some(()));
    publish(&[endpoint(protected.port, "tls: 'yes'")]);
    eventually("and back", || (client.get("/", "").text() == "behind").then_some(()));
}

#[test]
fn endpoints_that_choose_http_1_serve_many_at_once_over_few_connections() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["a.test"]);
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            std::thread::sleep(Duration::from_millis(10));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    for (alpn, protocol) in [("http/1.1", "HTTP/1.1"), ("h2, http/1.1", "HTTP/2")] {
        let tls = format!(
            "common_tls_context: {{ alpn_protocols: [ {alpn} ], tls_certificates: [ {} ] }}",
            leaf.yaml()
        );
        let log = folder.path().join(format!("{}.log", protocol.replace('/', "")));
        let rest = format!(
            "access_log: [ {{ name: f, typed_config: {{ '@type': \
             type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{ \
             text_format_source: {{ inline_string: \"%PROTOCOL%\\n\" }} }} }} }} ],",
            log.display()
        );
        let inner = Mesh::default().chain("in", "", &tls, &rest).cluster("c", backend.address, "").start();
        let socket = upstream(&format!(
            "sni: a.test, common_tls_context: {{ validation_context: {{ trusted_ca: {{ filename: {} }} }} }}",
            pki.authority().display()
        ));
        let auto = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { '@type': \
                    type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, auto_config: {} } }, \
                    circuit_breakers: { thresholds: [ { max_connections: 2 } ] },";
        let outer = Mesh::default()
            .chain("out", "", "", "")
            .cluster("c", ([127, 0, 0, 1], inner.port).into(), &format!("{socket} {auto}"))
            .start_with(&["--concurrency", "1"]);
        let port = outer.port;
        let clients: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut client = Client::connect(port);
                    (0..10).for_each(|_| assert_eq!(client.get("/", "").text(), "ok"));
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("all are answered"));
        assert!(outer.metric("weir_cluster_connections_total{cluster=\"c\"}") <= 2);
        eventually("the log is written", || {
            (std::fs::read_to_string(&log)
                .unwrap_or_default()
                .lines()
                .filter(|line| *line == protocol)
                .count()
                == 80)
                .then_some(())
        });
    }
}

#[test]
fn first_bytes_choose_a_chain_where_no_name_does() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let inspector = "listener_filters: [ { name: i, typed_config: { '@type': \
                     type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector } } ]";
    let mut mesh = Mesh::default()
        .chain("one", "application_protocols: [ http/1.1 ]", "", "")
        .tcp("two", "application_protocols: [ h2c ]", "cluster: two")
        .tcp("rest", "", "cluster: echo")
        .cluster("c", one.address, "");
    let inner = tests::Setup::to(two.address).start();
    let echo = Backend::start(|_, peer| {
        while let Some(bytes) = peer.some_bytes() {
            peer.send(bytes);
        }
    });
    mesh = mesh.cluster("two", ([127, 0, 0, 1], inner.port).into(), "").cluster("echo", echo.address, "");
    mesh.listener = inspector.to_owned();
    let proxy = mesh.start();
    assert_eq!(Client::connect(proxy.port).get("/", "").text(), "one");
    let mut client = Http2::connect(proxy.port);
    let stream =
        client.request(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")], true);
    assert_eq!(client.response(stream).body, b"two");
    let mut other = Client::connect(proxy.port);
    other.send("\u{1}\u{2}not HTTP");
    assert_eq!(other.bytes(10), b"\x01\x02not HTTP");
}

#[test]
fn a_tcp_proxy_has_limits_that_are_told_and_counted() {
    let echo = Backend::start(|_, peer| {
        while let Some(bytes) = peer.some_bytes() {
            peer.send(bytes);
        }
    });
    let breakers = "circuit_breakers: { thresholds: [ { max_connections: 3, max_requests: 1 } ] },";
    let proxy = Mesh::default()
        .tcp("t", "", "cluster: e, max_downstream_connection_duration: 2s")
        .cluster("e", echo.address, breakers)
        .start_with(&["--concurrency", "1"]);
    let began = Instant::now();
    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(proxy.port);
            client.send("hi");
            assert_eq!(client.bytes(2), b"hi", "connections are no requests");
            client
        })
        .collect();
    assert!(Client::connect(proxy.port).is_closed(), "one too many is told at once");
    proxy.settles("weir_failures_total{reason=\"overflow_connections\",flag=\"UO\"}", 1);
    assert!(clients.iter_mut().all(Client::is_closed), "they have reached their age");
    assert!(began.elapsed() >= Duration::from_secs(2));
    proxy.settles("weir_failures_total{reason=\"max_connection_duration\",flag=\"DT\"}", 3);
    let stats = proxy.page("/stats");
    for (name, value) in [
        ("tcp.t.downstream_cx_total", 4),
        ("tcp.t.downstream_cx_rx_bytes_total", 6),
        ("tcp.t.max_downstream_connection_duration", 3),
        ("cluster.e.upstream_rq_total", 0),
        ("cluster.e.upstream_cx_overflow", 1),
    ] {
        assert!(stats.lines().any(|line| line == format!("{name}: {value}")), "{name}");
    }
    assert!(!stats.contains("http.t."), "no request is counted");
}

#[test]
fn a_key_is_never_repeated_wherever_it_was_put_by_mistake() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["a.test"]);
    let key = std::fs::read_to_string(&leaf.key).expect("a key");
    let secret = key.lines().nth(1).expect("a line").to_owned();
    let quoted = format!("{key:?}");
    for wrong in [
        format!("private_key: {{ inline_bytes: {quoted} }}"),
        format!("private_key: {quoted}"),
        format!("private_key: {{ filename: {quoted} }}"),
        format!("private_key: [ {quoted} ]"),
    ] {
        let chain = leaf.chain.display();
        let tls = format!(
            "common_tls_context: {{ tls_certificates: [ {{ certificate_chain: {{ filename: {chain} }}, {wrong} }} ] }}"
        );
        let text = Mesh::default()
            .chain("a", "", &tls, "")
            .cluster("c", ([127, 0, 0, 1], 9).into(), "")
            .text(free_port(), free_port());
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, text).expect("written");
        let output = Process::run("weir-proxy", &["-c", &file.display().to_string()]);
        assert_ne!(output.code, 0);
        if !wrong.contains("filename") {
            assert!(!output.stderr.contains(&secret), "{wrong}: {}", output.stderr);
        }
    }
    // What is right works.
    let backend = Backend::named("ok");
    let proxy = Mesh::default().chain("a", "", &shown(&leaf), "").cluster("c", backend.address, "").start();
    assert_eq!(curl(&pki.authority(), "a.test", proxy.port, &[]).as_deref(), Ok("ok"));
}

//! A proxy's life: flags, admin ports, signals, drains, logs that are moved away.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tests::{Backend, Client, Process, Proxy, Setup, eventually, free_port, http_get};

/// A request on a Unix socket; the status and the body.
fn ask(path: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).expect("the socket answers");
    answer(&mut stream, request)
}

fn answer(stream: &mut (impl std::io::Read + std::io::Write), request: &str) -> (u16, String) {
    stream.write_all(format!("{request}\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned()).unwrap_or_default())
}

#[test]
fn the_read_only_port_shows_everything_and_changes_nothing() {
    let proxy = Setup::to(Backend::named("ok").address).start();
    for _ in 0..3 {
        http_get(proxy.port, "/").expect("an answer");
    }
    http_get(proxy.port, "/%00").expect("an answer");
    let stats = proxy.page("/stats");
    for line in [
        "cluster.c.upstream_rq_2xx: 3",
        "cluster.c.upstream_cx_total:",
        "cluster.c.membership_healthy: 1",
        "cluster.c.circuit_breakers.default.remaining_rq: 1024",
        "http.in.downstream_rq_total: 4",
        "http.in.downstream_rq_4xx: 1",
        "server.live: 1",
        "server.concurrency: 2",
    ] {
        assert!(stats.contains(line), "{line} is not in\n{stats}");
    }
    let prometheus = proxy.page("/stats/prometheus");
    for line in [
        "envoy_cluster_upstream_rq_xx{envoy_cluster_name=\"c\",envoy_response_code_class=\"2\"} 3",
        "# TYPE envoy_cluster_upstream_rq_time histogram",
        "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"in\"} 4",
        "envoy_server_state 0",
    ] {
        assert!(prometheus.contains(line), "{line} is not in\n{prometheus}");
    }
    let filtered = proxy.page("/stats?filter=%5Ecluster%5C.c%5C.upstream_rq_2&usedonly");
    assert_eq!(filtered, "cluster.c.upstream_rq_2xx: 3");
    assert!(proxy.page("/clusters").contains("c::default_priority::max_requests::1024"));
    assert!(proxy.page("/clusters?format=json").contains("\"eds_health_status\": \"HEALTHY\""));
    assert_eq!(proxy.page("/listeners"), format!("in::127.0.0.1:{}", proxy.port));
    assert!(proxy.page("/routes").contains("in::r/all/#0::arm::c::c::1"));
    let info: serde_json::Value = serde_json::from_str(&proxy.page("/server_info")).expect("JSON");
    assert_eq!(info["state"], "LIVE");
    assert!(serde_json::from_str::<serde_json::Value>(&proxy.page("/config_dump")).is_ok());
    assert_eq!(http_get(proxy.admin, "/nowhere").expect("an answer").status(), 404);
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.admin)).expect("a port");
    assert_eq!(answer(&mut stream, "POST /healthcheck/fail HTTP/1.1").0, 405);
    assert_eq!(proxy.page("/ready"), "LIVE");
}

#[test]
fn the_privileged_port_is_a_socket_for_its_owner_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("admin.sock");
    let mut setup = Setup::to(Backend::named("ok").address);
    setup.arguments = vec!["--privileged-admin-path".into(), socket.display().to_string()];
    let mut proxy = setup.start();
    let mode = std::fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(ask(&socket, "GET /healthcheck/fail HTTP/1.1").0, 405, "a GET changes nothing");
    assert_eq!(ask(&socket, "POST /nothing HTTP/1.1").0, 404);
    assert_eq!(ask(&socket, "POST /healthcheck/fail HTTP/1.1"), (200, "OK".into()));
    assert_eq!(http_get(proxy.admin, "/ready").expect("an answer").status(), 503);
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "ok", "it serves on");
    assert_eq!(ask(&socket, "POST /healthcheck/ok HTTP/1.1").0, 200);
    assert_eq!(http_get(proxy.admin, "/ready").expect("an answer").status(), 200);
    assert_eq!(ask(&socket, "POST /logging?level=debug HTTP/1.1"), (200, "debug".into()));
    assert_eq!(ask(&socket, "POST /logging?level=a=b=c HTTP/1.1").0, 400);
    let mut open = Client::connect(proxy.port);
    assert_eq!(open.get("/", "").text(), "ok");
    assert_eq!(ask(&socket, "POST /drain_listeners HTTP/1.1").0, 200);
    assert_eq!(open.get("/", "").header("connection"), Some("close"));
    eventually("no connection is taken", || http_get(proxy.port, "/").is_none().then_some(()));
    assert!(proxy.process.is_running());
    assert_eq!(ask(&socket, "POST /quitquitquit HTTP/1.1").0, 200);
    assert_eq!(proxy.process.wait(), 0);
}

#[test]
fn the_privileged_port_over_tcp_wants_its_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token-of-some-length\n").expect("written");
    let port = free_port();
    let mut setup = Setup::to(Backend::named("ok").address);
    setup.arguments = vec![
        "--privileged-admin-address".into(),
        format!("127.0.0.1:{port}"),
        "--privileged-admin-token-path".into(),
        token.display().to_string(),
    ];
    let proxy = setup.start();
    let post = |header: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a port");
        answer(&mut stream, &format!("POST /healthcheck/fail HTTP/1.1{header}")).0
    };
    assert_eq!(post(""), 401);
    assert_eq!(post("\r\nAuthorization: Bearer a-token-of-some-lengtH"), 401);
    assert_eq!(post("\r\nAuthorization: Bearer a-token"), 401);
    assert_eq!(http_get(proxy.admin, "/ready").expect("an answer").status(), 200);
    assert_eq!(post("\r\nAuthorization: Bearer a-token-of-some-length"), 200);
    assert_eq!(http_get(proxy.admin, "/ready").expect("an answer").status(), 503);
}

#[test]
fn envoys_flags_mean_what_they_mean_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = folder.path().join("good.yaml");
    std::fs::write(&good, Setup::to(([127, 0, 0, 1], 1).into()).bootstrap(free_port(), free_port()))
        .expect("written");
    let good = good.display().to_string();
    let run = |arguments: &[&str]| {
        let output = Process::run("weir-proxy", arguments);
        (output.code, output.stdout.trim().to_owned() + output.stderr.trim())
    };
    assert_eq!(run(&["-c", &good, "--mode", "validate"]), (0, "the configuration can be used".into()));
    let (code, text) = run(&[
        "-c",
        &good,
        "--mode",
        "validate",
        "--config-yaml",
        "{ static_resources: { clusters: [ { nam: x } ] } }",
    ]);
    assert_eq!(code, 2);
    assert!(
        text.contains("--config-yaml:1:37: static_resources.clusters[0].nam: Cluster has no field `nam`"),
        "{text}"
    );
    let twice = "static_resources: { clusters: [ { name: c, load_assignment: { cluster_name: c } } ] }";
    let (code, text) = run(&["-c", &good, "--config-yaml", twice, "--mode", "validate"]);
    assert_eq!((code, text.contains('c')), (2, true), "lists are joined, and this name is taken: {text}");
    assert_eq!(run(&["--mode", "validate"]).0, 2, "there must be a configuration");
    assert_eq!(run(&["-c", &good, "--concurrency", "0"]).0, 2);
    assert_eq!(run(&["-c", &good, "--log-level", "a=b=c"]).0, 2);
    assert_eq!(run(&["-c", &good, "--log-level", "warning", "--mode", "validate"]).0, 0);
    assert!(run(&["--version"]).1.starts_with("weir-proxy "));
}

#[test]
fn a_node_is_who_the_flags_say() {
    let (port, admin) = (free_port(), free_port());
    let text = Setup::to(Backend::named("ok").address).bootstrap(port, admin);
    let arguments = ["--service-node", "n1", "--service-cluster", "edge"].map(str::to_owned);
    let proxy = Proxy::start(&text, port, admin, &arguments);
    let info: serde_json::Value = serde_json::from_str(&proxy.page("/server_info")).expect("JSON");
    assert_eq!((info["node"]["id"].as_str(), info["node"]["cluster"].as_str()), (Some("n1"), Some("edge")));
}

#[test]
fn a_drain_announces_itself_first_and_a_second_signal_ends_it() {
    let backend = Backend::named("ok");
    let mut setup = Setup::to(backend.address);
    setup.arguments = vec!["--drain-wait-s".into(), "30".into()];
    let (port, admin) = (free_port(), free_port());
    let text = setup.bootstrap(port, admin);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bootstrap.yaml");
    std::fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    let mut process = Process::start("weir-proxy", &["-c", &file, "--drain-wait-s", "30"]);
    eventually("it is ready", || http_get(admin, "/ready").filter(|r| r.status() == 200));
    process.signal("TERM");
    eventually("ready fails", || http_get(admin, "/ready").filter(|r| r.status() == 503));
    let mut client = Client::connect(port);
    let during = client.get("/", "");
    assert_eq!((during.text(), during.header("connection")), ("ok", None), "until it begins, all is served");
    process.signal("TERM");
    assert_eq!(process.wait(), 0, "at once");
}

#[test]
fn idle_connections_end_after_the_drain_time() {
    let mut proxy = Setup::to(Backend::named("ok").address).manager("drain_timeout: 0.3s").start();
    let mut idle = Client::connect(proxy.port);
    assert_eq!(idle.get("/", "").text(), "ok");
    proxy.process.signal("TERM");
    assert!(idle.is_closed());
    assert_eq!(proxy.process.wait(), 0);
}

#[test]
fn logs_are_opened_again_when_they_were_moved_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let manager = format!(
        "access_log: [ {{ name: file, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
         path: {}, log_format: {{ text_format: '%REQ(:PATH)% %RESPONSE_CODE%\n' }} }} }} ]",
        path.display()
    )
    .replace("\n'", "\\n\"")
    .replace("'%REQ", "\"%REQ");
    let proxy = Setup::to(Backend::named("ok").address).manager(&manager).start();
    let has = |file: &Path, line: &str| std::fs::read_to_string(file).is_ok_and(|text| text.contains(line));
    http_get(proxy.port, "/one").expect("an answer");
    eventually("the first line is written", || has(&path, "/one 200\n").then_some(()));
    std::fs::rename(&path, &moved).expect("moved");
    proxy.process.signal("USR1");
    eventually("the file is there again", || path.exists().then_some(()));
    http_get(proxy.port, "/two").expect("an answer");
    eventually("the second line is in the new file", || has(&path, "/two 200\n").then_some(()));
    assert!(!has(&moved, "/two") && !has(&path, "/one"));
}

#[test]
fn json_logs_and_filters_tell_what_was_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("errors.json");
    let manager = format!(
        "access_log:
- name: file
  filter: {{ status_code_filter: {{ comparison: {{ op: GE, value: {{ default_value: 400, runtime_key: k }} }} }} }}
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: {}
    log_format: {{ json_format: {{ path: '%REQ(:PATH)%', code: '%RESPONSE_CODE%', agent: '%REQ(USER-AGENT)%', flags: '%RESPONSE_FLAGS%', why: '%WEIR_REASON%', from: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%' }} }}",
        path.display()
    );
    let proxy = Setup::to(Backend::named("ok").address)
        .routes("{ match: { prefix: /a }, route: { cluster: c } }")
        .manager(&manager)
        .start();
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/a", "").status(), 200);
    assert_eq!(client.get("/none", "User-Agent: odd \"one\"\t\\\r\n").status(), 404);
    let text = eventually("a line is written", || {
        std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("a JSON document");
    assert_eq!(line["code"], 404);
    assert_eq!(line["agent"], "odd \"one\"\t\\");
    assert_eq!((line["flags"].as_str(), line["from"].as_str()), (Some("NR"), Some("127.0.0.1")));
    assert_eq!(line["why"], "no route matches this request");
}

#[test]
fn a_listener_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("in.sock");
    let (port, admin) = (free_port(), free_port());
    let text = Setup::to(Backend::named("ok").address).bootstrap(port, admin).replace(
        &format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}"),
        &format!("{{ pipe: {{ path: {} }} }}", socket.display()),
    );
    let _proxy = Proxy::start(&text, port, admin, &[]);
    assert_eq!(ask(&socket, "GET / HTTP/1.1"), (200, "ok".into()));
}

#[test]
fn few_file_descriptors_are_said_and_bound_connections() {
    let (port, admin) = (free_port(), free_port());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bootstrap.yaml");
    std::fs::write(&file, Setup::to(Backend::named("ok").address).bootstrap(port, admin)).expect("written");
    let process =
        Process::start_limited("weir-proxy", &["-c", &file.display().to_string(), "--concurrency", "1"], 200);
    eventually("it is ready", || http_get(admin, "/ready").filter(|r| r.status() == 200));
    assert!(
        process.log().contains("the limit of open files is 200: at most 150 clients"),
        "{}",
        process.log()
    );
    let mut held: Vec<_> = (0..150).map(|_| Client::connect(port)).collect();
    let last = held.last_mut().expect("one");
    last.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(last.response().text(), "ok");
    let mut refused = Client::connect(port);
    assert!(refused.is_closed(), "one more");
}

#[test]
fn ten_thousand_idle_connections_are_held() {
    // As many as this process may open, if that is less.
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let soft = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<usize>().ok()
    });
    let count = soft.map_or(10_000, |soft| soft.saturating_sub(500).min(10_000));
    let mut setup = Setup::to(Backend::named("ok").address);
    setup.arguments = vec!["--max-connections".into(), "20000".into()];
    let proxy = setup.start();
    let mut held: Vec<_> = (0..count).map(|_| Client::connect(proxy.port)).collect();
    for client in held.iter_mut().step_by(97) {
        assert_eq!(client.get("/", "").text(), "ok");
    }
    let active = proxy.metric("weir_downstream_connections_active");
    assert!(active >= count as u64, "{active} of {count}");
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "ok", "and there is room for one more");
}

#[test]
fn memory_that_is_nearly_full_refuses_work_and_room_takes_it() {
    let backend = Backend::named("ok");
    let with_heap = |mib: &str| {
        let (port, admin) = (free_port(), free_port());
        let text = Setup::to(backend.address).bootstrap(port, admin);
        Proxy::start(&text, port, admin, &["--max-heap-mib".to_owned(), mib.to_owned()])
    };
    let full = with_heap("1");
    eventually("connections are refused", || Client::connect(full.port).is_closed().then_some(()));
    assert!(full.metric("weir_downstream_connections_refused_total") >= 1);
    assert!(full.process.log().contains("memory"), "{}", full.process.log());
    let roomy = with_heap("1000");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut client = Client::connect(roomy.port);
    assert_eq!(client.get("/", "").header("connection"), None);
    assert_eq!(roomy.metric("weir_worker_stalls_total"), 0);
}

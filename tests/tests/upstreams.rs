//! Connections to endpoints: pools, what is sent again, circuit breakers, back-pressure.

use std::io::Write as _;
use std::time::Duration;

use tests::{Backend, Client, Proxy, Setup, eventually, http_get};

fn cluster<'a>(backend: &Backend, fields: &'a str, arguments: &[&str]) -> Setup<'a> {
    Setup {
        clusters: vec![("c", backend.address, fields)],
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        ..Setup::default()
    }
}

fn one_worker(backend: &Backend, fields: &str) -> Proxy {
    cluster(backend, fields, &["--concurrency", "1"]).start()
}

/// A backend that holds each request until it is told to answer.
fn holding(release: &std::sync::Arc<std::sync::atomic::AtomicBool>) -> Backend {
    let release = release.clone();
    Backend::start(move |_, peer| {
        while peer.head().is_some() {
            while !release.load(std::sync::atomic::Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

/// Waits until so much is left: what a request took, it gives back after its last byte has left.
fn comes_back(proxy: &Proxy, limit: &str, value: u64) {
    eventually("nothing is left behind", || (remaining(proxy, "default", limit) == value).then_some(()));
}

fn remaining(proxy: &Proxy, priority: &str, limit: &str) -> u64 {
    proxy.metric(&format!(
        "weir_circuit_breaker_remaining{{cluster=\"c\",priority=\"{priority}\",limit=\"{limit}\"}}"
    ))
}

#[test]
fn a_breaker_on_requests_names_itself_and_opens_again() {
    let release = std::sync::Arc::default();
    let backend = holding(&release);
    let fields = "circuit_breakers: { thresholds: [ { max_requests: 2 } ] }";
    let proxy = cluster(&backend, fields, &[]).start();
    assert_eq!(remaining(&proxy, "default", "requests"), 2);
    let mut held: Vec<_> = (0..2).map(|_| Client::connect(proxy.port)).collect();
    for client in &mut held {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("both are under way", || (remaining(&proxy, "default", "requests") == 0).then_some(()));
    let refused = http_get(proxy.port, "/").expect("an answer");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.text(), "the cluster's circuit breaker max_requests is reached");
    release.store(true, std::sync::atomic::Ordering::SeqCst);
    held.iter_mut().for_each(|client| assert_eq!(client.response().text(), "ok"));
    assert_eq!(http_get(proxy.port, "/").expect("an answer").status(), 200);
    comes_back(&proxy, "requests", 2);
    proxy.settles("weir_failures_total{reason=\"overflow_requests\",flag=\"UO\"}", 1);
}

#[test]
fn high_priority_has_limits_of_its_own() {
    let release = std::sync::Arc::default();
    let backend = holding(&release);
    let fields =
        "circuit_breakers: { thresholds: [ { max_requests: 1 }, { priority: HIGH, max_requests: 1 } ] }";
    let proxy = cluster(&backend, fields, &[])
        .routes(
            "{ match: { prefix: /high }, route: { cluster: c, priority: HIGH } }, { match: { prefix: / }, route: { cluster: c } }",
        )
        .start();
    let mut low = Client::connect(proxy.port);
    low.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is under way", || (remaining(&proxy, "default", "requests") == 0).then_some(()));
    let mut high = Client::connect(proxy.port);
    high.send("GET /high HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("so is this", || (remaining(&proxy, "high", "requests") == 0).then_some(()));
    assert_eq!(http_get(proxy.port, "/high").expect("an answer").status(), 503);
    release.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!((low.response().status(), high.response().status()), (200, 200));
}

#[test]
fn requests_wait_for_a_connection_and_so_many_may() {
    let release = std::sync::Arc::default();
    let backend = holding(&release);
    let fields = "circuit_breakers: { thresholds: [ { max_connections: 1, max_pending_requests: 2 } ] }";
    let proxy = one_worker(&backend, fields);
    let mut clients: Vec<_> = (0..3)
        .map(|i| {
            let mut client = Client::connect(proxy.port);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let waiting = 2_u64.saturating_sub(i);
            eventually("it is served or waits", || {
                (remaining(&proxy, "default", "pending_requests") == waiting).then_some(())
            });
            client
        })
        .collect();
    let refused = http_get(proxy.port, "/").expect("an answer");
    assert_eq!(refused.text(), "the cluster's circuit breaker max_pending_requests is reached");
    release.store(true, std::sync::atomic::Ordering::SeqCst);
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "ok"));
    assert_eq!(backend.connections(), 1, "one connection served all of them");
    comes_back(&proxy, "pending_requests", 2);
    let stats = proxy.page("/stats");
    assert!(stats.contains("cluster.c.upstream_rq_pending_overflow: 1"), "{stats}");
    assert!(stats.contains("cluster.c.upstream_cx_active: 1"), "{stats}");
}

#[test]
fn a_waiting_request_that_leaves_gives_its_place_back() {
    let release = std::sync::Arc::default();
    let backend = holding(&release);
    let fields = "circuit_breakers: { thresholds: [ { max_connections: 1, max_pending_requests: 1 } ] }";
    let proxy = cluster(&backend, fields, &["--concurrency", "1"])
        .routes("{ match: { prefix: /short }, route: { cluster: c, timeout: 0.1s } }, { match: { prefix: / }, route: { cluster: c } }")
        .start();
    let mut first = Client::connect(proxy.port);
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is under way", || (remaining(&proxy, "default", "connections") == 0).then_some(()));
    for _ in 0..3 {
        assert_eq!(
            http_get(proxy.port, "/short").expect("an answer").status(),
            504,
            "waiting counts as time"
        );
    }
    release.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(first.response().text(), "ok");
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "ok");
    comes_back(&proxy, "pending_requests", 1);
}

#[test]
fn requests_a_connection_and_idle_time_are_bounded() {
    let backend = Backend::named("ok");
    let proxy = one_worker(&backend, "max_requests_per_connection: 2");
    let mut client = Client::connect(proxy.port);
    for _ in 0..6 {
        assert_eq!(client.get("/", "").text(), "ok");
    }
    assert_eq!(backend.connections(), 3);

    let backend = Backend::named("ok");
    let fields = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { '@type': \
                  type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: { \
                  idle_timeout: 0.2s }, explicit_http_config: { http_protocol_options: {} } } }";
    let proxy = one_worker(&backend, fields);
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "ok");
    eventually("the idle connection is closed", || {
        proxy.page("/stats").contains("cluster.c.upstream_cx_active: 0").then_some(())
    });
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "ok");
    assert_eq!(backend.connections(), 2);
}

#[test]
fn bytes_on_an_idle_connection_close_it() {
    let backend = Backend::start(|number, peer| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            if number == 0 {
                std::thread::sleep(Duration::from_millis(100));
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
            }
        }
    });
    let proxy = one_worker(&backend, "");
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").text(), "ok");
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..3 {
        assert_eq!(client.get("/", "").text(), "ok");
    }
    assert_eq!(backend.connections(), 2);
}

#[test]
fn a_request_is_sent_again_only_where_that_is_safe() {
    // The second request on a connection is read, and answered by closing.
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        peer.head();
    });
    let proxy = one_worker(&backend, "");
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").text(), "ok");
    assert_eq!(client.get("/again", "").text(), "ok", "a GET goes out once more, on a fresh connection");
    client.send("POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    let lost = client.response();
    assert_eq!((lost.status(), lost.text()), (503, "the endpoint closed the connection without a response"));
    assert_eq!(
        backend.received().matches("POST /once").count(),
        1,
        "a POST that was read is never sent twice"
    );
    assert_eq!(backend.received().matches("GET /again").count(), 2);
}

#[test]
fn a_slow_reader_slows_the_endpoint_and_not_the_memory() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let backend = Backend::start(move |_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n");
        for _ in 0..2_000 {
            peer.send([b'x'; 100_000]);
            counted.fetch_add(100_000, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let proxy = one_worker(&backend, "");
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // The kernel's buffers fill, then everything stands still.
    let mut last = usize::MAX;
    eventually("the endpoint stands still", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        let still = now == last && now > 0;
        last = now;
        still.then_some(())
    });
    assert!(last < 50_000_000, "{last} bytes went into buffers");
    let resident = std::fs::read_to_string(format!("/proc/{}/statm", proxy.process.id())).expect("a process");
    let pages: usize = resident.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    assert!(pages * 4 < 200_000, "the proxy holds {} KiB", pages * 4);
}

#[test]
fn an_early_response_leaves_the_connection_usable_where_the_rest_is_small() {
    // Answers before the body comes, and closes.
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
        peer.exactly(1_000);
    });
    let proxy = one_worker(&backend, "");
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    let early = client.response();
    assert_eq!((early.text(), early.header("connection")), ("no", None));
    client.send("x".repeat(1_000));
    assert_eq!(client.get("/", "").text(), "no", "the next request is where it should be");

    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    let early = client.response();
    assert_eq!(
        (early.status(), early.header("connection")),
        (403, Some("close")),
        "a large rest is not waited for"
    );

    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
    let early = client.response();
    assert_eq!(
        (early.status(), early.header("connection")),
        (403, Some("close")),
        "nobody knows whether the body comes"
    );
}

#[test]
fn small_bodies_in_pieces_leave_the_connection_in_step() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
                .unwrap_or(0);
            let Some(body) = peer.exactly(length) else { return };
            peer.send(
                [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), &body].concat(),
            );
        }
    });
    let proxy = one_worker(&backend, "");
    let client = Client::connect(proxy.port);
    let mut reader = client;
    for round in 0..50_usize {
        let body = format!("body number {round}");
        reader.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
        let (first, rest) = body.split_at(round % body.len());
        let mut sender = reader.sender();
        sender.write_all(first.as_bytes()).expect("sent");
        sender.write_all(rest.as_bytes()).expect("sent");
        assert_eq!(reader.response().text(), body);
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_tunnel_takes_the_place_of_an_idle_connection() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            if head.contains("upgrade") {
                peer.send(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
                );
                while peer.exactly(1).is_some() {}
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let fields = "circuit_breakers: { thresholds: [ { max_connections: 1 } ] }";
    let proxy = cluster(&backend, fields, &["--concurrency", "1"])
        .manager("upgrade_configs: [ { upgrade_type: websocket } ]")
        .start();
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "ok");
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(client.response().status(), 101, "the idle connection made room");
    drop(client);
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "ok", "and so did the tunnel");
}

#[test]
fn posts_survive_an_endpoint_that_closes_after_each_response() {
    // Closes without saying so: a POST on a connection that was good a moment ago could not be sent again.
    let backend = Backend::start(|_, peer| {
        let Some(head) = peer.head() else { return };
        if head.starts_with("POST") {
            peer.exactly(4);
        }
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = one_worker(&backend, "");
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").text(), "ok");
    eventually("the close is noticed", || {
        proxy.page("/stats").contains("cluster.c.upstream_cx_active: 0").then_some(())
    });
    for round in 0..200 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(client.response().text(), "ok", "round {round}");
    }
}

//! Every limit of time, through a real `weir-proxy`: what is too slow ends, and the answer says which limit it was.

use std::time::{Duration, Instant};

use tests::{Backend, Client, Proxy, Setup, eventually};

/// A backend that reads requests and, as the path asks, is late, silent in the middle, or answers.
fn slow() -> Backend {
    Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let length = head.to_ascii_lowercase();
            let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if peer.exactly(length.unwrap_or(0)).is_none() {
                return;
            }
            let wait = |millis| std::thread::sleep(Duration::from_millis(millis));
            match head.split(' ').nth(1).unwrap_or_default() {
                "/late" => wait(1_500),
                "/half" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    wait(1_500);
                    return;
                }
                "/stream" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
                    for _ in 0..10 {
                        wait(60);
                        peer.send("x");
                    }
                    continue;
                }
                _ => {}
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

fn with_manager(manager: &str) -> Proxy {
    Setup::to(slow().address).manager(manager).start()
}

fn limits(fields: &str) -> String {
    format!(
        "- {{ name: weir.limits, typed_config: {{ '@type': type.googleapis.com/weir.limits.v1.HttpLimits, {fields} }} }}"
    )
}

/// The status and body of the answer, and that the proxy counted the reason.
fn refused(proxy: &Proxy, client: &mut Client, reason: &str) -> (u16, String) {
    let response = client.response();
    let flag = if reason.contains("idle") {
        "SI"
    } else if reason == "response_timeout" {
        "UT"
    } else {
        "DT"
    };
    let series = format!("weir_failures_total{{reason=\"{reason}\",flag=\"{flag}\"}}");
    proxy.settles(&series, 1);
    (response.status(), response.text().to_owned())
}

#[test]
fn a_head_that_comes_too_slowly_is_refused() {
    let proxy = with_manager("request_headers_timeout: 0.2s");
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let answer = refused(&proxy, &mut client, "header_timeout");
    assert_eq!(answer, (408, "the request's head took longer than request_headers_timeout".to_owned()));
    assert!(client.is_closed());
    // Its time begins with its first byte, not with the connection.
    let mut patient = Client::connect(proxy.port);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(patient.get("/", "").status(), 200);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(patient.get("/", "").status(), 200);
}

#[test]
fn a_request_that_comes_too_slowly_is_refused() {
    let proxy = with_manager("request_timeout: 0.3s");
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n");
    let began = Instant::now();
    for _ in 0..10 {
        client.try_send("x");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (status, words) = refused(&proxy, &mut client, "request_timeout");
    assert_eq!((status, words.as_str()), (408, "the request took longer than request_timeout"));
    assert!(began.elapsed() >= Duration::from_millis(300), "never early");
}

#[test]
fn silence_within_a_body_and_a_trickle_are_refused() {
    let backend = slow();
    let filters = limits("body_idle_timeout: 0.2s");
    let proxy = Setup { filters: &filters, ..Setup::to(backend.address) }.start();
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nxx");
    let (status, words) = refused(&proxy, &mut client, "body_idle_timeout");
    assert_eq!((status, words.as_str()), (408, "the client was silent within the request's body"));

    let filters = limits("min_body_rate: 1000, min_body_rate_grace: 0.2s");
    let proxy = Setup { filters: &filters, ..Setup::to(backend.address) }.start();
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    for _ in 0..8 {
        client.try_send("x");
        std::thread::sleep(Duration::from_millis(40));
    }
    let (status, words) = refused(&proxy, &mut client, "body_too_slow");
    assert_eq!((status, words.as_str()), (408, "the request's body came slower than the least rate"));
    // A body that is fast enough takes its time.
    let mut client = Client::connect(proxy.port);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    for _ in 0..10 {
        client.send("x".repeat(100));
        std::thread::sleep(Duration::from_millis(40));
    }
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn a_route_timeout_is_a_504_that_names_it() {
    let backend = slow();
    let proxy = Setup::to(backend.address)
        .routes("{ match: { prefix: / }, route: { cluster: c, timeout: 0.2s } }")
        .start();
    let mut client = Client::connect(proxy.port);
    client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    let (status, words) = refused(&proxy, &mut client, "response_timeout");
    assert_eq!((status, words.as_str()), (504, "the response took longer than the route's timeout"));
    assert_eq!(client.get("/", "").text(), "ok", "the client's connection goes on");
    // A response that is on its way is cut.
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_response(), None);
    // A late connection is not used again.
    proxy.settles("weir_upstream_connections_total", 2);
}

#[test]
fn a_route_timeout_counts_from_the_requests_end() {
    let proxy = Setup::to(slow().address)
        .routes("{ match: { prefix: / }, route: { cluster: c, timeout: 0.25s } }")
        .start();
    let mut client = Client::connect(proxy.port);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n");
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(60));
        client.send("x");
    }
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn silence_of_the_endpoint_is_a_504_that_names_it() {
    let proxy = with_manager("stream_idle_timeout: 0.2s");
    let mut client = Client::connect(proxy.port);
    client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    let (status, words) = refused(&proxy, &mut client, "stream_idle_timeout");
    assert_eq!((status, words.as_str()), (504, "the endpoint was silent for longer than the idle timeout"));
    // Steady progress is not silence, whatever it takes in all.
    assert_eq!(client.get("/stream", "").text(), "xxxxxxxxxx");
    client.send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_response(), None, "a response in the middle is cut");
}

#[test]
fn a_routes_idle_timeout_stands_for_the_listeners() {
    let proxy = Setup::to(slow().address)
        .manager("stream_idle_timeout: 0.1s")
        .routes(
            "{ match: { path: /late }, route: { cluster: c, idle_timeout: 5s } }, { match: { prefix: / }, route: { cluster: c } }",
        )
        .start();
    assert_eq!(Client::connect(proxy.port).get("/late", "").text(), "ok");
}

#[test]
fn an_exchange_has_a_longest_duration() {
    let proxy = with_manager("common_http_protocol_options: { max_stream_duration: 0.3s }");
    let mut client = Client::connect(proxy.port);
    client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    let (status, words) = refused(&proxy, &mut client, "max_stream_duration");
    assert_eq!((status, words.as_str()), (408, "the exchange took longer than max_stream_duration"));
}

#[test]
fn grpc_and_tunnels_are_not_ended_by_the_default_route_timeout() {
    // What is checked is that no deadline is set: 15 s are too long for a test. A set one is 0.2 s away.
    let backend = slow();
    let timed = "{ match: { prefix: / }, route: { cluster: c, timeout: 0s } }";
    let proxy = Setup::to(backend.address).routes(timed).start();
    assert_eq!(Client::connect(proxy.port).get("/late", "").text(), "ok", "0 is any time");
    let quiet = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        std::thread::sleep(Duration::from_millis(600));
        peer.send("late");
    });
    let proxy = Setup::to(quiet.address)
        .manager("upgrade_configs: [ { upgrade_type: websocket } ]")
        .routes("{ match: { prefix: / }, route: { cluster: c, timeout: 0.2s } }")
        .start();
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(client.response().status(), 101);
    assert_eq!(client.rest(), b"late", "a tunnel outlives its route's timeout");
}

#[test]
fn a_silent_tunnel_ends_and_a_busy_one_does_not() {
    let echo = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        while let Some(word) = peer.exactly(4) {
            peer.send(word);
        }
    });
    let filters = limits("tunnel_idle_timeout: 0.3s");
    let proxy = Setup {
        filters: &filters,
        manager: "upgrade_configs: [ { upgrade_type: websocket } ]",
        ..Setup::to(echo.address)
    }
    .start();
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(client.response().status(), 101);
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(100));
        client.send("ping");
    }
    let began = Instant::now();
    assert_eq!(client.rest(), b"pingpingpingpingpingping");
    assert!(began.elapsed() >= Duration::from_millis(200), "it ended by silence");
    proxy.settles("weir_failures_total{reason=\"tunnel_idle_timeout\",flag=\"SI\"}", 1);
}

#[test]
fn an_idle_connection_ends_after_its_time() {
    let proxy = with_manager("common_http_protocol_options: { idle_timeout: 0.3s }");
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").status(), 200);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.get("/", "").status(), 200, "the time begins anew");
    let began = Instant::now();
    assert!(client.is_closed());
    assert!(began.elapsed() >= Duration::from_millis(250), "never early");
    let mut mute = Client::connect(proxy.port);
    assert!(mute.is_closed(), "one that never said anything as well");
}

#[test]
fn an_old_connection_ends_with_its_next_response() {
    let proxy =
        with_manager("common_http_protocol_options: { max_connection_duration: 0.3s }\ndrain_timeout: 0.2s");
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").header("connection"), None);
    std::thread::sleep(Duration::from_millis(350));
    assert_eq!(client.get("/", "").header("connection"), Some("close"));
    assert!(client.is_closed());
    let mut silent = Client::connect(proxy.port);
    assert_eq!(silent.get("/", "").status(), 200);
    assert!(silent.is_closed(), "or after the drain time");
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let endless = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        peer.send(vec![b'x'; 100_000_000]);
    });
    let filters = limits("write_timeout: 0.3s");
    let proxy = Setup { filters: &filters, ..Setup::to(endless.address) }.start();
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the write timeout is counted", || {
        let series = "weir_failures_total{reason=\"client_write_timeout\",flag=\"SI\"}";
        (proxy.metric(series) == 1).then_some(())
    });
    let took = client.rest().len();
    assert!(took < 100_000_000, "it was cut after {took} bytes");
}

#[test]
fn an_endpoint_that_takes_nothing_is_given_up() {
    let deaf = Backend::start(|_, peer| {
        peer.head();
        std::thread::sleep(Duration::from_secs(20));
    });
    let filters = limits("write_timeout: 0.3s, body_idle_timeout: 5s");
    let proxy = Setup { filters: &filters, ..Setup::to(deaf.address) }.start();
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    let mut sender = client.sender();
    std::thread::spawn(move || while std::io::Write::write_all(&mut sender, &[b'x'; 100_000]).is_ok() {});
    let response = client.response();
    assert_eq!(
        (response.status(), response.text()),
        (504, "the endpoint took no byte of the request for too long")
    );
}

#[test]
fn a_head_in_two_pieces_leaves_no_limit_behind() {
    let proxy = with_manager("request_timeout: 0.4s");
    let mut client = Client::connect(proxy.port);
    client.send("GET /late HTTP/1.1\r\nHo");
    std::thread::sleep(Duration::from_millis(50));
    client.send("st: a\r\n\r\n");
    assert_eq!(client.response().text(), "ok", "request_timeout is about the request, and that was whole");
}

#[test]
fn a_client_that_pauses_while_its_response_streams_is_not_cut_off() {
    let talkative = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(60));
            peer.send("x");
        }
    });
    let filters = limits("body_idle_timeout: 0.2s, min_body_rate: 1000, min_body_rate_grace: 0.2s");
    let proxy = Setup { filters: &filters, ..Setup::to(talkative.address) }.start();
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nxx");
    assert_eq!(client.response().text(), "xxxxxxxxxx");
}

#[test]
fn a_client_that_waits_for_100_is_not_blamed_for_the_wait() {
    let slow = Backend::start(|_, peer| {
        peer.head();
        std::thread::sleep(Duration::from_millis(500));
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        peer.exactly(2);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let filters = limits("body_idle_timeout: 0.2s, min_body_rate: 1000, min_body_rate_grace: 0.2s");
    let proxy = Setup { filters: &filters, ..Setup::to(slow.address) }.start();
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    client.send("hi");
    assert_eq!(client.response().text(), "ok");
    // Once it is told to go on, it is its turn.
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    assert_eq!(refused(&proxy, &mut client, "body_idle_timeout").0, 408);
}

#[test]
fn an_http_1_0_client_sees_that_a_response_was_cut() {
    let broken = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    });
    let proxy = Setup::to(broken.address).start();
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.0\r\n\r\n");
    let mut stream = client.sender();
    let mut all = Vec::new();
    let ended = std::io::Read::read_to_end(&mut stream, &mut all);
    assert_eq!(ended.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
}

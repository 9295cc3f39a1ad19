//! HTTP/2 towards endpoints that do exactly what they are told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tests::{Backend, Client, Frame, FrameServer, Http2, Proxy, Setup, eventually};

/// Fields of a cluster that speaks HTTP/2.
const HTTP2: &str = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { '@type': \
                     type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { \
                     http2_protocol_options: { OPTIONS } } } }";

fn proxy_to(backend: &Backend, options: &str) -> Proxy {
    let fields = HTTP2.replace("OPTIONS", options);
    let arguments = vec!["--concurrency".to_owned(), "1".to_owned()];
    Setup { clusters: vec![("c", backend.address, &fields)], arguments, ..Setup::default() }.start()
}

#[test]
fn a_connection_that_leaves_takes_no_more_requests_and_loses_none() {
    let backend = Backend::start(|number, peer| {
        let Some(mut server) = FrameServer::accept(peer) else { return };
        while let Some((stream, _)) = server.request() {
            match (number, stream) {
                // This one goes on for as long as the connection does.
                (0, 1) => server.head(stream, false),
                (0, 3) => {
                    server.goaway(stream);
                    server.respond(stream, b"first");
                }
                (0, _) => {}
                _ => server.respond(stream, b"second"),
            }
        }
    });
    let proxy = proxy_to(&backend, "");
    let mut watch = Client::connect(proxy.port);
    watch.send("GET /watch HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(watch.response_to_head().status(), 200);
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").text(), "first");
    for _ in 0..20 {
        assert_eq!(client.get("/", "").text(), "second");
    }
    assert_eq!(backend.connections(), 2, "one that leaves and one that stays");
    assert_eq!(proxy.metric("weir_downstream_connections_active"), 2, "what was open goes on");
}

#[test]
fn a_refused_request_goes_out_again_with_its_body() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let backend = Backend::start(move |_, peer| {
        let Some(mut server) = FrameServer::accept(peer) else { return };
        while let Some((stream, ends)) = server.request() {
            let body = if ends { Vec::new() } else { server.body(stream).unwrap_or_default() };
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                // REFUSED_STREAM
                server.reset(stream, 7);
            } else {
                server.respond(stream, &[b"got ", &body[..]].concat());
            }
        }
    });
    let proxy = proxy_to(&backend, "");
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "got hello");
    assert_eq!(refused.load(Ordering::SeqCst), 2);
    // From a stream as well, where the body came with its head.
    refused.store(0, Ordering::SeqCst);
    let mut client = Http2::connect(proxy.port);
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let stream = client.request(&fields, false);
    client.send(&Frame::data(stream, b"world", true));
    let outcome = client.outcome(stream);
    assert!(outcome.body == b"got world" || outcome.status() == "503", "whole or not at all: {outcome:?}");
}

#[test]
fn a_stream_that_always_fails_is_tried_a_few_times_and_no_more() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let backend = Backend::start(move |_, peer| {
        let Some(mut server) = FrameServer::accept(peer) else { return };
        while let Some((stream, _)) = server.request() {
            count.fetch_add(1, Ordering::SeqCst);
            server.reset(stream, 7);
        }
    });
    let proxy = proxy_to(&backend, "");
    let response = Client::connect(proxy.port).get("/", "");
    assert_eq!(response.status(), 503);
    assert_eq!(seen.load(Ordering::SeqCst), 3, "twice again");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_response_whose_end_is_late_is_not_given_up() {
    let resets = Arc::new(AtomicUsize::new(0));
    let count = resets.clone();
    let backend = Backend::start(move |_, peer| {
        let Some(mut server) = FrameServer::accept(peer) else { return };
        let mut waiting = None;
        while let Some(frame) = server.next_frame() {
            match frame.kind {
                1 => {
                    // 200, content-length: 2
                    server.send(&Frame::new(1, 4, frame.stream, &[0x88, 0x0f, 0x0d, 1, b'2']));
                    server.send(&Frame::data(frame.stream, b"ok", false));
                    if let Some(last) = waiting.replace(frame.stream) {
                        // Long after the response was passed on.
                        server.send(&Frame::data(last, b"", true));
                    }
                }
                3 => {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                _ => {}
            }
        }
    });
    let proxy = proxy_to(&backend, "");
    let mut client = Client::connect(proxy.port);
    for _ in 0..10 {
        assert_eq!(client.get("/", "").text(), "ok");
    }
    assert_eq!((resets.load(Ordering::SeqCst), backend.connections()), (0, 1));
}

#[test]
fn a_response_before_the_requests_end_is_whole_where_the_endpoint_wants_no_more() {
    let turn = Arc::new(AtomicUsize::new(0));
    let count = turn.clone();
    let backend = Backend::start(move |_, peer| {
        let Some(mut server) = FrameServer::accept(peer) else { return };
        while let Some((stream, _)) = server.request() {
            // All in one write, so that the end and the reset come together.
            let head = |ends: u8| Frame::new(1, 4 | ends, stream, &[0x88]);
            let reset = |code: u32| Frame::new(3, 0, stream, &code.to_be_bytes());
            match count.fetch_add(1, Ordering::SeqCst) % 3 {
                0 => server.send_all(&[head(1), reset(0)]),
                1 => server.send_all(&[head(0), Frame::data(stream, b"enough", true), reset(0)]),
                // Its end has not come, and nobody says that it is meant so.
                _ => server.send_all(&[head(0), Frame::data(stream, b"enou", false), reset(8)]),
            }
        }
    });
    let proxy = proxy_to(&backend, "");
    for round in 0..60 {
        let mut client = Client::connect(proxy.port);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegin");
        match round % 3 {
            0 => assert_eq!((client.response().status(), round), (200, round)),
            1 => assert_eq!(client.response().text(), "enough", "{round}"),
            _ => assert!(!client.response_to_head().text().contains("enough")),
        }
    }
    assert_eq!(turn.load(Ordering::SeqCst), 60, "none was sent again");
}

#[test]
fn an_endpoint_that_answers_no_ping_is_gone() {
    let backend = Backend::start(|number, peer| {
        let Some(mut server) = FrameServer::accept(peer) else { return };
        server.answers_pings = number > 0;
        while let Some((stream, _)) = server.request() {
            if number > 0 {
                server.respond(stream, b"alive");
            }
        }
    });
    let proxy = proxy_to(&backend, "connection_keepalive: { interval: 0.2s, timeout: 0.2s }");
    // Lost with its connection, and a GET may be asked again.
    let response = Client::connect(proxy.port).get("/", "");
    assert!(response.status() == 503 || response.text() == "alive", "{response:?}");
    assert_eq!(Client::connect(proxy.port).get("/", "").text(), "alive");
    assert_eq!(backend.connections(), 2);
}

#[test]
fn what_a_path_of_http_2_must_not_hold_is_encoded() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
        }
    });
    let inner = Setup::to(backend.address).start();
    let fields = HTTP2.replace("OPTIONS", "");
    let inside = ([127, 0, 0, 1], inner.port).into();
    let outer = Setup { clusters: vec![("c", inside, &fields)], ..Setup::default() }.start();
    let mut client = Client::connect(outer.port);
    for (path, seen) in [("/a<b>", "/a%3Cb%3E"), ("/?q=\"x\"|y", "/?q=%22x%22"), ("/plain?a=b", "/plain?a=b")]
    {
        let answer = client.get(path, "");
        assert!(answer.text().starts_with(&format!("GET {seen}")), "{path}: {answer:?}");
    }
}

#[test]
fn an_upgrade_that_an_endpoint_does_not_take_is_refused_at_once() {
    let backend = Backend::start(|_, peer| {
        let Some(mut server) = FrameServer::accept(peer) else { return };
        while let Some((stream, _)) = server.request() {
            server.respond(stream, b"no");
        }
    });
    let fields = HTTP2.replace("OPTIONS", "");
    let proxy = Setup { clusters: vec![("c", backend.address, &fields)], ..Setup::default() }
        .manager("upgrade_configs: [ { upgrade_type: websocket } ]")
        .start();
    for _ in 0..5 {
        let mut client = Client::connect(proxy.port);
        client.send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(client.response().status(), 502);
    }
    assert!(backend.connections() <= 2, "a connection for each worker: {}", backend.connections());
}

#[test]
fn informational_responses_and_tunnels_reach_streams() {
    let backend = Backend::start(|_, peer| {
        let Some(head) = peer.head() else { return };
        if head.starts_with("CONNECT") || head.starts_with("GET /tunnel") {
            return;
        }
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        peer.head();
    });
    let bytes = Backend::start(|_, peer| {
        while let Some(bytes) = peer.some_bytes() {
            peer.send(bytes.to_ascii_uppercase());
        }
    });
    let routes = "{ match: { connect_matcher: {} }, route: { cluster: bytes, upgrade_configs: [ { upgrade_type: CONNECT, \
                  connect_config: {} } ] } }, { match: { prefix: / }, route: { cluster: c } }";
    let proxy = Setup {
        clusters: vec![("c", backend.address, ""), ("bytes", bytes.address, "")],
        routes,
        ..Setup::default()
    }
    .start();
    let mut client = Http2::connect(proxy.port);
    let get = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let stream = client.request(&get, true);
    let response = client.response(stream);
    assert_eq!((response.status(), &response.informational[..]), ("200", &["103".to_owned()][..]));
    let tunnel = client.request(&[(":method", "CONNECT"), (":authority", "a:1")], false);
    assert_eq!(client.head(tunnel).status(), "200");
    client.send(&Frame::data(tunnel, b"hello", false));
    assert_eq!(client.data(tunnel, 5), b"HELLO");
    client.send(&Frame::data(tunnel, b"", true));
    assert!(client.outcome(tunnel).reset.is_none(), "both halves end in peace");
}

#[test]
fn the_streams_of_four_connections_keep_every_worker_busy() {
    let backend = Backend::named("ok");
    let arguments = vec!["--concurrency".to_owned(), "4".to_owned()];
    let proxy = Setup { arguments, ..Setup::to(backend.address) }.start();
    let switches = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.process.id())).expect("threads");
        let count = |task: std::path::PathBuf| {
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let count = line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0);
            name.starts_with("weir-worker").then(|| (name.trim().to_owned(), count))
        };
        let mut counts: Vec<_> = tasks.filter_map(|task| count(task.ok()?.path())).collect();
        counts.sort();
        counts
    };
    let mut clients: Vec<_> = (0..4).map(|_| Http2::connect(proxy.port)).collect();
    let before = switches();
    assert_eq!(before.len(), 4, "{before:?}");
    let get = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    for _ in 0..100 {
        let streams: Vec<_> = clients.iter_mut().map(|client| client.request(&get, true)).collect();
        for (client, stream) in clients.iter_mut().zip(streams) {
            assert_eq!(client.response(stream).status(), "200");
        }
    }
    let worked: Vec<_> = switches().iter().zip(&before).map(|(after, before)| after.1 - before.1).collect();
    assert!(worked.iter().all(|count| *count >= 50), "{worked:?}");
}

#[test]
fn a_client_that_answers_no_ping_is_let_go() {
    let backend = Backend::named("ok");
    let manager = "http2_protocol_options: { connection_keepalive: { interval: 0.2s, timeout: 0.2s } }";
    let proxy = Setup::to(backend.address).manager(manager).start();
    let mut client = Http2::connect(proxy.port);
    let get = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let stream = client.request(&get, true);
    assert_eq!(client.response(stream).status(), "200");
    eventually("the connection is closed", || {
        client.goaway();
        std::thread::sleep(Duration::from_millis(20));
        client.is_closed().then_some(())
    });
}

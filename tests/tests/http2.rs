//! HTTP/2 with clients that send exactly the frames they are told to, with curl, and with h2load.

use std::process::Command;
use std::time::Duration;

use tests::{Backend, Client, Frame, Http2, Setup, eventually};

/// A backend that answers with the head that it got.
fn echo_head() -> Backend {
    Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
        }
    })
}

#[test]
fn a_request_is_the_same_to_a_backend_that_speaks_http_1() {
    let backend = echo_head();
    let proxy = Setup::to(backend.address).start();
    let mut client = Http2::connect(proxy.port);
    let request = [(":method", "GET"), (":scheme", "http"), (":authority", "shop:80"), (":path", "/a?b")];
    let crumbs = [("cookie", "a=1"), ("x-y", "z"), ("cookie", "b=2")];
    let stream = client.request(&[&request[..], &crumbs].concat(), true);
    let response = client.response(stream);
    assert_eq!(response.status(), "200");
    let seen = String::from_utf8(response.body).expect("text");
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\nhost: shop:80\r\n"), "{seen}");
    assert!(seen.contains("cookie: a=1; b=2\r\n") && seen.contains("x-y: z\r\n"), "{seen}");
    assert!(!seen.contains("transfer-encoding"), "{seen}");
}

#[test]
fn what_http_1_could_be_confused_by_is_refused_and_its_stream_alone() {
    let backend = echo_head();
    let proxy = Setup::to(backend.address).start();
    let mut client = Http2::connect(proxy.port);
    let base = |path| vec![(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", path)];
    let mut good = base("/");
    good[0].1 = "GET";
    // Refused with a status by us, or with a reset by the framing library (RFC 9113 §8.1.1).
    let bad: Vec<(Vec<(&str, &str)>, bool)> = vec![
        ([base("/"), vec![("host", "b")]].concat(), true),
        ([base("/"), vec![("content-length", "3")]].concat(), true),
        ([base("/"), vec![("content-length", "x")]].concat(), true),
        ([base("/"), vec![("transfer-encoding", "chunked")]].concat(), true),
        ([base("/"), vec![("connection", "keep-alive")]].concat(), true),
        ([base("/"), vec![("te", "gzip")]].concat(), true),
        ([base("/"), vec![("X-Upper", "a")]].concat(), true),
        ([base("/"), vec![("a", "b\r\nx: y")]].concat(), true),
        (base("/a b"), true),
        (base("relative"), true),
        ([base("/"), vec![(":path", "/twice")]].concat(), true),
        (vec![(":method", "GET"), (":scheme", "http"), (":path", "/")], true),
        ([vec![("a", "b")], base("/")].concat(), true),
    ];
    for (fields, end) in bad {
        let stream = client.request(&fields, end);
        let outcome = client.outcome(stream);
        let refused = outcome.reset.is_some() || ["400", "431"].contains(&outcome.status());
        assert!(refused || client.is_closed(), "{fields:?}: {outcome:?}");
        if client.is_closed() {
            // Names in capitals are an error of the connection to the framing library, which RFC 9113 §5.4.1 allows.
            client = Http2::connect(proxy.port);
        }
        let stream = client.request(&good, true);
        assert_eq!(client.response(stream).status(), "200", "the connection goes on after {fields:?}");
    }
    assert!(!backend.received().contains("POST"), "{}", backend.received());
}

#[test]
fn data_must_be_what_content_length_says() {
    let backend = Backend::named("ok");
    let proxy = Setup::to(backend.address).start();
    for (length, data) in [("3", &b"ab"[..]), ("3", b"abcd")] {
        let mut client = Http2::connect(proxy.port);
        let stream = client.request(
            &[
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", "/"),
                ("content-length", length),
            ],
            false,
        );
        client.send(&Frame::data(stream, data, true));
        let outcome = client.outcome(stream);
        assert!(outcome.reset.is_some() || outcome.status().starts_with('4'), "{outcome:?}");
    }
}

#[test]
fn header_lists_are_bounded_in_bytes_and_in_fields() {
    let backend = echo_head();
    let proxy = Setup::to(backend.address).start();
    let base = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let mut client = Http2::connect(proxy.port);
    let many: Vec<_> = base.iter().copied().chain((0..150).map(|_| ("cookie", "a=1"))).collect();
    let stream = client.request(&many, true);
    assert_eq!(client.outcome(stream).status(), "431", "crumbs count one by one");
    let long = "x".repeat(20_000);
    let large: Vec<_> = base.iter().copied().chain((0..4).map(|_| ("a", long.as_str()))).collect();
    let stream = client.request(&large, true);
    let outcome = client.outcome(stream);
    assert!(outcome.status() == "431" || outcome.reset.is_some() || outcome.is_over, "{outcome:?}");
}

#[test]
fn floods_end_in_goaway_and_calm() {
    let backend = echo_head();
    let proxy = Setup::to(backend.address).start();
    let headers = |client: &mut Http2| {
        client.request(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")], true)
    };
    type Flood = Box<dyn Fn(&mut Http2)>;
    let floods: Vec<(&str, Flood)> = vec![
        (
            "PING",
            Box::new(|client| {
                client.try_send(&Frame::new(6, 0, 0, &[0; 8]));
            }),
        ),
        (
            "SETTINGS",
            Box::new(|client| {
                client.try_send(&Frame::new(4, 0, 0, &[]));
            }),
        ),
        (
            "PRIORITY",
            Box::new(|client| {
                client.try_send(&Frame::new(2, 0, 3, &[0, 0, 0, 0, 1]));
            }),
        ),
        (
            "WINDOW_UPDATE",
            Box::new(|client| {
                client.try_send(&Frame::new(8, 0, 0, &[0, 0, 0, 1]));
            }),
        ),
        (
            "rapid reset",
            Box::new(move |client| {
                let stream = headers(client);
                client.try_send(&Frame::new(3, 0, stream, &[0, 0, 0, 8]));
            }),
        ),
        (
            "made-you-reset",
            Box::new(move |client| {
                let stream = headers(client);
                // A window that overflows has us reset the stream (CVE-2025-8671).
                client.try_send(&Frame::new(8, 0, stream, &[0x7f, 0xff, 0xff, 0xff]));
            }),
        ),
        (
            "CONTINUATION",
            Box::new(|client| {
                if client.is_fresh() {
                    client.try_send(&Frame::new(1, 0, 1, &[0x82]));
                }
                client.try_send(&Frame::new(9, 0, 1, &[]));
            }),
        ),
        (
            "empty DATA",
            Box::new(|client| {
                if client.is_fresh() {
                    let post =
                        [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
                    client.request(&post, false);
                }
                client.try_send(&Frame::new(0, 0, 1, &[]));
            }),
        ),
    ];
    for (name, flood) in floods {
        let mut client = Http2::connect(proxy.port);
        let ended = (0..20_000).find(|_| {
            flood(&mut client);
            client.goaway().is_some()
        });
        let calm = eventually(name, || client.goaway());
        assert_eq!(calm, 0xb, "{name}: ENHANCE_YOUR_CALM after {ended:?}");
    }
    assert!(proxy.metric("weir_http2_floods_total") >= 6, "{}", proxy.page("/metrics"));
    let mut client = Http2::connect(proxy.port);
    let stream = headers(&mut client);
    assert_eq!(client.response(stream).status(), "200", "others are served");
}

#[test]
fn a_reader_that_stalls_holds_no_memory() {
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n");
            let piece = [b'x'; 65_536];
            for _ in 0..800 {
                if !peer.try_send(&piece[..]) {
                    return;
                }
            }
        }
    });
    let proxy = Setup::to(backend.address).start();
    let before = proxy.process.resident();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Http2::connect(proxy.port);
        for _ in 0..20 {
            client.request(
                &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
                true,
            );
        }
        clients.push(client);
    }
    std::thread::sleep(Duration::from_secs(2));
    let grown = proxy.process.resident().saturating_sub(before);
    assert!(grown < 120 << 20, "400 streams that nobody reads took {} MiB", grown >> 20);
}

#[test]
fn a_drain_tells_clients_and_finishes_what_they_asked_for() {
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            std::thread::sleep(Duration::from_millis(600));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mut proxy = Setup::to(backend.address).start();
    let mut client = Http2::connect(proxy.port);
    let stream =
        client.request(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")], true);
    std::thread::sleep(Duration::from_millis(150));
    proxy.process.signal("TERM");
    assert_eq!(client.response(stream).status(), "200");
    assert_eq!(eventually("GOAWAY", || client.goaway()), 0, "NO_ERROR");
    assert_eq!(proxy.process.wait(), 0);
}

#[test]
fn streams_go_to_endpoints_that_speak_http_2_over_few_connections() {
    let backend = Backend::named("ok");
    let inner = Setup::to(backend.address).start();
    let mut setup = Setup::to(([127, 0, 0, 1], inner.port).into());
    setup.clusters[0].2 = "http2_protocol_options: { max_concurrent_streams: 10 }";
    setup.arguments = vec!["--concurrency".to_owned(), "1".to_owned()];
    let proxy = setup.start();
    let mut client = Http2::connect(proxy.port);
    let streams: Vec<_> = (0..40)
        .map(|_| {
            client.request(
                &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
                true,
            )
        })
        .collect();
    for stream in streams {
        assert_eq!(client.response(stream).status(), "200");
    }
    let opened = proxy.metric("weir_cluster_connections_total{cluster=\"c\"}");
    assert!((1..=4).contains(&opened), "{opened} connections for 40 streams, 10 on each");
    // From HTTP/1.1 as well.
    let mut plain = Client::connect(proxy.port);
    for _ in 0..5 {
        assert_eq!(plain.get("/", "").text(), "ok");
    }
}

#[test]
fn a_websocket_opens_over_any_pair_of_protocols() {
    let backend = Backend::start(|_, peer| {
        let Some(head) = peer.head() else { return };
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        peer.send("Sec-WebSocket-Accept: x\r\n\r\n");
        while let Some(bytes) = peer.some_bytes() {
            peer.send(bytes);
        }
    });
    let upgrades = "upgrade_configs: [ { upgrade_type: websocket } ]";
    let inner = Setup::to(backend.address).manager(upgrades).start();
    let mut setup = Setup::to(([127, 0, 0, 1], inner.port).into()).manager(upgrades);
    setup.clusters[0].2 = "http2_protocol_options: {}";
    let outer = setup.start();
    for (port, name) in [(inner.port, "to HTTP/1.1"), (outer.port, "to HTTP/2 and on to HTTP/1.1")] {
        let mut client = Http2::connect(port);
        let stream = client.request(
            &[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", "/chat"),
                ("sec-websocket-version", "13"),
            ],
            false,
        );
        assert_eq!(client.head(stream).status(), "200", "{name}");
        client.send(&Frame::data(stream, b"ping", false));
        assert_eq!(client.data(stream, 4), b"ping", "{name}");
        client.send(&Frame::data(stream, b"pong", true));
        assert_eq!(client.data(stream, 4), b"pong", "{name}");

        let mut client = Client::connect(port);
        client.send(
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        let opened = client.response();
        assert_eq!((opened.status(), opened.header("upgrade")), (101, Some("websocket")), "{name}");
        client.send("ping");
        assert_eq!(client.bytes(4), b"ping", "{name}");
    }
}

#[test]
fn a_listener_that_speaks_http_1_alone_refuses_the_preface() {
    let backend = echo_head();
    let proxy = Setup::to(backend.address).manager("codec_type: HTTP1").start();
    let mut client = Client::connect(proxy.port);
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status(), 505);
    assert!(client.is_closed());
}

#[test]
fn curl_gets_large_answers_and_sends_large_bodies() {
    let large = vec![b'x'; 3 << 20];
    let body = large.clone();
    let backend = Backend::start(move |_, peer| {
        while let Some(head) = peer.head() {
            if head.starts_with("POST") {
                let length = peer.body(&head).len();
                let text = length.to_string();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
            } else {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
                peer.send(&body);
            }
        }
    });
    let proxy = Setup::to(backend.address).start();
    let url = format!("http://127.0.0.1:{}/", proxy.port);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "-m", "20", "--http2-prior-knowledge"])
            .args(arguments)
            .output();
        output.expect("curl runs").stdout
    };
    assert_eq!(curl(&[&url]), large);
    let file = proxy.folder.path().join("large");
    std::fs::write(&file, &large).expect("written");
    let upload = format!("@{}", file.display());
    assert_eq!(curl(&["--data-binary", &upload, &url]), large.len().to_string().as_bytes());
}

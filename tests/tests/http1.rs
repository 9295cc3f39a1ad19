//! HTTP/1.1 through a real `weir-proxy`, byte by byte.

use std::io::Write as _;
use std::net::SocketAddr;

use tests::{Backend, Client, Proxy, Setup, eventually, free_port, http_get};

/// A proxy with one route to one backend.
fn proxy(backend: SocketAddr) -> Proxy {
    Setup::to(backend).start()
}

fn proxy_with(routes: &str, clusters: &[(&str, SocketAddr)]) -> Proxy {
    let clusters = clusters.iter().map(|(name, address)| (*name, *address, "")).collect();
    Setup { routes, clusters, ..Setup::default() }.start()
}

/// A backend that answers each request with its own head.
fn echo_head() -> Backend {
    Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
        }
    })
}

#[test]
fn requests_share_a_connection_on_both_sides() {
    let backend = echo_head();
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    for i in 0..50 {
        let response =
            client.get(&format!("/{i}?q"), "Connection: keep-alive\r\nX-A: b\r\nX-Request-Id: 1\r\n");
        assert_eq!(
            response.text(),
            format!(
                "GET /{i}?q HTTP/1.1\r\nHost: test\r\nX-A: b\r\nX-Request-Id: 1\r\nx-forwarded-proto: http"
            )
        );
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = echo_head();
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    let requests: String = (0..20)
        .map(|i| match i % 3 {
            0 => format!("POST /{i} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
            _ => format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n"),
        })
        .collect();
    client.send(requests);
    for i in 0..20 {
        let first = client.response().text().split(' ').nth(1).map(str::to_owned);
        assert_eq!(first, Some(format!("/{i}")));
    }
}

#[test]
fn a_request_in_single_bytes_is_understood() {
    let proxy = proxy(echo_head().address);
    let mut client = Client::connect(proxy.port);
    for byte in b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" {
        client.send([*byte]);
    }
    assert!(client.response().text().starts_with("GET /slow"));
}

#[test]
fn bodies_pass_both_ways_in_either_framing() {
    // Answers with the body it got, in chunks for chunks.
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let head = head.to_ascii_lowercase();
            if head.contains("transfer-encoding: chunked") {
                let mut body = Vec::new();
                loop {
                    let Some(line) = peer.until(b"\r\n") else { return };
                    let line = String::from_utf8_lossy(&line).into_owned();
                    assert!(!line.contains(';'), "extensions are dropped: {line}");
                    let size = usize::from_str_radix(line.trim(), 16).expect("a size");
                    body.extend(peer.exactly(size).expect("data"));
                    peer.exactly(2).expect("an end");
                    if size == 0 {
                        break;
                    }
                }
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(7_000) {
                    peer.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                }
                peer.send("0\r\n\r\n");
            } else {
                let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).expect("a length");
                let body = peer.exactly(length.parse().expect("a number")).expect("a body");
                peer.send(
                    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body]
                        .concat(),
                );
            }
        }
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    for size in [1, 100, 5_000, 20_000, 300_000, 5_000_000] {
        let body: Vec<u8> = (0..size).map(|i: usize| (i % 251) as u8).collect();
        let mut sender = client.sender();
        // Sent from another thread: the answer may start before the body ends.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
                sender.write_all(head.as_bytes()).expect("sent");
                sender.write_all(&body).expect("sent");
            });
            assert!(client.response().body == body, "{size} bytes with a length");
        });
        let mut sender = client.sender();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender
                    .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .expect("sent");
                for chunk in body.chunks(3_333) {
                    // Extensions are bounded for a whole body.
                    let extension = if size > 100_000 { "" } else { ";x=\"y\"" };
                    sender.write_all(format!("{:X}{extension}\r\n", chunk.len()).as_bytes()).expect("sent");
                    sender.write_all(chunk).expect("sent");
                    sender.write_all(b"\r\n").expect("sent");
                }
                sender.write_all(b"0\r\n\r\n").expect("sent");
            });
            assert!(client.response().body == body, "{size} bytes in chunks");
        });
    }
    assert_eq!(backend.connections(), 1, "every body ended where it should");
}

#[test]
fn both_directions_move_at_once() {
    // Sends back each piece as it comes, long before the request's end.
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n");
        for _ in 0..5 {
            let piece = peer.exactly(10).expect("a piece");
            peer.send(piece);
        }
        peer.head();
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n");
    let mut reader = client.sender();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut reader, &mut byte).expect("the head comes before the body ends");
        head.push(byte[0]);
    }
    for piece in 0..5_u8 {
        client.send([b'0' + piece; 10]);
        let mut back = [0; 10];
        std::io::Read::read_exact(&mut reader, &mut back).expect("each piece comes back at once");
        assert_eq!(back, [b'0' + piece; 10]);
    }
}

#[test]
fn responses_without_a_body_have_none_whatever_they_say() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let reply = match head.split(' ').nth(1) {
                Some("/204") => "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
                Some("/304") => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            };
            peer.send(reply);
        }
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_to_head().header("content-length"), Some("5"));
    assert_eq!(client.get("/204", "").header("content-length"), None);
    assert_eq!(client.get("/304", "").header("content-length"), Some("5"));
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_response_that_ends_with_its_connection_leaves_in_chunks() {
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        peer.send("x".repeat(100_000));
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    for _ in 0..2 {
        let response = client.get("/", "");
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!(response.body.len(), 100_000);
    }
}

#[test]
fn an_http_1_0_client_gets_what_it_understands() {
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        }
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.0\r\n\r\n");
    let all = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("\r\n\r\nabc"), "{all:?}");
    assert!(!all.to_ascii_lowercase().contains("transfer-encoding"), "{all:?}");
    assert!(backend.received().contains(&format!("host: {}", backend.address)));
}

#[test]
fn informational_responses_are_passed_on() {
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
            let body = peer.exactly(3).expect("the body follows the 100");
            peer.send([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", body.as_slice()].concat());
        }
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let hints = client.response();
    assert_eq!((hints.status(), hints.header("link")), (103, Some("</a>")));
    assert_eq!(client.response().status(), 100);
    client.send("abc");
    assert_eq!(client.response().text(), "abc");
}

#[test]
fn a_response_before_the_bodys_end_is_delivered_and_the_connection_closed() {
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    for _ in 0..20 {
        client.try_send([b'x'; 1_000]);
    }
    let response = client.response();
    assert_eq!((response.status(), response.text()), (413, "no"));
    assert!(client.is_closed());
}

#[test]
fn a_connection_with_an_unfinished_request_is_never_used_again() {
    // Answers at once, keeps the connection and never reads the body.
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    });
    let proxy = proxy(backend.address);
    for round in 1..=3 {
        let mut client = Client::connect(proxy.port);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n");
        let mut sender = client.sender();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300 {
                    if sender.write_all(&[b'x'; 100_000]).is_err() {
                        return;
                    }
                }
            });
            assert_eq!(client.response().text(), "ok");
            assert!(client.is_closed(), "the client is out of step, too");
        });
        assert_eq!(backend.connections(), round);
    }
}

#[test]
fn what_is_malformed_is_refused_and_nothing_of_it_reaches_an_upstream() {
    let backend = echo_head();
    let proxy = proxy(backend.address);
    let cases: &[(&str, u16)] = &[
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:8o\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("\x16\x03\x01\x00\x05hello", 400),
    ];
    for (bytes, status) in cases {
        let mut client = Client::connect(proxy.port);
        client.send(bytes);
        assert_eq!(client.response().status(), *status, "{bytes:?}");
        assert!(client.is_closed(), "{bytes:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(70_000));
    let mut client = Client::connect(proxy.port);
    client.try_send(long);
    assert_eq!(client.response().status(), 431);
    assert_eq!(backend.received(), "");
    let page = http_get(proxy.admin, "/metrics").expect("metrics");
    assert!(
        page.text().contains("weir_failures_total{reason=\"malformed_head\",flag=\"DPE\"} 13"),
        "{}",
        page.text()
    );
}

#[test]
fn upstreams_that_break_the_protocol_give_502_and_are_not_used_again() {
    for broken in [
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\nY: b\r\nContent-Length: 0\r\n\r\n",
    ] {
        let backend = Backend::start(move |_, peer| {
            while peer.head().is_some() {
                peer.send(broken);
            }
        });
        let proxy = proxy(backend.address);
        let mut client = Client::connect(proxy.port);
        assert_eq!(client.get("/", "").status(), 502, "{broken:?}");
        assert_eq!(client.get("/", "").status(), 502, "the client's connection goes on");
        assert_eq!(backend.connections(), 2);
    }
}

#[test]
fn bytes_after_a_response_belong_to_nobody() {
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    for _ in 0..3 {
        assert_eq!(client.get("/", "").text(), "ok");
    }
    assert_eq!(backend.connections(), 3, "a connection with unasked bytes is closed");
}

#[test]
fn a_truncated_response_cuts_the_client_off() {
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let all = client.rest();
    assert!(all.ends_with(b"half"), "what came is passed on, and the end is not hidden");
}

#[test]
fn an_idle_connection_that_the_upstream_closed_costs_nothing() {
    // Answers one request on each connection and closes without saying so.
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = proxy(backend.address);
    let mut client = Client::connect(proxy.port);
    for _ in 0..30 {
        assert_eq!(client.get("/", "").status(), 200);
    }
}

#[test]
fn an_upstream_that_is_not_there_is_named() {
    let proxy = proxy(SocketAddr::from(([127, 0, 0, 1], free_port())));
    let response = http_get(proxy.port, "/").expect("an answer");
    assert_eq!((response.status(), response.text()), (503, "no connection to the endpoint"));
}

#[test]
fn requests_go_where_host_path_and_headers_say() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = proxy_with(
        "{ match: { prefix: /x, headers: [ { name: x-canary, string_match: { exact: v2 } } ] }, route: { cluster: b } }, \
         { match: { path_separated_prefix: /x }, route: { cluster: a } }",
        &[("a", a.address), ("b", b.address)],
    );
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/x/y", "").text(), "a");
    assert_eq!(client.get("/x/y", "X-Canary: v2\r\n").text(), "b");
    let missing = client.get("/xyz", "");
    assert_eq!((missing.status(), missing.text()), (404, "no route matches this request"));
    let dump = http_get(proxy.admin, "/config_dump").expect("a dump");
    assert!(dump.text().contains("path_separated_prefix"));
}

#[test]
fn a_split_is_exact_and_counted() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let proxy = proxy_with(
        "{ match: { prefix: / }, route: { weighted_clusters: { clusters: [ { name: a, weight: 9 }, { name: b, weight: 1 } ] } } }",
        &[("a", a.address), ("b", b.address)],
    );
    let mut client = Client::connect(proxy.port);
    for window in 0..10 {
        let canary = (0..10).filter(|_| client.get("/", "").text() == "b").count();
        assert_eq!(canary, 1, "window {window}");
    }
    let page = http_get(proxy.admin, "/metrics").expect("metrics");
    let line = "weir_requests_total{route=\"r/all/#0\",arm=\"b\",cluster=\"b\",code_class=\"2xx\"} 10";
    assert!(page.text().contains(line), "{}", page.text());
}

#[test]
fn upstreams_may_be_unix_sockets() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("origin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            while std::io::Read::read(&mut stream, &mut buffer).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix");
            }
        }
    });
    let (port, admin) = (free_port(), free_port());
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let bootstrap = Setup::to(nowhere).bootstrap(port, admin).replace(
        "socket_address: { address: 127.0.0.1, port_value: 1 }",
        &format!("pipe: {{ path: {} }}", path.display()),
    );
    let proxy = Proxy::start(&bootstrap, port, admin, &[]);
    assert_eq!(http_get(proxy.port, "/").expect("an answer").text(), "unix");
}

#[test]
fn the_access_log_says_route_arm_cluster_endpoint_and_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let backend = Backend::named("a");
    let manager = format!(
        "access_log: [ {{ name: file, typed_config: {{ '@type': \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {} }} }} ]",
        log.display()
    );
    let proxy = Setup::to(backend.address)
        .routes("{ name: main, match: { prefix: /a }, route: { cluster: c } }")
        .manager(&manager)
        .start();
    http_get(proxy.port, "/a?b=c").expect("an answer");
    http_get(proxy.port, "/none").expect("an answer");
    let lines = eventually("two lines are written", || {
        std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() == 2)
    });
    // Two connections, perhaps on two workers: either line may be first.
    let line = |part: &str| lines.lines().find(|l| l.contains(part)).expect("a line").to_owned();
    let served = format!(
        " GET test /a?b=c 200 route=r/all/main arm=c spilled_from=- cluster=c endpoint={} attempt=1 flag=- reason=\"-\" received=0 sent=1 \
         first_byte_us=",
        backend.address
    );
    assert!(line("/a?b=c").contains(&served), "{lines}");
    let refused = " GET test /none 404 route=- arm=- spilled_from=- cluster=- endpoint=- attempt=0 flag=NR reason=\"no route matches this request\" ";
    assert!(line("/none").contains(refused), "{lines}");
}

#[test]
fn sigterm_drains_without_losing_a_request() {
    // Takes its time, so that the signal falls into the request.
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            if head.contains("/slow") {
                peer.exactly(1);
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    });
    let mut proxy = proxy(backend.address);
    let mut slow = Client::connect(proxy.port);
    let mut idle = Client::connect(proxy.port);
    assert_eq!(idle.get("/", "").text(), "done");
    slow.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    eventually("the slow request is on its way", || backend.received().contains("/slow").then_some(()));
    proxy.process.signal("TERM");
    eventually("ready fails", || match http_get(proxy.admin, "/ready") {
        Some(response) => (response.status() == 503).then_some(()),
        None => Some(()),
    });
    slow.send("x");
    let response = slow.response();
    assert_eq!((response.text(), response.header("connection")), ("done", Some("close")));
    let last = idle.get("/", "");
    assert_eq!((last.text(), last.header("connection")), ("done", Some("close")));
    assert_eq!(proxy.process.wait(), 0);
}

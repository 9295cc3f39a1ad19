//! What an edge configuration of Envoy says, and a real `weir-proxy` does: headers about hops, paths, upgrades, replies.

use std::net::SocketAddr;

use tests::{Backend, Client, Proxy, Response, Setup, http_get};

const EDGE: &str = "use_remote_address: true";

/// A backend that answers each request with its own head, under whatever status the path asks for.
fn echo_head() -> Backend {
    Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
        }
    })
}

fn edge(backend: &Backend, manager: &str) -> Proxy {
    Setup::to(backend.address).manager(manager).start()
}

/// The head that the backend saw.
fn seen(proxy: &Proxy, path: &str, headers: &str) -> String {
    Client::connect(proxy.port).get(path, headers).text().to_owned()
}

#[test]
fn a_stranger_cannot_say_who_it_is() {
    let proxy = edge(&echo_head(), EDGE);
    let head = seen(
        &proxy,
        "/",
        "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Request-Id: mine\r\n\
         X-Envoy-Internal: true\r\nX-Weir-Arm: v2\r\nX-Other: stays\r\n",
    );
    assert!(head.contains("x-forwarded-for: 10.0.0.1, 127.0.0.1"), "{head}");
    assert!(head.contains("x-forwarded-proto: http") && head.contains("x-forwarded-host: test"), "{head}");
    assert!(head.contains("x-request-id: ") && !head.contains("mine"), "{head}");
    assert!(!head.to_lowercase().contains("x-envoy") && !head.to_lowercase().contains("x-weir"), "{head}");
    assert!(head.contains("X-Other: stays"), "{head}");
}

#[test]
fn nominated_headers_go_before_ours_are_added() {
    let proxy = edge(&echo_head(), EDGE);
    let head = seen(
        &proxy,
        "/",
        "X-Forwarded-For: 10.0.0.1\r\nConnection: close, x-forwarded-for, x-hop\r\nX-Hop: 1\r\n",
    );
    assert!(head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    assert!(!head.contains("X-Hop") && !head.contains("Connection"), "{head}");
}

#[test]
fn headers_nominated_by_the_responses_connection_are_cut() {
    let backend = Backend::start(|_, peer| {
        peer.head();
        peer.send(
            "HTTP/1.1 200 OK\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\
             X-Stays: 2\r\nContent-Length: 2\r\n\r\nok",
        );
    });
    let proxy = edge(&backend, EDGE);
    let response = http_get(proxy.port, "/").expect("an answer");
    assert_eq!((response.header("x-secret"), response.header("keep-alive")), (None, None));
    assert_eq!((response.header("x-stays"), response.text()), (Some("2"), "ok"));
}

#[test]
fn trusted_hops_and_skip_xff_append_are_obeyed() {
    let backend = echo_head();
    let trusting = edge(&backend, "use_remote_address: true\nxff_num_trusted_hops: 1");
    let head = seen(&trusting, "/", "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n");
    assert!(head.contains("x-forwarded-for: 10.0.0.1, 127.0.0.1"), "{head}");
    assert!(head.contains("X-Forwarded-Proto: https"), "{head}");
    let silent = edge(&backend, "use_remote_address: true\nskip_xff_append: true");
    assert!(seen(&silent, "/", "X-Forwarded-For: 10.0.0.1\r\n").contains("X-Forwarded-For: 10.0.0.1\r\n"));
    let inside = edge(&backend, "use_remote_address: false\ngenerate_request_id: false");
    let head = seen(&inside, "/", "");
    assert!(!head.contains("x-forwarded-for") && !head.contains("x-request-id"), "{head}");
}

#[test]
fn request_ids_are_kept_or_answered_where_asked_for() {
    let proxy = edge(
        &echo_head(),
        "use_remote_address: true\npreserve_external_request_id: true\nalways_set_request_id_in_response: true",
    );
    let mut client = Client::connect(proxy.port);
    let response = client.get("/", "X-Request-Id: mine\r\n");
    assert!(response.text().contains("X-Request-Id: mine"));
    assert_eq!(response.header("x-request-id"), Some("mine"));
    let response = client.get("/", "");
    let id = response.header("x-request-id").expect("an id").to_owned();
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "{id} is a version 4 UUID");
    assert!(response.text().contains(&format!("x-request-id: {id}")));
}

#[test]
fn server_date_and_via_are_what_the_configuration_says() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let lines = if head.contains("/dated") { "Date: then\r\nServer: nginx\r\n" } else { "" };
            peer.send(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n"));
        }
    });
    let headers = |manager: &str, path: &str| {
        let proxy = edge(&backend, manager);
        let response = http_get(proxy.port, path).expect("an answer");
        ["server", "date", "via"].map(|name| response.header(name).map(str::to_owned))
    };
    let [server, date, via] = headers("via: 1.1 edge", "/");
    assert_eq!((server.as_deref(), via.as_deref()), (Some("weir"), Some("1.1 edge")));
    assert!(date.is_some_and(|date| date.ends_with(" GMT")));
    let [server, date, _] = headers("server_name: front", "/dated");
    assert_eq!((server.as_deref(), date.as_deref()), (Some("front"), Some("then")));
    let [server, ..] = headers("server_header_transformation: APPEND_IF_ABSENT", "/dated");
    assert_eq!(server.as_deref(), Some("nginx"));
    let [server, ..] = headers("server_header_transformation: PASS_THROUGH", "/");
    assert_eq!(server, None);
    assert!(backend.received().contains("via: 1.1 edge"));
}

#[test]
fn what_was_matched_is_what_is_forwarded() {
    let (open, admin) = (Backend::named("open"), echo_head());
    let routes = "{ match: { prefix: /admin }, route: { cluster: admin } }, { match: { prefix: / }, route: { cluster: open } }";
    let start = |manager: &'static str| {
        let clusters = vec![("open", open.address, ""), ("admin", admin.address, "")];
        Setup { routes, manager, clusters, ..Setup::default() }.start()
    };
    let proxy = start("");
    for path in ["/x/../admin", "/%61dmin", "/x/%2e%2e/admin", "/./admin", "/x\\..\\admin"] {
        let head = seen(&proxy, path, "");
        assert!(head.starts_with("GET /admin HTTP/1.1"), "{path}: {head}");
    }
    assert_eq!(seen(&proxy, "/x%2f..%2fadmin", ""), "open", "an escaped slash is not a slash");
    assert_eq!(seen(&proxy, "//admin", ""), "open");
    for path in ["/a%00b", "/100%", "/%zz"] {
        assert_eq!(Client::connect(proxy.port).get(path, "").status(), 400, "{path}");
    }
    let proxy = start("merge_slashes: true\npath_with_escaped_slashes_action: UNESCAPE_AND_FORWARD");
    for path in ["//admin", "/x%2f..%2fadmin", "/%2fadmin", "/x%5c..%5Cadmin"] {
        assert!(seen(&proxy, path, "").starts_with("GET /admin HTTP/1.1"), "{path}");
    }
    let proxy = start("path_with_escaped_slashes_action: REJECT_REQUEST");
    assert_eq!(Client::connect(proxy.port).get("/a%2Fb", "").status(), 400);
    let proxy = start("path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT");
    let response = Client::connect(proxy.port).get("/a%2Fb?q=%2F", "");
    assert_eq!((response.status(), response.header("location")), (307, Some("/a/b?q=%2F")));
    let proxy = start("normalize_path: false");
    assert_eq!(seen(&proxy, "/x/../admin", ""), "open");
}

#[test]
fn underscores_follow_their_action() {
    let backend = echo_head();
    let action = |action: &str| {
        let manager =
            format!("common_http_protocol_options: {{ headers_with_underscores_action: {action} }}");
        let proxy = edge(&backend, &manager);
        Client::connect(proxy.port).get("/", "X_User: 1\r\nX-User: 2\r\n")
    };
    assert!(action("ALLOW").text().contains("X_User: 1"));
    assert_eq!(action("REJECT_REQUEST").status(), 400);
    let dropped = action("DROP_HEADER");
    assert!(!dropped.text().contains("X_User") && dropped.text().contains("X-User: 2"));
}

#[test]
fn http_1_0_is_refused_or_given_a_host_where_the_configuration_says_so() {
    let backend = echo_head();
    let ask = |options: &str| {
        let proxy = edge(&backend, &format!("http_protocol_options: {{ {options} }}"));
        let mut client = Client::connect(proxy.port);
        client.send("GET / HTTP/1.0\r\n\r\n");
        client.response()
    };
    let refused = ask("enable_trailers: true");
    assert_eq!((refused.status(), refused.header("upgrade")), (426, Some("HTTP/1.1")));
    assert!(
        ask("accept_http_10: true, default_host_for_http_10: shop.example")
            .text()
            .contains("host: shop.example")
    );
}

#[test]
fn absolute_form_names_the_host_unless_it_is_not_allowed() {
    let backend = echo_head();
    let ask = |manager: &str| {
        let proxy = edge(&backend, manager);
        let mut client = Client::connect(proxy.port);
        client.send("GET http://shop.example/a HTTP/1.1\r\nHost: other\r\n\r\n");
        client.response()
    };
    let head = ask("").text().to_owned();
    assert!(head.starts_with("GET /a HTTP/1.1\r\nhost: shop.example\r\n"), "{head}");
    assert_eq!(ask("http_protocol_options: { allow_absolute_url: false }").status(), 400);
}

#[test]
fn limits_on_heads_are_the_configured_ones() {
    let backend = echo_head();
    let proxy =
        edge(&backend, "max_request_headers_kb: 2\ncommon_http_protocol_options: { max_headers_count: 5 }");
    assert_eq!(Client::connect(proxy.port).get("/", &format!("X: {}\r\n", "y".repeat(2_100))).status(), 431);
    assert_eq!(Client::connect(proxy.port).get("/", &"X: y\r\n".repeat(5)).status(), 431);
    assert_eq!(Client::connect(proxy.port).get("/", &"X: y\r\n".repeat(3)).status(), 200);
    let proxy = Setup {
        filters: "- { name: weir.limits, is_optional: true, typed_config: { '@type': \
                  type.googleapis.com/weir.limits.v1.HttpLimits, max_uri_bytes: 100 } }",
        ..Setup::to(backend.address)
    }
    .start();
    assert_eq!(Client::connect(proxy.port).get(&format!("/{}", "x".repeat(100)), "").status(), 414);
    assert_eq!(Client::connect(proxy.port).get(&format!("/{}", "x".repeat(90)), "").status(), 200);
}

#[test]
fn trailers_travel_to_who_asked_or_to_everybody() {
    let backend = Backend::start(|_, peer| {
        while peer.head().is_some() {
            peer.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
            );
        }
    });
    let raw = |manager: &str, headers: &str| {
        let proxy = edge(&backend, manager);
        let mut client = Client::connect(proxy.port);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}Connection: close\r\n\r\n"));
        String::from_utf8_lossy(&client.rest()).into_owned()
    };
    assert!(raw("", "").ends_with("2\r\nok\r\n0\r\n\r\n"));
    assert!(raw("", "TE: trailers\r\n").ends_with("0\r\nX-Sum: 1\r\n\r\n"), "framing fields never trail");
    assert!(raw("http_protocol_options: { enable_trailers: true }", "").ends_with("0\r\nX-Sum: 1\r\n\r\n"));
}

#[test]
fn local_replies_look_as_the_configuration_wants() {
    let manager = "local_reply_config:
  mappers:
  - filter: { status_code_filter: { comparison: { op: EQ, value: { default_value: 404, runtime_key: k } } } }
    status_code: 410
    body: { inline_string: 'gone for good' }
    headers_to_add: [ { header: { key: x-flag, value: '%RESPONSE_FLAGS%' } } ]
  - filter: { response_flag_filter: { flags: [ DPE ] } }
    body_format_override: { text_format: 'bad: %LOCAL_REPLY_BODY%', content_type: text/x-bad }
  body_format: { json_format: { status: '%RESPONSE_CODE%', message: '%LOCAL_REPLY_BODY%', path: '%REQ(:PATH)%' } }";
    let nowhere = SocketAddr::from(([127, 0, 0, 1], tests::free_port()));
    let proxy = Setup::to(nowhere)
        .routes("{ match: { prefix: /a }, route: { cluster: c } }")
        .manager(manager)
        .start();
    let parts = |response: &Response| {
        let kind = response.header("content-type").unwrap_or_default().to_owned();
        (response.status(), kind, response.text().to_owned())
    };
    let mut client = Client::connect(proxy.port);
    let missing = client.get("/none", "");
    assert_eq!(
        parts(&missing),
        (
            410,
            "application/json".into(),
            "{\"message\":\"gone for good\",\"path\":\"/none\",\"status\":410}".into()
        )
    );
    assert_eq!(missing.header("x-flag"), Some("NR"));
    let unreachable = client.get("/a", "");
    assert_eq!(unreachable.status(), 503);
    assert_eq!(
        unreachable.text(),
        "{\"message\":\"no connection to the endpoint\",\"path\":\"/a\",\"status\":503}"
    );
    let mut odd = Client::connect(proxy.port);
    odd.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(parts(&odd.response()), (400, "text/x-bad".into(), "bad: the Host header is repeated".into()));
}

/// A backend that speaks a protocol of its own after 101, and echoes.
fn switching() -> Backend {
    Backend::start(|_, peer| {
        let Some(head) = peer.head() else { return };
        if !head.to_lowercase().contains("upgrade: websocket") {
            return peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
        }
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello ",
        );
        while let Some(word) = peer.exactly(4) {
            peer.send(word);
        }
        peer.send("bye");
    })
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

#[test]
fn a_websocket_becomes_a_tunnel_that_carries_half_close() {
    let proxy = edge(&switching(), "upgrade_configs: [ { upgrade_type: websocket } ]");
    let mut client = Client::connect(proxy.port);
    // What follows the head at once belongs to the tunnel.
    client.send([UPGRADE, "ping"].concat());
    let response = client.response();
    assert_eq!((response.status(), response.header("upgrade")), (101, Some("websocket")));
    client.send("pong");
    client.finish();
    assert_eq!(String::from_utf8_lossy(&client.rest()), "hello pingpongbye", "the other direction lives on");
}

#[test]
fn an_upgrade_is_off_unless_configured_and_per_route() {
    let backend = switching();
    let status = |manager: &str, route: &str, request: &str| {
        let routes = format!("{{ match: {{ prefix: / }}, route: {{ cluster: c{route} }} }}");
        let proxy = Setup::to(backend.address).manager(manager).routes(&routes).start();
        let mut client = Client::connect(proxy.port);
        client.send(request);
        client.response().status()
    };
    let on = "upgrade_configs: [ { upgrade_type: websocket } ]";
    assert_eq!(status("", "", UPGRADE), 403);
    assert_eq!(status(on, "", UPGRADE), 101);
    assert_eq!(
        status(on, ", upgrade_configs: [ { upgrade_type: websocket, enabled: false } ]", UPGRADE),
        403
    );
    let off = "upgrade_configs: [ { upgrade_type: websocket, enabled: false } ]";
    assert_eq!(status(off, ", upgrade_configs: [ { upgrade_type: websocket } ]", UPGRADE), 101);
    assert_eq!(status(on, "", &UPGRADE.replace("websocket", "spdy/3")), 403);
    // A server may ignore the wish for h2c; it is never passed on.
    assert_eq!(status("", "", &UPGRADE.replace("websocket", "h2c")), 200);
    assert!(!backend.received().to_lowercase().contains("h2c"));
}

#[test]
fn a_tunnel_opens_only_after_a_101_that_was_asked_for() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(match head.contains("/declined") {
                true => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
                false => {
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
                }
            });
        }
    });
    let proxy = edge(&backend, "upgrade_configs: [ { upgrade_type: websocket } ]");
    let mut client = Client::connect(proxy.port);
    client.send(UPGRADE.replace("/chat", "/declined"));
    assert_eq!(client.response().text(), "no");
    client.send(UPGRADE.replace("/chat", "/declined"));
    assert_eq!(client.response().text(), "no", "the connection still speaks HTTP");
    assert_eq!(client.get("/unasked", "").status(), 502, "nobody asked for this 101");
}

#[test]
fn connect_is_off_unless_configured() {
    let backend = echo_head();
    let proxy = edge(&backend, "");
    let mut client = Client::connect(proxy.port);
    client.send("CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n");
    let refused = client.response();
    assert_eq!((refused.status(), refused.text()), (405, "CONNECT is not enabled here"));
    assert_eq!(backend.received(), "");
}

#[test]
fn connect_ends_here_or_is_passed_on_as_the_route_says() {
    let raw = Backend::start(|_, peer| {
        while let Some(word) = peer.exactly(4) {
            peer.send(word);
        }
    });
    let terminated = "{ match: { connect_matcher: {} }, route: { cluster: c, upgrade_configs: [ { upgrade_type: CONNECT, \
                      connect_config: {} } ] } }";
    let proxy = Setup::to(raw.address).routes(terminated).start();
    let mut client = Client::connect(proxy.port);
    client.send("CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\nping");
    assert!(client.response_to_head().head.starts_with("HTTP/1.1 200"));
    client.send("pong");
    client.finish();
    assert_eq!(String::from_utf8_lossy(&client.rest()), "pingpong");
    assert_eq!(raw.received(), "pingpong", "the endpoint sees bytes, not a CONNECT");

    let inner = Backend::start(|_, peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi ");
        while let Some(word) = peer.exactly(4) {
            peer.send(word);
        }
    });
    let passed = "{ match: { connect_matcher: {} }, route: { cluster: c } }";
    let proxy = Setup::to(inner.address)
        .routes(passed)
        .manager("upgrade_configs: [ { upgrade_type: CONNECT } ]")
        .start();
    let mut client = Client::connect(proxy.port);
    client.send("CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n");
    let opened = client.response_to_head();
    assert_eq!((opened.status(), opened.header("content-length")), (200, None), "a tunnel has no length");
    client.send("ping");
    client.finish();
    assert_eq!(String::from_utf8_lossy(&client.rest()), "hi ping");
    assert!(
        inner.received().starts_with("CONNECT shop:443 HTTP/1.1\r\nhost: shop:443\r\n"),
        "{}",
        inner.received()
    );
}

#[test]
fn requests_a_connection_are_bounded_where_configured() {
    let proxy = edge(&echo_head(), "common_http_protocol_options: { max_requests_per_connection: 2 }");
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").header("connection"), None);
    assert_eq!(client.get("/", "").header("connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn connections_from_one_source_are_bounded_where_configured() {
    let proxy = Setup {
        filters: "- { name: weir.limits, typed_config: { '@type': type.googleapis.com/weir.limits.v1.HttpLimits, \
                  max_connections_per_source: 2 } }",
        ..Setup::to(echo_head().address)
    }
    .start();
    let mut held: Vec<_> = (0..2).map(|_| Client::connect(proxy.port)).collect();
    held.iter_mut().for_each(|client| assert_eq!(client.get("/", "").status(), 200));
    assert!(Client::connect(proxy.port).is_closed());
    drop(held);
    tests::eventually("places become free", || {
        http_get(proxy.port, "/").map(|r| assert_eq!(r.status(), 200))
    });
    assert!(proxy.metric("weir_downstream_connections_refused_total") >= 1);
}

#[test]
fn what_a_stranger_may_not_say_is_not_matched_either() {
    let (open, inner) = (Backend::named("open"), Backend::named("inner"));
    let routes = "{ match: { prefix: /, headers: [ { name: x-weir-inner, string_match: { exact: 'yes' } } ] }, route: { cluster: inner } }, \
                  { match: { prefix: /, headers: [ { name: x-forwarded-proto, string_match: { exact: https } } ] }, route: { cluster: inner } }, \
                  { match: { prefix: /, headers: [ { name: x-forwarded-proto, string_match: { exact: http } } ] }, route: { cluster: open } }";
    let clusters = vec![("open", open.address, ""), ("inner", inner.address, "")];
    let proxy = Setup { routes, manager: EDGE, clusters, ..Setup::default() }.start();
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "X-Weir-Inner: yes\r\n").text(), "open");
    assert_eq!(client.get("/", "X-Forwarded-Proto: https\r\n").text(), "open", "and ours is what is matched");
}

#[test]
fn the_default_host_of_http_1_0_is_routed_by() {
    let backend = echo_head();
    let (port, admin) = (tests::free_port(), tests::free_port());
    let bootstrap = Setup::to(backend.address)
        .manager("http_protocol_options: { accept_http_10: true, default_host_for_http_10: shop.example }")
        .bootstrap(port, admin)
        .replace("domains: [\"*\"]", "domains: [shop.example]");
    let proxy = Proxy::start(&bootstrap, port, admin, &[]);
    let mut client = Client::connect(proxy.port);
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn what_follows_a_refused_tunnel_is_not_a_request() {
    let backend = echo_head();
    for request in [
        "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ] {
        let proxy = edge(&backend, "");
        let mut client = Client::connect(proxy.port);
        client.send(format!("{request}POST /smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        assert!(client.response().status() >= 400);
        assert!(client.rest().is_empty());
    }
    assert!(!backend.received().contains("smuggled"));
}

#[test]
fn a_reply_mapped_to_204_has_no_body_and_logs_tell_what_was_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let manager = format!(
        "use_remote_address: true
access_log: [ {{ name: file, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {},
  log_format: {{ text_format: \"%REQ(X-REQUEST-ID)% %REQ(X-FORWARDED-FOR)%\\n\" }} }} }} ]
local_reply_config: {{ mappers: [ {{ filter: {{ status_code_filter: {{ comparison: {{ op: EQ, value: {{ default_value: 404, runtime_key: k }} }} }} }}, status_code: 204 }} ] }}",
        log.display()
    );
    let backend = echo_head();
    let proxy = Setup::to(backend.address)
        .routes("{ match: { prefix: /a }, route: { cluster: c } }")
        .manager(&manager)
        .start();
    let mut client = Client::connect(proxy.port);
    let none = client.get("/none", "");
    assert_eq!((none.status(), none.header("content-length")), (204, None));
    let head = client.get("/a", "X-Request-Id: forged\r\n").text().to_owned();
    let sent = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").to_owned();
    let lines = tests::eventually("two lines", || {
        std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() == 2)
    });
    assert_eq!(lines.lines().last(), Some(format!("{sent} 127.0.0.1").as_str()));
}

//! `examples/front-proxy.yaml` under Envoy and under Weir: a few hundred varied requests, and equal answers. Where the
//! answers differ the difference is listed here, with its reason; any other one fails.
//!
//! Envoy is `$ENVOY`, or the first `envoy` on the path. Without one the test says so and ends; `.ci/run` installs it.

use std::collections::BTreeMap;

use tests::{Backend, Client, Envoy, Process, Proxy, free_port};

/// What a client got, as far as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    location: Option<String>,
    server: Option<String>,
    content_type: Option<String>,
    body: String,
    closes: bool,
}

/// A service that tells who it is and what of a request reached it.
fn service(name: &'static str) -> Backend {
    Backend::start(move |_, peer| {
        while let Some(head) = peer.head() {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            let Some(content) = peer.exactly(length) else { return };
            let mut lines = head.lines().filter(|line| !line.is_empty());
            let first = lines.next().unwrap_or_default().to_owned();
            let mut headers: BTreeMap<String, String> = BTreeMap::new();
            for (key, value) in lines.filter_map(|line| line.split_once(':')) {
                let (key, value) = (key.to_ascii_lowercase(), value.trim());
                // Random, or each proxy's own: Envoy joins X-Forwarded-For without a space and with its own address for a
                // loopback peer; it also says again who the client is, where Weir says which host was asked for; and Weir names `te` in `Connection` (RFC 9110 §10.1.4).
                let value = match key.as_str() {
                    "x-request-id" => "some id",
                    "x-forwarded-for" => {
                        value.split(',').next().filter(|_| value.contains(',')).unwrap_or("peer")
                    }
                    "x-forwarded-host"
                    | "x-envoy-external-address"
                    | "connection"
                    | "content-length"
                    | "transfer-encoding" => continue,
                    _ => value,
                };
                headers.entry(key).and_modify(|all| *all += ",").or_default().push_str(value);
            }
            let told = format!("{name}\n{first}\n{headers:?}\n{}", String::from_utf8_lossy(&content));
            let status = match first.split(' ').nth(1) {
                Some(path) if path.starts_with("/status/") => path["/status/".len()..].to_owned(),
                _ => "200 OK".to_owned(),
            };
            if status.starts_with("204") || status.starts_with("304") || first.starts_with("HEAD") {
                peer.send(format!("HTTP/1.1 {status}\r\nContent-Type: text/x-told\r\n\r\n"));
            } else {
                let length = told.len();
                peer.send(format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/x-told\r\nX-Hop: 1\r\nContent-Length: {length}\r\n\r\n{told}"
                ));
            }
        }
    })
}

/// Every request is one connection of its own, so that no answer depends on another.
fn requests() -> Vec<String> {
    let mut all = Vec::new();
    let hosts = [
        "service1.example",
        "service1.example:10000",
        "www.service1.example",
        "SERVICE1.example",
        "service2.example",
        "other.example",
    ];
    let paths = [
        "/",
        "/service/1",
        "/service/2",
        "/service/2/deep?q=1",
        "/exact",
        "/exact/",
        "/api",
        "/api/v1",
        "/apis",
        "/only/here",
        "/a//b",
        "//a/b",
        "/a/./b",
        "/a/../service/2",
        "/%61pi/x",
        "/api%2Fv1",
        "/x%5Cy",
        "/../..",
        "/a?x=%2F&y=/../z",
        "/status/204",
        "/status/404",
        "/status/503",
        "/status/302",
        "/a%20b",
        "/~user",
    ];
    for host in hosts {
        for path in paths {
            all.push(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        }
    }
    for method in ["HEAD", "OPTIONS", "DELETE", "PATCH", "PROPFIND"] {
        for path in ["/", "/service/2", "/exact"] {
            all.push(format!("{method} {path} HTTP/1.1\r\nHost: service1.example\r\n\r\n"));
        }
    }
    for header in [
        "X-Canary: yes",
        "X-Canary: no",
        "x-canary: yes",
        "X-Canary: yes\r\nX-Canary: yes",
        "Accept: */*",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Request-Id: mine",
        "X_User: 1",
        "Cookie: a=b; c=d",
        "Connection: keep-alive",
        "Connection: close",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "TE: gzip",
        "User-Agent: curl/8",
        "X-Empty:",
        "X-Spaces:   padded   ",
        "Accept-Encoding: gzip, br",
        "Expect: 100-continue",
        "X-Envoy-Max-Retries: 3",
        "Range: bytes=0-5",
        "If-None-Match: \"x\"",
        "Authorization: Basic eDp5",
        "Transfer-Encoding: identity",
        "Content-Length: 0",
        "X-High: \u{e9}",
    ] {
        for path in ["/", "/service/2"] {
            all.push(format!("GET {path} HTTP/1.1\r\nHost: service1.example\r\n{header}\r\n\r\n"));
        }
    }
    for (framing, body) in [
        ("Content-Length: 5", "hello"),
        ("Content-Length: 0", ""),
        ("Content-Length: 5\r\nContent-Length: 6", "hello"),
        ("Content-Length: x", "hello"),
        ("Content-Length: -1", "hello"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: gzip", "hello"),
    ] {
        for path in ["/", "/service/2", "/exact"] {
            all.push(format!("POST {path} HTTP/1.1\r\nHost: service1.example\r\n{framing}\r\n\r\n{body}"));
        }
    }
    for odd in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: service1.example\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: service1.example\r\nConnection: keep-alive\r\n\r\n",
        "GET http://service1.example/abs HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: service1.example\r\nHost: service2.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@service1.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: service1.example:8o\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: service1.example\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: service1.example\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/3.0\r\nHost: service1.example\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: service1.example\r\n\r\n",
        "GET /100% HTTP/1.1\r\nHost: service1.example\r\n\r\n",
        "CONNECT service1.example:443 HTTP/1.1\r\nHost: service1.example:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: service1.example\r\nUpgrade: spdy/3\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: service1.example\r\nUpgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: service1.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: service1.example\r\nExpect: nonsense\r\n\r\n",
    ] {
        all.push(odd.to_owned());
    }
    all.push(format!("GET / HTTP/1.1\r\nHost: service1.example\r\nX: {}\r\n\r\n", "y".repeat(40_000)));
    all.push(format!("GET / HTTP/1.1\r\nHost: service1.example\r\n{}\r\n", "X: y\r\n".repeat(60)));
    all
}

/// Where the two differ, by a part of the request, and why that is right.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "Expect: 100-continue",
        "Weir passes Expect on and 100 back; Envoy answers 100 itself (proxy_100_continue is off)",
    ),
    ("Expect: nonsense", "RFC 9110 §10.1.1: an expectation that cannot be met is 417"),
    (
        "Transfer-Encoding: identity",
        "refused by both; an encoding that frames nothing is 400 here, 501 there",
    ),
    ("Transfer-Encoding: gzip", "as above"),
    (
        "Host: service1.example\r\nHost: service2.example",
        "RFC 9112 §3.2: two Host lines are 400; Envoy joins them",
    ),
    ("Host: user@", "RFC 9112 §3.2: user information is no part of a host"),
    (":8o", "RFC 9112 §3.2: a port has digits"),
    ("HTTP/3.0", "RFC 9112 §2.3: another major version is not understood; Envoy serves it"),
    ("/100% ", "a percent sign without digits is read differently by everybody: 400, as in nginx"),
    ("CONNECT ", "405 says why; Envoy finds no route and says 404"),
];

fn ask(port: u16, request: &str) -> Option<Answer> {
    let mut client = Client::connect(port);
    client.try_send(request);
    let head_only = request.starts_with("HEAD");
    let mut response = if head_only { client.try_response_to_head()? } else { client.try_response()? };
    while response.status() == 100 {
        response = client.try_response()?;
    }
    let header = |name: &str| response.header(name).map(str::to_owned);
    // The words of a reply are each proxy's own, unless the configuration gives them.
    let mut body = String::from_utf8_lossy(&response.body).trim().to_owned();
    if header("content-type").as_deref() == Some("application/json") && response.status() != 404 {
        body = format!("a reply with status {}", response.status());
    }
    Some(Answer {
        status: response.status(),
        location: header("location").map(|l| l.trim_start_matches("http://service1.example").to_owned()),
        server: header("server"),
        content_type: header("content-type"),
        body,
        closes: header("connection").is_some_and(|value| value == "close"),
    })
}

#[test]
fn envoy_and_weir_give_equal_answers() {
    let (one, two) = (service("service1"), service("service2"));
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/front-proxy.yaml");
    let example = std::fs::read_to_string(example).expect("the example");
    let configure = || {
        let (port, admin) = (free_port(), free_port());
        let text = example
            .replace("port_value: 10000 ", &format!("port_value: {port} "))
            .replace("port_value: 9901 ", &format!("port_value: {admin} "))
            .replace("port_value: 10001 ", &format!("port_value: {} ", one.address.port()))
            .replace("port_value: 10002 ", &format!("port_value: {} ", two.address.port()));
        (text, port, admin)
    };
    let (text, port, admin) = configure();
    let Some(envoy) = Envoy::start(&text, port, admin) else { return };
    let (text, port, admin) = configure();
    let weir = Proxy::start(&text, port, admin, &[]);
    let requests = requests();
    assert!(requests.len() >= 250, "{} requests", requests.len());
    let mut unexpected = Vec::new();
    let mut used = vec![false; DIFFERENCES.len()];
    for request in &requests {
        let (ours, theirs) = (ask(weir.port, request), ask(envoy.port, request));
        if ours == theirs {
            continue;
        }
        let shown: String = request.chars().take(200).collect();
        match DIFFERENCES.iter().position(|(part, _)| request.contains(part)) {
            Some(at) => used[at] = true,
            None => unexpected.push(format!("{shown:?}\n  weir:  {ours:?}\n  envoy: {theirs:?}")),
        }
    }
    assert!(
        unexpected.is_empty(),
        "{} of {} differ:\n{}",
        unexpected.len(),
        requests.len(),
        unexpected.join("\n")
    );
    for ((part, why), used) in DIFFERENCES.iter().zip(used) {
        assert!(used, "{part:?} no longer differs ({why})");
    }
}

#[test]
fn the_example_can_be_used_as_it_stands() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/front-proxy.yaml");
    let output = Process::run("weir-proxy", &["-c", example, "--mode", "validate"]);
    assert_eq!(
        (output.code, output.stdout.trim()),
        (0, "the configuration can be used"),
        "{}",
        output.stderr
    );
}

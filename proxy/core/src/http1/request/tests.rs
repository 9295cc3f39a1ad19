use super::super::head::Underscores;
use super::*;

fn parse(text: &str) -> Result<RequestHead, HeadError> {
    let mut head = RequestHead::default();
    let complete = parse_request(text.as_bytes(), &RequestRules::default(), &mut head)?;
    assert!(complete, "the head is whole: {text:?}");
    Ok(head)
}

#[test]
fn a_plain_get_is_read() {
    let text = "GET /a?b=c HTTP/1.1\r\nHost: shop:80\r\nX-User: 7 \r\n\r\nrest";
    let head = parse(text).expect("valid");
    assert_eq!(head.method, Method::Get);
    assert_eq!(head.path.slice(text.as_bytes()), b"/a?b=c");
    assert_eq!(head.authority.slice(text.as_bytes()), b"shop:80");
    assert_eq!(head.header(text.as_bytes(), b"x-user"), Some(&b"7"[..]));
    assert_eq!(head.framing, RequestFraming::None);
    assert!(head.keep_alive);
    assert_eq!(head.len, text.len() - 4);
}

#[test]
fn one_empty_line_before_the_request_is_tolerated() {
    let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(parse(text).expect("valid").len, text.len());
    assert!(parse("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    assert!(parse("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
}

#[test]
fn a_head_in_pieces_is_awaited() {
    let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 0..text.len() {
        let mut head = RequestHead::default();
        assert_eq!(
            parse_request(&text[..end], &RequestRules::default(), &mut head),
            Ok(false),
            "{end} bytes"
        );
    }
}

#[test]
fn each_broken_rule_is_named() {
    use HeadError::*;
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", HostMissing),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HostRepeated),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HostRepeated),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", HostMalformed),
        ("GET / HTTP/1.1\r\nHost: a:8o\r\n\r\n", HostMalformed),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", HostMalformed),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\n\r\n", BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\n", BareLineEnd),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", HeaderValue),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", HeaderValue),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\n{x}: b\r\n\r\n", HeaderName),
        ("G{T / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
        ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", HostMalformed),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT http://a:443/ HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT u@a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", TunnelWithBody),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\n",
            TunnelWithBody,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            LengthAndEncoding,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", TransferEncoding),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", Expect),
        ("\x16\x03\x01\x02\x00", Tls),
    ];
    for (text, error) in cases {
        assert_eq!(parse(text).expect_err(text), error, "{text:?}");
    }
}

#[test]
fn limits_are_kept_whether_or_not_the_head_is_whole() {
    let cases = [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000)), HeadError::TargetTooLong),
        (format!("GET /{}", "x".repeat(9000)), HeadError::TargetTooLong),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101)), HeadError::TooManyHeaders),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(500)), HeadError::TooManyHeaders),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(17 << 10)), HeadError::LineTooLong),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(61 << 10)), HeadError::HeadTooLong),
    ];
    for (text, error) in cases {
        assert_eq!(parse(&text).expect_err("too long"), error);
    }
}

#[test]
fn equal_lengths_collapse() {
    let head =
        parse("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n").expect("valid");
    assert_eq!(head.framing, RequestFraming::Length(5));
    assert_eq!(head.headers.iter().filter(|h| h.id == HeaderId::ContentLength && !h.dropped).count(), 1);
    let head = parse("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n").expect("valid");
    assert_eq!(head.framing, RequestFraming::Length(5));
}

#[test]
fn absolute_form_names_the_host_and_replaces_the_header() {
    let text = "GET HTTP://b.example:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = parse(text).expect("valid");
    assert_eq!(head.authority.slice(text.as_bytes()), b"b.example:81");
    assert_eq!(head.path.slice(text.as_bytes()), b"/x?y");
    assert!(head.headers[0].dropped);
}

#[test]
fn persistence_follows_version_and_connection() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ];
    for (text, keep_alive) in cases {
        assert_eq!(parse(text).expect("valid").keep_alive, keep_alive, "{text:?}");
    }
}

#[test]
fn connection_drops_what_it_nominates_but_never_framing_or_host() {
    let text = "POST / HTTP/1.1\r\nHost: a\r\nX-Hop: 1\r\nX-Stays: 2\r\nContent-Length: 3\r\n\
                Connection: X-HOP, host, content-length\r\n\r\n";
    let head = parse(text).expect("valid");
    let kept: Vec<_> =
        head.headers.iter().filter(|h| !h.dropped).map(|h| h.name.slice(text.as_bytes())).collect();
    assert_eq!(kept, [&b"Host"[..], b"X-Stays", b"Content-Length"]);
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = parse_request(&bytes, &RequestRules::default(), &mut RequestHead::default());
        let with_line = [b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(), bytes, b"\r\n\r\n".to_vec()].concat();
        let _ = parse_request(&with_line, &RequestRules::default(), &mut RequestHead::default());
    }
}

#[test]
fn connect_names_its_target_and_has_no_path() {
    let text = "CONNECT shop:443 HTTP/1.1\r\nHost: other\r\n\r\n";
    let head = parse(text).expect("valid");
    assert_eq!(head.method, Method::Connect);
    assert_eq!(head.authority.slice(text.as_bytes()), b"shop:443");
    assert!(head.path.is_empty());
}

#[test]
fn an_upgrade_is_one_that_connection_nominates() {
    let upgrade = |lines: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = parse(&text).expect("valid");
        assert!(head.headers.iter().filter(|h| h.id == HeaderId::Upgrade).all(|h| h.dropped), "{text:?}");
        head.upgrade.map(|span| String::from_utf8_lossy(span.slice(text.as_bytes())).into_owned())
    };
    assert_eq!(
        upgrade("Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n").as_deref(),
        Some("WebSocket")
    );
    assert_eq!(upgrade("Connection: upgrade\r\nUpgrade: websocket\r\n").as_deref(), Some("websocket"));
    assert_eq!(upgrade("Upgrade: websocket\r\n"), None, "not nominated");
    assert_eq!(upgrade("Connection: upgrade\r\n"), None);
    assert_eq!(upgrade("Upgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: x\r\n"), None);
}

#[test]
fn a_listener_may_refuse_http_1_0_absolute_form_and_underscores() {
    let refuse = |rules: RequestRules, text: &str| {
        parse_request(text.as_bytes(), &rules, &mut RequestHead::default()).expect_err(text)
    };
    let rules = RequestRules { http10: false, absolute_form: false, ..RequestRules::default() };
    assert_eq!(refuse(rules, "GET / HTTP/1.0\r\n\r\n"), HeadError::Http10);
    assert_eq!(HeadError::Http10.status(), 426);
    assert_eq!(refuse(rules, "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::AbsoluteForm);
    let mut rules = RequestRules::default();
    rules.limits.underscores = Underscores::Reject;
    assert_eq!(refuse(rules, "GET / HTTP/1.1\r\nHost: a\r\nX_User: b\r\n\r\n"), HeadError::Underscore);
}

#[test]
fn a_dropped_underscore_header_is_neither_matched_nor_passed_on() {
    let text = "GET / HTTP/1.1\r\nA: 1\r\nX_User: b\r\nHost: a\r\nC: 3\r\n\r\n";
    let mut rules = RequestRules::default();
    rules.limits.underscores = Underscores::Drop;
    let mut head = RequestHead::default();
    assert_eq!(parse_request(text.as_bytes(), &rules, &mut head), Ok(true));
    assert_eq!(head.header(text.as_bytes(), b"x_user"), None);
    let mut out = Vec::new();
    crate::http1::write_request(&mut out, text.as_bytes(), &head, &crate::http1::RequestEdits::default());
    assert_eq!(out, b"GET / HTTP/1.1\r\nA: 1\r\nHost: a\r\nC: 3\r\n\r\n");
}

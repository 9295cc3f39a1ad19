use proptest::prelude::*;

use super::*;
use crate::http1::{Limits, RequestFraming, RequestRules, ResponseFraming, parse_request, parse_response};

const NO_TUNNEL: Tunnel<'static> = Tunnel { protocol: None, websocket_key: "a2V5" };

fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

/// What the strict parser makes of a request.
fn read(
    parts: &request::Parts,
    ended: bool,
    tunnel: Tunnel<'_>,
) -> Result<(Vec<u8>, RequestHead), HeadError> {
    let mut text = Vec::new();
    write_request(&mut text, parts, ended, tunnel)?;
    let mut head = RequestHead::default();
    match parse_request(&text, &RequestRules::default(), &mut head)? {
        true => Ok((text, head)),
        false => panic!("half a head: {:?}", String::from_utf8_lossy(&text)),
    }
}

#[test]
fn a_request_says_the_same_in_both() {
    let parts = request("POST", "https://shop:8443/a?b", &[("x", "1"), ("x", "2"), ("te", "trailers")]);
    let (text, head) = read(&parts, false, NO_TUNNEL).expect("valid");
    assert_eq!(head.authority.slice(&text), b"shop:8443");
    assert_eq!((head.path.slice(&text), head.framing), (&b"/a?b"[..], RequestFraming::Chunked));
    assert!(head.takes_trailers);
    let back = request_parts(&text, &head, true).expect("sayable");
    assert_eq!((back.method(), back.uri()), (&parts.method, &parts.uri));
    let values: Vec<_> = back.headers().get_all("x").iter().collect();
    assert_eq!(values, ["1", "2"]);
    assert_eq!(back.headers()[TE], "trailers");
    assert!(!back.headers().contains_key(HOST), "it is the authority");
}

#[test]
fn crumbs_are_one_cookie_again() {
    let parts = request("GET", "http://a/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3")]);
    let (text, head) = read(&parts, true, NO_TUNNEL).expect("valid");
    assert_eq!(head.header(&text, b"cookie"), Some(&b"a=1; b=2; c=3"[..]));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let cases: [(request::Parts, bool, HeadError); 6] = [
        (request("GET", "http://a/", &[("host", "b")]), true, HeadError::HostRepeated),
        (request("GET", "/", &[("host", "a"), ("host", "a")]), true, HeadError::HostRepeated),
        (request("GET", "/", &[]), true, HeadError::HostMissing),
        (request("GET", "http://u@a/", &[]), true, HeadError::HostMalformed),
        (request("POST", "http://a/", &[("content-length", "5")]), true, HeadError::ContentLength),
        (
            request("POST", "http://a/", &[("content-length", "5"), ("content-length", "6")]),
            false,
            HeadError::ContentLength,
        ),
    ];
    for (parts, ended, error) in cases {
        assert_eq!(read(&parts, ended, NO_TUNNEL).map(|_| ()), Err(error), "{parts:?}");
    }
    let agreeing = request("GET", "http://a/", &[("host", "A")]);
    assert!(read(&agreeing, true, NO_TUNNEL).is_ok());
}

#[test]
fn an_extended_connect_is_an_upgrade_and_back() {
    let parts = request("CONNECT", "https://a/chat", &[("sec-websocket-version", "13"), ("origin", "x")]);
    let tunnel = Tunnel { protocol: Some("websocket"), websocket_key: "dGhlIHNhbXBsZSBub25jZQ==" };
    let (text, head) = read(&parts, false, tunnel).expect("valid");
    assert_eq!(head.method_token.slice(&text), b"GET");
    assert_eq!(head.upgrade.map(|protocol| protocol.slice(&text)), Some(&b"websocket"[..]));
    assert_eq!(head.header(&text, b"sec-websocket-key"), Some(&b"dGhlIHNhbXBsZSBub25jZQ=="[..]));
    let back = request_parts(&text, &head, true).expect("sayable");
    assert_eq!((back.method(), back.uri()), (&Method::CONNECT, &parts.uri));
    assert_eq!(back.extensions().get::<Protocol>().map(|protocol| &*protocol.0), Some("websocket"));
    assert!(!back.headers().contains_key("sec-websocket-key"));
    assert_eq!(back.headers()["sec-websocket-version"], "13");
}

#[test]
fn connect_names_its_authority_alone() {
    let parts = request("CONNECT", "a:443", &[]);
    let (text, head) = read(&parts, false, NO_TUNNEL).expect("valid");
    assert!(text.starts_with(b"CONNECT a:443 HTTP/1.1\r\n"));
    let back = request_parts(&text, &head, false).expect("sayable");
    assert_eq!(back.uri(), &parts.uri);
}

fn response(status: u16, fields: &[(&str, &str)]) -> response::Parts {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(()).expect("a response").into_parts().0
}

#[test]
fn responses_end_where_they_should() {
    let (get, head) = (crate::http1::Method::Get, crate::http1::Method::Head);
    let length = [("content-length", "5")];
    let grpc = [("content-type", "application/grpc+proto"), ("content-length", "5")];
    let cases = [
        (response(200, &length), false, get, BodyForm::Plain, ResponseFraming::Length(5)),
        (response(200, &[]), false, get, BodyForm::Chunked, ResponseFraming::Chunked),
        (response(200, &[]), true, get, BodyForm::Empty, ResponseFraming::Length(0)),
        (response(200, &length), true, head, BodyForm::Empty, ResponseFraming::None),
        (response(304, &length), true, get, BodyForm::Empty, ResponseFraming::None),
        (response(103, &[]), false, get, BodyForm::Empty, ResponseFraming::None),
        (response(200, &grpc), false, get, BodyForm::Chunked, ResponseFraming::Chunked),
    ];
    for (parts, ended, method, form, framing) in cases {
        let mut text = Vec::new();
        let bodiless = method == head;
        assert_eq!(write_response(&mut text, &parts, ended, bodiless, None), Ok(form), "{parts:?}");
        let mut read = ResponseHead::default();
        assert_eq!(parse_response(&text, &Limits::default(), method, &mut read), Ok(true));
        assert_eq!(read.framing, framing, "{parts:?}");
        let back = response_parts(&text, &read).expect("sayable");
        assert_eq!(back.status(), parts.status);
    }
    let cut = write_response(&mut Vec::new(), &response(200, &length), true, false, None);
    assert_eq!(cut, Err(HeadError::ContentLength));
}

#[test]
fn a_tunnel_that_opened_is_a_101_and_back() {
    let opened = Opened { protocol: b"websocket", websocket_accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" };
    let mut text = Vec::new();
    let form = write_response(&mut text, &response(200, &[]), false, false, Some(opened));
    assert_eq!(form, Ok(BodyForm::Plain));
    let mut head = ResponseHead::default();
    let method = crate::http1::Method::Get;
    assert_eq!(parse_response(&text, &Limits::default(), method, &mut head), Ok(true));
    assert!(head.status == 101 && head.upgrades);
    let back = response_parts(&text, &head).expect("sayable");
    assert_eq!(back.status(), 200);
    assert!(!back.headers().contains_key("sec-websocket-accept"));
    let mut refused = Vec::new();
    let form = write_response(&mut refused, &response(403, &[]), true, false, Some(opened));
    assert_eq!(form, Ok(BodyForm::Empty));
    assert!(refused.starts_with(b"HTTP/1.1 403 "));
}

#[test]
fn trailers_go_both_ways() {
    let mut text = Vec::new();
    let map = trailer_map(b"grpc-status: 0\r\ngrpc-message: \r\n\r\n").expect("valid").expect("some");
    assert_eq!((map.len(), &map["grpc-status"]), (2, &HeaderValue::from_static("0")));
    write_trailers(&mut text, Some(&map));
    assert_eq!(text, b"0\r\ngrpc-status: 0\r\ngrpc-message: \r\n\r\n");
    assert_eq!(trailer_map(b"\r\n"), Ok(None));
    text.clear();
    write_trailers(&mut text, None);
    assert_eq!(text, b"0\r\n\r\n");
}

proptest! {
    /// Whatever parts there are, what is written is one head and nothing more, or is refused.
    #[test]
    fn nothing_becomes_two_messages(
        method in "[A-Z]{1,7}|[!-~]{1,9}",
        path in "/[!-~]{0,30}",
        host in "[a-z@:./%0-9\\[\\]-]{0,12}",
        fields in prop::collection::vec(("[a-z-]{1,16}|te|host|cookie|content-length|transfer-encoding|connection|upgrade", "[ -~\\t]{0,12}"), 0..6),
        ended: bool,
    ) {
        let mut builder = Request::builder().method(method.as_str()).uri(format!("http://{host}{path}"));
        for (name, value) in &fields {
            builder = builder.header(name, value);
        }
        let Ok(request) = builder.body(()) else { return Ok(()) };
        let mut text = Vec::new();
        if write_request(&mut text, &request.into_parts().0, ended, NO_TUNNEL).is_err() {
            return Ok(());
        }
        let mut head = RequestHead::default();
        if let Ok(whole) = parse_request(&text, &RequestRules::default(), &mut head) {
            prop_assert!(whole);
            prop_assert_eq!(head.len, text.len());
            prop_assert_eq!(head.framing.has_body() && ended, false);
        }
    }
}

use super::*;

fn parse_as(method: Method, text: &str) -> Result<ResponseHead, HeadError> {
    let mut head = ResponseHead::default();
    let complete = parse_response(text.as_bytes(), &Limits::default(), method, &mut head)?;
    assert!(complete, "the head is whole: {text:?}");
    Ok(head)
}

fn parse(text: &str) -> Result<ResponseHead, HeadError> {
    parse_as(Method::Get, text)
}

#[test]
fn framing_follows_rfc_9112_section_6_3() {
    use ResponseFraming::{Chunked, Length, None, UntilClose};
    let cases = [
        (Method::Get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Length(5)),
        (Method::Get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Length(0)),
        (Method::Get, "HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n\r\n", Length(0)),
        (Method::Get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Chunked),
        (Method::Get, "HTTP/1.1 200 OK\r\n\r\n", UntilClose),
        (Method::Get, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", None),
        (Method::Get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", None),
        (Method::Get, "HTTP/1.1 100 Continue\r\n\r\n", None),
        (Method::Head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None),
        (Method::Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    ];
    for (method, text, framing) in cases {
        assert_eq!(parse_as(method, text).expect("valid").framing, framing, "{text:?}");
    }
}

#[test]
fn each_broken_rule_is_named() {
    let cases = [
        ("HTTP/1.1 2000 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 600 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/2.0 200 OK\r\n\r\n", HeadError::Version),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", HeadError::StatusLine),
        ("<html>", HeadError::StatusLine),
        ("HTTP/1.1 200 OK\n\r\n", HeadError::BareLineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", HeadError::BareLineEnd),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HeadError::HeaderName),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", HeadError::ContentLength),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::LengthAndEncoding,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", HeadError::TransferEncoding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::TransferEncoding),
    ];
    for (text, error) in cases {
        assert_eq!(parse(text).expect_err(text), error, "{text:?}");
    }
}

#[test]
fn headers_nominated_by_the_responses_connection_are_dropped() {
    let text = "HTTP/1.1 200 OK\r\nX-Hop: 1\r\nConnection: x-hop\r\nContent-Length: 0\r\n\r\n";
    let head = parse(text).expect("valid");
    let kept: Vec<_> =
        head.headers.iter().filter(|h| !h.dropped).map(|h| h.name.slice(text.as_bytes())).collect();
    assert_eq!(kept, [b"Content-Length"]);
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let text = [b"HTTP/1.1 ".to_vec(), bytes].concat();
        let _ = parse_response(&text, &Limits::default(), Method::Get, &mut ResponseHead::default());
    }
}

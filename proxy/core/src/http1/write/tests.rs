use super::super::{Limits, Method, RequestRules, parse_request, parse_response};
use super::*;

/// Nothing added, so that only what is cut is seen.
const PLAIN: fn(Version, bool) -> ResponseEdits<'static> = |client, keep_alive| ResponseEdits {
    client,
    keep_alive,
    server: &ServerHeader::PassThrough,
    date: b"now",
    added: b"",
};

fn request(text: &str) -> String {
    let mut head = RequestHead::default();
    assert_eq!(parse_request(text.as_bytes(), &RequestRules::default(), &mut head), Ok(true), "{text:?}");
    let mut out = Vec::new();
    write_request(
        &mut out,
        text.as_bytes(),
        &head,
        &RequestEdits { fallback_host: b"fallback:1", ..RequestEdits::default() },
    );
    let mut again = RequestHead::default();
    assert_eq!(parse_request(&out, &RequestRules::default(), &mut again), Ok(true), "what leaves is valid");
    assert_eq!(again.framing, head.framing, "and framed as it came");
    String::from_utf8(out).expect("text")
}

fn response(text: &str, client: Version, keep_alive: bool) -> String {
    let mut head = ResponseHead::default();
    assert_eq!(parse_response(text.as_bytes(), &Limits::default(), Method::Get, &mut head), Ok(true));
    let mut out = Vec::new();
    write_response(&mut out, text.as_bytes(), &head, &PLAIN(client, keep_alive));
    String::from_utf8(out).expect("text")
}

#[test]
fn a_request_leaves_without_hop_by_hop_lines() {
    let text = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                Accept: */*\r\nTE: gzip\r\nProxy-Connection: x\r\n\r\n";
    assert_eq!(request(text), "GET /x HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n");
}

#[test]
fn request_framing_is_stated_once() {
    assert_eq!(
        request("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"),
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    );
    assert_eq!(
        request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\n"),
        "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\n"
    );
}

#[test]
fn the_host_is_the_targets_or_the_fallback() {
    assert_eq!(
        request("GET http://b/x HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"),
        "GET /x HTTP/1.1\r\nhost: b\r\nX: y\r\n\r\n"
    );
    assert_eq!(request("GET / HTTP/1.0\r\n\r\n"), "GET / HTTP/1.1\r\nhost: fallback:1\r\n\r\n");
}

#[test]
fn a_wish_for_trailers_is_passed_on() {
    assert_eq!(
        request("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers, gzip\r\nConnection: te\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: a\r\nte: trailers\r\nconnection: te\r\n\r\n"
    );
}

#[test]
fn a_response_is_framed_for_its_client() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nA: b\r\n\r\n";
    assert_eq!(
        response(chunked, Version::Http11, true),
        "HTTP/1.1 200 OK\r\nA: b\r\ndate: now\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        response(chunked, Version::Http10, false),
        "HTTP/1.1 200 OK\r\nA: b\r\ndate: now\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(
        response("HTTP/1.0 404\r\nContent-Length: 2\r\n\r\n", Version::Http11, false),
        "HTTP/1.1 404 \r\nContent-Length: 2\r\ndate: now\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(
        response("HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n\r\n", Version::Http11, true),
        "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(
        response("HTTP/1.1 100 Continue\r\n\r\n", Version::Http11, false),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    assert_eq!(
        response("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", Version::Http10, true),
        "HTTP/1.1 204 No Content\r\ndate: now\r\nconnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn a_chunk_size_is_hexadecimal_without_leading_zeros() {
    for (size, text) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (65_536, "10000\r\n")] {
        let mut space = [0; 12];
        let start = write_chunk_size(&mut space, size);
        assert_eq!(&space[start..], text.as_bytes());
    }
}

#[test]
fn an_upgrade_leaves_as_it_came_and_a_101_answers_it() {
    let text = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade, x-hop\r\nX-Hop: 1\r\n\r\n";
    assert_eq!(
        request(text),
        "GET /chat HTTP/1.1\r\nHost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nDate: then\r\n\r\n";
    assert_eq!(
        response(switching, Version::Http11, true),
        "HTTP/1.1 101 Switching Protocols\r\nDate: then\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
}

#[test]
fn the_server_line_follows_its_rule() {
    let text = "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: then\r\nContent-Length: 0\r\n\r\n";
    let bare = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let with = |text: &str, server: &ServerHeader| {
        let mut head = ResponseHead::default();
        assert_eq!(parse_response(text.as_bytes(), &Limits::default(), Method::Get, &mut head), Ok(true));
        let mut out = Vec::new();
        let edits = ResponseEdits { server, ..PLAIN(Version::Http11, true) };
        write_response(&mut out, text.as_bytes(), &head, &edits);
        String::from_utf8(out).expect("text")
    };
    let overwrite = with(text, &ServerHeader::Overwrite("weir".into()));
    assert!(overwrite.contains("server: weir\r\n") && !overwrite.contains("nginx"), "{overwrite}");
    assert!(with(text, &ServerHeader::IfAbsent("weir".into())).contains("Server: nginx\r\n"));
    assert!(with(bare, &ServerHeader::IfAbsent("weir".into())).contains("server: weir\r\n"));
    assert!(!with(bare, &ServerHeader::PassThrough).contains("erver"));
}

#[test]
fn a_reply_of_our_own_is_whole() {
    let reply = LocalReply { status: 504, content_type: "text/plain", body: b"late\n", is_head: false };
    let mut out = Vec::new();
    write_local_reply(&mut out, &reply, &PLAIN(Version::Http11, false));
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 504 Gateway Timeout\r\ncontent-type: text/plain\r\ncontent-length: 5\r\ndate: now\r\n\
         connection: close\r\n\r\nlate\n"
    );
    out.clear();
    write_local_reply(&mut out, &LocalReply { is_head: true, ..reply }, &PLAIN(Version::Http11, true));
    assert!(out.ends_with(b"date: now\r\n\r\n"));
    for status in [204, 304] {
        out.clear();
        write_local_reply(&mut out, &LocalReply { status, ..reply }, &PLAIN(Version::Http11, true));
        let text = String::from_utf8_lossy(&out);
        assert!(text.ends_with("\r\n\r\n") && !text.contains("content-"), "{text}");
    }
}

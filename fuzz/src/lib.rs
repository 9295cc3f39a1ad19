//! What must hold of any bytes, as functions that panic where it does not. `cargo test` runs them over a corpus and random
//! changes of it; `fuzz/targets` runs them under libFuzzer.

use std::sync::Arc;

use proxy_core::config::NodeFacts;
use proxy_core::http1::{
    BodyReader, ChunkLimits, HeaderId, Limits, Method, Output, RequestEdits, RequestFraming, RequestHead,
    RequestRules, ResponseEdits, ResponseFraming, ResponseHead, ServerHeader, Version, parse_request,
    parse_response, write_request, write_response,
};
use proxy_core::lint::lint_routes;
use proxy_core::path::{EscapedSlashes, Normalized, PathRules, normalize};
use proxy_core::route::{CompiledRoute, HeadView, RouteTable};
use proxy_core::xds::translate;
use xds_proto::gate::Gate;
use xds_proto::prost_types::Any;
use xds_proto::{json, type_url};

/// A request head: what was accepted from a whole buffer is accepted from the same bytes alone, holds only spans of the
/// buffer, and frames its body in one way.
pub fn request_head(bytes: &[u8]) {
    let mut head = RequestHead::default();
    let Ok(true) = parse_request(bytes, &RequestRules::default(), &mut head) else { return };
    assert!(head.len <= bytes.len(), "the head lies in the buffer");
    let alone = &bytes[..head.len];
    let mut again = RequestHead::default();
    assert_eq!(parse_request(alone, &RequestRules::default(), &mut again), Ok(true), "its own bytes suffice");
    for end in [head.len - 1, head.len / 2] {
        let partial = parse_request(&alone[..end], &RequestRules::default(), &mut again);
        assert_ne!(partial, Ok(true), "less than the head is not a head");
    }
    assert!(head.path.is_empty() == (head.method == Method::Connect), "only CONNECT has no path");
    if head.version == Version::Http11 {
        assert!(!head.authority.is_empty(), "HTTP/1.1 names a host");
    }
    let framings =
        head.headers.iter().filter(|line| line.id == HeaderId::ContentLength && !line.dropped).count();
    assert!(framings <= 1, "one length at most is passed on");
    assert!(
        head.headers.iter().all(|line| line.dropped || !line.id.is_hop_by_hop()),
        "nothing about this hop goes on"
    );
}

/// A response head: as [`request_head`].
pub fn response_head(bytes: &[u8]) {
    for method in [Method::Get, Method::Head, Method::Connect] {
        let mut head = ResponseHead::default();
        let Ok(true) = parse_response(bytes, &Limits::default(), method, &mut head) else { continue };
        assert!(head.len <= bytes.len() && (100..600).contains(&head.status));
        let bodiless = head.status < 200 || matches!(head.status, 204 | 304) || method == Method::Head;
        assert!(!bodiless || head.framing == ResponseFraming::None, "no body where there cannot be one");
    }
}

/// The chunked coding: the result does not depend on where the bytes are cut, and what leaves is in the coding itself.
pub fn chunked(bytes: &[u8], cut: usize) {
    let decode = |pieces: &[&[u8]]| -> Option<(Vec<u8>, usize, bool)> {
        let mut body =
            BodyReader::of_request(RequestFraming::Chunked, Output::Chunks, ChunkLimits::default());
        let (mut out, mut taken) = (Vec::new(), 0);
        for piece in pieces {
            let mut piece = piece.to_vec();
            let relayed = body.relay(&mut piece).ok()?;
            out.extend_from_slice(&piece[..relayed.kept]);
            taken += relayed.taken;
        }
        out.extend_from_slice(body.tail());
        Some((out, taken, body.is_done()))
    };
    let whole = decode(&[bytes]);
    let (left, right) = bytes.split_at(cut.min(bytes.len()));
    assert_eq!(decode(&[left, right]), whole, "cut at {cut}");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(decode(&single), whole, "byte by byte");
    if let Some((out, taken, true)) = whole {
        assert!(taken <= bytes.len());
        let again = decode(&[&out]).expect("what leaves can be decoded");
        assert_eq!((again.0.as_slice(), again.2), (out.as_slice(), true), "and is its own normal form");
    }
}

/// The writer: what it writes of an accepted request is accepted, and means the same. Writing that again changes nothing.
pub fn writer_round_trip(bytes: &[u8]) {
    let mut head = RequestHead::default();
    if parse_request(bytes, &RequestRules::default(), &mut head) == Ok(true) {
        let edits = RequestEdits { fallback_host: b"fallback", ..RequestEdits::default() };
        let mut out = Vec::new();
        write_request(&mut out, bytes, &head, &edits);
        let mut again = RequestHead::default();
        assert_eq!(parse_request(&out, &RequestRules::default(), &mut again), Ok(true), "{}", text(&out));
        assert_eq!(again.len, out.len(), "one head and nothing behind it");
        assert_eq!((again.method, again.framing), (head.method, head.framing));
        assert_eq!(again.path.slice(&out), head.path.slice(bytes));
        if !head.authority.is_empty() {
            assert_eq!(again.authority.slice(&out), head.authority.slice(bytes));
        }
        let mut twice = Vec::new();
        write_request(&mut twice, &out, &again, &edits);
        assert_eq!(text(&twice), text(&out), "a second hop changes nothing");
    }
    let mut head = ResponseHead::default();
    if parse_response(bytes, &Limits::default(), Method::Get, &mut head) == Ok(true) && head.status != 101 {
        let server = ServerHeader::default();
        let edits = ResponseEdits {
            client: Version::Http11,
            keep_alive: true,
            server: &server,
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            added: b"",
        };
        let mut out = Vec::new();
        write_response(&mut out, bytes, &head, &edits);
        let mut again = ResponseHead::default();
        let parsed = parse_response(&out, &Limits::default(), Method::Get, &mut again);
        assert_eq!(parsed, Ok(true), "{}", text(&out));
        assert_eq!((again.len, again.status), (out.len(), head.status));
        let expected = match head.framing {
            // A body that ends with the connection leaves in chunks.
            ResponseFraming::UntilClose => ResponseFraming::Chunked,
            framing => framing,
        };
        assert_eq!(again.framing, expected);
    }
}

/// The path normaliser: idempotent, never longer, and nothing in its result climbs or hides.
pub fn path_normaliser(bytes: &[u8]) {
    for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Forward, EscapedSlashes::Reject] {
        for merge_slashes in [false, true] {
            let rules = PathRules { normalize: true, merge_slashes, escaped_slashes };
            let Some(once) = normalized(bytes, &rules) else { continue };
            assert!(once.len() <= bytes.len());
            assert_eq!(normalized(&once, &rules).as_deref(), Some(once.as_slice()), "{}", text(&once));
            if once.first() != Some(&b'/') {
                continue;
            }
            let path = once.split(|byte| *byte == b'?').next().unwrap_or_default();
            assert!(path.split(|byte| *byte == b'/').all(|segment| segment != b"." && segment != b".."));
            assert!(!path.contains(&b'\\'), "{}", text(path));
            if merge_slashes {
                assert!(!path.windows(2).any(|pair| pair == b"//"), "{}", text(path));
            }
        }
    }
}

fn normalized(bytes: &[u8], rules: &PathRules) -> Option<Vec<u8>> {
    let mut path = bytes.to_vec();
    match normalize(&mut path, rules).ok()? {
        Normalized::Same => {}
        Normalized::Changed(length) | Normalized::Redirect(length) => path.truncate(length),
    }
    Some(path)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The types of resources that a control plane sends.
const RESOURCES: [&str; 4] =
    [type_url::LISTENER, type_url::ROUTE_CONFIGURATION, type_url::CLUSTER, type_url::CLUSTER_LOAD_ASSIGNMENT];

/// The gate and translation: whatever the bytes, each resource is taken or refused with a sentence; what is taken once is taken
/// again.
pub fn gate(bytes: &[u8]) {
    for type_url in RESOURCES {
        let resource = Any { type_url: type_url.to_owned(), value: bytes.to_vec() };
        let outcome = |resource: &Any| match type_url {
            type_url::LISTENER => translate::listener(resource).map(drop),
            type_url::CLUSTER => translate::cluster(resource).map(drop),
            type_url::CLUSTER_LOAD_ASSIGNMENT => translate::load_assignment(resource).map(drop),
            _ => translate::route_configuration(resource).map(drop),
        };
        let first = outcome(&resource);
        assert_eq!(first, outcome(&resource));
        if let Err(rejection) = &first {
            assert!(!rejection.reason.is_empty());
        }
        if Gate::standard().admit(&resource).is_err() {
            assert!(first.is_err(), "what the gate refuses is not translated");
        }
    }
}

/// A route table: what compiles finds a route or none, and says the same when it explains it.
pub fn route_table(bytes: &[u8]) {
    let resource = Any { type_url: type_url::ROUTE_CONFIGURATION.to_owned(), value: bytes.to_vec() };
    let Ok(accepted) = translate::route_configuration(&resource) else { return };
    let config = Arc::new(accepted.value);
    drop(lint_routes(&config));
    let table = RouteTable::compile(&config, &"r".into(), &NodeFacts::default(), |_| 0);
    for host in ["shop.example", "a", "shop.example:80", "*"] {
        for target in ["/", "/shop", "/shop/cart?q=1", "/item/17"] {
            for headers in ["", "x-user: 7\r\nx-beta: 1\r\ncookie: a=b; c=d\r\n"] {
                let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n");
                let mut head = RequestHead::default();
                if parse_request(request.as_bytes(), &RequestRules::default(), &mut head) != Ok(true) {
                    continue;
                }
                let view = HeadView { head: &head, buffer: request.as_bytes(), added: b"", default_host: "" };
                let found = table.find(&view).ok();
                let trail = table.explain(&view);
                let number = |found: &Option<(usize, &CompiledRoute)>| found.map(|(number, _)| number);
                assert_eq!(number(&found), number(&trail.found.ok()));
                let ends = trail.tried.iter().filter(|tried| tried.mismatch.is_none()).count();
                assert_eq!(ends, usize::from(found.is_some()), "one route takes it, or none does");
                if let Some((_, route)) = found
                    && let Some(forward) = table.forward(route)
                {
                    let chosen = route.choose(&forward.split, &view);
                    assert!(chosen.arm.is_none_or(|arm| arm < forward.split.arms.len()));
                }
            }
        }
    }
}

/// The reader of JSON and YAML: what it takes is a message, and that message's JSON is read as the same.
pub fn document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for type_url in RESOURCES {
        let name = type_url::message_name(type_url);
        let Ok((wire, _)) = json::to_wire(name, text) else { continue };
        let Ok(shown) = json::to_json(name, &wire) else { continue };
        let again = json::to_wire(name, &shown.to_string());
        let again = again.unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert_eq!(json::to_json(name, &again.0).ok(), Some(shown));
    }
}

/// The frame meter: what it makes of bytes does not depend on where they are cut.
pub fn frame_meter(bytes: &[u8], cut: usize) {
    use proxy_core::http2::{Meter, MeterLimits, PREFACE, Side};

    let limits =
        MeterLimits { resets: 3, continuations: 2, block_bytes: 64, fields: 8, ..MeterLimits::INGRESS };
    let now = std::time::Instant::now();
    let run = |pieces: &[&[u8]]| {
        let mut meter = Meter::new(Side::Server, limits);
        meter.received(PREFACE, || now).expect("the preface is no flood");
        pieces.iter().any(|piece| meter.received(piece, || now).is_err())
    };
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    assert_eq!(run(&[bytes]), run(&[first, second]), "cut at {cut}");
}

/// A request of HTTP/2, made of lines: method, target, then fields. What is written of it as HTTP/1.1 is one head and nothing
/// more, and says the same when it is read back; or it is refused.
pub fn http2_request(bytes: &[u8]) {
    use proxy_core::http2::{BodyForm, Tunnel, request_parts, write_request};

    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (Some(method), Some(target)) = (lines.next(), lines.next()) else { return };
    let mut builder = http::Request::builder().method(method).uri(target);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        builder = builder.header(&line[..colon], &line[colon + 1..]);
    }
    let Ok(request) = builder.body(()) else { return };
    let (parts, ()) = request.into_parts();
    let tunnel = Tunnel { protocol: None, websocket_key: "" };
    for ended in [true, false] {
        let mut text = Vec::new();
        let Ok(form) = write_request(&mut text, &parts, ended, tunnel) else { continue };
        let mut head = RequestHead::default();
        let Ok(whole) = parse_request(&text, &RequestRules::default(), &mut head) else { continue };
        assert!(whole && head.len == text.len(), "one head and nothing more");
        assert!(!ended || !head.framing.has_body(), "what has ended has no body");
        assert!((form == BodyForm::Chunked) == (head.framing == RequestFraming::Chunked));
        let Ok(back) = request_parts(&text, &head, false) else { continue };
        assert_eq!(back.method(), &parts.method);
        let path = |uri: &http::Uri| uri.path_and_query().map(|path| path.as_str().to_owned());
        if let (Some(sent), Some(read)) = (path(&parts.uri), path(back.uri())) {
            assert_eq!(sent, read, "the target is what it was");
        }
    }
}

/// The PROXY protocol: a header is read from its own bytes alone, and less than it is not one.
pub fn proxy_protocol(bytes: &[u8], cut: usize) {
    use proxy_core::config::ProxyProtocol;
    use proxy_core::proxy_protocol::{Told, read};

    let rules = ProxyProtocol { is_optional: true, v1: true, v2: true };
    if let Ok(told @ Told::Header { length, .. }) = read(bytes, &rules) {
        assert!(length <= bytes.len());
        assert_eq!(read(&bytes[..length], &rules), Ok(told));
        assert_eq!(read(&bytes[..cut % length], &rules), Ok(Told::Partial), "{} of {length}", cut % length);
    }
}

/// A ClientHello: read or refused, however it comes in pieces, and never by a panic.
pub fn client_hello(bytes: &[u8], cut: usize) {
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let mut acceptor = rustls::server::Acceptor::default();
    for mut piece in [first, second] {
        while !piece.is_empty() {
            match acceptor.read_tls(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let _ = (hello.server_name(), hello.alpn().map(Iterator::count));
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

//! The same bytes to our parser and to hyper. We may refuse what hyper takes, for reasons that are listed; what we take,
//! hyper takes as well and reads in the same way.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proxy_core::http1::{BodyReader, ChunkLimits, Output, RequestHead, RequestRules, Version, parse_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A request as somebody understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Understood {
    method: String,
    target: String,
    http10: bool,
    /// Names in lower case, in order of appearance; lines about the hop and about framing left out.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

const NOT_COMPARED: [&str; 8] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What hyper makes of the first request; `None` where it refuses, or waits for more.
fn by_hyper(bytes: &[u8]) -> Option<Understood> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let seen = Arc::new(Mutex::new(None));
    let keep = seen.clone();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let service = service_fn(move |request: Request<Incoming>| {
            let keep = keep.clone();
            async move {
                let (parts, body) = request.into_parts();
                // A body that breaks its framing refuses the request.
                if let Ok(body) = body.collect().await {
                    let text = |value: &hyper::header::HeaderValue| {
                        String::from_utf8_lossy(value.as_bytes()).into_owned()
                    };
                    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
                    let understood = Understood {
                        method: parts.method.to_string(),
                        target: parts.uri.to_string(),
                        http10: parts.version == hyper::Version::HTTP_10,
                        headers: headers.filter(|(name, _)| !NOT_COMPARED.contains(&name.as_str())).collect(),
                        body: body.to_bytes().to_vec(),
                    };
                    keep.lock().expect("unpoisoned").get_or_insert(understood);
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        });
        let serve = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let talk = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let mut sink = Vec::new();
            let _ = client.read_to_end(&mut sink).await;
        };
        let _ = tokio::join!(serve, talk);
    });
    seen.lock().expect("unpoisoned").take()
}

/// What we make of the first request.
fn by_us(bytes: &[u8]) -> Option<Understood> {
    let mut head = RequestHead::default();
    if parse_request(bytes, &RequestRules::default(), &mut head) != Ok(true) {
        return None;
    }
    let mut rest = bytes[head.len..].to_vec();
    let mut body = BodyReader::of_request(head.framing, Output::Content, ChunkLimits::default());
    let relayed = body.relay(&mut rest).ok()?;
    if !body.is_done() {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = head
        .headers
        .iter()
        .map(|line| (text(line.name.slice(bytes)).to_lowercase(), text(line.value.slice(bytes))));
    Some(Understood {
        method: text(head.method_token.slice(bytes)),
        target: if head.path.is_empty() {
            text(head.authority.slice(bytes))
        } else {
            text(head.path.slice(bytes))
        },
        http10: head.version == Version::Http10,
        headers: headers.filter(|(name, _)| !NOT_COMPARED.contains(&name.as_str())).collect(),
        body: rest[..relayed.kept].to_vec(),
    })
}

/// hyper groups lines of one name; the order within a name is what has meaning.
fn grouped(understood: Understood) -> Understood {
    let mut headers = understood.headers;
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    // The target in absolute form keeps its scheme there; what follows the host is compared.
    let target = match understood.target.split_once("://").filter(|_| !understood.target.starts_with('/')) {
        Some((_, rest)) => rest.find('/').map_or(String::new(), |at| rest[at..].to_owned()),
        None => understood.target,
    };
    Understood { headers, target, ..understood }
}

fn compare(bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes).into_owned();
    match (by_us(bytes).map(grouped), by_hyper(bytes).map(grouped)) {
        (Some(ours), Some(theirs)) => assert_eq!(ours, theirs, "{shown:?}"),
        // Stricter on purpose: host and user info, LF alone, repeated Host or encodings, HTTP/1.1 without Host, lengths
        // beside encodings, fragments, methods that are not tokens at the start, ...
        (None, _) => {}
        // Characters that RFC 3986 wants encoded, and that browsers and every peer pass on all the same.
        (Some(ours), None) if ours.target.contains(['<', '>', '"', '^', '`', '{', '|', '}', '\\']) => {}
        (Some(ours), None) => panic!("taken by us and refused by hyper: {shown:?} as {ours:?}"),
    }
}

const SEEDS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\nX-A: c\r\n\r\n",
    "POST /p?q HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    "GET http://b:80/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUser-Agent: \u{e9}\r\nEmpty:\r\n\r\n",
    "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n",
];

#[test]
fn plain_requests_are_read_as_hyper_reads_them() {
    for seed in SEEDS {
        assert!(by_us(seed.as_bytes()).is_some(), "{seed:?} is plain");
        compare(seed.as_bytes());
    }
}

#[test]
fn what_smugglers_send_is_refused_whatever_hyper_says() {
    for attack in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(by_us(attack.as_bytes()), None, "{attack:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn what_we_take_hyper_takes_and_reads_alike(
        seed in 0..SEEDS.len(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), "[ -~\r\n\t]{0,3}", 0_usize..3), 1..4),
    ) {
        let mut bytes = SEEDS[seed].as_bytes().to_vec();
        for (place, text, remove) in edits {
            let place = place.index(bytes.len() + 1);
            let end = (place + remove).min(bytes.len());
            bytes.splice(place..end, text.bytes());
        }
        compare(&bytes);
    }
}

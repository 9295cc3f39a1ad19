//! The properties over a corpus of attacks, and over random changes of it.

use proptest::prelude::*;

/// Heads and bodies that have broken some proxy, and plain ones to start from.
const CORPUS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a%2e%2e/b?c#d HTTP/1.1\r\nHost: user@a:8o\r\n\r\n",
    "GET http://shop:80/x?y HTTP/1.1\r\nHost: other\r\nConnection: close, host\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: te\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\n\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade, x-a\r\nX-A: b\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 2000 OK\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nConnection: etag\r\nETag: x\r\n\r\n",
    "HTTP/1.0 200\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\nServer: y\r\n\r\n0\r\n\r\n",
    "5\r\nhello\r\nA;name=\"v\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
    "0\r\n\r\n",
    "5;a\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\n",
    "/a/../../etc/./%2e%2E/%2fb//c\\d?e=/../",
    "/%2%65/%00",
    "//evil.example/%5c..%5C",
];

fn all(bytes: &[u8], cut: usize) {
    fuzz::request_head(bytes);
    fuzz::response_head(bytes);
    fuzz::chunked(bytes, cut);
    fuzz::writer_round_trip(bytes);
    fuzz::path_normaliser(bytes);
}

#[test]
fn the_corpus_holds() {
    for text in CORPUS {
        for cut in 0..=text.len() {
            fuzz::chunked(text.as_bytes(), cut);
        }
        all(text.as_bytes(), 0);
    }
}

/// Bytes of other protocols: frames, requests of HTTP/2 by lines, headers of the PROXY protocol, a ClientHello.
const OTHERS: &[&[u8]] = &[
    b"\0\0\x05\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a\0\0\x05\0\x01\0\0\0\x01hello",
    b"\0\0\x08\x01\x29\0\0\0\x01\x01\0\0\0\0\x10\x82\0\0\0\x01\x09\x04\0\0\0\x01\x84",
    b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08\0\0\x08\x06\0\0\0\0\0abcdefgh\0\0\0\x04\0\0\0\0\0",
    b"GET\nhttp://shop:80/a?b\ncookie:a=1\ncookie:b=2\nte:trailers",
    b"POST\nhttps://u@shop/\nhost:other\ncontent-length:5\ntransfer-encoding:chunked",
    b"CONNECT\nshop:443\nx: y",
    b"OPTIONS\n*\nhost:a\nconnection:close, x\nupgrade:h2c",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 5 443\r\nGET / HTTP/1.1\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\0\x05\x01\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0rest",
    b"\x16\x03\x01\0\x2d\x01\0\0\x29\x03\x03abcdefghijklmnopqrstuvwxyz012345\0\0\x02\x13\x01\x01\0",
];

fn all_others(bytes: &[u8], cut: usize) {
    fuzz::frame_meter(bytes, cut);
    fuzz::http2_request(bytes);
    fuzz::proxy_protocol(bytes, cut);
    fuzz::client_hello(bytes, cut);
}

#[test]
fn the_corpus_of_other_protocols_holds() {
    for bytes in OTHERS {
        for cut in 0..=bytes.len() {
            all_others(bytes, cut);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn changes_of_the_corpus_hold(
        at in 0..CORPUS.len(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), "[ -~\r\n\t\u{0}\u{e9}]{0,3}", 0_usize..3), 1..4),
        cut in 0_usize..80,
    ) {
        let mut bytes = CORPUS[at].as_bytes().to_vec();
        for (place, text, remove) in edits {
            let place = place.index(bytes.len() + 1);
            let end = (place + remove).min(bytes.len());
            bytes.splice(place..end, text.bytes());
        }
        all(&bytes, cut);
    }

    #[test]
    fn changes_of_other_protocols_hold(
        at in 0..OTHERS.len(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), proptest::collection::vec(any::<u8>(), 0..4), 0_usize..3), 1..4),
        cut in 0_usize..80,
    ) {
        let mut bytes = OTHERS[at].to_vec();
        for (place, text, remove) in edits {
            let place = place.index(bytes.len() + 1);
            let end = (place + remove).min(bytes.len());
            bytes.splice(place..end, text);
        }
        all_others(&bytes, cut);
    }

    #[test]
    fn joined_pieces_of_the_corpus_hold(a in 0..CORPUS.len(), b in 0..CORPUS.len(), x: proptest::sample::Index, y: proptest::sample::Index) {
        let (a, b) = (CORPUS[a].as_bytes(), CORPUS[b].as_bytes());
        let joined = [&a[..x.index(a.len() + 1)], &b[y.index(b.len() + 1)..]].concat();
        all(&joined, joined.len() / 2);
    }
}

//! Outgoing heads, written once from the slices of the incoming one.
//!
//! Lines that stay are copied in runs: a head in which only `Connection` is dropped costs two copies.

use super::head::{HeaderId, HeaderSpan};
use super::request::{RequestFraming, RequestHead, Version};
use super::response::{ResponseFraming, ResponseHead};

/// Appends the request head for the upstream. `fallback_host` stands in where an HTTP/1.0 client sent none.
///
/// Cost: one copy of the head; no allocation once `out` has grown.
pub fn write_request(out: &mut Vec<u8>, buffer: &[u8], head: &RequestHead, fallback_host: &[u8]) {
    out.reserve(head.len + 64);
    out.extend_from_slice(head.method_token.slice(buffer));
    out.push(b' ');
    out.extend_from_slice(head.path.slice(buffer));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if head.is_absolute {
        write_line(out, b"host", head.authority.slice(buffer));
    } else if head.authority.is_empty() {
        write_line(out, b"host", fallback_host);
    }
    copy_lines(out, buffer, &head.headers, head.len);
    match head.framing {
        RequestFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        RequestFraming::Length(length) => restate_length(out, &head.headers, length),
        RequestFraming::None => {}
    }
    if head.takes_trailers {
        out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What this hop adds to a response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseEdits {
    /// The client's version: chunks are for HTTP/1.1 only.
    pub client: Version,
    /// Whether the connection to the client stays open after this response.
    pub keep_alive: bool,
}

/// Appends the response head for the client. A body that ended with the upstream's connection leaves in chunks, so that
/// the client's connection survives, unless the client speaks HTTP/1.0.
///
/// Cost: as [`write_request`].
pub fn write_response(out: &mut Vec<u8>, buffer: &[u8], head: &ResponseHead, edits: ResponseEdits) {
    out.reserve(head.len + 64);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status_line.slice(buffer));
    if head.status_line.len() == 3 {
        // The space after the code is not optional (RFC 9112 §4).
        out.push(b' ');
    }
    out.extend_from_slice(b"\r\n");
    copy_lines(out, buffer, &head.headers, head.len);
    match head.framing {
        ResponseFraming::Chunked | ResponseFraming::UntilClose if edits.client == Version::Http11 => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        ResponseFraming::Length(length) => restate_length(out, &head.headers, length),
        ResponseFraming::None | ResponseFraming::Chunked | ResponseFraming::UntilClose => {}
    }
    if !head.is_informational() {
        write_connection(out, edits.client, edits.keep_alive);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole response that the proxy itself gives.
pub fn write_local_reply(
    out: &mut Vec<u8>,
    status: u16,
    reason: &str,
    body: &str,
    edits: ResponseEdits,
    is_head: bool,
) {
    use std::io::Write as _;
    let _ = write!(
        out,
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n",
        body.len() + 1
    );
    write_connection(out, edits.client, edits.keep_alive);
    out.extend_from_slice(b"\r\n");
    if !is_head {
        out.extend_from_slice(body.as_bytes());
        out.push(b'\n');
    }
}

/// Writes `size` and CRLF, right-aligned, into the space before a chunk's content. Returns where the line starts.
pub fn write_chunk_size(space: &mut [u8], size: usize) -> usize {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut at = space.len() - 2;
    space[at..].copy_from_slice(b"\r\n");
    let mut rest = size;
    loop {
        at -= 1;
        space[at] = DIGITS[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return at;
        }
    }
}

/// Persistence is the default of 1.1 and the exception of 1.0 (RFC 9112 §9.3).
fn write_connection(out: &mut Vec<u8>, client: Version, keep_alive: bool) {
    match (client, keep_alive) {
        (Version::Http11, true) | (Version::Http10, false) => {}
        (Version::Http11, false) => out.extend_from_slice(b"connection: close\r\n"),
        (Version::Http10, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
    }
}

/// States the length where no kept line does: the sender gave it as "5, 5".
fn restate_length(out: &mut Vec<u8>, headers: &[HeaderSpan], length: u64) {
    use std::io::Write as _;
    if !headers.iter().any(|h| h.id == HeaderId::ContentLength && !h.dropped) {
        let _ = write!(out, "content-length: {length}\r\n");
    }
}

fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Copies the lines that stay. Lines lie one after another, so that each ends where the next one starts.
fn copy_lines(out: &mut Vec<u8>, buffer: &[u8], headers: &[HeaderSpan], head_len: usize) {
    let block_end = head_len - 2;
    let mut run_start = None;
    for header in headers {
        let start = header.name.range().start;
        match (header.dropped, run_start) {
            (false, None) => run_start = Some(start),
            (true, Some(from)) => {
                out.extend_from_slice(&buffer[from..start]);
                run_start = None;
            }
            (false, Some(_)) | (true, None) => {}
        }
    }
    if let Some(from) = run_start {
        out.extend_from_slice(&buffer[from..block_end]);
    }
}

#[cfg(test)]
mod tests;

//! Outgoing heads, written once from the slices of the incoming one.
//!
//! Lines that stay are copied in runs: a head in which only `Connection` is dropped costs two copies.

use super::head::{HeaderId, HeaderSpan};
use super::request::{RequestFraming, RequestHead, Version};
use super::response::{ResponseFraming, ResponseHead};

/// What this hop adds to a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestEdits<'a> {
    /// Stands in where an HTTP/1.0 client sent no host.
    pub fallback_host: &'a [u8],
    /// The target instead of the client's.
    pub target: Option<&'a [u8]>,
    /// The host instead of the client's.
    pub host: Option<&'a [u8]>,
    /// Whole lines, each with its end.
    pub added: &'a [u8],
}

/// Appends the request head for the upstream.
///
/// Cost: one copy of the head; no allocation once `out` has grown.
pub fn write_request(out: &mut Vec<u8>, buffer: &[u8], head: &RequestHead, edits: &RequestEdits<'_>) {
    out.reserve(head.len + edits.added.len() + 64);
    out.extend_from_slice(head.method_token.slice(buffer));
    out.push(b' ');
    // Only CONNECT has no path; its target is the authority.
    let target = if head.path.is_empty() { head.authority } else { head.path };
    out.extend_from_slice(edits.target.unwrap_or_else(|| target.slice(buffer)));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = edits.host {
        write_line(out, b"host", host);
    } else if head.is_absolute {
        write_line(out, b"host", head.authority.slice(buffer));
    } else if head.authority.is_empty() {
        write_line(out, b"host", edits.fallback_host);
    }
    let renames = edits.host.is_some();
    copy_lines(out, buffer, &head.headers, head.len, |id| renames && id == HeaderId::Host);
    out.extend_from_slice(edits.added);
    match head.framing {
        RequestFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        RequestFraming::Length(length) => restate_length(out, &head.headers, length),
        RequestFraming::None => {}
    }
    if head.takes_trailers {
        out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
    }
    if let Some(protocol) = head.upgrade {
        write_line(out, b"upgrade", protocol.slice(buffer));
        out.extend_from_slice(b"connection: upgrade\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What stands in the `Server` line of responses (`server_header_transformation`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHeader {
    /// This, whatever the upstream said.
    Overwrite(Box<str>),
    /// This, where the upstream said nothing.
    IfAbsent(Box<str>),
    /// What the upstream said, or nothing.
    PassThrough,
}

impl Default for ServerHeader {
    fn default() -> Self {
        Self::Overwrite("weir".into())
    }
}

/// What this hop adds to a response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseEdits<'a> {
    /// The client's version: chunks are for HTTP/1.1 only.
    pub client: Version,
    /// Whether the connection to the client stays open after this response.
    pub keep_alive: bool,
    /// Who answers.
    pub server: &'a ServerHeader,
    /// The time in the form of a `Date` value, for a response that has none (RFC 9110 §6.6.1).
    pub date: &'a [u8],
    /// Whole lines, each with its end.
    pub added: &'a [u8],
}

/// Appends the response head for the client. A body that ended with the upstream's connection leaves in chunks, so that
/// the client's connection survives, unless the client speaks HTTP/1.0.
///
/// Cost: as [`write_request`].
pub fn write_response(out: &mut Vec<u8>, buffer: &[u8], head: &ResponseHead, edits: &ResponseEdits<'_>) {
    out.reserve(head.len + edits.added.len() + 128);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status_line.slice(buffer));
    if head.status_line.len() == 3 {
        // The space after the code is not optional (RFC 9112 §4).
        out.push(b' ');
    }
    out.extend_from_slice(b"\r\n");
    if head.is_informational() && head.status != 101 {
        copy_lines(out, buffer, &head.headers, head.len, |_| false);
        out.extend_from_slice(b"\r\n");
        return;
    }
    let renames = matches!(edits.server, ServerHeader::Overwrite(_));
    copy_lines(out, buffer, &head.headers, head.len, |id| renames && id == HeaderId::Server);
    match edits.server {
        _ if says(edits.added, b"server:") => {}
        ServerHeader::Overwrite(name) => write_line(out, b"server", name.as_bytes()),
        ServerHeader::IfAbsent(name) if !head.has_server => write_line(out, b"server", name.as_bytes()),
        ServerHeader::IfAbsent(_) | ServerHeader::PassThrough => {}
    }
    if !head.has_date && !says(edits.added, b"date:") {
        write_line(out, b"date", edits.date);
    }
    out.extend_from_slice(edits.added);
    match head.framing {
        ResponseFraming::Chunked | ResponseFraming::UntilClose if edits.client == Version::Http11 => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        ResponseFraming::Length(length) => restate_length(out, &head.headers, length),
        ResponseFraming::None | ResponseFraming::Chunked | ResponseFraming::UntilClose => {}
    }
    if head.status == 101 {
        let protocol = head.headers.iter().find(|line| line.id == HeaderId::Upgrade);
        protocol.iter().for_each(|line| write_line(out, b"upgrade", line.value.slice(buffer)));
        out.extend_from_slice(b"connection: upgrade\r\n");
    } else {
        write_connection(out, edits.client, edits.keep_alive);
    }
    out.extend_from_slice(b"\r\n");
}

/// A response that the proxy itself gives.
#[derive(Debug, Clone, Copy)]
pub struct LocalReply<'a> {
    /// Three digits.
    pub status: u16,
    /// Of the body; no line where empty.
    pub content_type: &'a str,
    /// All of it.
    pub body: &'a [u8],
    /// The request was HEAD: the body is described and not sent.
    pub is_head: bool,
}

/// Appends a whole response that the proxy itself gives.
pub fn write_local_reply(out: &mut Vec<u8>, reply: &LocalReply<'_>, edits: &ResponseEdits<'_>) {
    use std::io::Write as _;
    let LocalReply { status, content_type, body, is_head } = *reply;
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason_phrase(status));
    // Neither has a body, and 204 not even a length (RFC 9110 §8.6, §15.3.5, §15.4.5).
    let bodiless = matches!(status, 204 | 304);
    if !content_type.is_empty() && !bodiless && !says(edits.added, b"content-type:") {
        write_line(out, b"content-type", content_type.as_bytes());
    }
    if !bodiless {
        let _ = write!(out, "content-length: {}\r\n", body.len());
    }
    match edits.server {
        _ if says(edits.added, b"server:") => {}
        ServerHeader::Overwrite(name) | ServerHeader::IfAbsent(name) => {
            write_line(out, b"server", name.as_bytes());
        }
        ServerHeader::PassThrough => {}
    }
    if !says(edits.added, b"date:") {
        write_line(out, b"date", edits.date);
    }
    out.extend_from_slice(edits.added);
    write_connection(out, edits.client, edits.keep_alive);
    out.extend_from_slice(b"\r\n");
    if !is_head && !bodiless {
        out.extend_from_slice(body);
    }
}

/// Whether one of the lines that are added begins so: it stands in the place of what would be written, as such a line comes once
/// (RFC 9110 §5.3).
fn says(added: &[u8], name: &[u8]) -> bool {
    !added.is_empty() && added.split(|byte| *byte == b'\n').any(|line| line.starts_with(name))
}

/// The registered phrases of the statuses that a proxy gives or a configuration is likely to ask for.
const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        422 => "Unprocessable Content",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
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
        (Version::Http11, true) => {}
        // The default of 1.0, said all the same: old clients differ.
        (Version::Http11 | Version::Http10, false) => out.extend_from_slice(b"connection: close\r\n"),
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
fn copy_lines(
    out: &mut Vec<u8>,
    buffer: &[u8],
    headers: &[HeaderSpan],
    head_len: usize,
    leaves_out: impl Fn(HeaderId) -> bool,
) {
    let block_end = head_len - 2;
    let mut run_start = None;
    for header in headers {
        let start = header.name.range().start;
        match (header.dropped || leaves_out(header.id), run_start) {
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

//! Messages of HTTP/2 as those of HTTP/1.1, and back (RFC 9113 §8, RFC 8441).
//!
//! What a field may hold and what a pseudo-header may be is checked by whoever made the parts (the framing library) and
//! by the strict parser that reads what is written here; this module only refuses what would be lost on the way.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, request, response};

use crate::http1::{HeadError, HeaderId, HeaderSpan, RequestHead, ResponseHead};

/// In which form the body of a message that was written here must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// There is none.
    Empty,
    /// As it is: its length was stated, or it goes through a tunnel.
    Plain,
    /// In chunks.
    Chunked,
}

/// What a request for a tunnel says beyond its head.
#[derive(Debug, Clone, Copy)]
pub struct Tunnel<'a> {
    /// `:protocol` (RFC 8441 §4); none for a plain CONNECT.
    pub protocol: Option<&'a str>,
    /// What stands as `Sec-WebSocket-Key` where a WebSocket is asked for: base64 of 16 random bytes.
    pub websocket_key: &'a str,
}

/// What the answer to an extended CONNECT is told as.
#[derive(Debug, Clone, Copy)]
pub struct Opened<'a> {
    /// The protocol that was asked for.
    pub protocol: &'a [u8],
    /// `Sec-WebSocket-Accept`; nothing where empty.
    pub websocket_accept: &'a str,
}

const WEBSOCKET_KEY: &[u8] = b"sec-websocket-key";
const WEBSOCKET_ACCEPT: &[u8] = b"sec-websocket-accept";

/// Appends the HTTP/1.1 head of a request. `ended`: no body follows. A request with `:protocol` becomes an upgrade.
///
/// # Errors
/// The message cannot be said in HTTP/1.1, or contradicts itself.
pub fn write_request(
    out: &mut Vec<u8>,
    parts: &request::Parts,
    ended: bool,
    tunnel: Tunnel<'_>,
) -> Result<BodyForm, HeadError> {
    let request::Parts { method, uri, headers, .. } = parts;
    let authority = uri.authority().map(Authority::as_str);
    let upgrade = tunnel.protocol.filter(|_| method == Method::CONNECT);
    // The library takes any text for it.
    if upgrade.is_some_and(|protocol| !protocol.split('/').all(is_token)) {
        return Err(HeadError::HeaderValue);
    }
    let is_connect = method == Method::CONNECT && upgrade.is_none();
    let (method, target) = match (is_connect, upgrade) {
        (true, _) => ("CONNECT", authority.unwrap_or_default()),
        (false, Some(_)) => ("GET", uri.path_and_query().map_or("/", PathAndQuery::as_str)),
        (false, None) => (method.as_str(), uri.path_and_query().map_or("/", PathAndQuery::as_str)),
    };
    for part in [method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    // Both may be there, but must agree (RFC 9113 §8.3.1).
    let mut hosts = headers.get_all(HOST).iter();
    match (authority, hosts.next(), hosts.next()) {
        (Some(authority), None, _) => line(out, b"host", authority.as_bytes()),
        (Some(authority), Some(host), None) if host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            line(out, b"host", authority.as_bytes());
        }
        (None, Some(host), None) => line(out, b"host", host.as_bytes()),
        (None, None, _) => {}
        (_, Some(_), _) => return Err(HeadError::HostRepeated),
    }
    let mut has_length = false;
    for (name, value) in headers {
        if name == HOST || name == COOKIE || (upgrade.is_some() && name.as_str().as_bytes() == WEBSOCKET_KEY)
        {
            continue;
        }
        has_length |= name == CONTENT_LENGTH;
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    write_cookies(out, headers);
    let body = if let Some(protocol) = upgrade {
        line(out, b"upgrade", protocol.as_bytes());
        if protocol.eq_ignore_ascii_case("websocket") {
            line(out, WEBSOCKET_KEY, tunnel.websocket_key.as_bytes());
        }
        out.extend_from_slice(b"connection: upgrade\r\n");
        BodyForm::Plain
    } else if is_connect {
        BodyForm::Plain
    } else if ended {
        // A length that nothing follows would leave the reader waiting.
        if has_length && headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0") {
            return Err(HeadError::ContentLength);
        }
        BodyForm::Empty
    } else if has_length {
        BodyForm::Plain
    } else {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        BodyForm::Chunked
    };
    out.extend_from_slice(b"\r\n");
    Ok(body)
}

/// Whether it is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

/// A cookie that came in crumbs is one line again (RFC 9113 §8.2.3).
fn write_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let Some(first) = crumbs.next() {
        out.extend_from_slice(b"cookie: ");
        out.extend_from_slice(first.as_bytes());
        for crumb in crumbs {
            out.extend_from_slice(b"; ");
            out.extend_from_slice(crumb.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the HTTP/1.1 head of a response. `ended`: no body follows. `bodiless`: none may, as the request was HEAD.
/// `opened`: the request asked for this, and a 2xx grants it.
///
/// # Errors
/// The message cannot be said in HTTP/1.1, or contradicts itself.
pub fn write_response(
    out: &mut Vec<u8>,
    parts: &response::Parts,
    ended: bool,
    bodiless: bool,
    opened: Option<Opened<'_>>,
) -> Result<BodyForm, HeadError> {
    let response::Parts { status, headers, .. } = parts;
    let opened = opened.filter(|_| status.is_success());
    let status = if opened.is_some() { &StatusCode::SWITCHING_PROTOCOLS } else { status };
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason(*status), b"\r\n"] {
        out.extend_from_slice(part);
    }
    // A length would leave no room for the trailers in which gRPC says how it went.
    let is_grpc =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut length = None;
    for (name, value) in headers {
        if name == CONTENT_LENGTH {
            length = Some(value);
            if opened.is_some() || (is_grpc && !ended) {
                continue;
            }
        }
        if opened.is_some() && name.as_str().as_bytes() == WEBSOCKET_ACCEPT {
            continue;
        }
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    let may_have_body = !bodiless && !status.is_informational() && !matches!(status.as_u16(), 204 | 304);
    let body = if let Some(opened) = opened {
        line(out, b"upgrade", opened.protocol);
        if !opened.websocket_accept.is_empty() {
            line(out, WEBSOCKET_ACCEPT, opened.websocket_accept.as_bytes());
        }
        out.extend_from_slice(b"connection: upgrade\r\n");
        BodyForm::Plain
    } else if !may_have_body {
        BodyForm::Empty
    } else if ended {
        match length {
            None => out.extend_from_slice(b"content-length: 0\r\n"),
            Some(length) if length == "0" => {}
            Some(_) => return Err(HeadError::ContentLength),
        }
        BodyForm::Empty
    } else if length.is_some() && !is_grpc {
        BodyForm::Plain
    } else {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        BodyForm::Chunked
    };
    out.extend_from_slice(b"\r\n");
    Ok(body)
}

fn reason(status: StatusCode) -> &'static [u8] {
    status.canonical_reason().unwrap_or_default().as_bytes()
}

/// The request that a head says, for an HTTP/2 endpoint. An upgrade becomes an extended CONNECT.
///
/// # Errors
/// The target holds what a URI of HTTP/2 must not.
pub fn request_parts(buffer: &[u8], head: &RequestHead, is_tls: bool) -> Result<Request<()>, HeadError> {
    let mut request = Request::new(());
    let upgrade = head.upgrade.map(|protocol| protocol.slice(buffer));
    *request.method_mut() = match upgrade {
        Some(_) => Method::CONNECT,
        None => Method::from_bytes(head.method_token.slice(buffer)).map_err(|_| HeadError::RequestLine)?,
    };
    let block = Bytes::copy_from_slice(&buffer[..head.len]);
    let mut uri = http::uri::Parts::default();
    let authority = Authority::from_maybe_shared(block.slice(head.authority.range()));
    uri.authority = Some(authority.map_err(|_| HeadError::HostMalformed)?);
    if !head.path.is_empty() {
        uri.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
        let path = PathAndQuery::from_maybe_shared(block.slice(head.path.range()));
        let path = path.or_else(|_| PathAndQuery::from_maybe_shared(encoded(head.path.slice(buffer))));
        uri.path_and_query = Some(path.map_err(|_| HeadError::Target)?);
    }
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| HeadError::Target)?;
    let headers = request.headers_mut();
    headers.reserve(head.headers.len());
    let leaves_out = |line: &HeaderSpan| {
        line.id == HeaderId::Host
            || (upgrade.is_some() && line.name.slice(buffer).eq_ignore_ascii_case(WEBSOCKET_KEY))
    };
    copy_lines(&block, &head.headers, headers, leaves_out)?;
    if head.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        let protocol = std::str::from_utf8(protocol).map_err(|_| HeadError::HeaderValue)?;
        request.extensions_mut().insert(Protocol(protocol.to_ascii_lowercase().into()));
    }
    Ok(request)
}

/// A path with what no URI may hold (RFC 3986 §2) percent-encoded: HTTP/1.1's clients get away with it.
fn encoded(path: &[u8]) -> Bytes {
    use std::io::Write as _;

    let mut out = Vec::with_capacity(path.len() + 16);
    for byte in path {
        match byte {
            b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'|' | b'\\' | b'^' | 0x7f.. => {
                let _ = write!(out, "%{byte:02X}");
            }
            byte => out.push(*byte),
        }
    }
    out.into()
}

/// The protocol of an extended CONNECT, among the extensions of a request.
#[derive(Debug, Clone)]
pub struct Protocol(pub Box<str>);

/// The response that a head says, for an HTTP/2 client. A 101 becomes the 200 of an extended CONNECT.
///
/// # Errors
/// A line cannot be said in HTTP/2.
pub fn response_parts(buffer: &[u8], head: &ResponseHead) -> Result<Response<()>, HeadError> {
    let mut response = Response::new(());
    let status = if head.status == 101 { 200 } else { head.status };
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| HeadError::StatusLine)?;
    let block = Bytes::copy_from_slice(&buffer[..head.len]);
    response.headers_mut().reserve(head.headers.len());
    let leaves_out = |line: &HeaderSpan| {
        head.status == 101 && line.name.slice(buffer).eq_ignore_ascii_case(WEBSOCKET_ACCEPT)
    };
    copy_lines(&block, &head.headers, response.headers_mut(), leaves_out)?;
    Ok(response)
}

fn copy_lines(
    block: &Bytes,
    lines: &[HeaderSpan],
    headers: &mut HeaderMap,
    leaves_out: impl Fn(&HeaderSpan) -> bool,
) -> Result<(), HeadError> {
    for line in lines.iter().filter(|line| !line.dropped && !leaves_out(line)) {
        let name = HeaderName::from_bytes(line.name.slice(block)).map_err(|_| HeadError::HeaderName)?;
        let value = HeaderValue::from_maybe_shared(block.slice(line.value.range()));
        headers.append(name, value.map_err(|_| HeadError::HeaderValue)?);
    }
    Ok(())
}

/// The trailers in the tail of a chunked body; none where it has none.
///
/// # Errors
/// A line cannot be said in HTTP/2.
pub fn trailer_map(tail: &[u8]) -> Result<Option<HeaderMap>, HeadError> {
    let mut headers = HeaderMap::new();
    for line in tail.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| HeadError::HeaderName)?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        headers.append(name, value.map_err(|_| HeadError::HeaderValue)?);
    }
    Ok((!headers.is_empty()).then_some(headers))
}

/// Appends the end of a chunked body: the last chunk and the trailers.
pub fn write_trailers(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;

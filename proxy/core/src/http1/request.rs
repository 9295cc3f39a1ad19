//! Request heads (RFC 9112 §3).

use super::error::HeadError;
use super::head::{self, ConnectionOptions, HeaderId, HeaderSpan, Limits, Span};
use super::host;

/// The methods that the proxy treats differently from one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD: its response has no body, whatever the headers say.
    Head,
    /// CONNECT: asks for a tunnel.
    Connect,
    /// PUT, DELETE, OPTIONS, TRACE: may be sent again (RFC 9110 §9.2.2).
    Idempotent,
    /// POST, PATCH and every method this proxy does not know: never sent again.
    Other,
}

impl Method {
    fn of(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE" => Self::Idempotent,
            _ => Self::Other,
        }
    }

    /// Whether sending it twice means the same as once (RFC 9110 §9.2.2).
    pub const fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Idempotent => true,
            Self::Connect | Self::Other => false,
        }
    }
}

/// The protocol version of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

impl Version {
    pub(super) const fn of(minor: Option<u8>) -> Self {
        match minor {
            Some(0) => Self::Http10,
            _ => Self::Http11,
        }
    }
}

/// How a request's body ends (RFC 9112 §6.3). A request never ends with the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequestFraming {
    /// There is none.
    #[default]
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

impl RequestFraming {
    /// Whether a byte of body follows the head.
    pub const fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// What a listener takes from clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRules {
    /// Bounds on the head.
    pub limits: Limits,
    /// Whether HTTP/1.0 is served.
    pub http10: bool,
    /// Whether a target may name the host (RFC 9112 §3.2.2).
    pub absolute_form: bool,
}

impl Default for RequestRules {
    fn default() -> Self {
        Self { limits: Limits::default(), http10: true, absolute_form: true }
    }
}

/// A request head as offsets into the buffer it was parsed from. Reuse one value: it keeps its room for headers.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// What the method means to the proxy; its token is `method_token`.
    pub method: Method,
    /// The method as sent.
    pub method_token: Span,
    /// Path and query, as sent; `*` for OPTIONS; empty for CONNECT, and only there.
    pub path: Span,
    /// Host and port: the target's in absolute form, otherwise the Host header's; empty only in HTTP/1.0.
    pub authority: Span,
    /// The client's version.
    pub version: Version,
    /// How the body ends.
    pub framing: RequestFraming,
    /// Whether the client allows another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// Whether the client takes trailers (`TE: trailers`).
    pub takes_trailers: bool,
    /// The protocol that `Upgrade` asks for, where `Connection` nominates it; never `h2c`, which a server may ignore.
    pub upgrade: Option<Span>,
    /// Whether the content is gRPC: a stream that may last.
    pub is_grpc: bool,
    /// Whether the target names the host, so that the Host header is written anew (RFC 9112 §3.2.2).
    pub is_absolute: bool,
    /// The header lines in their order.
    pub headers: Vec<HeaderSpan>,
    /// Bytes of the head, leading empty line and final empty line included.
    pub len: usize,
}

impl RequestHead {
    /// The value of the first line named `name` (lower case). Cost: one comparison a line.
    pub fn header<'b>(&self, buffer: &'b [u8], name: &[u8]) -> Option<&'b [u8]> {
        self.headers
            .iter()
            .find(|h| h.name.len() == name.len() && h.name.slice(buffer).eq_ignore_ascii_case(name))
            .map(|h| h.value.slice(buffer))
    }
}

/// Parses the request head at the start of `buffer` into `head`. `false`: more bytes are needed.
///
/// # Errors
/// The rule that the head breaks; the connection cannot be used further, as nobody knows where the next message starts.
pub fn parse_request(buffer: &[u8], rules: &RequestRules, head: &mut RequestHead) -> Result<bool, HeadError> {
    let limits = &rules.limits;
    // One empty line before the request line is tolerated, as clients of old sent it (RFC 9112 §2.2).
    let skipped = if buffer.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = &buffer[skipped..];
    match bytes.first() {
        None => return Ok(false),
        // One empty line at most, so that empty lines cannot be sent for ever.
        Some(b'\r') if skipped == 0 && bytes.len() == 1 => return Ok(false),
        Some(0x16) => return Err(HeadError::Tls),
        Some(first) if !first.is_ascii_alphanumeric() => {
            return Err(HeadError::RequestLine);
        }
        Some(_) => {}
    }
    let mut slots = head::line_slots();
    let mut request = httparse::Request::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_request_with_uninit_headers(&mut request, bytes, &mut slots)
        .map_err(head::syntax_error)?;
    let httparse::Status::Complete(len) = status else {
        return partial(bytes, limits).map(|()| false);
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(HeadError::RequestLine);
    };
    if len > limits.head_bytes {
        return Err(HeadError::HeadTooLong);
    }
    if target.len() > limits.target_bytes {
        return Err(HeadError::TargetTooLong);
    }
    head.len = skipped + len;
    head.version = Version::of(request.version);
    if head.version == Version::Http10 && !rules.http10 {
        return Err(HeadError::Http10);
    }
    head.method = Method::of(method.as_bytes());
    head.method_token = Span::of(method.as_bytes(), buffer);
    if head.method_token.range().start != skipped {
        return Err(HeadError::RequestLine);
    }
    head::collect(buffer, head.len, request.headers, limits, &mut head.headers)?;
    let target = Span::of(target.as_bytes(), buffer);
    if head.method == Method::Connect {
        read_authority_form(buffer, target, head)?;
    } else {
        read_target(buffer, target, method == "OPTIONS", head)?;
    }
    if head.is_absolute && head.method != Method::Connect && !rules.absolute_form {
        return Err(HeadError::AbsoluteForm);
    }
    read_headers(buffer, head)?;
    Ok(true)
}

/// An unfinished head: is it already too long?
fn partial(bytes: &[u8], limits: &Limits) -> Result<(), HeadError> {
    let line = memchr::memchr(b'\n', bytes);
    if line.is_none() && bytes.len() > limits.target_bytes + 32 {
        return Err(HeadError::TargetTooLong);
    }
    if bytes.len() >= limits.head_bytes {
        return Err(HeadError::HeadTooLong);
    }
    Ok(())
}

/// `host:port`, the target of CONNECT (RFC 9112 §3.2.3). The port is not optional.
fn read_authority_form(buffer: &[u8], target: Span, head: &mut RequestHead) -> Result<(), HeadError> {
    let bytes = target.slice(buffer);
    let port = bytes.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let has_port = port > 0 && bytes[..bytes.len() - port].ends_with(b":");
    if !has_port || !host::is_valid(bytes) {
        return Err(HeadError::Target);
    }
    head.authority = target;
    head.path = Span::default();
    head.is_absolute = true;
    Ok(())
}

/// Origin form, absolute form, or `*` for OPTIONS (RFC 9112 §3.2).
fn read_target(
    buffer: &[u8],
    target: Span,
    is_options: bool,
    head: &mut RequestHead,
) -> Result<(), HeadError> {
    let bytes = target.slice(buffer);
    // A fragment never travels; bytes outside ASCII must be percent-encoded (RFC 3986 §2).
    if bytes.iter().any(|b| *b == b'#' || !b.is_ascii_graphic()) {
        return Err(HeadError::Target);
    }
    head.is_absolute = false;
    head.authority = Span::default();
    if bytes.first() == Some(&b'/') || (is_options && bytes == b"*") {
        head.path = target;
        return Ok(());
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|s| bytes.len() > s.len() && bytes[..s.len()].eq_ignore_ascii_case(s))
        .ok_or(HeadError::Target)?;
    let start = target.range().start + scheme.len();
    let rest = &bytes[scheme.len()..];
    let end = start + memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    head.authority = Span::new(start, end);
    head.path = Span::new(end, target.range().end);
    head.is_absolute = true;
    // "http://host" and "http://host?q" have an empty path, which a proxy must not pass on as it is.
    if head.path.slice(buffer).first() != Some(&b'/') {
        return Err(HeadError::Target);
    }
    if host::is_valid(head.authority.slice(buffer)) { Ok(()) } else { Err(HeadError::HostMalformed) }
}

fn read_headers(buffer: &[u8], head: &mut RequestHead) -> Result<(), HeadError> {
    let mut options = ConnectionOptions::default();
    let mut host_lines = 0;
    let mut has_length = false;
    let mut has_encoding = false;
    head.expects_continue = false;
    head.takes_trailers = false;
    head.upgrade = None;
    head.is_grpc = false;
    for i in 0..head.headers.len() {
        let HeaderSpan { id, value, .. } = head.headers[i];
        match id {
            HeaderId::ContentType => {
                let grpc = b"application/grpc";
                let value = value.slice(buffer);
                head.is_grpc |= value.len() >= grpc.len() && value[..grpc.len()].eq_ignore_ascii_case(grpc);
            }
            HeaderId::Host => {
                host_lines += 1;
                if !host::is_valid(value.slice(buffer)) {
                    return Err(HeadError::HostMalformed);
                }
                if head.is_absolute {
                    head.headers[i].dropped = true;
                } else {
                    head.authority = value;
                }
            }
            HeaderId::Connection => head::apply_connection(buffer, value, &mut head.headers, &mut options)?,
            HeaderId::ContentLength => has_length = true,
            HeaderId::TransferEncoding => has_encoding = true,
            HeaderId::Expect => {
                if !value.slice(buffer).eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::Expect);
                }
                head.expects_continue = head.version == Version::Http11;
            }
            HeaderId::Te => {
                head.takes_trailers |=
                    head::list(value.slice(buffer)).any(|t| t.eq_ignore_ascii_case(b"trailers"));
            }
            // A server may ignore the wish for h2c (RFC 9110 §7.8), and passing it on lets a tunnel past every rule.
            HeaderId::Upgrade => {
                let wish = value.slice(buffer);
                head.upgrade = (!wish.eq_ignore_ascii_case(b"h2c") && !wish.is_empty()).then_some(value);
            }
            HeaderId::KeepAlive
            | HeaderId::Http2Settings
            | HeaderId::ProxyConnection
            | HeaderId::Date
            | HeaderId::Server
            | HeaderId::Via
            | HeaderId::XForwardedClientCert
            | HeaderId::XForwardedFor
            | HeaderId::XForwardedHost
            | HeaderId::XForwardedProto
            | HeaderId::XRequestId
            | HeaderId::Internal
            | HeaderId::Other => {}
        }
    }
    match (host_lines, head.version) {
        (0, Version::Http11) => return Err(HeadError::HostMissing),
        (0 | 1, _) => {}
        _ => return Err(HeadError::HostRepeated),
    }
    head.keep_alive = match head.version {
        Version::Http11 => !options.close,
        Version::Http10 => options.keep_alive && !options.close,
    };
    head.framing = framing(buffer, head, has_length, has_encoding)?;
    if !options.upgrade || head.version == Version::Http10 {
        head.upgrade = None;
    }
    let tunnel = head.method == Method::Connect || head.upgrade.is_some();
    if tunnel && head.framing.has_body() {
        return Err(HeadError::TunnelWithBody);
    }
    Ok(())
}

fn framing(
    buffer: &[u8],
    head: &mut RequestHead,
    has_length: bool,
    has_encoding: bool,
) -> Result<RequestFraming, HeadError> {
    match (has_length, has_encoding) {
        (false, false) => Ok(RequestFraming::None),
        (true, true) => Err(HeadError::LengthAndEncoding),
        (true, false) => match head::content_length(buffer, &mut head.headers)? {
            None => Ok(RequestFraming::None),
            Some(length) => Ok(RequestFraming::Length(length)),
        },
        (false, true) if head.version == Version::Http10 => Err(HeadError::TransferEncoding),
        (false, true) => head::is_chunked(buffer, &head.headers).map(|_| RequestFraming::Chunked),
    }
}

#[cfg(test)]
mod tests;

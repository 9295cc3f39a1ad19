//! Response heads (RFC 9112 §4).

use super::error::HeadError;
use super::head::{self, ConnectionOptions, HeaderId, HeaderSpan, Limits, Span};
use super::request::{Method, Version};

/// How a response's body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is none: HEAD, 1xx, 204, 304.
    #[default]
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// A response head as offsets into the buffer it was parsed from.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: u16,
    /// The status line's code and reason, without version and line end.
    pub status_line: Span,
    /// The upstream's version.
    pub version: Version,
    /// How the body ends.
    pub framing: ResponseFraming,
    /// Whether the upstream allows another request on this connection.
    pub keep_alive: bool,
    /// Whether there is a `Date` line.
    pub has_date: bool,
    /// Whether there is a `Server` line.
    pub has_server: bool,
    /// Whether `Connection` nominates `Upgrade`: only then may a 101 switch protocols.
    pub upgrades: bool,
    /// The header lines in their order.
    pub headers: Vec<HeaderSpan>,
    /// Bytes of the head, final empty line included.
    pub len: usize,
}

impl ResponseHead {
    /// Whether the status is 1xx: another head follows, except after 101, which would end HTTP on the connection.
    pub const fn is_informational(&self) -> bool {
        self.status < 200
    }
}

/// Parses the response head at the start of `buffer`, the answer to a request with `method`. `false`: more bytes are
/// needed.
///
/// # Errors
/// The rule that the head breaks; the upstream connection cannot be used further.
pub fn parse_response(
    buffer: &[u8],
    limits: &Limits,
    method: Method,
    head: &mut ResponseHead,
) -> Result<bool, HeadError> {
    // Not even an empty line may stand before a status line.
    if buffer.first().is_some_and(|b| *b != b'H') {
        return Err(HeadError::StatusLine);
    }
    let mut slots = head::line_slots();
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, buffer, &mut slots)
        .map_err(head::syntax_error)?;
    let httparse::Status::Complete(len) = status else {
        return if buffer.len() >= limits.head_bytes { Err(HeadError::HeadTooLong) } else { Ok(false) };
    };
    if len > limits.head_bytes {
        return Err(HeadError::HeadTooLong);
    }
    head.status = response.code.unwrap_or(0);
    if !(100..600).contains(&head.status) {
        return Err(HeadError::StatusLine);
    }
    let line_end = memchr::memchr(b'\r', buffer).ok_or(HeadError::BareLineEnd)?;
    if buffer.get(line_end + 1) != Some(&b'\n') {
        return Err(HeadError::BareLineEnd);
    }
    const CODE_AT: usize = "HTTP/1.1 ".len();
    head.status_line = Span::new(CODE_AT, line_end.max(CODE_AT));
    head.version = Version::of(response.version);
    head.len = len;
    head::collect(buffer, len, response.headers, limits, &mut head.headers)?;
    read_headers(buffer, method, head)?;
    Ok(true)
}

fn read_headers(buffer: &[u8], method: Method, head: &mut ResponseHead) -> Result<(), HeadError> {
    let mut options = ConnectionOptions::default();
    let (mut has_length, mut has_encoding) = (false, false);
    (head.has_date, head.has_server) = (false, false);
    for i in 0..head.headers.len() {
        let HeaderSpan { id, value, .. } = head.headers[i];
        match id {
            HeaderId::Connection => head::apply_connection(buffer, value, &mut head.headers, &mut options)?,
            HeaderId::ContentLength => has_length = true,
            HeaderId::TransferEncoding => has_encoding = true,
            HeaderId::Date => head.has_date = true,
            HeaderId::Server => head.has_server = true,
            HeaderId::ContentType
            | HeaderId::Expect
            | HeaderId::Host
            | HeaderId::Internal
            | HeaderId::Via
            | HeaderId::XForwardedClientCert
            | HeaderId::XForwardedFor
            | HeaderId::XForwardedHost
            | HeaderId::XForwardedProto
            | HeaderId::XRequestId
            | HeaderId::KeepAlive
            | HeaderId::Http2Settings
            | HeaderId::ProxyConnection
            | HeaderId::Te
            | HeaderId::Upgrade
            | HeaderId::Other => {}
        }
    }
    head.keep_alive = match head.version {
        Version::Http11 => !options.close,
        Version::Http10 => options.keep_alive && !options.close,
    };
    head.upgrades = options.upgrade;
    if has_length && has_encoding {
        return Err(HeadError::LengthAndEncoding);
    }
    let length = if has_length { head::content_length(buffer, &mut head.headers)? } else { None };
    let chunked = has_encoding && head::is_chunked(buffer, &head.headers)?;
    if chunked && head.version == Version::Http10 {
        return Err(HeadError::TransferEncoding);
    }
    // What follows a 2xx to CONNECT is the tunnel, whatever the headers say (RFC 9110 §9.3.6).
    let tunnel = method == Method::Connect && (200..300).contains(&head.status);
    let bodiless = method == Method::Head || head.status < 200 || matches!(head.status, 204 | 304) || tunnel;
    head.framing = match length {
        _ if bodiless => ResponseFraming::None,
        _ if chunked => ResponseFraming::Chunked,
        Some(length) => ResponseFraming::Length(length),
        None => ResponseFraming::UntilClose,
    };
    if head.status < 200 || head.status == 204 || tunnel {
        // Neither may state a length (RFC 9110 §8.6).
        head.headers.iter_mut().filter(|h| h.id == HeaderId::ContentLength).for_each(|h| h.dropped = true);
    }
    Ok(())
}

#[cfg(test)]
mod tests;

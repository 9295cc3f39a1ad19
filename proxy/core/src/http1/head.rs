//! What requests and responses have in common: header lines, their limits, and what `Connection` does to them.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::error::HeadError;

/// A byte range of the buffer that a head was parsed from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u32::MAX as usize, "heads are far smaller than 4 GiB");
        Self { start: start as u32, end: end as u32 }
    }

    /// Where `part`, a slice of `buffer`, lies in it.
    pub(super) fn of(part: &[u8], buffer: &[u8]) -> Self {
        let start = part.as_ptr().addr() - buffer.as_ptr().addr();
        Self::new(start, start + part.len())
    }

    /// The bytes. `buffer` must be the one that was parsed, or one with the same content.
    #[inline]
    pub fn slice(self, buffer: &[u8]) -> &[u8] {
        buffer.get(self.range()).unwrap_or_default()
    }

    /// The same without its end: the first `length` bytes.
    #[must_use]
    pub fn prefix(self, length: usize) -> Self {
        Self { end: self.end.min(self.start + u32::try_from(length).unwrap_or(u32::MAX)), ..self }
    }

    /// As a range of the buffer.
    #[inline]
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Length in bytes.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it holds nothing.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Bounds on a head. The defaults are those of an ingress (RFC 9110 §2.3 leaves them to the recipient).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head.
    pub head_bytes: usize,
    /// Header lines; at most [`Limits::MAX_HEADERS`].
    pub headers: usize,
    /// Bytes of one header line.
    pub line_bytes: usize,
    /// Bytes of the request target.
    pub target_bytes: usize,
    /// What becomes of names with an underscore.
    pub underscores: Underscores,
}

/// What becomes of a header whose name holds `_`: many backends read it as `-`, so that it can pose as another header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Underscores {
    /// It is a header like any other.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// The line is not passed on, nor matched.
    Drop,
}

impl Limits {
    /// The most header lines that any limit can allow.
    pub const MAX_HEADERS: usize = 128;

    /// What bounds a head that this process has written itself, from one that was bounded already: nothing but sanity.
    pub const OWN: Self = Self {
        head_bytes: 16 << 20,
        headers: Self::MAX_HEADERS,
        line_bytes: 16 << 20,
        target_bytes: 16 << 20,
        underscores: Underscores::Allow,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 60 << 10,
            headers: 100,
            line_bytes: 16 << 10,
            target_bytes: 8 << 10,
            underscores: Underscores::Allow,
        }
    }
}

/// Headers that the proxy itself acts upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderId {
    /// `Connection`
    Connection,
    /// `Content-Length`
    ContentLength,
    /// `Content-Type`
    ContentType,
    /// `Date`
    Date,
    /// `Expect`
    Expect,
    /// `Host`
    Host,
    /// `Keep-Alive`
    KeepAlive,
    /// `HTTP2-Settings`
    Http2Settings,
    /// `Proxy-Connection`
    ProxyConnection,
    /// `Server`
    Server,
    /// `TE`
    Te,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Upgrade`
    Upgrade,
    /// `Via`
    Via,
    /// `X-Forwarded-Client-Cert`
    XForwardedClientCert,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Forwarded-Host`
    XForwardedHost,
    /// `X-Forwarded-Proto`
    XForwardedProto,
    /// `X-Request-Id`
    XRequestId,
    /// `X-Envoy-*` and `X-Weir-*`: words between proxies, not for clients to say.
    Internal,
    /// Anything else: passed on as it is.
    Other,
}

impl HeaderId {
    /// The header's identity, whatever its case. The name must be a token, as the parser has made sure.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        let first = match name.first() {
            Some(first) => first | 0x20,
            None => return Self::Other,
        };
        match (name.len(), first) {
            (2, b't') if is(name, b"te") => Self::Te,
            (3, b'v') if is(name, b"via") => Self::Via,
            (4, b'h') if is(name, b"host") => Self::Host,
            (4, b'd') if is(name, b"date") => Self::Date,
            (6, b's') if is(name, b"server") => Self::Server,
            (6, b'e') if is(name, b"expect") => Self::Expect,
            (7, b'u') if is(name, b"upgrade") => Self::Upgrade,
            (10, b'c') if is(name, b"connection") => Self::Connection,
            (10, b'k') if is(name, b"keep-alive") => Self::KeepAlive,
            (12, b'c') if is(name, b"content-type") => Self::ContentType,
            (12, b'x') if is(name, b"x-request-id") => Self::XRequestId,
            (14, b'c') if is(name, b"content-length") => Self::ContentLength,
            (14, b'h') if is(name, b"http2-settings") => Self::Http2Settings,
            (15, b'x') if is(name, b"x-forwarded-for") => Self::XForwardedFor,
            (16, b'p') if is(name, b"proxy-connection") => Self::ProxyConnection,
            (16, b'x') if is(name, b"x-forwarded-host") => Self::XForwardedHost,
            (23, b'x') if is(name, b"x-forwarded-client-cert") => Self::XForwardedClientCert,
            (17, b't') if is(name, b"transfer-encoding") => Self::TransferEncoding,
            (17, b'x') if is(name, b"x-forwarded-proto") => Self::XForwardedProto,
            (8.., b'x') if is(&name[..8], b"x-envoy-") => Self::Internal,
            (7.., b'x') if is(&name[..7], b"x-weir-") => Self::Internal,
            _ => Self::Other,
        }
    }

    /// Whether the line concerns this hop only and is never passed on as it is (RFC 9110 §7.6.1).
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::Http2Settings
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }

    /// Whether `Connection: <name>` may have the line removed: never one that frames or routes the message.
    const fn may_be_nominated(self) -> bool {
        !matches!(self, Self::ContentLength | Self::Host | Self::TransferEncoding | Self::Te)
    }
}

/// Whether a token is `known`, whatever its case. With the length known at compile time this is a comparison of two
/// vectors; of the bytes of a token only letters change under the mask, so that no other byte passes for one.
#[inline]
fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    let mut differs = 0;
    for at in 0..N {
        differs |= (name[at] | 0x20) ^ known[at];
    }
    differs == 0
}

/// One header line.
#[derive(Debug, Clone, Copy)]
pub struct HeaderSpan {
    /// The name, in the sender's case.
    pub name: Span,
    /// The value without surrounding white space.
    pub value: Span,
    /// What it is to the proxy.
    pub id: HeaderId,
    /// Whether the writer leaves the line out.
    pub dropped: bool,
}

/// Room for parsed lines on the stack; `httparse` fills it without initialising it first.
pub(super) type LineSlots<'b> = [MaybeUninit<httparse::Header<'b>>; Limits::MAX_HEADERS];

pub(super) const fn line_slots<'b>() -> LineSlots<'b> {
    [const { MaybeUninit::uninit() }; Limits::MAX_HEADERS]
}

/// Turns parsed lines into spans, checking what `httparse` is lenient about: that every line ends in CRLF.
pub(super) fn collect(
    buffer: &[u8],
    head_len: usize,
    parsed: &[httparse::Header<'_>],
    limits: &Limits,
    headers: &mut Vec<HeaderSpan>,
) -> Result<(), HeadError> {
    headers.clear();
    if parsed.len() > limits.headers {
        return Err(HeadError::TooManyHeaders);
    }
    // httparse takes LF alone for a line end. Each line but the first starts where the last one ended.
    if !buffer[..head_len].ends_with(b"\r\n\r\n") {
        return Err(HeadError::BareLineEnd);
    }
    for line in parsed {
        let name = Span::of(line.name.as_bytes(), buffer);
        let value = Span::of(line.value, buffer);
        let starts = name.range().start;
        if starts < 2 || buffer[starts - 2..starts] != *b"\r\n" {
            return Err(HeadError::BareLineEnd);
        }
        if value.range().end.saturating_sub(starts) > limits.line_bytes {
            return Err(HeadError::LineTooLong);
        }
        let id = HeaderId::of(line.name.as_bytes());
        let mut header = HeaderSpan { name, value, id, dropped: id.is_hop_by_hop() };
        if limits.underscores != Underscores::Allow && line.name.as_bytes().contains(&b'_') {
            if limits.underscores == Underscores::Reject {
                return Err(HeadError::Underscore);
            }
            // Without a name no condition can hold of it; its place still says where the line before it ends.
            header = HeaderSpan { name: Span::new(starts, starts), dropped: true, ..header };
        }
        headers.push(header);
    }
    Ok(())
}

/// What the `Connection` lines say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    tokens: usize,
}

/// Each token is compared with each line, so their number is bounded.
const MAX_CONNECTION_TOKENS: usize = 32;

/// Reads one `Connection` value and drops the lines it nominates (RFC 9110 §7.6.1).
pub(super) fn apply_connection(
    buffer: &[u8],
    value: Span,
    headers: &mut [HeaderSpan],
    options: &mut ConnectionOptions,
) -> Result<(), HeadError> {
    for token in list(value.slice(buffer)) {
        options.tokens += 1;
        if options.tokens > MAX_CONNECTION_TOKENS {
            return Err(HeadError::TooManyHeaders);
        }
        if token.eq_ignore_ascii_case(b"close") {
            options.close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            options.keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            options.upgrade = true;
        } else {
            for header in headers.iter_mut().filter(|h| h.id.may_be_nominated()) {
                header.dropped |= header.name.slice(buffer).eq_ignore_ascii_case(token);
            }
        }
    }
    Ok(())
}

/// The elements of a comma-separated value, empty ones left out (RFC 9110 §5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|t| !t.is_empty())
}

/// The length that all `Content-Length` lines agree upon. Equal repetitions collapse into the first plain line.
pub(super) fn content_length(buffer: &[u8], headers: &mut [HeaderSpan]) -> Result<Option<u64>, HeadError> {
    let mut agreed = None;
    for header in headers.iter_mut().filter(|h| h.id == HeaderId::ContentLength) {
        let value = header.value.slice(buffer);
        // "5, 5" is the same field combined by an intermediary; the writer then states the number itself.
        let combined = value.contains(&b',');
        for element in value.split(|b| *b == b',') {
            let length = decimal(element.trim_ascii()).ok_or(HeadError::ContentLength)?;
            if agreed.is_some_and(|agreed| agreed != length) {
                return Err(HeadError::ContentLength);
            }
            header.dropped |= agreed.is_some() || combined;
            agreed = Some(length);
        }
    }
    Ok(agreed)
}

/// Digits only: no sign, no space, no overflow. 18 digits are an exabyte.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0, |n: u64, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')))
}

/// Whether a `Transfer-Encoding` is present; anything but one final `chunked` is refused.
pub(super) fn is_chunked(buffer: &[u8], headers: &[HeaderSpan]) -> Result<bool, HeadError> {
    let mut chunked = false;
    for header in headers.iter().filter(|h| h.id == HeaderId::TransferEncoding) {
        if chunked || !header.value.slice(buffer).eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::TransferEncoding);
        }
        chunked = true;
    }
    Ok(chunked)
}

pub(super) const fn syntax_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::HeaderName,
        httparse::Error::HeaderValue => HeadError::HeaderValue,
        httparse::Error::NewLine => HeadError::BareLineEnd,
        httparse::Error::Status => HeadError::StatusLine,
        httparse::Error::Token => HeadError::RequestLine,
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::Version => HeadError::Version,
    }
}

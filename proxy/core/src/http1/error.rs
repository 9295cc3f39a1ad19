//! Why a head was refused.

/// A request or response head that breaks a rule. The text names the rule, not the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A line ends without CR, or CR and LF stand alone (RFC 9112 §2.2).
    #[error("a line does not end in CRLF")]
    BareLineEnd,
    /// A header line starts with white space (RFC 9112 §5.2).
    #[error("a header is folded over lines or its name is not a token")]
    HeaderName,
    /// A header value holds control characters (RFC 9110 §5.5).
    #[error("a header value holds control characters")]
    HeaderValue,
    /// The method is not a token, or the request line has other than two spaces (RFC 9112 §3).
    #[error("the request line is malformed")]
    RequestLine,
    /// The request target is none of the four forms (RFC 9112 §3.2).
    #[error("the request target is malformed")]
    Target,
    /// The status line is malformed, or the status is not three digits from 100 to 599 (RFC 9112 §4).
    #[error("the status line is malformed")]
    StatusLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the HTTP version is not 1.0 or 1.1")]
    Version,
    /// The first bytes are those of a TLS handshake.
    #[error("a TLS handshake arrived on a plaintext listener")]
    Tls,
    /// An HTTP/1.1 request without Host (RFC 9112 §3.2).
    #[error("the Host header is missing")]
    HostMissing,
    /// More than one Host line (RFC 9112 §3.2).
    #[error("the Host header is repeated")]
    HostRepeated,
    /// Host or the target's authority is not `uri-host [":" port]` (RFC 9110 §7.2).
    #[error("the host is malformed")]
    HostMalformed,
    /// Content-Length is not a number, or two differ (RFC 9112 §6.3).
    #[error("Content-Length is malformed or contradicts itself")]
    ContentLength,
    /// Content-Length beside Transfer-Encoding (RFC 9112 §6.3).
    #[error("Content-Length and Transfer-Encoding are both present")]
    LengthAndEncoding,
    /// Transfer-Encoding is not exactly `chunked`, or stands in HTTP/1.0 (RFC 9112 §6.1).
    #[error("Transfer-Encoding is not a single `chunked`")]
    TransferEncoding,
    /// Expect is something else than `100-continue` (RFC 9110 §10.1.1).
    #[error("Expect is not `100-continue`")]
    Expect,
    /// The request line is longer than the limit.
    #[error("the request target is too long")]
    TargetTooLong,
    /// One header line is longer than the limit.
    #[error("a header line is too long")]
    LineTooLong,
    /// The head is longer than the limit.
    #[error("the head is too long")]
    HeadTooLong,
    /// More header lines than the limit.
    #[error("there are too many header lines")]
    TooManyHeaders,
    /// A header name holds `_`, and the listener refuses that.
    #[error("a header name holds an underscore")]
    Underscore,
    /// HTTP/1.0, where the listener does not take it.
    #[error("HTTP/1.0 is not accepted here")]
    Http10,
    /// The target is in absolute form, where the listener does not take it.
    #[error("a target in absolute form is not accepted here")]
    AbsoluteForm,
    /// CONNECT or an upgrade with a body: where the tunnel starts would be a matter of opinion.
    #[error("a request for a tunnel must not have a body")]
    TunnelWithBody,
    /// A path that holds NUL, or an escaped slash where the listener refuses that.
    #[error("the path holds an escaped character that is not accepted")]
    EscapedPath,
}

impl HeadError {
    /// The status that a client is answered with.
    pub const fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::Expect => 417,
            Self::LineTooLong | Self::HeadTooLong | Self::TooManyHeaders => 431,
            Self::Http10 => 426,
            Self::Version => 505,
            Self::BareLineEnd
            | Self::HeaderName
            | Self::HeaderValue
            | Self::RequestLine
            | Self::Target
            | Self::StatusLine
            | Self::Tls
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostMalformed
            | Self::ContentLength
            | Self::LengthAndEncoding
            | Self::TransferEncoding
            | Self::Underscore
            | Self::AbsoluteForm
            | Self::TunnelWithBody
            | Self::EscapedPath => 400,
        }
    }
}

//! Access logs: what is told of a request, in which form, and of which requests. Where lines go is the proxy's business.

mod filter;
mod format;
mod parse;
mod time;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::http1::{RequestHead, ResponseHead};
use crate::route::RouteLabel;

pub use filter::{Comparison, Filter};
pub use format::Format;
pub use parse::{FormatError, JsonValue};
pub use time::http_date;

/// One access log of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogConfig {
    /// Where lines go.
    pub sink: Sink,
    /// What a line looks like.
    pub format: Arc<Format>,
    /// Which requests get one; all where unset.
    pub filter: Option<Filter>,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sink {
    /// Appended to a file.
    File(PathBuf),
    /// The process's standard output.
    Stdout,
    /// The process's standard error.
    Stderr,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
        }
    }
}

/// All that can be told of a request. Borrowed from the exchange for the time of a line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// The head and its bytes; none where it could not be read.
    pub request: Option<(&'a RequestHead, &'a [u8])>,
    /// Lines that this hop added to the request, each with its end; they stand for those of the same name.
    pub added: &'a [u8],
    /// The target that left, where the route rewrote it.
    pub rewritten: &'a [u8],
    /// The upstream's, where one came.
    pub response: Option<(&'a ResponseHead, &'a [u8])>,
    /// The status that was sent; 0 where none was.
    pub status: u16,
    /// The route, if one matched.
    pub route: Option<&'a RouteLabel>,
    /// The arm's name; empty where there is none, like the texts below.
    pub arm: &'a str,
    /// The arm that should have taken the request, and had no usable endpoint.
    pub spilled_from: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The endpoint's address.
    pub endpoint: &'a str,
    /// How often the request was sent to an endpoint.
    pub attempts: u32,
    /// Why it did not end well, in words.
    pub reason: &'a str,
    /// The same as one word.
    pub details: &'a str,
    /// The same as Envoy's response flag.
    pub flag: &'a str,
    /// The body of a reply of the proxy's own.
    pub local_body: &'a [u8],
    /// Microseconds since the Unix epoch at the first byte.
    pub started: u64,
    /// Microseconds from the first byte to the last of the response.
    pub duration: u64,
    /// Microseconds from the first byte to the end of the request; none where it did not end.
    pub request_end: Option<u64>,
    /// Microseconds from the first byte to the response's head; none where there was none.
    pub response_begin: Option<u64>,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
    /// Counts up with each connection of the process.
    pub connection_id: u64,
    /// IP address of whoever is connected; empty for a Unix socket.
    pub peer: &'a str,
    /// Port of whoever is connected.
    pub peer_port: u16,
    /// IP address of the client, as far as it can be believed.
    pub client: &'a str,
    /// Address that the client connected to.
    pub local_address: &'a str,
    /// Whether the request came over HTTP/2.
    pub is_http2: bool,
    /// What protects the connection.
    pub tls: TlsFacts<'a>,
}

/// What a handshake has settled, for a log; texts are empty where there was none.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsFacts<'a> {
    /// `TLSv1.3`
    pub version: &'a str,
    /// The cipher suite, by the standard's name.
    pub cipher: &'a str,
    /// The name that the client asked for.
    pub server_name: &'a str,
    /// The URI of the client's certificate, such as a SPIFFE identity.
    pub peer_uri: &'a str,
    /// The subject of the client's certificate.
    pub peer_subject: &'a str,
}

#[cfg(test)]
mod tests;

//! HTTP/1.1 syntax, both sides: heads, framing, bodies. RFC 9112 and RFC 9110, read strictly.
//!
//! Everything here works on byte slices and never waits. A head is parsed once, into offsets; the outgoing head is
//! written once, from the slices that stay. What is ambiguous is refused: a proxy that guesses how a message ends can be
//! made to disagree with its neighbour (request smuggling).
//!
//! Not here: upgrades, CONNECT and TLS. They are refused by name.

mod body;
mod chunked;
mod error;
mod head;
mod host;
mod request;
mod response;
mod write;

pub use body::{BodyReader, Relayed};
pub use chunked::{ChunkError, Output};
pub use error::HeadError;
pub use head::{HeaderId, HeaderSpan, Limits, Span};
pub use request::{Method, RequestFraming, RequestHead, Version, parse_request};
pub use response::{ResponseFraming, ResponseHead, parse_response};
pub use write::{ResponseEdits, write_chunk_size, write_local_reply, write_request, write_response};

//! HTTP/1.1 syntax, both sides: heads, framing, bodies. RFC 9112 and RFC 9110, read strictly.
//!
//! Everything here works on byte slices and never waits. A head is parsed once, into offsets; the outgoing head is
//! written once, from the slices that stay. What is ambiguous is refused: a proxy that guesses how a message ends can be
//! made to disagree with its neighbour (request smuggling).
//!
//! An upgrade is only read here, and CONNECT's target; whether a tunnel is opened is for the caller to say. Not here: TLS.

mod body;
mod chunked;
mod error;
mod head;
mod host;
mod request;
mod response;
mod write;

pub use body::{BodyReader, Relayed};
pub use chunked::{ChunkError, ChunkLimits, Output};
pub use error::HeadError;
pub use head::{HeaderId, HeaderSpan, Limits, Span, Underscores};
pub use host::is_valid as is_host;
pub use request::{Method, RequestFraming, RequestHead, RequestRules, Version, parse_request};
pub use response::{ResponseFraming, ResponseHead, parse_response};
pub use write::{
    LocalReply, RequestEdits, ResponseEdits, ServerHeader, write_chunk_size, write_local_reply,
    write_request, write_response,
};

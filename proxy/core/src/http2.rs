//! What HTTP/2 needs beside a library for its frames: a meter that ends abuse, and the way between its messages and
//! HTTP/1.1's (RFC 9113).
//!
//! An HTTP/2 message is written as the HTTP/1.1 message that says the same, and read by the strict parser of
//! [`http1`](crate::http1); the other way round likewise. So there is one reading of a message, whatever carried it: what
//! could confuse an HTTP/1.1 endpoint is refused before a route is looked for. Not here: frames and flow control.

mod fields;
mod message;
mod meter;

pub use message::{
    BodyForm, Opened, Protocol, Tunnel, request_parts, response_parts, trailer_map, write_request,
    write_response, write_trailers,
};
pub use meter::{Excess, Meter, MeterLimits, Side};

/// What every client of HTTP/2 sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

//! The memory of one request and its response. Borrowed from the worker while there is something to do, given back when
//! the connection is idle: an idle connection holds no buffer.

use std::time::Instant;

use proxy_core::http1::{RequestHead, ResponseHead};

/// Room for a head and what came with it in one read.
pub(crate) const HEAD_BUFFER: usize = 16 << 10;
/// A buffer that grew beyond this is not kept.
const MAX_KEPT: usize = 64 << 10;

#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(crate) request: RequestHead,
    pub(crate) response: ResponseHead,
    /// What the client sent: the head, what belongs to its body, what follows.
    pub(crate) from_client: Vec<u8>,
    pub(crate) from_upstream: Vec<u8>,
    /// The outgoing head and what leaves with it in one write.
    pub(crate) out: Vec<u8>,
    /// Lines that this hop adds to the request.
    pub(crate) added: Vec<u8>,
    /// Lines that this hop adds to the response.
    pub(crate) answered: Vec<u8>,
    /// The target that leaves, where the route rewrites it.
    pub(crate) target: Vec<u8>,
    /// The host that leaves, where the route rewrites it.
    pub(crate) host: Vec<u8>,
    pub(crate) progress: Progress,
}

/// How far an exchange came. Survives the work itself, which a deadline may end anywhere.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Progress {
    /// Something of a response has begun to leave: nothing else may be sent in its place.
    pub(crate) answering: bool,
    /// A response's head was read whole into `response`.
    pub(crate) has_response: bool,
    /// The final response's head has begun to leave.
    pub(crate) answered: bool,
    /// The status of a call of gRPC, once it has come.
    pub(crate) grpc_status: Option<proxy_core::grpc::Status>,
    /// How often the request was sent to an endpoint.
    pub(crate) attempts: u32,
    /// Bytes of the request's content.
    pub(crate) received: u64,
    /// Bytes of the response's content.
    pub(crate) sent: u64,
    /// Clocks are read for the two times below.
    pub(crate) is_timed: bool,
    pub(crate) request_end: Option<Instant>,
    pub(crate) response_begin: Option<Instant>,
}

impl Exchange {
    /// Ready for another connection.
    pub(crate) fn reset(&mut self) {
        for buffer in [&mut self.from_client, &mut self.from_upstream, &mut self.out] {
            buffer.clear();
            buffer.shrink_to(MAX_KEPT);
        }
        for lines in [&mut self.added, &mut self.answered, &mut self.target, &mut self.host] {
            lines.clear();
            lines.shrink_to(HEAD_BUFFER);
        }
    }
}

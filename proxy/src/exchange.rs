//! The memory of one request and its response. Borrowed from the worker while there is something to do, given back when
//! the connection is idle: an idle connection holds no buffer.

use proxy_core::http1::{RequestHead, ResponseHead};

/// Room for a head and what came with it in one read.
pub(crate) const HEAD_BUFFER: usize = 16 << 10;
/// Room for a body while it streams.
pub(crate) const BODY_BUFFER: usize = 64 << 10;
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
    /// The final response has begun to leave: nothing else may be sent in its place.
    pub(crate) answering: bool,
}

impl Exchange {
    /// Ready for another connection.
    pub(crate) fn reset(&mut self) {
        for buffer in [&mut self.from_client, &mut self.from_upstream, &mut self.out] {
            buffer.clear();
            buffer.shrink_to(MAX_KEPT);
        }
    }
}

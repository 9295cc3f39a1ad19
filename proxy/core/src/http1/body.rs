//! Where a body ends, and which of the bytes at hand belong to it.

use super::chunked::{ChunkError, ChunkLimits, ChunkedDecoder, Output};
use super::request::RequestFraming;
use super::response::ResponseFraming;

/// Reads one body out of the bytes of a connection.
#[derive(Debug)]
pub struct BodyReader {
    framing: Framing,
    content: u64,
}

#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

/// What became of the bytes offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// How many of them belong to the body; the next message starts after them.
    pub taken: usize,
    /// How many bytes, from the start of the buffer, shall be passed on.
    pub kept: usize,
}

impl BodyReader {
    /// Of a request. `output` says in which form a chunked body leaves.
    pub const fn of_request(framing: RequestFraming, output: Output, limits: ChunkLimits) -> Self {
        let framing = match framing {
            RequestFraming::None => Framing::Length(0),
            RequestFraming::Length(length) => Framing::Length(length),
            RequestFraming::Chunked => Framing::Chunked(ChunkedDecoder::new(output, limits)),
        };
        Self { framing, content: 0 }
    }

    /// Of a response. `output` says in which form a chunked body leaves.
    pub const fn of_response(framing: ResponseFraming, output: Output, limits: ChunkLimits) -> Self {
        let framing = match framing {
            ResponseFraming::None => Framing::Length(0),
            ResponseFraming::Length(length) => Framing::Length(length),
            ResponseFraming::Chunked => Framing::Chunked(ChunkedDecoder::new(output, limits)),
            ResponseFraming::UntilClose => Framing::UntilClose,
        };
        Self { framing, content: 0 }
    }

    /// Whether all of the body was seen. Never true of a body that ends with the connection.
    pub const fn is_done(&self) -> bool {
        match &self.framing {
            Framing::Length(remaining) => *remaining == 0,
            Framing::Chunked(decoder) => decoder.is_done(),
            Framing::UntilClose => false,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub const fn ends_with_connection(&self) -> bool {
        matches!(self.framing, Framing::UntilClose)
    }

    /// Bytes of content so far, without any coding.
    pub const fn content_bytes(&self) -> u64 {
        match &self.framing {
            Framing::Chunked(decoder) => decoder.content_bytes(),
            Framing::Length(_) | Framing::UntilClose => self.content,
        }
    }

    /// Whether the next byte is content: neither framing, nor beyond the end.
    pub const fn awaits_content(&self) -> bool {
        match &self.framing {
            Framing::Length(remaining) => *remaining > 0,
            Framing::Chunked(decoder) => decoder.awaits_content(),
            Framing::UntilClose => true,
        }
    }

    /// Bytes that are still to come, where their number is known.
    pub const fn remaining(&self) -> Option<u64> {
        match &self.framing {
            Framing::Length(remaining) => Some(*remaining),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// Takes what belongs to the body; a chunked one is cleaned in place.
    ///
    /// # Errors
    /// The body breaks the chunked coding: neither connection can be used further.
    pub fn relay(&mut self, buffer: &mut [u8]) -> Result<Relayed, ChunkError> {
        match &mut self.framing {
            Framing::Length(remaining) => {
                let taken = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buffer.len());
                *remaining -= taken as u64;
                self.content += taken as u64;
                Ok(Relayed { taken, kept: taken })
            }
            Framing::Chunked(decoder) => {
                let (taken, kept) = decoder.decode(buffer)?;
                Ok(Relayed { taken, kept })
            }
            Framing::UntilClose => {
                self.content += buffer.len() as u64;
                Ok(Relayed { taken: buffer.len(), kept: buffer.len() })
            }
        }
    }

    /// What is to be written after the last byte of a finished body: trailers, if any, and the empty line.
    pub fn tail(&self) -> &[u8] {
        match &self.framing {
            Framing::Chunked(decoder) => decoder.tail(),
            Framing::Length(_) | Framing::UntilClose => &[],
        }
    }
}

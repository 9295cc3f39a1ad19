//! The chunked coding, decoded and cleaned in place (RFC 9112 §7.1).
//!
//! ```text
//!   Size ──CR──► SizeEnd ──LF──► Data ──► DataEnd ──► DataEndLf ──► Size
//!    │ └─;─► Extension ─CR─► SizeEnd
//!    └─ size 0 ─► SizeEnd ──LF──► Trailers ──empty line──► Done
//! ```
//! Chunks keep their boundaries; extensions are dropped, so the bytes that leave are a subset of those that came and no
//! copy is made unless something was cut.

use super::head::HeaderId;

/// Bounds on what a chunked body may hold beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Bytes of chunk extensions in one body.
    pub extension_bytes: u32,
    /// Bytes of the trailer section.
    pub trailer_bytes: u32,
}

impl ChunkLimits {
    /// What bounds a body that this process has framed itself.
    pub const OWN: Self = Self { extension_bytes: 0, trailer_bytes: 1 << 20 };
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { extension_bytes: 4 << 10, trailer_bytes: 8 << 10 }
    }
}

/// Hexadecimal digits of a chunk size: 2^60 bytes.
const MAX_SIZE_DIGITS: u8 = 15;

/// What leaves the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Chunks, for a peer that understands them; trailers are cut.
    Chunks,
    /// Chunks and the trailer section, for a peer that asked for it with `TE: trailers`.
    ChunksAndTrailers,
    /// The content alone, for HTTP/1.0.
    Content,
    /// The content alone, and the lines of the trailer section apart, for HTTP/2.
    ContentAndTrailers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { digits: u8, size: u64 },
    Extension { size: u64 },
    SizeEnd { size: u64 },
    Data { remaining: u64 },
    DataEnd,
    DataEndLf,
    Trailers,
    Done,
}

/// The decoder of one body.
#[derive(Debug)]
pub(super) struct ChunkedDecoder {
    state: State,
    output: Output,
    limits: ChunkLimits,
    extension_bytes: u32,
    content: u64,
    /// The trailer section as it arrives, up to its empty line; no allocation where there are no trailers.
    trailers: Vec<u8>,
}

/// A body that is not in the chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A size is not hexadecimal, or too large.
    #[error("a chunk size is malformed")]
    Size,
    /// CRLF is missing where it must stand.
    #[error("a chunk does not end in CRLF")]
    LineEnd,
    /// An extension holds control characters or the body's extensions are too long.
    #[error("chunk extensions are malformed or too long")]
    Extension,
    /// The trailer section is malformed or too long.
    #[error("the trailer section is malformed or too long")]
    Trailers,
}

impl ChunkedDecoder {
    pub(super) const fn new(output: Output, limits: ChunkLimits) -> Self {
        Self {
            state: State::Size { digits: 0, size: 0 },
            output,
            limits,
            extension_bytes: 0,
            content: 0,
            trailers: Vec::new(),
        }
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the next byte is content.
    pub(super) const fn awaits_content(&self) -> bool {
        matches!(self.state, State::Data { .. })
    }

    pub(super) const fn content_bytes(&self) -> u64 {
        self.content
    }

    /// Decodes `buffer` in place. Returns how many bytes were taken and how many, at its start, shall leave.
    pub(super) fn decode(&mut self, buffer: &mut [u8]) -> Result<(usize, usize), ChunkError> {
        let (mut taken, mut kept) = (0, 0);
        let framed = matches!(self.output, Output::Chunks | Output::ChunksAndTrailers);
        while taken < buffer.len() && self.state != State::Done {
            let byte = buffer[taken];
            match &mut self.state {
                State::Data { remaining } => {
                    let run = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buffer.len() - taken);
                    *remaining -= run as u64;
                    self.content += run as u64;
                    if *remaining == 0 {
                        self.state = State::DataEnd;
                    }
                    if kept != taken {
                        buffer.copy_within(taken..taken + run, kept);
                    }
                    taken += run;
                    kept += run;
                    continue;
                }
                State::Trailers => {
                    taken += self.take_trailers(&buffer[taken..])?;
                    continue;
                }
                _ => {}
            }
            taken += 1;
            if self.step(byte)? && framed {
                buffer[kept] = byte;
                kept += 1;
            }
        }
        Ok((taken, kept))
    }

    /// One byte of framing. Returns whether it is passed on to a peer that takes chunks.
    fn step(&mut self, byte: u8) -> Result<bool, ChunkError> {
        let (state, kept) = match self.state {
            State::Size { digits, size } => match (hex(byte), byte) {
                (Some(_), _) if digits == MAX_SIZE_DIGITS => return Err(ChunkError::Size),
                (Some(digit), _) => (State::Size { digits: digits + 1, size: size << 4 | digit }, true),
                (None, _) if digits == 0 => return Err(ChunkError::Size),
                (None, b'\r') => (State::SizeEnd { size }, true),
                (None, b';') => (State::Extension { size }, false),
                (None, _) => return Err(ChunkError::Size),
            },
            State::Extension { size } => match byte {
                b'\r' => (State::SizeEnd { size }, true),
                b'\t' | b' '..=b'~' | 0x80.. if self.extension_bytes < self.limits.extension_bytes => {
                    self.extension_bytes += 1;
                    (State::Extension { size }, false)
                }
                _ => return Err(ChunkError::Extension),
            },
            State::SizeEnd { .. } | State::DataEndLf if byte != b'\n' => return Err(ChunkError::LineEnd),
            State::SizeEnd { size: 0 } => (State::Trailers, true),
            State::SizeEnd { size } => (State::Data { remaining: size }, true),
            State::DataEnd if byte == b'\r' => (State::DataEndLf, true),
            State::DataEnd => return Err(ChunkError::LineEnd),
            State::DataEndLf => (State::Size { digits: 0, size: 0 }, true),
            State::Data { .. } | State::Trailers | State::Done => (self.state, true),
        };
        self.state = state;
        Ok(kept)
    }

    /// Collects the trailer section. Its end is an empty line: at the start, or after a line's CRLF.
    fn take_trailers(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        for (i, byte) in bytes.iter().enumerate() {
            // The empty line is not a part of the section.
            if self.trailers.len() >= self.limits.trailer_bytes as usize + 2 {
                return Err(ChunkError::Trailers);
            }
            self.trailers.push(*byte);
            let section = self.trailers.as_slice();
            if section == b"\r\n" || section.ends_with(b"\r\n\r\n") {
                self.clean_trailers()?;
                self.state = State::Done;
                return Ok(i + 1);
            }
            if (*byte == b'\n' && !section.ends_with(b"\r\n")) || (section.len() == 2 && section[0] == b'\r')
            {
                return Err(ChunkError::Trailers);
            }
        }
        Ok(bytes.len())
    }

    /// Leaves in `trailers` what is to be written after the last chunk: allowed fields, then an empty line.
    fn clean_trailers(&mut self) -> Result<(), ChunkError> {
        if self.trailers == b"\r\n" {
            if matches!(self.output, Output::Content | Output::ContentAndTrailers) {
                self.trailers.clear();
            }
            return Ok(());
        }
        let mut lines = [httparse::EMPTY_HEADER; super::Limits::MAX_HEADERS];
        let section = std::mem::take(&mut self.trailers);
        let httparse::Status::Complete((_, lines)) =
            httparse::parse_headers(&section, &mut lines).map_err(|_| ChunkError::Trailers)?
        else {
            return Err(ChunkError::Trailers);
        };
        let mut clean = section.clone();
        clean.clear();
        if matches!(self.output, Output::ChunksAndTrailers | Output::ContentAndTrailers) {
            for line in lines.iter().filter(|l| may_trail(l.name)) {
                for part in [line.name.as_bytes(), b": ", line.value, b"\r\n"] {
                    clean.extend_from_slice(part);
                }
            }
        }
        if matches!(self.output, Output::Chunks | Output::ChunksAndTrailers) {
            clean.extend_from_slice(b"\r\n");
        }
        self.trailers = clean;
        Ok(())
    }

    /// What follows the last chunk once the body is done.
    pub(super) fn tail(&self) -> &[u8] {
        if self.is_done() { &self.trailers } else { &[] }
    }
}

/// Fields that frame, route or authenticate must not trail (RFC 9110 §6.5.1), nor what is stripped or written at the head.
fn may_trail(name: &str) -> bool {
    const NEVER: [&str; 7] = [
        "authorization",
        "content-encoding",
        "cookie",
        "proxy-authenticate",
        "proxy-authorization",
        "set-cookie",
        "trailer",
    ];
    let known = HeaderId::of(name.as_bytes()) != HeaderId::Other;
    // Many backends read `_` as `-`, so that it can pose as another field.
    !known && !name.contains('_') && !NEVER.iter().any(|never| never.eq_ignore_ascii_case(name))
}

const fn hex(byte: u8) -> Option<u64> {
    match byte {
        b'0'..=b'9' => Some((byte - b'0') as u64),
        b'a'..=b'f' => Some((byte - b'a' + 10) as u64),
        b'A'..=b'F' => Some((byte - b'A' + 10) as u64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(output: Output, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize), ChunkError> {
        let mut decoder = ChunkedDecoder::new(output, ChunkLimits::default());
        let (mut out, mut total) = (Vec::new(), 0);
        for piece in pieces {
            let mut piece = piece.to_vec();
            let (taken, kept) = decoder.decode(&mut piece)?;
            out.extend_from_slice(&piece[..kept]);
            total += taken;
        }
        out.extend_from_slice(decoder.tail());
        assert!(decoder.is_done() || total == pieces.iter().map(|p| p.len()).sum::<usize>());
        Ok((out, total))
    }

    const BODY: &[u8] = b"5\r\nhello\r\nA;name=\"v\"\r\n0123456789\r\n0\r\n\r\n";
    const CLEAN: &[u8] = b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n";

    #[test]
    fn extensions_are_dropped_and_chunks_kept() {
        assert_eq!(run(Output::Chunks, &[BODY]).expect("valid").0, CLEAN);
    }

    #[test]
    fn content_alone_is_left_for_http_1_0() {
        assert_eq!(run(Output::Content, &[BODY]).expect("valid").0, b"hello0123456789");
    }

    #[test]
    fn the_result_does_not_depend_on_where_the_bytes_are_split() {
        for at in 0..=BODY.len() {
            let (left, right) = BODY.split_at(at);
            assert_eq!(run(Output::Chunks, &[left, right]).expect("valid").0, CLEAN, "split at {at}");
        }
        let bytes: Vec<_> = BODY.chunks(1).collect();
        assert_eq!(run(Output::Chunks, &bytes).expect("valid").0, CLEAN);
    }

    #[test]
    fn bytes_after_the_body_are_not_taken() {
        let bytes = [BODY, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(run(Output::Chunks, &[&bytes]).expect("valid").1, BODY.len());
    }

    #[test]
    fn trailers_travel_only_to_who_asked() {
        let body = b"0\r\ngrpc-status: 0\r\nContent-Length: 9\r\nX-Forwarded-For: 1.1.1.1\r\nx_user: 1\r\nCookie: a\r\n\r\n";
        assert_eq!(run(Output::Chunks, &[body]).expect("valid").0, b"0\r\n\r\n");
        assert_eq!(run(Output::ChunksAndTrailers, &[body]).expect("valid").0, b"0\r\ngrpc-status: 0\r\n\r\n");
        assert_eq!(run(Output::Content, &[body]).expect("valid").0, b"");
    }

    #[test]
    fn malformed_bodies_are_refused() {
        let long = [b"1;".to_vec(), vec![b'x'; (4 << 10) + 1]].concat();
        let many = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(2000)].concat();
        let cases: &[&[u8]] = &[
            b"\r\n",
            b"x\r\n",
            b"+5\r\n",
            b"-1\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"0x5\r\n",
            b"5\nhello",
            b"5\r\rhello",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"5\r\nhello\r\r",
            b"1000000000000000\r\n",
            b"ffffffffffffffffff\r\n",
            b"5;a=\x01\r\n",
            b"5;a=\n",
            b"0\r\nbad header\r\n\r\n",
            b"0\r\n{x}: b\r\n\r\n",
            b"0\r\na: b\n\r\n",
            b"0\r\n\rX",
            b"0\r\n a: b\r\n\r\n",
            &long,
            &many,
        ];
        for case in cases {
            assert!(run(Output::Chunks, &[case]).is_err(), "{:?}", String::from_utf8_lossy(case));
        }
    }

    proptest! {
        #[test]
        fn any_content_comes_through(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
                                     cut in 1_usize..64) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x};ext\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let pieces: Vec<_> = wire.chunks(cut).collect();
            prop_assert_eq!(run(Output::Content, &pieces).expect("valid").0, chunks.concat());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = run(Output::Chunks, &[&bytes]);
        }
    }
}

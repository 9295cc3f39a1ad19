//! The bodies of a stream, as HTTP/1.1 frames them: chunks where no length was stated, trailers behind the last one.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use proxy_core::http1::{BodyReader, write_chunk_size};
use proxy_core::http2::{self, BodyForm};
use tokio::io::ReadBuf;

/// What comes on a stream.
#[derive(Debug)]
pub(super) struct Incoming {
    body: RecvStream,
    form: BodyForm,
    /// Text between pieces of content: heads, sizes, trailers.
    text: Vec<u8>,
    read: usize,
    /// What is left of the last DATA frame.
    data: Bytes,
    /// Bytes that are still to come, where a length was stated.
    left: Option<u64>,
    ended: bool,
}

impl Incoming {
    /// `text` is read before the body, which has a length where one was stated.
    pub(super) fn new(body: RecvStream, form: BodyForm, text: Vec<u8>, length: Option<u64>) -> Self {
        let ended = form == BodyForm::Empty;
        Self { body, form, text, read: 0, data: Bytes::new(), left: length, ended }
    }

    /// A stream of which everything was read but its end, which may come any moment.
    pub(super) fn into_end(self) -> Option<RecvStream> {
        let is_read = self.left == Some(0) && self.data.is_empty();
        (is_read && !self.body.is_end_stream()).then_some(self.body)
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let found = match self.poll_readable(cx) {
                Poll::Ready(found) => found?,
                Poll::Pending if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            };
            if !found {
                break;
            }
            self.take(buf);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until there is something to read; `false` at the end.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.read < self.text.len() || !self.data.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if self.ended {
                return Poll::Ready(Ok(false));
            }
            self.text.clear();
            self.read = 0;
            match ready!(self.body.poll_data(cx)) {
                // An empty frame says nothing, and a chunk of no bytes would be the last one.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    if self.form == BodyForm::Chunked {
                        let mut line = [0; 18];
                        let start = write_chunk_size(&mut line, data.len());
                        self.text.extend_from_slice(&line[start..]);
                    }
                    self.data = data;
                }
                Some(Err(error)) if self.is_whole(&error) => {
                    if self.form == BodyForm::Chunked {
                        http2::write_trailers(&mut self.text, None);
                    }
                    self.ended = true;
                }
                Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                None => {
                    let trailers = ready!(self.body.poll_trailers(cx)).map_err(failure)?;
                    if self.form == BodyForm::Chunked {
                        http2::write_trailers(&mut self.text, trailers.as_ref());
                    }
                    self.ended = true;
                }
            }
        }
    }

    /// Whether a body that ends so was told to its end: a server that needs no more of the request says so after its
    /// response (RFC 9113 §8.1).
    fn is_whole(&self, error: &h2::Error) -> bool {
        is_peaceful(error) && self.left.is_none_or(|left| left == 0)
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let text = &self.text[self.read..];
        if !text.is_empty() {
            let count = text.len().min(buf.remaining());
            buf.put_slice(&text[..count]);
            self.read += count;
            return;
        }
        let piece = self.data.split_to(self.data.len().min(buf.remaining()));
        buf.put_slice(&piece);
        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
        // What was taken makes room for more. (It fails where the stream is over, which needs none.)
        let _ = self.body.flow_control().release_capacity(piece.len());
        if self.data.is_empty() {
            self.data = Bytes::new();
            if self.form == BodyForm::Chunked {
                self.text.clear();
                self.text.extend_from_slice(b"\r\n");
                self.read = 0;
            }
        }
    }
}

/// What leaves on a stream whose head has left.
#[derive(Debug)]
pub(super) struct Outgoing {
    send: SendStream<Bytes>,
    reader: BodyReader,
    ended: bool,
}

impl Outgoing {
    /// `reader` tells content from framing, keeping trailers; `ended`: the head was all.
    pub(super) const fn new(send: SendStream<Bytes>, reader: BodyReader, ended: bool) -> Self {
        Self { send, reader, ended }
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes as much as the peer has room for; all, and for nothing, once the peer has said that it needs no more.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_send(cx, bytes) {
            Poll::Ready(Err(_)) if self.is_unwanted(cx) => Poll::Ready(Ok(bytes.len())),
            sent => sent,
        }
    }

    fn is_unwanted(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.send.poll_reset(cx), Poll::Ready(Ok(h2::Reason::NO_ERROR)))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // What only frames content needs no room.
        let framing = self.take_framing(bytes)?;
        if framing > 0 {
            return Poll::Ready(Ok(framing));
        }
        self.send.reserve_capacity(bytes.len());
        let room = match self.send.capacity() {
            0 => match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(failure)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => room,
        };
        let mut piece = BytesMut::from(&bytes[..room.min(bytes.len())]);
        let relayed = self.reader.relay(&mut piece).map_err(invalid)?;
        piece.truncate(relayed.kept);
        let taken = relayed.taken;
        self.send_piece(piece.freeze())?;
        Poll::Ready(Ok(taken))
    }

    fn take_framing(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() && !self.reader.is_done() && !self.reader.awaits_content() {
            self.reader.relay(&mut [bytes[taken]]).map_err(invalid)?;
            taken += 1;
        }
        if self.reader.is_done() {
            self.send_piece(Bytes::new())?;
        }
        Ok(taken)
    }

    fn send_piece(&mut self, piece: Bytes) -> io::Result<()> {
        if !self.reader.is_done() {
            return match piece.is_empty() {
                true => Ok(()),
                false => self.send.send_data(piece, false).map_err(failure),
            };
        }
        self.ended = true;
        match http2::trailer_map(self.reader.tail()).map_err(invalid)? {
            None => self.send.send_data(piece, true).map_err(failure),
            Some(trailers) => {
                if !piece.is_empty() {
                    self.send.send_data(piece, false).map_err(failure)?;
                }
                self.send.send_trailers(trailers).map_err(failure)
            }
        }
    }

    /// Ends a body that nothing else ends.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        self.send.send_data(Bytes::new(), true).map_err(failure)
    }

    pub(super) fn reset(&mut self, reason: h2::Reason) {
        self.send.send_reset(reason);
    }

    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(drop)
    }
}

/// Whether a stream was ended by its peer without complaint.
fn is_peaceful(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// The library's error as one of a byte stream. Refused: the peer did nothing of the request, so that it may be sent
/// again, whatever it is (RFC 9113 §8.7). Aborted: the connection is over. Other: this stream
/// alone is.
pub(super) fn failure(error: h2::Error) -> io::Error {
    let untouched =
        error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
    let kind = match error.is_reset() {
        _ if untouched => io::ErrorKind::ConnectionRefused,
        true => io::ErrorKind::Other,
        false => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

pub(super) fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

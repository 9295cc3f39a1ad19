//! gRPC-web on one side, gRPC on the other: a layer over the connection to an endpoint (grpc:`doc/PROTOCOL-WEB.md`).
//!
//! A browser cannot read trailers, so that they come as a last frame of the body; and where it cannot read bytes as they
//! come, the body is base64. What is written to this layer is the browser's message, what is read from it is for the browser;
//! the endpoint sees gRPC.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proxy_core::grpc::{self, Status};
use proxy_core::http1::{
    BodyReader, ChunkLimits, HeaderId, Limits, Method, Output, RequestEdits, RequestFraming, RequestHead,
    RequestRules, ResponseEdits, ResponseFraming, ResponseHead, ServerHeader, Version, parse_request,
    parse_response, write_chunk_size, write_request, write_response,
};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::socket::{Layer, Socket};

/// The flag of a frame that holds trailers.
const TRAILERS: u8 = 0x80;
/// Bytes that are read from the endpoint at once.
const PIECE: usize = 16 << 10;
const CHUNKS: ChunkLimits = ChunkLimits { extension_bytes: 4 << 10, trailer_bytes: 64 << 10 };

/// In which form a browser sends and takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// Its request is base64.
    text_up: bool,
    /// Its response shall be.
    text_down: bool,
}

impl Form {
    /// The form of a request; none where it is not gRPC-web.
    pub(crate) fn of(buffer: &[u8], head: &RequestHead) -> Option<Self> {
        let kind = head.header(buffer, b"content-type")?.to_ascii_lowercase();
        if !kind.starts_with(b"application/grpc-web") {
            return None;
        }
        let text = b"application/grpc-web-text";
        let accepted = head.header(buffer, b"accept").unwrap_or_default().to_ascii_lowercase();
        let text_up = kind.starts_with(text);
        let text_down = accepted.windows(text.len()).any(|part| part == text) || text_up;
        Some(Self { text_up, text_down })
    }

    /// The type of responses.
    pub(crate) const fn content_type(self) -> &'static str {
        match self.text_down {
            true => "application/grpc-web-text+proto",
            false => "application/grpc-web+proto",
        }
    }
}

/// The connection to the endpoint, as the browser's message sees it.
#[derive(Debug)]
pub(crate) struct Bridge {
    inner: Socket,
    form: Form,
    /// What bounds the endpoint's head.
    limits: Limits,
    /// The request's body; none before its head.
    up: Option<BodyReader>,
    /// The end of a base64 text that is not four characters yet.
    quartet: Vec<u8>,
    to_inner: Vec<u8>,
    written: usize,
    /// The response's body; none before its head.
    down: Option<BodyReader>,
    from_inner: Vec<u8>,
    ready: Vec<u8>,
    read: usize,
    ended: bool,
    /// How the call went, once that is known.
    status: Rc<Cell<Option<Status>>>,
}

impl Bridge {
    /// The layer, and where it will say how the call went.
    pub(crate) fn over(inner: Socket, form: Form, limits: Limits) -> (Socket, Rc<Cell<Option<Status>>>) {
        let status = Rc::<Cell<_>>::default();
        let bridge = Self {
            inner,
            form,
            limits,
            up: None,
            quartet: Vec::new(),
            to_inner: Vec::new(),
            written: 0,
            down: None,
            from_inner: Vec::new(),
            ready: Vec::new(),
            read: 0,
            ended: false,
            status: status.clone(),
        };
        (Socket::layered(bridge), status)
    }

    fn poll_flush_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.to_inner.len() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.to_inner[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.to_inner.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes the request's head, which must be whole. Returns its length.
    fn take_request(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let rules = RequestRules { limits: Limits::OWN, http10: true, absolute_form: true };
        let mut head = RequestHead::default();
        if !parse_request(bytes, &rules, &mut head).map_err(invalid)? {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.up = Some(BodyReader::of_request(head.framing, Output::Content, CHUNKS));
        let kind = head.header(bytes, b"content-type").unwrap_or_default();
        // `+proto`, `+json`: what the messages are stays.
        let suffix = kind.iter().position(|byte| *byte == b'+').map_or(&b"+proto"[..], |at| &kind[at..]);
        let added = [b"content-type: application/grpc", suffix, b"\r\n"].concat();
        for line in &mut head.headers {
            let is_accept = line.name.slice(bytes).eq_ignore_ascii_case(b"accept");
            line.dropped |= is_accept || matches!(line.id, HeaderId::ContentType | HeaderId::ContentLength);
        }
        head.takes_trailers = true;
        head.framing = RequestFraming::Chunked;
        let edits = RequestEdits { added: &added, ..RequestEdits::default() };
        write_request(&mut self.to_inner, bytes, &head, &edits);
        let ended = self.up.as_ref().is_some_and(BodyReader::is_done);
        if ended {
            self.to_inner.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(head.len)
    }

    /// Takes bytes of the request's body.
    fn take_up(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.up else { return Ok(0) };
        if reader.is_done() {
            return Ok(bytes.len());
        }
        let mut content = bytes.to_vec();
        let relayed = reader.relay(&mut content).map_err(invalid)?;
        content.truncate(relayed.kept);
        let ended = reader.is_done();
        if self.form.text_up {
            content = self.decode(&content)?;
            if ended && !self.quartet.is_empty() {
                return Err(invalid("the base64 text ends within a quartet"));
            }
        }
        chunk(&mut self.to_inner, &content);
        if ended {
            self.to_inner.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(relayed.taken)
    }

    /// Decodes base64, of which each piece may be padded.
    fn decode(&mut self, text: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::with_capacity(text.len());
        for byte in text.iter().filter(|byte| !byte.is_ascii_whitespace()) {
            self.quartet.push(*byte);
            if self.quartet.len() == 4 {
                STANDARD.decode_vec(&self.quartet, &mut content).map_err(invalid)?;
                self.quartet.clear();
            }
        }
        Ok(content)
    }

    /// Until there is something for the browser; `false` at the end.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // What waits for the endpoint leaves whenever there is room.
        if let Poll::Ready(Err(error)) = self.poll_flush_up(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if self.read < self.ready.len() {
                return Poll::Ready(Ok(true));
            }
            if self.ended {
                return Poll::Ready(Ok(false));
            }
            self.ready.clear();
            self.read = 0;
            let before = self.from_inner.len();
            self.from_inner.resize(before + PIECE, 0);
            let mut piece = ReadBuf::new(&mut self.from_inner[before..]);
            let polled = Pin::new(&mut self.inner).poll_read(cx, &mut piece);
            let count = piece.filled().len();
            self.from_inner.truncate(before + count);
            ready!(polled)?;
            if count == 0 {
                self.ended = true;
                // What was not the end is not made one.
                return Poll::Ready(Ok(false));
            }
            while self.down.is_none() && self.take_response()? {}
            self.take_down()?;
        }
    }

    /// Takes a head of a response, if it is whole; whether another may follow.
    fn take_response(&mut self) -> io::Result<bool> {
        let mut head = ResponseHead::default();
        if !parse_response(&self.from_inner, &self.limits, Method::Other, &mut head).map_err(invalid)? {
            return Ok(false);
        }
        let length = head.len;
        if head.is_informational() {
            self.ready.extend_from_slice(&self.from_inner[..length]);
            self.from_inner.drain(..length);
            return Ok(true);
        }
        let added = format!("content-type: {}\r\n", self.form.content_type());
        let has_body = !matches!(head.framing, ResponseFraming::None | ResponseFraming::Length(0));
        self.down = Some(BodyReader::of_response(head.framing, Output::ContentAndTrailers, CHUNKS));
        head.headers
            .iter_mut()
            .filter(|line| line.id == HeaderId::ContentType)
            .for_each(|line| line.dropped = true);
        if has_body {
            head.framing = ResponseFraming::Chunked;
            let lengths = head.headers.iter_mut().filter(|line| line.id == HeaderId::ContentLength);
            lengths.for_each(|line| line.dropped = true);
        }
        // Whoever reads this adds what is missing.
        head.has_date = true;
        let edits = ResponseEdits {
            client: Version::Http11,
            keep_alive: true,
            server: &ServerHeader::PassThrough,
            date: b"",
            added: added.as_bytes(),
        };
        write_response(&mut self.ready, &self.from_inner, &head, &edits);
        self.from_inner.drain(..length);
        self.ended = !has_body;
        Ok(false)
    }

    /// Takes what has come of the response's body.
    fn take_down(&mut self) -> io::Result<()> {
        let Some(reader) = &mut self.down else { return Ok(()) };
        if self.ended {
            return Ok(());
        }
        let relayed = reader.relay(&mut self.from_inner).map_err(invalid)?;
        self.ended = reader.is_done();
        encode(&mut self.ready, &self.from_inner[..relayed.kept], self.form.text_down);
        self.from_inner.drain(..relayed.taken);
        if self.ended {
            let lines = reader.tail().strip_suffix(b"\r\n\r\n").map_or(reader.tail(), |lines| lines);
            self.status.set(grpc::trailing_status(lines));
            let lines = [lines, if lines.is_empty() { b"" } else { b"\r\n" }].concat();
            let mut frame = vec![TRAILERS];
            frame.extend((lines.len() as u32).to_be_bytes());
            frame.extend(lines);
            encode(&mut self.ready, &frame, self.form.text_down);
            self.ready.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(())
    }
}

fn encode(out: &mut Vec<u8>, content: &[u8], is_text: bool) {
    match is_text {
        true => chunk(out, STANDARD.encode(content).as_bytes()),
        false => chunk(out, content),
    }
}

/// Appends a chunk; nothing where it would be the last one.
fn chunk(out: &mut Vec<u8>, content: &[u8]) {
    if content.is_empty() {
        return;
    }
    let mut line = [0; 18];
    let start = write_chunk_size(&mut line, content.len());
    for part in [&line[start..], content, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Layer for Bridge {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if ready!(self.poll_down(cx))? {
            let count = (self.ready.len() - self.read).min(buf.remaining());
            buf.put_slice(&self.ready[self.read..self.read + count]);
            self.read += count;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush_up(cx))?;
        let head = if self.up.is_none() { self.take_request(bytes)? } else { 0 };
        let taken = if head < bytes.len() { self.take_up(&bytes[head..])? } else { 0 };
        if let Poll::Ready(Err(error)) = self.poll_flush_up(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(head + taken))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_up(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_up(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_down(cx))?;
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        self.inner.reset_on_close();
    }

    fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    fn local_address(&self) -> Box<str> {
        self.inner.local_address()
    }
}

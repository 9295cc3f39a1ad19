//! A connection that TLS protects, as a socket.

use std::io::{self, BufRead as _, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::server::Accepted;
use rustls::{ClientConnection, Connection};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::context::{ClientContext, ServerContext};
use crate::socket::{Layer, Socket};

/// Bytes that one connection may have waiting to be encrypted or written.
const BUFFER: usize = 64 << 10;

/// One side of a protected connection.
#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: Socket,
    session: Connection,
    /// Bytes that were encrypted and wait for the socket; whoever wrote them has not been told yet that they are taken.
    owed: usize,
    /// Some of them have left.
    has_left: bool,
    /// The peer has closed its direction.
    ended: bool,
    /// The peer must not take what it has for all there was.
    aborted: bool,
}

/// A handshake under way.
pub(crate) struct Handshake(TlsStream);

impl Handshake {
    /// As a server, after the ClientHello that was read.
    ///
    /// # Errors
    /// The client offers nothing that we speak; the alert has been written as far as the socket took it.
    pub(crate) fn accept(
        mut socket: Socket,
        accepted: Accepted,
        context: &ServerContext,
    ) -> Result<Self, rustls::Error> {
        match accepted.into_connection(context.config().ok_or_else(unusable)?) {
            Ok(session) => Ok(Self(TlsStream::new(socket, session.into()))),
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                let _ = alert.write_all(&mut bytes);
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let _ = Pin::new(&mut socket).poll_write(&mut cx, &bytes);
                Err(error)
            }
        }
    }

    /// As a client.
    ///
    /// # Errors
    /// The name cannot be asked for.
    pub(crate) fn connect(
        socket: Socket,
        name: ServerName<'static>,
        context: &ClientContext,
    ) -> Result<Self, rustls::Error> {
        let config = context.config().ok_or_else(unusable)?;
        Ok(Self(TlsStream::new(socket, ClientConnection::new(config, name)?.into())))
    }

    /// To its end.
    ///
    /// # Errors
    /// Why it failed; the peer has been told as far as its socket took it.
    pub(crate) async fn finish(mut self) -> io::Result<TlsStream> {
        std::future::poll_fn(|cx| self.0.poll_handshake(cx)).await?;
        Ok(self.0)
    }
}

fn unusable() -> rustls::Error {
    rustls::Error::General("our own keys or certificates cannot be used".to_owned())
}

impl TlsStream {
    fn new(socket: Socket, mut session: Connection) -> Self {
        session.set_buffer_limit(Some(BUFFER));
        Self { socket, session, owed: 0, has_left: false, ended: false, aborted: false }
    }

    pub(crate) const fn session(&self) -> &Connection {
        &self.session
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.session.wants_write() {
                ready!(self.poll_write_tls(cx))?;
            }
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_read_tls(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn poll_write_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.session.write_tls(&mut Blocking { socket: &mut self.socket, cx }) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                self.has_left = true;
                Poll::Ready(Ok(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Reads and decrypts. 0: the peer's direction is over, without a word.
    fn poll_read_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = match self.session.read_tls(&mut Blocking { socket: &mut self.socket, cx }) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Err(error) = self.session.process_new_packets() {
            // The peer is told what was wrong, if its socket takes it now.
            let _ = self.poll_write_tls(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(count))
    }

    /// Waits for plain bytes; `false` at the end.
    fn poll_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match self.session.reader().fill_buf() {
                Ok([]) => return Poll::Ready(Ok(false)),
                Ok(_) => return Poll::Ready(Ok(true)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.ended = ready!(self.poll_read_tls(cx))? == 0;
            // Tickets and new keys are answered at once, where the socket takes it.
            while self.session.wants_write() && self.owed == 0 {
                if self.poll_write_tls(cx)?.is_pending() {
                    break;
                }
            }
        }
    }

    /// Until nothing waits for the socket.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            ready!(self.poll_write_tls(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Layer for TlsStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !ready!(self.poll_plain(cx))? {
            return Poll::Ready(Ok(()));
        }
        let mut reader = self.session.reader();
        while buf.remaining() > 0 {
            let count = match reader.fill_buf() {
                Ok(plain) if !plain.is_empty() => {
                    let count = plain.len().min(buf.remaining());
                    buf.put_slice(&plain[..count]);
                    count
                }
                Ok(_) | Err(_) => break,
            };
            reader.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.owed == 0 {
            self.owed = self.session.writer().write(bytes)?;
            self.has_left = false;
        }
        match ready!(self.poll_drain(cx)) {
            // Whoever counts what left must not take it for nothing. The next write fails as well.
            Err(_) if self.has_left => {}
            drained => drained?,
        }
        Poll::Ready(Ok(std::mem::take(&mut self.owed)))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.send_close_notify();
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_plain(cx))?;
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        self.aborted = true;
        self.socket.reset_on_close();
    }

    fn is_empty(&self) -> bool {
        self.socket.is_empty()
    }

    fn local_address(&self) -> Box<str> {
        self.socket.local_address()
    }
}

impl Drop for TlsStream {
    /// Whoever reads to the end shall know that it was the end, if the socket takes so much.
    fn drop(&mut self) {
        if !self.session.is_handshaking() && self.owed == 0 && !self.aborted {
            self.session.send_close_notify();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = self.poll_drain(&mut cx);
        }
    }
}

/// A socket as the library wants it: what would have to wait says so.
struct Blocking<'a, 'b> {
    socket: &'a mut Socket,
    cx: &'a mut Context<'b>,
}

impl Read for Blocking<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf) {
            Poll::Ready(Ok(())) => Ok(buf.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Blocking<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write(self.cx, bytes) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write_vectored(self.cx, slices) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

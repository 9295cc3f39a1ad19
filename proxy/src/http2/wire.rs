//! The bytes of an HTTP/2 connection: metered both ways, and written in one piece.
//!
//! The library flushes after each frame that is not small, which costs a system call for each response. Here, what it
//! writes gathers until its driver has nothing left to do.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use proxy_core::http2::{Excess, Meter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::Socket;

/// Bytes that may wait while the peer takes none.
const MAX_WAITING: usize = 256 << 10;
/// Room that is kept while there is something to say every now and then.
const KEPT: usize = 64 << 10;
/// Bytes that have left, beyond which their room is used again.
const LEFT: usize = 64 << 10;

/// One connection's bytes, shared by the library and the driver.
#[derive(Debug, Clone)]
pub(super) struct Wire(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: Socket,
    /// Read already, before anybody knew what it was.
    early: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Bytes have left since somebody asked.
    has_moved: bool,
    meter: Meter,
    excess: Option<Excess>,
}

impl Wire {
    pub(super) fn new(socket: Socket, early: Vec<u8>, meter: Meter) -> Self {
        let inner =
            Inner { socket, early, out: Vec::new(), written: 0, has_moved: false, meter, excess: None };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// What there was too much of, if there was.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.0.borrow().excess
    }

    /// Whether the peer has said what it can do.
    pub(super) fn has_settings(&self) -> bool {
        self.0.borrow().meter.has_settings()
    }

    /// Whether the peer takes no more streams.
    pub(super) fn has_goaway(&self) -> bool {
        self.0.borrow().meter.has_goaway()
    }

    /// The socket, once nobody else holds the wire.
    pub(super) fn into_socket(self) -> Option<Socket> {
        Rc::into_inner(self.0).map(|inner| inner.into_inner().socket)
    }

    /// Whether bytes have left since this was asked last.
    pub(super) fn take_moved(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().has_moved)
    }

    /// Holds nothing while there is nothing to say.
    pub(super) fn rest(&self) {
        let inner = &mut *self.0.borrow_mut();
        if inner.out.is_empty() {
            inner.out = Vec::new();
        }
    }

    /// Writes what has gathered.
    pub(super) fn poll_write_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_write_out(cx)
    }
}

impl Inner {
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    self.has_moved = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // A peer that always leaves something would otherwise have all that ever left kept.
                    if self.written >= LEFT {
                        self.out.drain(..self.written);
                        self.written = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        self.out.clear();
        self.out.shrink_to(KEPT);
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Room for more, by writing where there is none.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.len() - self.written < MAX_WAITING {
            return Poll::Ready(Ok(()));
        }
        self.poll_write_out(cx)
    }

    fn gather(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        if let Err(excess) = self.meter.sent(bytes, Instant::now) {
            self.excess.get_or_insert(excess);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.excess.is_some() {
            // Nothing more is heard of a peer that said too much.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if inner.early.is_empty() {
            match Pin::new(&mut inner.socket).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        } else {
            let count = inner.early.len().min(buf.remaining());
            buf.put_slice(&inner.early[..count]);
            inner.early.drain(..count);
            if inner.early.is_empty() {
                inner.early = Vec::new();
            }
        }
        let fresh = &buf.filled()[before..];
        if let Err(excess) = inner.meter.received(fresh, Instant::now) {
            inner.excess = Some(excess);
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        inner.gather(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        slices.iter().for_each(|slice| inner.gather(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The driver writes, once nobody has anything to add.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_room(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        match inner.poll_write_out(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut inner.socket).poll_shutdown(cx),
            other => other,
        }
    }
}

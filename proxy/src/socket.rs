//! A byte stream to a peer: TCP, a Unix socket where the peer is on the same machine, or a layer over one of them.

use std::cell::RefCell;
use std::fmt::Debug;
use std::future::{Future as _, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proxy_core::config::Address;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// How long a peer may leave what it was sent without a word, where [`Socket::notice_silence`] was asked for.
const SILENCE: Duration = Duration::from_secs(60);

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Bytes that a protocol carries: a stream of HTTP/2, what TLS protects.
    Layered(Box<RefCell<dyn Layer>>),
}

/// A protocol that carries a byte stream. Both directions share one state, in one task; nothing is borrowed over a wait.
pub(crate) trait Layer: Debug {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Waits until a read would not have to.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Tells the peer that what it has is not all.
    fn abort(&mut self);
    /// As [`Socket::is_empty`].
    fn is_empty(&self) -> bool;
    /// The address at this end, as text.
    fn local_address(&self) -> Box<str>;
}

/// The two directions of a socket, borrowed for the time in which both move at once.
pub(crate) enum ReadSide<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
    Layered(&'a RefCell<dyn Layer>),
}

pub(crate) enum WriteSide<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
    Layered(&'a RefCell<dyn Layer>),
}

impl Socket {
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Socket(address) => {
                let stream = TcpStream::connect(address).await?;
                // A head and a small body leave as one write; nothing is gained by waiting for more.
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Pipe(path) => UnixStream::connect(path).await.map(Self::Unix),
        }
    }

    /// Has the kernel give up on a peer that says nothing to what it was sent: a connection that many use would
    /// otherwise be believed in for a quarter of an hour.
    pub(crate) fn notice_silence(&self) {
        if let Self::Tcp(stream) = self
            && let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(SILENCE))
        {
            tracing::debug!(%error, "a silent peer will be noticed late");
        }
    }

    pub(crate) fn split(&mut self) -> (ReadSide<'_>, WriteSide<'_>) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.split();
                (ReadSide::Tcp(read), WriteSide::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.split();
                (ReadSide::Unix(read), WriteSide::Unix(write))
            }
            Self::Layered(layer) => (ReadSide::Layered(layer), WriteSide::Layered(layer)),
        }
    }

    /// A socket that a protocol carries.
    pub(crate) fn layered(layer: impl Layer + 'static) -> Self {
        Self::Layered(Box::new(RefCell::new(layer)))
    }

    /// Where the client wanted to go before the kernel sent it here; none where it did not.
    pub(crate) fn original_destination(&self) -> Option<SocketAddr> {
        let Self::Tcp(stream) = self else { return None };
        let socket = SockRef::from(stream);
        let found = match stream.local_addr().ok()? {
            SocketAddr::V4(_) => socket.original_dst_v4(),
            SocketAddr::V6(local) if local.ip().to_ipv4_mapped().is_some() => socket.original_dst_v4(),
            SocketAddr::V6(_) => socket.original_dst_v6(),
        };
        found.ok()?.as_socket()
    }

    /// Waits until there is something to read. By the one waker slot of the reading side: the method of the same name on
    /// tokio's streams serves any number of waiters and costs more.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Layered(layer) => layer.borrow_mut().poll_readable(cx),
        })
        .await
    }

    /// The address at this end, as text; empty for a Unix socket.
    pub(crate) fn local_address(&self) -> Box<str> {
        match self {
            Self::Tcp(stream) => {
                stream.local_addr().map(|address| address.to_string()).unwrap_or_default().into()
            }
            Self::Unix(_) => "".into(),
            Self::Layered(layer) => layer.borrow().local_address(),
        }
    }

    /// Closes with a reset: the peer must not take what it has for all there was.
    pub(crate) fn abort(self) {
        self.reset_on_close();
    }

    /// Has the close be a reset, whenever it comes.
    pub(crate) fn reset_on_close(&self) {
        let linger = match self {
            Self::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            Self::Unix(_) => Ok(()),
            Self::Layered(layer) => {
                layer.borrow_mut().abort();
                Ok(())
            }
        };
        if let Err(error) = linger {
            tracing::debug!(%error, "a connection is closed instead of reset");
        }
    }

    /// Reads what is there already, into the room that the buffer has; `None` where nothing is. (The method of a like
    /// name on tokio's streams does not take note that a short read has emptied the socket, and each wait after it would
    /// begin with a read for nothing.)
    pub(crate) async fn read_now(&mut self, buffer: &mut Vec<u8>) -> Option<io::Result<usize>> {
        let mut read = pin!(self.read_buf(buffer));
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Whether the runtime knows of nothing on an idle connection: neither its end nor a byte that nobody asked for. No
    /// system call unless it does.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            Self::Layered(layer) => {
                let mut cx = Context::from_waker(Waker::noop());
                return layer.borrow_mut().poll_readable(&mut cx).is_pending();
            }
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Socket {
    /// Whether the kernel has nothing for us either, which the runtime may not have heard of yet. One system call.
    pub(crate) fn is_empty(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Self::Unix(stream) => SockRef::from(stream).peek(&mut byte),
            Self::Layered(layer) => return layer.borrow().is_empty(),
        };
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl ReadSide<'_> {
    /// Waits until there is something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.readable().await,
            Self::Unix(half) => half.readable().await,
            Self::Layered(layer) => poll_fn(|cx| layer.borrow_mut().poll_readable(cx)).await,
        }
    }
}

macro_rules! delegate {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        match $self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Self::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Self::Layered(layer) => layer.borrow_mut().$method($($argument),*),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, cx, buf)
    }
}

impl AsyncRead for ReadSide<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, cx, buf)
    }
}

macro_rules! async_write {
    ($type:ty) => {
        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                delegate!(self, poll_write, cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
                    Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
                    Self::Layered(layer) => {
                        let first = slices.iter().find(|slice| !slice.is_empty());
                        layer.borrow_mut().poll_write(cx, first.map_or(&[], |slice| slice))
                    }
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                delegate!(self, poll_flush, cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                delegate!(self, poll_shutdown, cx)
            }
        }
    };
}

async_write!(Socket);
async_write!(WriteSide<'_>);

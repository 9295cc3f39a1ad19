//! Sockets that accept: opened before a configuration is taken, kept for as long as its address is.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use proxy_core::config::Address;
use socket2::{Domain, Protocol, SockAddr, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::connection::Peer;
use crate::socket::Socket;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// A listening socket on its way to a worker.
pub(crate) enum Acceptor {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A listening socket at its worker.
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection on its way to another worker.
pub(crate) enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Acceptor {
    pub(crate) fn into_listener(self) -> io::Result<Listening> {
        match self {
            Self::Tcp(listener) => TcpListener::from_std(listener).map(Listening::Tcp),
            Self::Unix(listener) => UnixListener::from_std(listener).map(Listening::Unix),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }
}

impl Listening {
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // A client that left already needs no setting.
                let _ = stream.set_nodelay(true);
                Ok((Socket::Tcp(stream), Peer::of(address)))
            }
            Self::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| (Socket::Unix(stream), Peer::default()))
            }
        }
    }
}

impl StdStream {
    pub(crate) fn from_socket(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(stream) => stream.into_std().map(Self::Tcp),
            Socket::Unix(stream) => stream.into_std().map(Self::Unix),
            // Nothing is laid over a socket before a worker has it.
            Socket::Layered(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(crate) fn into_socket(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(stream) => tokio::net::TcpStream::from_std(stream).map(Socket::Tcp),
            Self::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", said(source))]
pub struct OpenError {
    address: Address,
    source: io::Error,
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        _ => error.to_string(),
    }
}

/// The open sockets of all listeners, one a worker, by address.
#[derive(Default)]
pub(crate) struct Sockets {
    open: HashMap<Address, Vec<Acceptor>>,
    /// When an address was closed here: workers may hold its sockets a moment longer.
    closed: HashMap<Address, Instant>,
}

/// How long a worker may hold a socket that was closed.
const LINGERS: Duration = Duration::from_secs(10);

impl Sockets {
    /// Opens the address unless it is open. Connections queue from here on.
    pub(crate) fn open(&mut self, address: &Address, workers: usize) -> Result<(), OpenError> {
        self.open_for(address, workers, None)
    }

    /// The same, for whoever the mode of a socket file lets in; it has that mode before anybody can connect.
    pub(crate) fn open_for(
        &mut self,
        address: &Address,
        workers: usize,
        mode: Option<u32>,
    ) -> Result<(), OpenError> {
        if self.open.contains_key(address) {
            return Ok(());
        }
        let now = Instant::now();
        self.closed.retain(|_, since| now.saturating_duration_since(*since) < LINGERS);
        let is_ours =
            self.closed.contains_key(address) || self.open.keys().any(|open| overlap(open, address));
        let acceptors = bind(address, workers, mode, is_ours)
            .map_err(|source| OpenError { address: address.clone(), source })?;
        self.open.insert(address.clone(), acceptors);
        Ok(())
    }

    /// Handles to an open address's sockets, one a worker.
    pub(crate) fn acceptors(&self, address: &Address) -> io::Result<Vec<Acceptor>> {
        self.open.get(address).into_iter().flatten().map(Acceptor::try_clone).collect()
    }

    /// The address that was really bound: port 0 in a configuration means any.
    pub(crate) fn local_address(&self, address: &Address) -> Option<Address> {
        match self.open.get(address)?.first()? {
            Acceptor::Tcp(listener) => listener.local_addr().ok().map(Address::Socket),
            Acceptor::Unix(_) => Some(address.clone()),
        }
    }

    /// Closes every address that is not wanted any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&Address) -> bool) {
        let now = Instant::now();
        self.open.retain(|address, _| {
            let stays = wanted(address);
            if !stays {
                self.closed.insert(address.clone(), now);
            }
            stays
        });
    }
}

/// Whether one of two addresses is part of the other: all addresses of the machine and one of them, at the same port.
fn overlap(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Socket(a), Address::Socket(b)) => {
            a.port() == b.port() && a.port() != 0 && (a.ip().is_unspecified() || b.ip().is_unspecified())
        }
        _ => false,
    }
}

/// `is_ours`: the port is held here already, by a wider or narrower address or by a worker that is about to let it go.
fn bind(address: &Address, workers: usize, mode: Option<u32>, is_ours: bool) -> io::Result<Vec<Acceptor>> {
    match address {
        Address::Socket(address) => {
            let mut address = *address;
            if !is_ours {
                // The first socket is bound alone, without SO_REUSEPORT: with it, the kernel would let a second process
                // share the port without a word. It goes again, as it would not let the next ones in.
                let probe = tcp_socket(address, false)?;
                address = probe.local_addr()?.as_socket().unwrap_or(address);
            }
            let sockets = (0..workers).map(|_| tcp_socket(address, true));
            sockets.map(|socket| socket.map(|s| Acceptor::Tcp(s.into()))).collect()
        }
        Address::Pipe(path) => {
            if is_ours {
                let _ = std::fs::remove_file(path);
            }
            remove_stale(path)?;
            let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::unix(path)?)?;
            if let Some(mode) = mode {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            }
            socket.listen(BACKLOG)?;
            let listener = Acceptor::Unix(socket.into());
            (0..workers).map(|_| listener.try_clone()).collect()
        }
    }
}

fn tcp_socket(address: std::net::SocketAddr, shared: bool) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Removes a socket file that an earlier process left; one that somebody still answers on is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(io::ErrorKind::AddrInUse.into())
        }
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

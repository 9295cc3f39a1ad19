//! Whether a running proxy is ready, as container runtimes ask: the program itself asks its admin port.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proxy_core::config::Address;

use crate::bootstrap::Bootstrap;

/// How long the proxy may take for each step of the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks for `/ready` on the bootstrap's admin port. Waits for a second at the most.
///
/// # Errors
/// One sentence: it does not run, drains, or has no admin port.
pub fn is_ready(bootstrap: &Bootstrap) -> Result<(), String> {
    let address = bootstrap.admin.as_ref().ok_or("the bootstrap has no admin address to ask")?;
    let status = match address {
        Address::Socket(address) => connect(*address).and_then(ask),
        Address::Pipe(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            ask(stream)
        }),
    };
    match status {
        Ok(line) if line.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(line) => Err(format!("not ready: {}", line.trim_end())),
        Err(error) => Err(format!("the admin port at {address} does not answer: {error}")),
    }
}

/// A port that listens everywhere is asked on loopback.
fn connect(mut address: SocketAddr) -> io::Result<TcpStream> {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The first line of the answer.
fn ask(mut stream: impl Read + Write) -> io::Result<String> {
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(1_024)).read_line(&mut line)?;
    Ok(line)
}

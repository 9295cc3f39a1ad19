//! Whether a running control plane is alive, as container runtimes ask: the program itself asks its HTTP port.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::ControlConfig;

/// How long each step of the answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks for `/healthz` on the HTTP port. Waits for a second at the most.
///
/// # Errors
/// One sentence: it does not run, or does not answer.
pub fn is_alive(config: &ControlConfig) -> Result<(), String> {
    match ask(config.http) {
        Ok(line) if line.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(line) => Err(format!("not alive: {}", line.trim_end())),
        Err(error) => Err(format!("the HTTP port at {} does not answer: {error}", config.http)),
    }
}

/// The first line of the answer. A port that listens everywhere is asked on loopback.
fn ask(mut address: SocketAddr) -> io::Result<String> {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(1_024)).read_line(&mut line)?;
    Ok(line)
}

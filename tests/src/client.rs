//! A client that sends exactly the bytes it is told to.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

/// A connection to a proxy.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status line and headers, without the empty line.
    pub head: String,
    /// The content, chunks put together.
    pub body: Vec<u8>,
}

impl Response {
    /// The three digits.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The content as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or("not text").trim()
    }
}

impl Client {
    /// Connects to a port of this machine.
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).expect("the port answers")
    }

    /// The same where nobody may listen.
    pub fn try_connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        stream.set_nodelay(true).expect("no delay");
        Some(Self { stream, buffer: Vec::new() })
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).expect("sent");
        self
    }

    /// Sends bytes to a peer that may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// A handle that can send while this one reads.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a handle")
    }

    /// Ends our direction.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("half-closed");
    }

    /// So many bytes, or as many as there are before the end.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut chunk = [0; 4096];
        while self.buffer.len() < count {
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// A GET and its response.
    pub fn get(&mut self, path: &str, headers: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n"));
        self.response()
    }

    /// The next response, which has a body.
    pub fn response(&mut self) -> Response {
        self.read_response(true).expect("a response")
    }

    /// The next response to a HEAD.
    pub fn response_to_head(&mut self) -> Response {
        self.read_response(false).expect("a response")
    }

    /// The next response, or `None` where the connection ends before one.
    pub fn try_response(&mut self) -> Option<Response> {
        self.read_response(true)
    }

    /// The next response to a HEAD, or `None` where the connection ends before one.
    pub fn try_response_to_head(&mut self) -> Option<Response> {
        self.read_response(false)
    }

    /// Whether the peer closed, with nothing more said.
    pub fn is_closed(&mut self) -> bool {
        // Silence until the limit of the stream is not an end.
        let silent = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
        self.buffer.is_empty()
            && match self.stream.read(&mut [0; 1]) {
                Ok(count) => count == 0,
                Err(error) => !silent.contains(&error.kind()),
            }
    }

    /// Everything until the peer closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
        }
    }

    /// Takes bytes up to and including `end`.
    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    fn read_response(&mut self, has_body: bool) -> Option<Response> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8(head[..head.len() - 4].to_vec()).ok()?;
        let mut response = Response { head, body: Vec::new() };
        let status = response.status();
        if !has_body || status < 200 || status == 204 || status == 304 {
            return Some(response);
        }
        if response.header("transfer-encoding").is_some() {
            loop {
                let line = self.until(b"\r\n")?;
                let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
                if size == 0 {
                    self.until(b"\r\n")?;
                    return Some(response);
                }
                response.body.extend(self.exactly(size)?);
                assert_eq!(self.exactly(2)?, b"\r\n", "a chunk ends in CRLF");
            }
        }
        response.body = match response.header("content-length") {
            Some(length) => self.exactly(length.parse().ok()?)?,
            None => self.rest(),
        };
        Some(response)
    }
}

/// A GET on a connection of its own; `None` where nobody answers.
pub fn http_get(port: u16, path: &str) -> Option<Response> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut client = Client { stream, buffer: Vec::new() };
    client.try_send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
    client.try_response()
}

//! A backend that does exactly what it is told to, and remembers what it was sent.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A listening backend. Its threads end with the process.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

/// One connection, from the backend's side.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
    buffer: Vec<u8>,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Conversation {
    /// Reads up to and including `end`; `None` where the peer closed before.
    pub fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            self.fill()?;
        }
    }

    /// Reads a head.
    pub fn head(&mut self) -> Option<String> {
        self.until(b"\r\n\r\n").map(|head| String::from_utf8_lossy(&head).into_owned())
    }

    /// Reads so many bytes.
    pub fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Sends bytes; a peer that is gone does not get them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Sends bytes; whether the peer was there.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Whatever comes next; `None` where the peer has closed.
    pub fn some_bytes(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// The body of a request whose head came, by its length or its chunks.
    pub fn body(&mut self, head: &str) -> Vec<u8> {
        let value = |name: &str| {
            head.lines().find_map(|line| {
                let (n, value) = line.split_once(':')?;
                n.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        if let Some(length) = value("content-length").and_then(|length| length.parse().ok()) {
            return self.exactly(length).unwrap_or_default();
        }
        let mut body = Vec::new();
        if value("transfer-encoding").is_some() {
            while let Some(line) = self.until(b"\r\n") {
                let size = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
                body.extend(self.exactly(size).unwrap_or_default());
                self.until(b"\r\n");
                if size == 0 {
                    break;
                }
            }
        }
        body
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 65_536];
        let n = self.stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        self.buffer.extend_from_slice(&chunk[..n]);
        self.received.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..n]);
        Some(())
    }
}

impl Backend {
    /// Starts one with a script.
    pub fn start(script: impl Fn(usize, &mut Conversation) + Send + Sync + 'static) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), script)
    }

    /// The same at an address of this machine.
    pub fn start_at(
        address: SocketAddr,
        script: impl Fn(usize, &mut Conversation) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (kept, counted) = (received.clone(), connections.clone());
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let mut conversation = Conversation { stream, buffer: Vec::new(), received: kept.clone() };
                let script = script.clone();
                std::thread::spawn(move || script(number, &mut conversation));
            }
        });
        Self { address, received, connections }
    }

    /// One that answers every GET with `name`.
    pub fn named(name: &'static str) -> Self {
        Self::named_at(name, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// The same at an address of this machine.
    pub fn named_at(name: &'static str, address: SocketAddr) -> Self {
        Self::start_at(address, move |_, peer| {
            while peer.head().is_some() {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
            }
        })
    }

    /// Everything it was sent so far, as text.
    pub fn received(&self) -> String {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&received).into_owned()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

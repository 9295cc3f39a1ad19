//! A client that sends exactly the frames of HTTP/2 that it is told to. Of responses it reads what tests ask about.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A frame (RFC 9113 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// `Type`.
    pub kind: u8,
    /// `Flags`.
    pub flags: u8,
    /// `Stream Identifier`.
    pub stream: u32,
    /// What follows its head.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame as it is.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    /// DATA.
    pub fn data(stream: u32, payload: &[u8], ends: bool) -> Self {
        Self::new(DATA, u8::from(ends), stream, payload)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// What came on one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    status: String,
    /// Informational statuses before the final one.
    pub informational: Vec<String>,
    /// Its content.
    pub body: Vec<u8>,
    /// It has ended, or the connection has.
    pub is_over: bool,
    /// It was reset, with this code.
    pub reset: Option<u32>,
}

impl Stream {
    /// The final status; empty before there is one.
    pub fn status(&self) -> &str {
        &self.status
    }
}

/// A connection.
#[derive(Debug)]
pub struct Http2 {
    stream: TcpStream,
    buffer: Vec<u8>,
    next: u32,
    sent: usize,
    streams: HashMap<u32, Stream>,
    greeted: bool,
    goaway: Option<u32>,
    closed: bool,
}

impl Http2 {
    /// Connects, sends the preface, asks for header blocks that need no table, and waits for the peer's settings: their
    /// acknowledgement must not come between frames that a test sends.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the port answers");
        stream.set_nodelay(true).expect("no delay");
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
        let streams = HashMap::new();
        let mut client = Self {
            stream,
            buffer: Vec::new(),
            next: 1,
            sent: 0,
            streams,
            greeted: false,
            goaway: None,
            closed: false,
        };
        client.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("sent");
        client.send(&Frame::new(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]));
        client.until(|client| client.greeted);
        client.sent = 0;
        client
    }

    /// Whether nothing was sent but the preface.
    pub const fn is_fresh(&self) -> bool {
        self.sent == 0
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Frame) {
        assert!(self.try_send(frame), "the connection takes frames");
    }

    /// Sends a frame to a peer that may have closed.
    pub fn try_send(&mut self, frame: &Frame) -> bool {
        self.sent += 1;
        self.stream.write_all(&frame.bytes()).is_ok()
    }

    /// Begins a request. Fields are sent as they are.
    pub fn request(&mut self, fields: &[(&str, &str)], ends: bool) -> u32 {
        let stream = self.next;
        self.next += 2;
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            string(&mut block, name);
            string(&mut block, value);
        }
        let (first, rest) = block.split_at(block.len().min(16_384));
        let mut chunks = rest.chunks(16_384).peekable();
        let all = if chunks.peek().is_none() { END_HEADERS } else { 0 };
        self.try_send(&Frame::new(HEADERS, all | u8::from(ends), stream, first));
        while let Some(chunk) = chunks.next() {
            let flags = if chunks.peek().is_none() { END_HEADERS } else { 0 };
            self.try_send(&Frame::new(9, flags, stream, chunk));
        }
        self.streams.insert(stream, Stream::default());
        stream
    }

    /// The whole response.
    pub fn response(&mut self, stream: u32) -> Stream {
        let outcome = self.outcome(stream);
        assert!(outcome.reset.is_none() && !outcome.status.is_empty(), "a response: {outcome:?}, {self:?}");
        outcome
    }

    /// What became of a request.
    pub fn outcome(&mut self, stream: u32) -> Stream {
        self.until(|client| client.streams.get(&stream).is_some_and(|stream| stream.is_over));
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// The head of a response that goes on.
    pub fn head(&mut self, stream: u32) -> Stream {
        self.until(|client| client.streams.get(&stream).is_some_and(|s| s.is_over || !s.status.is_empty()));
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// The next bytes of a stream.
    pub fn data(&mut self, stream: u32, count: usize) -> Vec<u8> {
        self.until(|client| client.streams.get(&stream).is_some_and(|s| s.is_over || s.body.len() >= count));
        let body = &mut self.streams.get_mut(&stream).expect("a stream").body;
        let count = count.min(body.len());
        body.drain(..count).collect()
    }

    /// The code of a GOAWAY, if one has come. Takes what is there and does not wait.
    pub fn goaway(&mut self) -> Option<u32> {
        self.stream.set_nonblocking(true).expect("a mode");
        while self.fill() {}
        self.stream.set_nonblocking(false).expect("a mode");
        self.goaway
    }

    /// Whether the peer has closed.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
        while !done(self) && !self.closed {
            self.fill();
            assert!(Instant::now() < deadline, "too long: {:?}", self.streams);
        }
    }

    /// Reads once; whether there was something.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.close(),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                while let Some(frame) = self.frame() {
                    self.take(&frame);
                }
                return true;
            }
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
            Err(_) => self.close(),
        }
        false
    }

    fn close(&mut self) {
        self.closed = true;
        self.streams.values_mut().for_each(|stream| stream.is_over = true);
    }

    fn frame(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.buffer.get(..9)?.try_into().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if self.buffer.len() < 9 + length {
            return None;
        }
        let payload = self.buffer[9..9 + length].to_vec();
        self.buffer.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn take(&mut self, frame: &Frame) {
        let code = |at: usize| {
            let bytes = frame.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_be_bytes(bytes.unwrap_or_default())
        };
        match frame.kind {
            SETTINGS if frame.flags & 1 == 0 => {
                self.greeted = true;
                self.try_send(&Frame::new(SETTINGS, 1, 0, &[]));
            }
            GOAWAY => self.goaway = Some(code(4)),
            DATA | HEADERS | RST_STREAM => {
                let stream = self.streams.entry(frame.stream).or_default();
                match frame.kind {
                    DATA => stream.body.extend_from_slice(&frame.payload),
                    RST_STREAM => {
                        stream.reset = Some(code(0));
                        stream.is_over = true;
                    }
                    _ => {
                        let status = status(&frame.payload);
                        match status.starts_with('1') {
                            true => stream.informational.push(status),
                            false if !status.is_empty() => stream.status = status,
                            false => {}
                        }
                    }
                }
                stream.is_over |= frame.kind != RST_STREAM && frame.flags & END_STREAM != 0;
                if frame.kind == DATA && !frame.payload.is_empty() {
                    let count = (frame.payload.len() as u32).to_be_bytes();
                    self.try_send(&Frame::new(WINDOW_UPDATE, 0, 0, &count));
                    self.try_send(&Frame::new(WINDOW_UPDATE, 0, frame.stream, &count));
                }
            }
            _ => {}
        }
    }
}

/// A string without Huffman's code (RFC 7541 §5.2).
fn string(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

/// The status of a header block: its first field, by number of the static table or by name (RFC 7541, appendix A).
fn status(block: &[u8]) -> String {
    let block = match block {
        // A change of the table's size comes first.
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [0x88, ..] => "200".to_owned(),
        [0x89, ..] => "204".to_owned(),
        [0x8a, ..] => "206".to_owned(),
        [0x8b, ..] => "304".to_owned(),
        [0x8c, ..] => "400".to_owned(),
        [0x8d, ..] => "404".to_owned(),
        [0x8e, ..] => "500".to_owned(),
        [0x08 | 0x48 | 0x18, length, value @ ..] => {
            let value = &value[..usize::from(length & 0x7f).min(value.len())];
            if length & 0x80 == 0 { String::from_utf8_lossy(value).into_owned() } else { digits(value) }
        }
        _ => String::new(),
    }
}

/// Three digits in Huffman's code: 0 to 2 have five bits, the others six (RFC 7541, appendix B).
fn digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |n: u8, bit| n << 1 | bit);
    let (mut text, mut at) = (String::new(), 0);
    while text.len() < 3 && at + 5 <= bits.len() {
        let five = number(&bits[at..at + 5]);
        if five <= 2 {
            text.push(char::from(b'0' + five));
            at += 5;
        } else if at + 6 <= bits.len() {
            text.push(char::from(b'3' + number(&bits[at..at + 6]).wrapping_sub(0b01_1001)));
            at += 6;
        } else {
            break;
        }
    }
    text
}

//! A backend's side of an HTTP/2 connection, frame by frame.

use crate::backend::Conversation;
use crate::http2::Frame;

/// A connection whose preface has come.
#[derive(Debug)]
pub struct FrameServer<'a> {
    peer: &'a mut Conversation,
    /// Whether PINGs are answered.
    pub answers_pings: bool,
}

impl<'a> FrameServer<'a> {
    const PREFACE: &'static [u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// Reads the preface, and sends settings that say nothing; none where something else came.
    pub fn accept(peer: &'a mut Conversation) -> Option<Self> {
        (peer.exactly(Self::PREFACE.len())? == Self::PREFACE).then_some(())?;
        let mut server = Self { peer, answers_pings: true };
        server.send(&Frame::new(4, 0, 0, &[]));
        Some(server)
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Frame) {
        self.peer.send(frame.bytes());
    }

    /// Sends several frames as one.
    pub fn send_all(&mut self, frames: &[Frame]) {
        self.peer.send(frames.iter().flat_map(Frame::bytes).collect::<Vec<_>>());
    }

    /// The next frame that is neither SETTINGS nor WINDOW_UPDATE nor PING; none where the peer has closed.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let head: [u8; 9] = self.peer.exactly(9)?.try_into().ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream, payload: self.peer.exactly(length)? };
            match (frame.kind, frame.flags & 1) {
                (4, 0) => self.send(&Frame::new(4, 1, 0, &[])),
                (6, 0) if self.answers_pings => self.send(&Frame::new(6, 1, 0, &frame.payload)),
                (4 | 6 | 8, _) => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next request's stream, and whether it has no body.
    pub fn request(&mut self) -> Option<(u32, bool)> {
        loop {
            let frame = self.next_frame()?;
            if frame.kind == 1 {
                return Some((frame.stream, frame.flags & 1 == 1));
            }
        }
    }

    /// What follows on a stream, to its end.
    pub fn body(&mut self, stream: u32) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let frame = self.next_frame()?;
            if frame.stream == stream && frame.kind == 0 {
                body.extend(&frame.payload);
                if frame.flags & 1 == 1 {
                    return Some(body);
                }
            }
        }
    }

    /// The head of a 200; `ends`: that is all.
    pub fn head(&mut self, stream: u32, ends: bool) {
        self.send(&Frame::new(1, 4 | u8::from(ends), stream, &[0x88]));
    }

    /// A 200 with a body.
    pub fn respond(&mut self, stream: u32, body: &[u8]) {
        self.head(stream, false);
        self.send(&Frame::data(stream, body, true));
    }

    /// Takes no more streams after this one.
    pub fn goaway(&mut self, last: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend([0; 4]);
        self.send(&Frame::new(7, 0, 0, &payload));
    }

    /// Resets a stream.
    pub fn reset(&mut self, stream: u32, code: u32) {
        self.send(&Frame::new(3, 0, stream, &code.to_be_bytes()));
    }
}

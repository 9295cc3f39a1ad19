//! A meter over the frames of one connection, both ways: what a peer may send beside requests, and how often it may
//! change its mind.
//!
//! It reads the nine bytes before each frame, a few of what follows, and skips the rest. What is malformed is the
//! framing library's business; the meter ends what is well-formed and abusive: Rapid Reset (CVE-2023-44487),
//! MadeYouReset (CVE-2025-8671), floods of CONTINUATION (CVE-2024-27316), of control frames and of empty DATA
//! (CVE-2019-9511 to 9518), header lists by count (CVE-2026-47774).

use std::time::{Duration, Instant};

use super::PREFACE;
use super::fields::FieldCount;

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterLimits {
    /// Streams that may be reset within 30 s: by the peer, or by us for its mistakes.
    pub resets: u32,
    /// CONTINUATION frames of one header block.
    pub continuations: u32,
    /// Bytes of one header block as it is sent.
    pub block_bytes: u32,
    /// Fields of one header block, each crumb of a cookie being one.
    pub fields: u32,
    /// PING and SETTINGS that may come within 30 s beyond one for each frame of a message.
    pub control_frames: u32,
    /// DATA frames in a row that hold nothing and end nothing.
    pub empty_data: u32,
    /// PRIORITY frames for each stream.
    pub priorities_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame that we sent.
    pub window_updates_per_data: u32,
}

impl MeterLimits {
    /// The defaults at the edge.
    pub const INGRESS: Self = Self {
        resets: 200,
        continuations: 8,
        block_bytes: 60 << 10,
        fields: 1_000,
        control_frames: 1_000,
        empty_data: 10,
        priorities_per_stream: 100,
        window_updates_per_data: 10,
    };
    /// The defaults beside a service.
    pub const SIDECAR: Self = Self { resets: 1_000, ..Self::INGRESS };

    /// The same, with room for heads of so many bytes: whether one is too long is said to its stream, as long as it is not
    /// much too long.
    #[must_use]
    pub fn for_heads(self, bytes: usize) -> Self {
        let bytes = u32::try_from(bytes.saturating_mul(2)).unwrap_or(u32::MAX);
        Self {
            block_bytes: self.block_bytes.max(bytes),
            continuations: self.continuations.max(bytes / MIN_FRAME),
            ..self
        }
    }
}

/// Bytes of a frame that everybody takes (RFC 9113 §4.2).
const MIN_FRAME: u32 = 16 << 10;
/// The time over which resets and control frames are counted.
const WINDOW: Duration = Duration::from_secs(30);
/// PRIORITY and WINDOW_UPDATE frames that any connection may send.
const FREE_UPDATES: u64 = 1_000;

/// Which side of a connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The peer sends requests, after its preface.
    Server,
    /// The peer sends responses.
    Client,
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Streams that were reset.
    #[error("too many streams were reset")]
    Resets,
    /// CONTINUATION frames in a header block.
    #[error("a header block came in too many frames")]
    Continuations,
    /// Bytes of a header block.
    #[error("a header block is too long")]
    BlockBytes,
    /// Fields of a header block.
    #[error("a header block holds too many fields")]
    Fields,
    /// PING and SETTINGS.
    #[error("too many control frames came")]
    ControlFrames,
    /// DATA without content.
    #[error("too many empty DATA frames came")]
    EmptyData,
    /// PRIORITY.
    #[error("too many PRIORITY frames came")]
    Priorities,
    /// WINDOW_UPDATE.
    #[error("too many WINDOW_UPDATE frames came")]
    WindowUpdates,
}

/// The meter of one connection.
#[derive(Debug)]
pub struct Meter {
    limits: MeterLimits,
    inbound: Frames,
    outbound: Frames,
    /// When the counts of the window began.
    since: Option<Instant>,
    resets: u32,
    control_frames: u32,
    /// Of the block that is arriving.
    block: Block,
    empty_data: u32,
    headers: u64,
    data_sent: u64,
    priorities: u64,
    window_updates: u64,
    has_settings: bool,
    has_goaway: bool,
    side: Side,
}

#[derive(Debug, Default)]
struct Block {
    frames: u32,
    bytes: u32,
    fields: FieldCount,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

impl Meter {
    /// For a connection that has just begun.
    pub fn new(side: Side, limits: MeterLimits) -> Self {
        let preface = PREFACE.len();
        let (inbound, outbound) = match side {
            Side::Server => (preface, 0),
            Side::Client => (0, preface),
        };
        Self {
            limits,
            inbound: Frames::after(inbound),
            outbound: Frames::after(outbound),
            since: None,
            resets: 0,
            control_frames: 0,
            block: Block::default(),
            empty_data: 0,
            headers: 0,
            data_sent: 0,
            priorities: 0,
            window_updates: 0,
            has_settings: false,
            has_goaway: false,
            side,
        }
    }

    /// Whether the peer's settings have come.
    pub const fn has_settings(&self) -> bool {
        self.has_settings
    }

    /// Whether the peer has said that it takes no more streams.
    pub const fn has_goaway(&self) -> bool {
        self.has_goaway
    }

    /// Takes note of bytes that came. `now` is asked where time matters.
    ///
    /// # Errors
    /// What there was too much of. The connection must end.
    pub fn received(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Excess> {
        let mut frames = std::mem::take(&mut self.inbound);
        let outcome = frames.each(bytes, |frame, part| self.inbound(frame, part, &now));
        self.inbound = frames;
        outcome
    }

    /// Takes note of bytes that leave.
    ///
    /// # Errors
    /// As [`Meter::received`]: we had to reset too many streams.
    pub fn sent(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Excess> {
        let mut frames = std::mem::take(&mut self.outbound);
        let outcome = frames.each(bytes, |frame, part| match (frame.kind, part) {
            (DATA, Part::Begin) => {
                self.data_sent += 1;
                Ok(())
            }
            (RST_STREAM, Part::End) if self.side == Side::Server && blames_peer(frame.code) => {
                self.reset(now())
            }
            _ => Ok(()),
        });
        self.outbound = frames;
        outcome
    }

    fn inbound(&mut self, frame: &Frame, part: Part<'_>, now: &impl Fn() -> Instant) -> Result<(), Excess> {
        let limits = self.limits;
        match (frame.kind, part) {
            (DATA, Part::Begin) => {
                let says_something = frame.length > 0 || frame.flags & END_STREAM != 0;
                self.empty_data = if says_something { 0 } else { self.empty_data + 1 };
                within(self.empty_data <= limits.empty_data, Excess::EmptyData)
            }
            (HEADERS, Part::Begin) => {
                self.headers += 1;
                self.block = Block::default();
                Ok(())
            }
            (CONTINUATION, Part::Begin) => {
                self.block.frames += 1;
                within(self.block.frames <= limits.continuations, Excess::Continuations)
            }
            (HEADERS | CONTINUATION, Part::Bytes(bytes)) => {
                self.block.bytes = self.block.bytes.saturating_add(bytes.len() as u32);
                let fields = self.block.fields.take(bytes);
                within(self.block.bytes <= limits.block_bytes, Excess::BlockBytes)?;
                within(fields <= limits.fields, Excess::Fields)
            }
            (PRIORITY, Part::Begin) => {
                self.priorities += 1;
                let allowed = FREE_UPDATES + u64::from(limits.priorities_per_stream) * self.headers;
                within(self.priorities <= allowed, Excess::Priorities)
            }
            (WINDOW_UPDATE, Part::Begin) => {
                self.window_updates += 1;
                let for_data = u64::from(limits.window_updates_per_data) * self.data_sent;
                within(
                    self.window_updates <= FREE_UPDATES + 2 * self.headers + for_data,
                    Excess::WindowUpdates,
                )
            }
            // An endpoint ends what it was asked, which costs us nothing.
            (RST_STREAM, Part::End) if self.side == Side::Server => self.reset(now()),
            (GOAWAY, Part::Begin) => {
                self.has_goaway = true;
                Ok(())
            }
            (SETTINGS, Part::End) if frame.flags & ACK == 0 => {
                self.has_settings = true;
                Ok(())
            }
            (PING | SETTINGS, Part::Begin) if frame.flags & ACK == 0 => {
                self.turn(now());
                self.control_frames += 1;
                let messages = self.headers + self.data_sent;
                let allowed = u64::from(limits.control_frames) + messages;
                within(u64::from(self.control_frames) <= allowed, Excess::ControlFrames)
            }
            _ => Ok(()),
        }
    }

    fn reset(&mut self, now: Instant) -> Result<(), Excess> {
        self.turn(now);
        self.resets += 1;
        within(self.resets <= self.limits.resets, Excess::Resets)
    }

    /// Begins a new window where the old one is over.
    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= WINDOW {
            (self.since, self.resets, self.control_frames) = (Some(now), 0, 0);
        }
    }
}

const fn within(holds: bool, excess: Excess) -> Result<(), Excess> {
    if holds { Ok(()) } else { Err(excess) }
}

/// Whether we reset a stream for what the peer did: not because it is over (NO_ERROR), nobody wants it any more (CANCEL)
/// or something broke behind us (INTERNAL_ERROR).
const fn blames_peer(code: u32) -> bool {
    !matches!(code, 0 | 2 | 8)
}

/// The head of a frame (RFC 9113 §4.1), and the error code of an RST_STREAM.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    code: u32,
}

/// What of a frame there is to look at.
enum Part<'a> {
    /// Its head.
    Begin,
    /// Bytes of its header block.
    Bytes(&'a [u8]),
    /// It is over; its code is known.
    End,
}

/// Frames out of a stream of bytes.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the preface that are still to come.
    preface: usize,
    head: [u8; 9],
    /// Bytes of `head` that are there.
    filled: usize,
    frame: Frame,
    /// Bytes of the frame's payload that are still to come.
    left: u32,
    /// Of those, bytes before the header block, and padding after it.
    before: u32,
    padding: u32,
    /// The first byte of the payload says how much padding there is.
    tells_padding: bool,
}

impl Frames {
    fn after(preface: usize) -> Self {
        Self { preface, ..Self::default() }
    }

    fn each(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(&Frame, Part<'_>) -> Result<(), Excess>,
    ) -> Result<(), Excess> {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() {
            if self.left == 0 {
                let missing = (self.head.len() - self.filled).min(rest.len());
                self.head[self.filled..self.filled + missing].copy_from_slice(&rest[..missing]);
                self.filled += missing;
                rest = &rest[missing..];
                if self.filled < self.head.len() {
                    return Ok(());
                }
                self.begin();
                visit(&self.frame, Part::Begin)?;
            } else {
                let count = (self.left as usize).min(rest.len());
                let (payload, after) = rest.split_at(count);
                rest = after;
                self.payload(payload, &mut visit)?;
                self.left -= count as u32;
            }
            if self.left == 0 {
                visit(&self.frame, Part::End)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.frame = Frame { length, kind, flags, code: 0 };
        (self.filled, self.left, self.padding) = (0, length, 0);
        let is_headers = kind == HEADERS;
        self.tells_padding = is_headers && flags & PADDED != 0;
        self.before = if is_headers && flags & HAS_PRIORITY != 0 { 5 } else { 0 };
    }

    fn payload(
        &mut self,
        payload: &[u8],
        visit: &mut impl FnMut(&Frame, Part<'_>) -> Result<(), Excess>,
    ) -> Result<(), Excess> {
        match self.frame.kind {
            RST_STREAM => {
                payload.iter().for_each(|byte| self.frame.code = self.frame.code << 8 | u32::from(*byte));
                Ok(())
            }
            HEADERS | CONTINUATION => {
                let mut block = payload;
                let mut left = self.left;
                if self.tells_padding {
                    self.tells_padding = false;
                    (self.padding, block, left) = (u32::from(block[0]), &block[1..], left - 1);
                }
                let skipped = (self.before as usize).min(block.len());
                self.before -= skipped as u32;
                (block, left) = (&block[skipped..], left - skipped as u32);
                let content = left.saturating_sub(self.padding) as usize;
                visit(&self.frame, Part::Bytes(&block[..content.min(block.len())]))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

//! How many fields a header block holds, told from its bytes alone, before anybody decodes it (RFC 7541 §6).
//!
//! ```text
//!   Start ─indexed─────────────────────────────► +1 ─► Start
//!     │ ─size update───────────────────────────────► Start
//!     └ ─literal─► [name] ─► value ─► +1 ─► Start
//! ```
//! One byte can stand for a field of 4 KiB, and a cookie can come in any number of crumbs: their number is bounded while
//! the block arrives, not once it is a table.

/// Counts the fields of one header block, over all of its frames.
#[derive(Debug, Default)]
pub(super) struct FieldCount {
    fields: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// A representation begins.
    #[default]
    Start,
    /// Within an integer that is no length; so many strings follow.
    Index { strings: u8 },
    /// A string's length begins; so many strings follow after it.
    Length { strings: u8 },
    /// Within a length.
    LongLength { length: u64, shift: u32, strings: u8 },
    /// Within a string.
    Text { left: u64, strings: u8 },
}

impl FieldCount {
    /// Takes the next bytes of the block. Returns how many fields have begun.
    pub(super) fn take(&mut self, bytes: &[u8]) -> u32 {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            if let State::Text { left, strings } = self.state {
                let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                rest = &rest[skipped..];
                self.state = match left - skipped as u64 {
                    0 => Self::before(strings),
                    left => State::Text { left, strings },
                };
                continue;
            }
            rest = after;
            self.step(byte);
        }
        self.fields
    }

    fn step(&mut self, byte: u8) {
        self.state = match self.state {
            State::Start => self.begin(byte),
            State::Index { strings } if byte & 0x80 != 0 => State::Index { strings },
            State::Index { strings } => Self::before(strings),
            State::Length { strings } => match byte & 0x7f {
                0x7f => State::LongLength { length: 0x7f, shift: 0, strings },
                length => Self::text(u64::from(length), strings),
            },
            State::LongLength { length, shift, strings } => {
                let length = length.saturating_add(u64::from(byte & 0x7f) << shift.min(56));
                match byte & 0x80 {
                    0 => Self::text(length, strings),
                    _ => State::LongLength { length, shift: shift + 7, strings },
                }
            }
            State::Text { .. } => self.state,
        };
    }

    /// The first byte of a representation.
    const fn begin(&mut self, byte: u8) -> State {
        let (mask, strings) = match byte {
            0x80.. => (0x7f, 0),
            // A name by its number is followed by its value alone.
            0x40.. => (0x3f, if byte & 0x3f == 0 { 2 } else { 1 }),
            0x20.. => (0x1f, 0),
            _ => (0x0f, if byte & 0x0f == 0 { 2 } else { 1 }),
        };
        let is_size_update = byte >= 0x20 && byte < 0x40;
        if !is_size_update {
            self.fields += 1;
        }
        if byte & mask == mask { State::Index { strings } } else { Self::before(strings) }
    }

    const fn before(strings: u8) -> State {
        match strings {
            0 => State::Start,
            _ => State::Length { strings: strings - 1 },
        }
    }

    const fn text(left: u64, strings: u8) -> State {
        match left {
            0 => Self::before(strings),
            _ => State::Text { left, strings },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of RFC 7541, appendix C, with the fields that they hold.
    const EXAMPLES: [(&[u8], u32); 6] = [
        (b"\x40\x0acustom-key\x0dcustom-header", 1),
        (b"\x04\x0c/sample/path", 1),
        (b"\x10\x08password\x06secret", 1),
        (b"\x82", 1),
        (b"\x82\x86\x84\x41\x0fwww.example.com", 4),
        (b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", 5),
    ];

    #[test]
    fn fields_are_counted_wherever_the_block_is_cut() {
        for (block, fields) in EXAMPLES {
            for cut in 0..=block.len() {
                let mut count = FieldCount::default();
                count.take(&block[..cut]);
                assert_eq!(count.take(&block[cut..]), fields, "{block:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_size_update_is_no_field() {
        assert_eq!(FieldCount::default().take(b"\x3f\xe1\x1f\x82"), 1);
    }

    #[test]
    fn lengths_beyond_a_byte_are_skipped_whole() {
        let mut block = b"\x40\x01a\x7f\xad\x01".to_vec();
        // 127 + 45 + 128 = 300 bytes that look like indexed fields.
        block.extend([0x82; 300]);
        block.push(0x82);
        assert_eq!(FieldCount::default().take(&block), 2);
    }

    #[test]
    fn a_length_without_end_overflows_nothing() {
        let mut block = b"\x40\x01a\x7f".to_vec();
        block.extend([0xff; 4096]);
        assert_eq!(FieldCount::default().take(&block), 1);
    }
}

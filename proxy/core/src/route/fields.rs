//! Which of the headers that routes ask for a request has, found in one walk over its lines.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::RequestView;
use crate::config::{Condition, FieldName, HeaderMatch, Predicate};

/// Headers that conditions of a virtual host want to be there, each with a bit; the first 64 of them.
#[derive(Debug, Default)]
pub(super) struct Fields {
    bits: HashMap<Box<[u8]>, u8, FixedState>,
    /// A bit for each length that a name has, as far as there are bits.
    lengths: u64,
}

/// The most names that have a bit, and the longest.
const MOST: usize = 64;
const LONGEST: usize = 63;

impl Fields {
    /// The bit of a name, made where there is room.
    pub(super) fn add(&mut self, name: &str) -> Option<u8> {
        if let Some(bit) = self.bits.get(name.as_bytes()) {
            return Some(*bit);
        }
        if self.bits.len() == MOST || name.len() > LONGEST {
            return None;
        }
        let bit = self.bits.len() as u8;
        self.bits.insert(name.as_bytes().into(), bit);
        self.lengths |= 1 << name.len();
        Some(bit)
    }

    /// The bit of a name, if it has one.
    pub(super) fn bit(&self, name: &str) -> Option<u8> {
        self.bits.get(name.as_bytes()).copied()
    }

    /// The names that a request must have for all of `conditions` to hold.
    pub(super) fn required(&mut self, conditions: &[Condition]) -> u64 {
        let names = conditions.iter().filter_map(required_header);
        names.filter_map(|name| self.add(name)).fold(0, |mask, bit| mask | 1 << bit)
    }

    /// Which of them a request has. Cost: a look at the length of each name, and a hash of those that may be meant.
    pub(super) fn present(&self, request: &impl RequestView) -> u64 {
        let mut present = 0;
        request.each_name(|name| {
            if name.len() > LONGEST || self.lengths >> name.len() & 1 == 0 {
                return;
            }
            let mut lower = [0_u8; LONGEST];
            let lower = &mut lower[..name.len()];
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            if let Some(bit) = self.bits.get(&*lower) {
                present |= 1 << bit;
            }
        });
        present
    }
}

/// The header without which a condition cannot hold.
fn required_header(condition: &Condition) -> Option<&str> {
    let Condition::Header(HeaderMatch {
        name: FieldName::Header(name),
        predicate,
        inverted,
        missing_is_empty,
    }) = condition
    else {
        return None;
    };
    let wants_it = match predicate {
        Predicate::Present => !inverted,
        Predicate::Absent => *inverted,
        Predicate::Text(_) | Predicate::Range(..) => true,
    };
    (wants_it && !missing_is_empty).then_some(name)
}

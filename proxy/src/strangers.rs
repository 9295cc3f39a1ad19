//! Lines that strangers can cause: as many as people read, and a word on the rest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines a second, of the whole process.
const LINES: u64 = 20;

/// How many lines there were in this second.
#[derive(Debug)]
pub(crate) struct Throttle {
    second: AtomicU64,
    lines: AtomicU64,
}

/// The process's.
pub(crate) static STRANGERS: Throttle = Throttle::new();

impl Throttle {
    const fn new() -> Self {
        Self { second: AtomicU64::new(0), lines: AtomicU64::new(0) }
    }

    /// Whether a line may be written, and how many were not since the last one.
    pub(crate) fn admit(&self) -> Option<u64> {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.admit_at(second)
    }

    fn admit_at(&self, second: u64) -> Option<u64> {
        let withheld = match self.second.swap(second, Ordering::Relaxed) == second {
            true => 0,
            false => self.lines.swap(0, Ordering::Relaxed).saturating_sub(LINES),
        };
        (self.lines.fetch_add(1, Ordering::Relaxed) < LINES).then_some(withheld)
    }
}

/// A line at level `info` about what a client or an endpoint did, as long as there are not too many of them. The
/// counters have all.
#[macro_export]
macro_rules! stranger {
    ($($line:tt)*) => {
        if let Some(withheld) = $crate::strangers::STRANGERS.admit() {
            if withheld > 0 {
                tracing::info!(withheld, "more such lines were withheld");
            }
            tracing::info!($($line)*);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_a_word_on_the_rest() {
        let throttle = Throttle::new();
        let admitted =
            |second, times: u32| (0..times).filter_map(|_| throttle.admit_at(second)).collect::<Vec<_>>();
        assert_eq!(admitted(7, 25), vec![0; 20]);
        assert_eq!(admitted(8, 2), vec![5, 0]);
        assert_eq!(admitted(9, 1), vec![0]);
    }
}

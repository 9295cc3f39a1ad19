//! Overload: what a proxy stops doing before its memory is full, and when a worker counts as stuck.

use std::time::Duration;

/// How full the memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is room.
    #[default]
    None,
    /// Connections end with their next response, so that clients spread over others.
    StopKeepAlive,
    /// New connections and new requests are refused.
    Shed,
}

impl Pressure {
    /// From the memory in use and its limit, in bytes: 92 % stops keep-alive, 95 % sheds, as Envoy's guide for edges has it.
    pub const fn of(used: u64, limit: u64) -> Self {
        let percent = used.saturating_mul(100);
        if percent >= limit.saturating_mul(95) {
            Self::Shed
        } else if percent >= limit.saturating_mul(92) {
            Self::StopKeepAlive
        } else {
            Self::None
        }
    }
}

/// How long a worker has not come back to its event loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stall {
    /// It comes and goes.
    #[default]
    None,
    /// A second: it is counted.
    Counted,
    /// Ten seconds: it is told of.
    Stuck,
}

impl Stall {
    /// From the time since a worker last told that it is alive.
    pub const fn of(silent: Duration) -> Self {
        match silent.as_secs() {
            0 => Self::None,
            1..=9 => Self::Counted,
            _ => Self::Stuck,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_in_two_steps() {
        for (used, expected) in [
            (0, Pressure::None),
            (919, Pressure::None),
            (920, Pressure::StopKeepAlive),
            (949, Pressure::StopKeepAlive),
            (950, Pressure::Shed),
            (u64::MAX, Pressure::Shed),
        ] {
            assert_eq!(Pressure::of(used, 1_000), expected, "{used}");
        }
    }

    #[test]
    fn a_worker_is_counted_after_a_second_and_told_of_after_ten() {
        for (millis, expected) in
            [(999, Stall::None), (1_000, Stall::Counted), (9_999, Stall::Counted), (10_000, Stall::Stuck)]
        {
            assert_eq!(Stall::of(Duration::from_millis(millis)), expected, "{millis}");
        }
    }
}

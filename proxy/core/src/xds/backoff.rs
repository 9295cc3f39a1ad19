//! How long to wait before connecting again.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Exponential back-off with full jitter: a delay between 0 and a bound that starts at 0.5 s and doubles up to 30 s, so
/// that a fleet that lost its control plane does not come back as one wave. Envoy's constants.
#[derive(Debug)]
pub struct Backoff {
    attempts: u32,
    rng: SmallRng,
}

impl Backoff {
    /// The bound of the first delay.
    pub const BASE: Duration = Duration::from_millis(500);
    /// The bound that is never exceeded.
    pub const MAX: Duration = Duration::from_secs(30);

    /// No attempt has failed yet.
    pub fn new(seed: u64) -> Self {
        Self { attempts: 0, rng: SmallRng::seed_from_u64(seed) }
    }

    /// An attempt failed: wait this long.
    pub fn next_delay(&mut self) -> Duration {
        let bound = Self::BASE.saturating_mul(1 << self.attempts.min(16)).min(Self::MAX);
        self.attempts += 1;
        self.rng.random_range(Duration::ZERO..=bound)
    }

    /// The control plane answered. A connection alone is no answer (gRFC A57).
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_from_half_a_second_to_thirty() {
        let mut longest = [Duration::ZERO; 12];
        for seed in 0..500 {
            let mut backoff = Backoff::new(seed);
            for slot in &mut longest {
                *slot = (*slot).max(backoff.next_delay());
            }
        }
        for (attempt, longest) in longest.iter().enumerate() {
            let bound = Backoff::BASE.saturating_mul(1 << attempt).min(Backoff::MAX);
            assert!(*longest <= bound && *longest > bound / 2, "attempt {attempt}: {longest:?} of {bound:?}");
        }
    }

    #[test]
    fn an_answer_starts_over() {
        let mut backoff = Backoff::new(1);
        (0..10).for_each(|_| {
            backoff.next_delay();
        });
        backoff.reset();
        assert!(backoff.next_delay() <= Backoff::BASE);
    }
}

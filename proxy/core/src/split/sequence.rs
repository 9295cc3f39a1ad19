//! Exact shares, request by request.
//!
//! The problem is the chairman assignment problem (Tijdeman, 1980): serve arm *i* at rate *wᵢ/W* so that after every
//! prefix of *t* requests it was served less than one time more or less than *wᵢ·t/W*. The rule is that of proportionate
//! fairness (Baruah, Cohen, Plaxton, Varvel, 1996): among the arms that are owed something, serve the one that would
//! otherwise be the first to be a whole request behind.

use crate::config::{Arm, ArmName};

/// Which of several workers asks, so that they do not all start with the same arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// From 0.
    pub worker: u32,
    /// At least 1.
    pub workers: u32,
}

impl Phase {
    /// The phase of a lone worker: the sequence starts at its start.
    pub const START: Self = Self { worker: 0, workers: 1 };
}

/// Requests that are played through to reach a phase: a fraction of a millisecond at most, once for a route. Weights are
/// reduced first, so nearly every split stays below.
const LONGEST_REPLAY: u64 = 1 << 16;

/// Small totals are scaled up to about this.
const RESOLUTION: i64 = 1 << 24;

/// The state of one split on one worker.
#[derive(Debug, Clone)]
pub struct Sequence {
    arms: Vec<Credit>,
    /// Sum of weights, W.
    total: i64,
    /// Requests after which the sequence repeats.
    period: i64,
}

#[derive(Debug, Clone)]
struct Credit {
    name: ArmName,
    /// w, 0 ≤ w ≤ W.
    weight: i64,
    /// What the arm is owed, in requests times W; between -W and W. The credits of all arms add up to 0.
    owed: i64,
}

impl Credit {
    /// Requests until this arm would be a whole request behind, as the fraction `.0 / .1`.
    const fn slack(&self, total: i64) -> (i128, i128) {
        ((total - self.owed) as i128, self.weight as i128)
    }
}

impl Sequence {
    /// A sequence over `arms`, whose weights add up to at least 1, started at a phase of its period.
    pub fn new(arms: &[Arm], phase: Phase) -> Self {
        let mut sequence = Self::at_rest(arms);
        let start =
            sequence.period.unsigned_abs() * u64::from(phase.worker) / u64::from(phase.workers.max(1));
        if start <= LONGEST_REPLAY {
            for _ in 0..start {
                sequence.next();
            }
        } else {
            sequence.seek(i128::from(start));
        }
        sequence
    }

    fn at_rest(arms: &[Arm]) -> Self {
        let arms: Vec<_> = arms
            .iter()
            .map(|arm| Credit { name: arm.name.clone(), weight: i64::from(arm.weight.0), owed: 0 })
            .collect();
        let mut sequence = Self { arms, total: 0, period: 0 };
        sequence.normalize();
        sequence
    }

    /// Divides the weights by their greatest common divisor, as 90/10 repeats after 10 requests, not after 100; then scales
    /// them up, so that a credit taken over from another total loses next to nothing.
    fn normalize(&mut self) {
        let divisor = self.arms.iter().fold(0, |divisor, arm| gcd(divisor, arm.weight)).max(1);
        let sum: i64 = self.arms.iter().map(|arm| arm.weight / divisor).sum();
        self.period = sum.max(1);
        let scale = (RESOLUTION / self.period).max(1);
        self.arms.iter_mut().for_each(|arm| arm.weight = arm.weight / divisor * scale);
        self.total = self.period * scale;
    }

    /// A valid state after `requests`, computed at once: every arm was served its share rounded down, and those next to fall
    /// behind once more. (Of all valid states at that time this is the one from which every future is open: exchanging
    /// a served arm for one with an earlier deadline keeps a schedule valid. It need not be the one that the sequence
    /// itself passes through, so the first period from here may be one request off where a replay would be exact.)
    fn seek(&mut self, requests: i128) {
        let total = i128::from(self.total);
        let mut behind: Vec<usize> = Vec::new();
        let mut unserved = 0;
        for (i, arm) in self.arms.iter_mut().enumerate() {
            let rest = i128::from(arm.weight) * requests % total;
            arm.owed = rest as i64;
            unserved += rest;
            if rest > 0 {
                behind.push(i);
            }
        }
        behind.sort_by(|a, b| {
            let ((slack_a, weight_a), (slack_b, weight_b)) =
                (self.arms[*a].slack(self.total), self.arms[*b].slack(self.total));
            (slack_a * weight_b).cmp(&(slack_b * weight_a))
        });
        for i in behind.into_iter().take((unserved / total) as usize) {
            self.arms[i].owed -= self.total;
        }
    }

    /// The arm that takes the next request, by index. Cost: one pass over the arms, no allocation.
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "a sequence never ends, so it is no iterator")]
    pub fn next(&mut self) -> usize {
        let mut best = 0;
        let mut best_slack: Option<(i128, i128)> = None;
        for (i, arm) in self.arms.iter_mut().enumerate() {
            if arm.weight == 0 {
                continue;
            }
            arm.owed += arm.weight;
            if arm.owed <= 0 {
                continue;
            }
            let (slack, weight) = arm.slack(self.total);
            if best_slack.is_none_or(|(s, w)| slack * w < s * weight) {
                (best, best_slack) = (i, Some((slack, weight)));
            }
        }
        debug_assert!(best_slack.is_some(), "credits add up to W after each was raised, so one is above 0");
        self.arms[best].owed -= self.total;
        best
    }

    /// Whether it is one over exactly these arms and shares.
    pub fn is_over(&self, arms: &[Arm]) -> bool {
        let other = Self::at_rest(arms);
        let same = |(a, b): (&Credit, &Credit)| a.name == b.name && a.weight == b.weight;
        self.total == other.total
            && self.arms.len() == other.arms.len()
            && self.arms.iter().zip(&other.arms).all(same)
    }

    /// Takes over new arms and weights. An arm keeps, by name, what it is owed, so that a 1 % arm is served even if
    /// weights change 20 times a second.
    pub fn rebase(&mut self, arms: &[Arm]) {
        let mut next = Self::at_rest(arms);
        let mut settling = Vec::new();
        for (i, arm) in next.arms.iter_mut().enumerate().filter(|(_, a)| a.weight > 0) {
            let old = self.arms.iter().find(|old| old.name == arm.name);
            let mut same_share = false;
            if let Some(old) = old {
                let owed = (i128::from(old.owed) * i128::from(next.total) / i128::from(self.total)) as i64;
                // Changes upon changes can leave more than a request; more than that is not carried on.
                arm.owed = owed.clamp(1 - next.total, next.total - 1);
                let (before, after) = (i128::from(old.weight), i128::from(arm.weight));
                same_share = before * i128::from(next.total) == after * i128::from(self.total);
            }
            settling.push((same_share, std::cmp::Reverse(arm.weight), i));
        }
        settling.sort_unstable();
        next.settle(settling.into_iter().map(|(_, _, i)| i));
        *self = next;
    }

    /// Makes the credits add up to 0 again: arms that left took theirs along. Arms whose share changed take the difference
    /// first, so that the others stay exact; among them the heaviest, as for it it is worth the least time.
    fn settle(&mut self, order: impl Iterator<Item = usize>) {
        let mut difference = -self.arms.iter().map(|a| a.owed).sum::<i64>();
        for i in order {
            let arm = &mut self.arms[i];
            let settled = (arm.owed + difference).clamp(1 - self.total, self.total - 1);
            difference -= settled - arm.owed;
            arm.owed = settled;
        }
        debug_assert!(
            difference == 0,
            "every credit was within bounds, so the arms had room for the difference"
        );
    }
}

const fn gcd(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::split::arms;

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(prop_oneof![0_u32..5, 0_u32..100, 0_u32..2_000_000], 1..8)
            .prop_filter("some weight", |w| w.iter().any(|w| *w > 0))
    }

    #[test]
    fn ninety_to_ten_gives_one_in_each_ten() {
        let mut sequence = Sequence::new(&arms(&[90, 10]), Phase::START);
        for window in 0..20 {
            let canary = (0..10).filter(|_| sequence.next() == 1).count();
            assert_eq!(canary, 1, "window {window}");
        }
    }

    #[test]
    fn one_in_a_million_is_served_once_in_a_million() {
        let mut sequence = Sequence::new(&arms(&[999_999, 1]), Phase::START);
        assert_eq!((0..1_000_000).filter(|_| sequence.next() == 1).count(), 1);
    }

    #[test]
    fn workers_start_at_different_phases() {
        let phases = [0, 1].map(|worker| Sequence::new(&arms(&[1, 1]), Phase { worker, workers: 2 }).next());
        let quarters: Vec<_> = (0..4)
            .map(|worker| Sequence::new(&arms(&[1, 1, 1, 1]), Phase { worker, workers: 4 }).next())
            .collect();
        assert_eq!(phases, [0, 1]);
        let mut distinct = quarters.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "{quarters:?}");
    }

    #[test]
    fn a_one_percent_arm_is_served_under_constant_updates() {
        // 20 updates a second at 100 requests a second: 5 requests between updates, the weights going to and fro.
        let mut sequence = Sequence::new(&arms(&[99, 1]), Phase::START);
        let mut canary = 0;
        for update in 0..2_000 {
            sequence.rebase(&arms(if update % 2 == 0 { &[198, 2] } else { &[99, 1] }));
            canary += (0..5).filter(|_| sequence.next() == 1).count();
        }
        assert!((99..=101).contains(&canary), "{canary} of 10,000");
    }

    #[test]
    fn an_arm_whose_share_stays_is_exact_while_others_change() {
        let mut sequence = Sequence::new(&arms(&[90, 0, 10]), Phase::START);
        let (mut stable, mut total) = (0, 0);
        for update in 0..2_000_u32 {
            let second = update % 11;
            sequence.rebase(&arms(&[90, second, 10 - second]));
            for _ in 0..7 + update % 5 {
                stable += u32::from(sequence.next() == 0);
                total += 1;
            }
        }
        let off = f64::from(stable) - f64::from(total) * 0.9;
        assert!(off.abs() < 2.0, "{off} off after {total}");
    }

    proptest! {
        #[test]
        fn every_prefix_is_less_than_one_request_off(weights in weights(), requests in 1_usize..3_000) {
            let total: i128 = weights.iter().map(|w| i128::from(*w)).sum();
            let mut sequence = Sequence::new(&arms(&weights), Phase::START);
            let mut served = vec![0_i128; weights.len()];
            for t in 1..=requests as i128 {
                served[sequence.next()] += 1;
                for (weight, served) in weights.iter().zip(&served) {
                    let off = served * total - i128::from(*weight) * t;
                    prop_assert!(off.abs() < total, "after {} requests an arm is {}/{} off", t, off, total);
                }
            }
        }

        #[test]
        fn a_full_period_is_exact(weights in proptest::collection::vec(0_u32..60, 1..6).prop_filter("some weight", |w| w.iter().any(|w| *w > 0)),
                                  worker in 0_u32..4) {
            let total: u32 = weights.iter().sum();
            let mut sequence = Sequence::new(&arms(&weights), Phase { worker, workers: 4 });
            let mut served = vec![0; weights.len()];
            for _ in 0..total {
                served[sequence.next()] += 1;
            }
            prop_assert_eq!(served, weights);
        }

        /// The same bound from any phase: no window is two requests off.
        #[test]
        fn any_window_from_any_phase_is_less_than_two_off(weights in weights(), worker in 0_u32..64, requests in 1_usize..500) {
            let total: i128 = weights.iter().map(|w| i128::from(*w)).sum();
            let mut sequence = Sequence::new(&arms(&weights), Phase { worker, workers: 64 });
            let mut served = vec![0_i128; weights.len()];
            for t in 1..=requests as i128 {
                served[sequence.next()] += 1;
                for (weight, served) in weights.iter().zip(&served) {
                    prop_assert!((served * total - i128::from(*weight) * t).abs() < 2 * total);
                }
            }
        }

        /// Whatever the updates, credits stay bounded, so that no arm is ever far from the sum of its shares.
        #[test]
        fn updates_lose_less_than_two_requests_each_arm(first in weights(), second in weights(), each in 1_usize..50) {
            let mut sequence = Sequence::new(&arms(&first), Phase::START);
            for round in 0..20 {
                sequence.rebase(&arms(if round % 2 == 0 { &second } else { &first }));
                for _ in 0..each {
                    sequence.next();
                }
                let sum: i64 = sequence.arms.iter().map(|a| a.owed).sum();
                prop_assert_eq!(sum, 0);
                for arm in &sequence.arms {
                    prop_assert!(arm.owed.abs() <= 2 * sequence.total, "{:?}", arm);
                }
            }
        }

        #[test]
        fn an_arm_of_weight_zero_takes_nothing(weights in weights()) {
            let mut sequence = Sequence::new(&arms(&weights), Phase::START);
            for _ in 0..500 {
                prop_assert!(weights[sequence.next()] > 0);
            }
        }
    }
}

//! Sticky shares: every user has an arm, and keeps it.
//!
//! Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): each arm draws a number for the user from a hash of
//! both and divides it by its weight; the smallest wins. A change of one weight changes one arm's number only, so users
//! move into an arm that was raised and out of one that was lowered, and nobody moves between the others. What the
//! weights add up to plays no part.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::Arm;

/// The arms of a split, hashed when the configuration is compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendezvous {
    salt: u64,
    arms: Box<[HashedArm]>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct HashedArm {
    hash: u64,
    weight: f64,
}

impl Rendezvous {
    /// Over `arms`, of which at least one has a weight. Another salt puts other users first.
    pub fn new(arms: &[Arm], salt: &str) -> Self {
        let salt = xxh3_64_with_seed(salt.as_bytes(), 0);
        let arms = arms
            .iter()
            .map(|arm| HashedArm {
                hash: xxh3_64_with_seed(arm.name.as_str().as_bytes(), salt),
                weight: f64::from(arm.weight.0),
            })
            .collect();
        Self { salt, arms }
    }

    /// The user's arm, by index. The same on every worker, replica and machine. Cost: one hash of the key, then a few
    /// multiplications an arm; no allocation.
    pub fn pick(&self, key: &[u8]) -> usize {
        self.pick_hashed(self.hash(key))
    }

    /// The hash of a user's key, for the calls below.
    pub fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.salt)
    }

    /// As [`Self::pick`].
    pub fn pick_hashed(&self, user: u64) -> usize {
        self.pick_among(user, |_| true).unwrap_or(0)
    }

    /// The user's arm among those that `may` take requests. Users of the others stay where they are.
    pub fn pick_among(&self, user: u64, may: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = (f64::INFINITY, None);
        for (i, arm) in self.arms.iter().enumerate().filter(|(i, a)| a.weight > 0.0 && may(*i)) {
            let drawn = negative_log2(mix(user ^ arm.hash)) / arm.weight;
            if drawn < best.0 {
                best = (drawn, Some(i));
            }
        }
        best.1
    }
}

/// The finaliser of SplitMix64: every bit of the input decides over every bit of the result.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// -log₂ of `x` / 2⁶⁴ as a number from 0 to 65, to about 10 digits.
///
/// Written out because the logarithm of the platform's library may differ in the last bit between machines, and two
/// replicas must agree. Additions, multiplications and one division are the same everywhere (IEEE 754).
fn negative_log2(x: u64) -> f64 {
    let x = x | 1;
    let zeros = x.leading_zeros();
    // 1 ≤ m < 2, and ln m = 2 artanh((m - 1) / (m + 1)).
    let m = ((x << zeros) >> 11) as f64 * (1.0 / (1_u64 << 52) as f64);
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut series = 0.0;
    let mut n = 19.0;
    while n >= 1.0 {
        series = series * s2 + 1.0 / n;
        n -= 2.0;
    }
    let log2_m = 2.0 * s * series * std::f64::consts::LOG2_E;
    f64::from(zeros) + (1.0 - log2_m).max(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::split::arms;

    fn user(id: u32) -> [u8; 4] {
        id.to_le_bytes()
    }

    #[test]
    fn the_logarithm_agrees_with_the_library() {
        for i in 0..200_000_u64 {
            let x = mix(i) | 1;
            let expected = -(x as f64 / 2_f64.powi(64)).log2();
            assert!((negative_log2(x) - expected).abs() < 1e-9, "{x}: {} {expected}", negative_log2(x));
        }
    }

    /// Shares lie within four standard deviations of the binomial.
    #[test]
    fn shares_follow_weights() {
        for weights in
            [&[0, 100][..], &[999, 1], &[95, 5], &[70, 30], &[1, 2, 3, 4], &[4_000_000_000, 1_000_000]]
        {
            let rendezvous = Rendezvous::new(&arms(weights), "salt");
            let users = 100_000;
            let mut counts = vec![0_u32; weights.len()];
            for id in 0..users {
                counts[rendezvous.pick(&user(id))] += 1;
            }
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (weight, count) in weights.iter().zip(&counts) {
                let p = f64::from(*weight) / total;
                let expected = p * f64::from(users);
                let sigma = (expected * (1.0 - p)).sqrt();
                assert!((f64::from(*count) - expected).abs() <= 4.0 * sigma, "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn one_user_in_a_million_is_met() {
        let rendezvous = Rendezvous::new(&arms(&[999_999, 1]), "salt");
        let met = (0..4_000_000).filter(|id| rendezvous.pick(&user(*id)) == 1).count();
        // Four are expected; four standard deviations are eight.
        assert!((1..=12).contains(&met), "{met}");
    }

    #[test]
    fn another_salt_chooses_other_users() {
        let (a, b) = (Rendezvous::new(&arms(&[9, 1]), "a"), Rendezvous::new(&arms(&[9, 1]), "b"));
        let both = (0..10_000).filter(|id| a.pick(&user(*id)) == 1 && b.pick(&user(*id)) == 1).count();
        assert!(
            (50..200).contains(&both),
            "{both} of 10,000 are in both tenths; independent choices give 100"
        );
    }

    /// A known answer: if it changes, users move at the next upgrade of the proxy.
    #[test]
    fn the_choice_is_part_of_the_contract() {
        let rendezvous = Rendezvous::new(&arms(&[50, 30, 20]), "rollout-7");
        let chosen: Vec<_> = (0..24).map(|id| rendezvous.pick(format!("user-{id}").as_bytes())).collect();
        assert_eq!(chosen, KNOWN);
    }
    /// From an independent implementation of the formula (Python, its xxhash and math.log2).
    const KNOWN: [usize; 24] = [0, 0, 0, 0, 1, 0, 1, 2, 2, 0, 1, 0, 2, 1, 2, 2, 1, 0, 1, 0, 0, 1, 1, 0];

    proptest! {
        /// Raising one arm, by any amount, whatever the number of arms and the total: users only move into it.
        #[test]
        fn raising_an_arm_moves_nobody_out_of_it_or_between_others(
            weights in proptest::collection::vec(0_u32..1_000_000, 1..12),
            arm in any::<prop::sample::Index>(),
            raise in 1_u32..1_000_000_000,
        ) {
            let arm = arm.index(weights.len());
            let mut raised = weights.clone();
            raised[arm] += raise;
            prop_assume!(weights.iter().any(|w| *w > 0));
            let (before, after) = (Rendezvous::new(&arms(&weights), "s"), Rendezvous::new(&arms(&raised), "s"));
            for id in 0..300 {
                let (was, is) = (before.pick(&user(id)), after.pick(&user(id)));
                prop_assert!(is == was || is == arm, "user {} went from {} to {}, not to {}", id, was, is, arm);
            }
        }

        #[test]
        fn a_new_arm_takes_users_only_for_itself(weights in proptest::collection::vec(1_u32..1_000, 1..8), new in 1_u32..1_000) {
            let mut more = weights.clone();
            more.push(new);
            let (before, after) = (Rendezvous::new(&arms(&weights), ""), Rendezvous::new(&arms(&more), ""));
            for id in 0..300 {
                let (was, is) = (before.pick(&user(id)), after.pick(&user(id)));
                prop_assert!(is == was || is == weights.len());
            }
        }
    }
}

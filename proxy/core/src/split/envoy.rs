//! Envoy's own way to choose an arm: a number of the request, over the running sum of weights. Raising an arm moves users
//! between others as well; it is here so that the same configuration sends the same user to the same place.

use xxhash_rust::xxh64::xxh64;

use crate::config::Arm;

/// The hash of a value, or of several: each is the next one's seed. Nothing where there is none.
pub fn envoy_hash(values: &[&[u8]]) -> Option<u64> {
    (!values.is_empty()).then(|| values.iter().fold(0, |seed, value| xxh64(value, seed)))
}

/// The arm in whose part of the sum of weights `number` lies. Nothing where all weights are 0.
pub fn cumulative(arms: &[Arm], number: u64) -> Option<usize> {
    let total: u64 = arms.iter().map(|arm| u64::from(arm.weight.0)).sum();
    let mut left = number.checked_rem(total)?;
    arms.iter().position(|arm| {
        let weight = u64::from(arm.weight.0);
        let is_here = left < weight;
        left = left.saturating_sub(weight);
        is_here
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::arms;

    #[test]
    fn a_number_falls_into_the_running_sum() {
        let arms = arms(&[60, 0, 40]);
        let expected = [(0, 0), (5, 0), (59, 0), (60, 2), (99, 2), (100, 0), (u64::MAX, 0)];
        for (number, arm) in expected {
            assert_eq!(cumulative(&arms, number), Some(arm), "{number}");
        }
        assert_eq!(cumulative(&[], 1), None);
    }
}

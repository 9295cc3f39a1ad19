//! A log-linear histogram of microseconds: four buckets between each power of two and the next.

use super::cells::Counter;

/// Values of 2^27 µs (134 s) and more share the last bucket.
const POWERS: usize = 27;
const STEPS: usize = 4;

#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [Counter; POWERS * STEPS],
    sum_micros: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_micros: Counter::default() }
    }
}

impl Histogram {
    /// Cost: two loads and two stores.
    #[inline]
    pub(crate) fn record(&self, lapse: Lapse) {
        self.buckets[lapse.bucket].add(1);
        self.sum_micros.add(lapse.micros);
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::value).sum()
    }

    /// Adds what was recorded to a sum over workers.
    pub(crate) fn add_to(&self, total: &mut Totals) {
        for (sum, bucket) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.value();
        }
        total.sum_micros += self.sum_micros.value();
    }
}

/// A time and the bucket that it falls into, for several histograms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lapse {
    bucket: usize,
    micros: u64,
}

impl Lapse {
    /// Cost: a few shifts.
    #[inline]
    pub(crate) fn of(micros: u64) -> Self {
        Self { bucket: index(micros), micros }
    }
}

fn index(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return micros as usize;
    }
    let power = micros.ilog2() as usize;
    let step = (micros >> (power - 2)) as usize & (STEPS - 1);
    ((power - 1) * STEPS + step).min(POWERS * STEPS - 1)
}

/// The sum of several histograms.
#[derive(Debug)]
pub(crate) struct Totals {
    buckets: [u64; POWERS * STEPS],
    sum_micros: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self { buckets: [0; POWERS * STEPS], sum_micros: 0 }
    }
}

impl Totals {
    pub(crate) const fn sum_seconds(&self) -> f64 {
        self.sum_micros as f64 / 1e6
    }

    /// Counts by upper bound in seconds, for Prometheus: powers of two from 128 µs to 67 s, then everything else. Each
    /// bound is a bucket's own edge, so no count is estimated.
    pub(crate) fn prometheus_buckets(&self) -> Vec<(f64, u64)> {
        let mut bounds = Vec::new();
        let mut from = 0;
        for power in 7..=26_usize {
            let to = (power - 1) * STEPS;
            bounds.push(((1_u64 << power) as f64 / 1e6, self.buckets[from..to].iter().sum()));
            from = to;
        }
        bounds.push((f64::MAX, self.buckets[from..].iter().sum()));
        bounds
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many are below so many microseconds. Within a bucket, which is at most a quarter wide, values count as evenly
    /// spread, as in Envoy's own histograms.
    pub(crate) fn below(&self, micros: u64) -> u64 {
        let at = index(micros);
        let (start, end) = (edge(at), edge(at + 1));
        let part = self.buckets[at] as f64 * (micros - start) as f64 / (end - start) as f64;
        self.buckets[..at].iter().sum::<u64>() + part.round() as u64
    }
}

/// Where a bucket starts.
fn edge(at: usize) -> u64 {
    if at < STEPS {
        return at as u64;
    }
    let (power, step) = (at / STEPS + 1, at % STEPS);
    ((STEPS + step) as u64) << (power - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_between_the_edges_of_its_bucket() {
        let mut last = 0;
        for micros in 0..200_000 {
            let at = index(micros);
            assert!(at == last || at == last + 1, "{micros} skips a bucket");
            last = at;
        }
        assert_eq!(index(u64::MAX), POWERS * STEPS - 1);
        for at in 0..POWERS * STEPS {
            assert_eq!(index(edge(at)), at);
            assert!(at == 0 || index(edge(at) - 1) == at - 1);
        }
        for power in 2..26 {
            assert_eq!(index(1 << power), (power - 1) * STEPS, "a power of two starts a bucket");
        }
    }

    #[test]
    fn what_is_below_a_bound_is_known_to_a_bucket() {
        let histogram = Histogram::default();
        (0..1_000).for_each(|micros| histogram.record(Lapse::of(micros)));
        let mut totals = Totals::default();
        histogram.add_to(&mut totals);
        assert_eq!(totals.count(), 1_000);
        for bound in [0, 1, 100, 500, 512, 900] {
            assert!(totals.below(bound).abs_diff(bound) <= bound / 4, "{bound}: {}", totals.below(bound));
        }
        assert_eq!(totals.below(300_000_000_000), 1_000);
    }

    #[test]
    fn prometheus_bounds_hold_exactly_what_is_below_them() {
        let histogram = Histogram::default();
        for micros in [1, 127, 128, 255, 256, 1_000_000, 500_000_000] {
            histogram.record(Lapse::of(micros));
        }
        let mut totals = Totals::default();
        histogram.add_to(&mut totals);
        let buckets = totals.prometheus_buckets();
        assert_eq!(buckets[0], (128e-6, 2));
        assert_eq!(buckets[1], (256e-6, 2));
        assert_eq!(buckets[2], (512e-6, 1));
        assert_eq!(buckets.iter().map(|(_, n)| n).sum::<u64>(), 7);
        assert_eq!(buckets.last().map(|(_, n)| *n), Some(1));
    }
}

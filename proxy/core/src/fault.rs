//! Faults on purpose: which requests are held up or refused.

use std::time::Duration;

use crate::config::{ClusterName, HeaderMatch};
use crate::route::{RequestView, header_holds};

/// `envoy.extensions.filters.http.fault.v3.HTTPFault`, as far as it can be meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injection {
    /// Held up for so long before anything is sent.
    pub delay: Option<(Duration, Chance)>,
    /// Answered with this status instead.
    pub abort: Option<(u16, Chance)>,
    /// Only requests of which all of these hold.
    pub headers: Vec<HeaderMatch>,
    /// Only requests that go to this cluster.
    pub cluster: Option<ClusterName>,
}

impl Injection {
    /// Whether a request that goes to this cluster is meant. Cost: a look at its header lines, if any are asked for.
    pub fn concerns(&self, request: &impl RequestView, cluster: &ClusterName) -> bool {
        self.cluster.as_ref().is_none_or(|wanted| wanted == cluster)
            && self.headers.iter().all(|wanted| header_holds(wanted, request))
    }
}

/// How often something happens, and how much that depends on whether it did the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chance {
    /// Of a million.
    pub millionths: u32,
    /// The correlation of a request and the one after it, of a million.
    pub correlation: u32,
}

impl Chance {
    /// Whether it happens, by a draw from 0 to 1, and whether it did the last time, if there was one.
    ///
    /// A chain of two states: with share p and correlation r it happens with p + r(1 - p) after it did, and with p(1 - r) after
    /// it did not. Its share is p, and the correlation of neighbours is r.
    pub fn happens(&self, draw: f64, last: Option<bool>) -> bool {
        let (share, correlation) = (f64::from(self.millionths) / 1e6, f64::from(self.correlation) / 1e6);
        let now = match last {
            None => share,
            Some(last) => share * (1.0 - correlation) + if last { correlation } else { 0.0 },
        };
        draw < now
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// The share of those that it happens to, and the correlation of neighbours.
    fn measured(chance: Chance) -> (f64, f64) {
        let mut rng = SmallRng::seed_from_u64(5);
        let mut last = None;
        let drawn: Vec<f64> = (0..400_000)
            .map(|_| {
                let happens = chance.happens(rng.random_range(0.0..1.0), last);
                last = Some(happens);
                f64::from(u8::from(happens))
            })
            .collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let both = drawn.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>();
        let own = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        (mean, both / own)
    }

    /// E2: share and correlation of neighbours, measured.
    #[test]
    fn shares_and_correlations_are_those_that_were_asked_for() {
        for (millionths, correlation) in
            [(300_000, 250_000), (300_000, 0), (20_000, 900_000), (999_000, 500_000)]
        {
            let (share, lag) = measured(Chance { millionths, correlation });
            assert!((share - f64::from(millionths) / 1e6).abs() < 0.01, "{share} of {millionths}");
            assert!((lag - f64::from(correlation) / 1e6).abs() < 0.03, "{lag} for {correlation}");
        }
        let never = Chance { millionths: 0, correlation: 500_000 };
        assert!(!never.happens(0.0, None) && !never.happens(0.0, Some(false)));
        let always = Chance { millionths: 1_000_000, correlation: 250_000 };
        assert!(always.happens(0.999_999, None) && always.happens(0.999_999, Some(true)));
    }
}

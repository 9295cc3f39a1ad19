//! Sets of endpoints, as a pick walks through them.

use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::endpoint::EndpointState;

/// The endpoints that may take a request: of a cluster, or of a part of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choices {
    /// Those with a share of the requests.
    pub levels: Box<[Level]>,
}

/// The healthy or the degraded endpoints of a priority, or all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// The priority.
    pub priority: u32,
    /// Its part of the sum of all levels' shares.
    pub share: u32,
    /// Too few were well, so that all are used.
    pub is_panic: bool,
    /// Its endpoints are degraded.
    pub is_degraded: bool,
    /// Its localities, or one set with all endpoints.
    pub localities: Box<[Members]>,
}

/// Endpoints among which the cluster's policy picks.
#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    /// Of all sets of the cluster; turns go by it.
    pub number: usize,
    /// Its part of the sum of the level's shares.
    pub share: u64,
    /// Their places among the cluster's endpoints.
    pub indices: Box<[u32]>,
    /// Their weights; none where all are equal.
    pub weights: Option<Box<[u32]>>,
    /// The running sum of the weights.
    pub sums: Option<Box<[u64]>>,
}

impl Choices {
    /// Whether nothing can take a request.
    pub const fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The places of all endpoints that may be picked; one that is in several levels comes several times.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        let sets = self.levels.iter().flat_map(|level| &level.localities);
        sets.flat_map(|members| &members.indices).map(|index| *index as usize)
    }

    /// Whether endpoints are used that are not well, as too few are.
    pub fn is_panic(&self) -> bool {
        self.levels.iter().any(|level| level.is_panic)
    }

    /// Every endpoint that may be picked, with its part of all requests.
    pub fn shares(&self) -> Vec<(usize, f64)> {
        let total: f64 = self.levels.iter().map(|level| f64::from(level.share)).sum();
        let mut shares = Vec::new();
        for level in &self.levels {
            let in_level: f64 = level.localities.iter().map(|members| members.share as f64).sum();
            for (number, members) in level.localities.iter().enumerate() {
                // Where shares are rounded to nothing, the first is picked.
                let share = if in_level > 0.0 {
                    members.share as f64 / in_level
                } else {
                    f64::from(u8::from(number == 0))
                };
                let part = f64::from(level.share) / total.max(1.0) * share;
                let count = members.indices.len() as f64;
                let sum = members.sums.as_ref().and_then(|sums| sums.last()).map_or(count, |sum| *sum as f64);
                for (i, index) in members.indices.iter().enumerate() {
                    let weight = members.weights.as_ref().map_or(1.0, |weights| f64::from(weights[i]));
                    shares.push((*index as usize, part * weight / sum));
                }
            }
        }
        shares
    }
}

impl Members {
    /// Endpoints with their weights.
    pub(super) fn new(number: usize, share: u64, members: &[(u32, u32)]) -> Self {
        let weights: Vec<u32> = members.iter().map(|(_, weight)| *weight).collect();
        let unequal = weights.windows(2).any(|pair| pair[0] != pair[1]);
        let mut sum = 0;
        let sums = weights.iter().map(|weight| {
            sum += u64::from(*weight);
            sum
        });
        let sums: Box<[u64]> = sums.collect();
        Self {
            number,
            share,
            indices: members.iter().map(|(index, _)| *index).collect(),
            weights: unequal.then(|| weights.into()),
            sums: unequal.then_some(sums),
        }
    }

    /// Any, by weight.
    pub(super) fn draw(&self, rng: &mut SmallRng) -> usize {
        match &self.sums {
            None => rng.random_range(0..self.indices.len()),
            Some(sums) => {
                let drawn = rng.random_range(0..sums.last().copied().unwrap_or(1));
                sums.partition_point(|sum| *sum <= drawn)
            }
        }
    }

    /// Of `choices`, drawn by weight, the one with the fewest requests in flight for its weight (Mitzenmacher, "The power of
    /// two choices").
    pub(super) fn least_busy(
        &self,
        choices: u32,
        endpoints: &[Arc<EndpointState>],
        rng: &mut SmallRng,
    ) -> usize {
        let count = self.indices.len();
        let busy = |at: usize| endpoints.get(self.indices[at] as usize).map_or(u32::MAX, |e| e.in_flight());
        let mut best = self.draw(rng);
        let mut requests = busy(best);
        for _ in 1..choices {
            let other = match self.weights {
                // Of equal ones never the same twice.
                None => (best + rng.random_range(1..count)) % count,
                Some(_) => self.draw(rng),
            };
            let others = busy(other);
            let weight = |at: usize| self.weights.as_ref().map_or(1, |weights| u64::from(weights[at]));
            // (others + 1) / weight(other) < (requests + 1) / weight(best)
            if (u64::from(others) + 1) * weight(best) < (u64::from(requests) + 1) * weight(other) {
                (best, requests) = (other, others);
            }
        }
        best
    }
}

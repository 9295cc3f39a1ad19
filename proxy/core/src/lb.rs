//! Load balancing: which endpoint of a cluster takes a request.

use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::config::LbPolicy;
use crate::endpoint::EndpointState;

/// A worker's state for one cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct Balancer {
    /// The next turn of round robin.
    turn: usize,
}

impl Balancer {
    /// Starts at another endpoint than the other workers, so that they do not all begin with the first.
    pub const fn staggered(worker: usize) -> Self {
        Self { turn: worker }
    }

    /// An endpoint by index, or nothing where there is none. No allocation; least request reads two atomics.
    pub fn pick(
        &mut self,
        policy: LbPolicy,
        endpoints: &[Arc<EndpointState>],
        rng: &mut SmallRng,
    ) -> Option<usize> {
        match (policy, endpoints.len()) {
            (_, 0) => None,
            (_, 1) => Some(0),
            (LbPolicy::RoundRobin, n) => {
                let index = self.turn % n;
                self.turn = index + 1;
                Some(index)
            }
            (LbPolicy::LeastRequest, n) => {
                // Two different ones at random, the less busy wins (Mitzenmacher, "The power of two choices").
                let first = rng.random_range(0..n);
                let second = (first + rng.random_range(1..n)) % n;
                let fewer = endpoints[second].in_flight() < endpoints[first].in_flight();
                Some(if fewer { second } else { first })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::config::Address;

    fn endpoints(n: u16) -> Vec<Arc<EndpointState>> {
        (0..n)
            .map(|port| {
                Arc::new(EndpointState::new("c".into(), Address::Socket(([127, 0, 0, 1], port).into())))
            })
            .collect()
    }

    fn picks(policy: LbPolicy, endpoints: &[Arc<EndpointState>], count: usize) -> Vec<usize> {
        let (mut balancer, mut rng) = (Balancer::default(), SmallRng::seed_from_u64(1));
        (0..count).filter_map(|_| balancer.pick(policy, endpoints, &mut rng)).collect()
    }

    #[test]
    fn round_robin_takes_turns() {
        assert_eq!(picks(LbPolicy::RoundRobin, &endpoints(3), 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn workers_start_at_different_endpoints() {
        let (endpoints, mut rng) = (endpoints(3), SmallRng::seed_from_u64(1));
        let first = |worker| Balancer::staggered(worker).pick(LbPolicy::RoundRobin, &endpoints, &mut rng);
        assert_eq!([0, 1, 2].map(first), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn least_request_avoids_the_busy_endpoint() {
        let endpoints = endpoints(2);
        (0..5).for_each(|_| endpoints[0].start());
        assert_eq!(picks(LbPolicy::LeastRequest, &endpoints, 50), vec![1; 50]);
    }

    #[test]
    fn least_request_spreads_over_idle_endpoints() {
        let chosen = picks(LbPolicy::LeastRequest, &endpoints(4), 4_000);
        for endpoint in 0..4 {
            let share = chosen.iter().filter(|c| **c == endpoint).count();
            assert!((800..1_200).contains(&share), "endpoint {endpoint} got {share} of 4,000");
        }
    }

    #[test]
    fn nothing_is_picked_where_nothing_is() {
        assert!(picks(LbPolicy::RoundRobin, &[], 3).is_empty());
        assert!(picks(LbPolicy::LeastRequest, &[], 3).is_empty());
    }
}

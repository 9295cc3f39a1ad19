//! Load balancing: which endpoint of a cluster takes a request.
//!
//! What depends on configuration and health alone is compiled into [`Choices`]: levels (a priority, its healthy or its
//! degraded part) with their shares, in each the localities with theirs, in each the endpoints. A [`Balancer`] is what one
//! worker remembers between two picks.

mod choices;
mod level;
mod subset;

use std::collections::BinaryHeap;
use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::config::LbPolicy;
use crate::endpoint::EndpointState;

pub use choices::{Choices, Level, Members};
pub use subset::{SubsetChoices, Way};

/// A worker's turns in one set of choices.
#[derive(Debug, Clone, Default)]
pub struct Balancer {
    /// Which worker this is: not all begin with the first endpoint.
    stagger: usize,
    /// By the number of the set.
    turns: Vec<Turn>,
}

/// Whose turn it is in a set of endpoints.
#[derive(Debug, Clone)]
enum Turn {
    /// Equal weights: the next index.
    Plain(usize),
    /// Earliest deadline first.
    Weighted(BinaryHeap<Deadline>),
}

/// When an endpoint, by index, is next.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: f64,
    index: u32,
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Deadline {}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deadline {
    /// The earliest is the greatest, as a heap gives out the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.total_cmp(&self.at).then(other.index.cmp(&self.index))
    }
}

impl Balancer {
    /// Starts at another endpoint than the other workers, so that they do not all begin with the first.
    pub const fn staggered(worker: usize) -> Self {
        Self { stagger: worker, turns: Vec::new() }
    }

    /// An endpoint, by its index in the cluster; nothing where there is none. Cost: with one level, one locality and equal
    /// weights a few instructions; else a draw or a heap's sifting. Least request reads an atomic for each choice. No
    /// allocation once every set was used.
    pub fn pick(
        &mut self,
        policy: LbPolicy,
        choices: &Choices,
        endpoints: &[Arc<EndpointState>],
        rng: &mut SmallRng,
    ) -> Option<usize> {
        let level = match &*choices.levels {
            [] => return None,
            [level] => level,
            levels => drawn(levels, |level| u64::from(level.share), rng)?,
        };
        let members = match &*level.localities {
            [] => return None,
            [members] => members,
            localities => drawn(localities, |members| members.share, rng)?,
        };
        let index = match policy {
            _ if members.indices.len() == 1 => 0,
            LbPolicy::RoundRobin => self.turn(members),
            LbPolicy::Random => members.draw(rng),
            LbPolicy::LeastRequest { choices } => members.least_busy(choices, endpoints, rng),
        };
        members.indices.get(index).map(|index| *index as usize)
    }

    fn turn(&mut self, members: &Members) -> usize {
        let count = members.indices.len();
        let stagger = self.stagger % count;
        while self.turns.len() <= members.number {
            self.turns.push(Turn::Plain(self.stagger));
        }
        let turn = &mut self.turns[members.number];
        let Some(weights) = &members.weights else {
            let next = match turn {
                Turn::Plain(next) => *next % count,
                Turn::Weighted(_) => stagger,
            };
            *turn = Turn::Plain(next + 1);
            return next;
        };
        if !matches!(turn, Turn::Weighted(heap) if heap.len() == count) {
            // Each is first due when its weight has earned it a turn; workers start at different times.
            let due = |(index, weight): (u32, &u32)| Deadline { at: 1.0 / f64::from(*weight), index };
            let mut heap: BinaryHeap<_> = (0..).zip(&**weights).map(due).collect();
            for _ in 0..stagger {
                next_due(&mut heap, weights);
            }
            *turn = Turn::Weighted(heap);
        }
        match turn {
            Turn::Weighted(heap) => next_due(heap, weights),
            Turn::Plain(_) => 0,
        }
    }
}

fn next_due(heap: &mut BinaryHeap<Deadline>, weights: &[u32]) -> usize {
    let Some(mut first) = heap.peek_mut() else { return 0 };
    let index = first.index as usize;
    first.at += 1.0 / f64::from(weights[index]);
    index
}

/// One of `items`, by its share of the sum of shares.
fn drawn<'a, T>(items: &'a [T], share: impl Fn(&T) -> u64, rng: &mut SmallRng) -> Option<&'a T> {
    let total: u64 = items.iter().map(&share).sum();
    let mut left = if total == 0 { return items.first() } else { rng.random_range(0..total) };
    items.iter().find(|item| {
        let share = share(item);
        let is_here = left < share;
        left = left.saturating_sub(share);
        is_here
    })
}

#[cfg(test)]
mod tests;

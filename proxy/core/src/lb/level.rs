//! From endpoints, their health and their weights to the shares of priorities and localities.
//!
//! As Envoy has it: the healthy part of a priority counts as `overprovisioning` percent of itself; what that leaves of 100
//! goes to the next priority, then to the degraded endpoints; and a priority of which too few are well uses all of them,
//! unless all priorities together are well enough.

use super::choices::{Choices, Level, Members};
use crate::config::{Balancing, Endpoint, LoadAssignment, Standing};

/// Numbers sets, so that each has turns of its own.
pub(super) struct Numbers(usize);

impl Numbers {
    pub(super) const fn new() -> Self {
        Self(0)
    }

    fn next(&mut self) -> usize {
        self.0 += 1;
        self.0 - 1
    }
}

/// An endpoint's place, and what is known of it.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    index: u32,
    locality: usize,
    endpoint: &'a Endpoint,
}

/// The endpoints of one priority.
struct Priority<'a> {
    number: u32,
    all: Vec<Candidate<'a>>,
    healthy: u64,
    degraded: u64,
}

/// The threshold where none is set.
const PANIC_THRESHOLD: f64 = 50.0;

/// The choices among those endpoints that `serves` wants.
pub(super) fn choices(
    assignment: &LoadAssignment,
    balancing: &Balancing,
    numbers: &mut Numbers,
    serves: impl Fn(&Endpoint) -> bool,
) -> Choices {
    let priorities = priorities(assignment, serves);
    let part = |count: u64, all: usize| match all {
        0 => 0,
        all => (count * u64::from(assignment.overprovisioning) / all as u64).min(100),
    };
    let health: Vec<_> =
        priorities.iter().map(|p| (part(p.healthy, p.all.len()), part(p.degraded, p.all.len()))).collect();
    let available: u64 = health.iter().map(|(healthy, degraded)| healthy + degraded).sum::<u64>().min(100);
    let threshold = balancing.panic_threshold.unwrap_or(PANIC_THRESHOLD);
    let serves_in_panic = |standing: Standing| match balancing.panic_threshold {
        // Checks may be wrong about many; EDS knows whom it takes out.
        None => standing != Standing::Unhealthy,
        // Whoever sets a threshold wants even those that EDS calls unhealthy, below it.
        Some(threshold) if threshold > 0.0 => true,
        // There is no panic.
        Some(_) => false,
    };
    let mut levels = Vec::new();
    let mut push = |share: u64, priority: &Priority<'_>, is_panic: bool, is_degraded: bool| {
        let serves = |standing: Standing| match (is_panic, is_degraded) {
            (true, _) => serves_in_panic(standing),
            (false, true) => standing == Standing::Degraded,
            (false, false) => standing == Standing::Healthy,
        };
        // In panic all are alike, wherever they are.
        let by_locality = balancing.by_locality && !is_panic;
        let localities = localities(assignment, by_locality, priority, numbers, serves);
        if share > 0 && !localities.is_empty() {
            let share = u32::try_from(share).unwrap_or(u32::MAX);
            levels.push(Level { priority: priority.number, share, is_panic, is_degraded, localities });
        }
    };
    let is_panic = |priority: &Priority<'_>| {
        let well = 100.0 * (priority.healthy + priority.degraded) as f64 / priority.all.len().max(1) as f64;
        available < 100 && well < threshold
    };
    if available == 0 || priorities.iter().all(is_panic) {
        // Every priority gets a share by its size, or nothing can be done.
        priorities.iter().for_each(|priority| push(priority.all.len() as u64, priority, true, false));
        return Choices { levels: levels.into() };
    }
    // Healthy ones of all priorities come before degraded ones.
    let mut left = 100;
    let mut shares: Vec<[u64; 2]> = vec![[0; 2]; priorities.len()];
    for kind in [0, 1] {
        for (share, (healthy, degraded)) in shares.iter_mut().zip(&health) {
            let health = if kind == 0 { *healthy } else { *degraded };
            share[kind] = left.min(health * 100 / available);
            left -= share[kind];
        }
    }
    // What rounding left goes to the first that has a share.
    if let Some(share) = shares.iter_mut().flatten().find(|share| **share > 0) {
        *share += left;
    }
    for (priority, [healthy, degraded]) in priorities.iter().zip(shares) {
        if is_panic(priority) {
            push(healthy + degraded, priority, true, false);
        } else {
            push(healthy, priority, false, false);
            push(degraded, priority, false, true);
        }
    }
    Choices { levels: levels.into() }
}

fn priorities<'a>(assignment: &'a LoadAssignment, serves: impl Fn(&Endpoint) -> bool) -> Vec<Priority<'a>> {
    let mut priorities: Vec<Priority<'a>> = Vec::new();
    let mut index = 0;
    for (locality, group) in assignment.localities.iter().enumerate() {
        let at = priorities.binary_search_by_key(&group.priority, |priority| priority.number);
        let at = at.unwrap_or_else(|at| {
            priorities
                .insert(at, Priority { number: group.priority, all: Vec::new(), healthy: 0, degraded: 0 });
            at
        });
        let priority = &mut priorities[at];
        for endpoint in &group.endpoints {
            if serves(endpoint) {
                priority.all.push(Candidate { index, locality, endpoint });
                priority.healthy += u64::from(endpoint.standing() == Standing::Healthy);
                priority.degraded += u64::from(endpoint.standing() == Standing::Degraded);
            }
            index += 1;
        }
    }
    priorities
}

fn localities(
    assignment: &LoadAssignment,
    by_locality: bool,
    priority: &Priority<'_>,
    numbers: &mut Numbers,
    serves: impl Fn(Standing) -> bool,
) -> Box<[Members]> {
    let members: Vec<_> =
        priority.all.iter().filter(|candidate| serves(candidate.endpoint.standing())).collect();
    let weighed = |candidates: &[&&Candidate<'_>]| -> Vec<(u32, u32)> {
        candidates.iter().map(|candidate| (candidate.index, candidate.endpoint.weight)).collect()
    };
    let weight_of = |locality: usize| u64::from(assignment.localities[locality].weight);
    let has_weights = by_locality && members.iter().any(|candidate| weight_of(candidate.locality) > 0);
    if members.is_empty() {
        return Box::default();
    }
    if !has_weights {
        let all = weighed(&members.iter().collect::<Vec<_>>());
        return Box::new([Members::new(numbers.next(), 1, &all)]);
    }
    let mut sets = Vec::new();
    for locality in 0..assignment.localities.len() {
        let inside: Vec<_> = members.iter().filter(|candidate| candidate.locality == locality).collect();
        let of_all = priority.all.iter().filter(|candidate| candidate.locality == locality).count() as u64;
        if inside.is_empty() || weight_of(locality) == 0 {
            continue;
        }
        // A locality that is not well has less weight, as a priority has less share; in hundredths.
        let well = (u64::from(assignment.overprovisioning) * inside.len() as u64 / of_all).clamp(1, 100);
        sets.push(Members::new(numbers.next(), weight_of(locality) * well, &weighed(&inside)));
    }
    sets.into()
}

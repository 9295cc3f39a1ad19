use std::collections::BTreeMap;

use rand::SeedableRng as _;

use super::*;
use crate::config::{
    Address, Balancing, Endpoint, Health, Labels, LoadAssignment, LocalityEndpoints, SubsetFallback,
    SubsetSelector, Subsets,
};

const LEAST: LbPolicy = LbPolicy::LeastRequest { choices: 2 };

fn endpoint(port: u16, weight: u32, health: Health, labels: &[(&str, &str)]) -> Endpoint {
    let labels: Labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Endpoint {
        weight,
        health,
        labels: Arc::new(labels),
        ..Endpoint::at(Address::Socket(([127, 0, 0, 1], port).into()))
    }
}

fn states(count: u16) -> Vec<Arc<EndpointState>> {
    let state =
        |port| Arc::new(EndpointState::new("c".into(), Address::Socket(([127, 0, 0, 1], port).into())));
    (0..count).map(state).collect()
}

fn weighted(weights: &[u32]) -> LoadAssignment {
    LoadAssignment::of((0..).zip(weights).map(|(i, w)| endpoint(i, *w, Health::Healthy, &[])).collect())
}

fn compiled(assignment: &LoadAssignment, balancing: &Balancing) -> SubsetChoices {
    SubsetChoices::new(assignment, balancing)
}

fn picks(policy: LbPolicy, choices: &Choices, endpoints: &[Arc<EndpointState>], count: usize) -> Vec<usize> {
    let (mut balancer, mut rng) = (Balancer::default(), SmallRng::seed_from_u64(1));
    (0..count).filter_map(|_| balancer.pick(policy, choices, endpoints, &mut rng)).collect()
}

fn counts(picks: &[usize]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    picks.iter().for_each(|pick| *counts.entry(*pick).or_default() += 1);
    counts
}

/// Shares in percent, rounded.
fn shares(choices: &Choices) -> Vec<(usize, u32)> {
    let mut shares = BTreeMap::new();
    for (index, share) in choices.shares() {
        *shares.entry(index).or_insert(0.0) += share * 100.0;
    }
    shares.into_iter().map(|(index, share): (usize, f64)| (index, share.round() as u32)).collect()
}

#[test]
fn round_robin_takes_turns() {
    let all = compiled(&weighted(&[1, 1, 1]), &Balancing::default()).all;
    assert_eq!(picks(LbPolicy::RoundRobin, &all, &states(3), 7), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn round_robin_serves_weights_exactly_and_without_bursts() {
    let all = compiled(&weighted(&[5, 1, 2]), &Balancing::default()).all;
    let picked = picks(LbPolicy::RoundRobin, &all, &states(3), 80);
    assert_eq!(counts(&picked), [(0, 50), (1, 10), (2, 20)].into());
    for window in picked.chunks(8) {
        assert_eq!(counts(window), [(0, 5), (1, 1), (2, 2)].into(), "{window:?}");
    }
}

#[test]
fn workers_start_at_different_endpoints() {
    let (all, states) = (compiled(&weighted(&[1, 1, 1]), &Balancing::default()).all, states(3));
    let mut rng = SmallRng::seed_from_u64(1);
    let mut first = |worker| Balancer::staggered(worker).pick(LbPolicy::RoundRobin, &all, &states, &mut rng);
    assert_eq!([0, 1, 2].map(&mut first), [Some(0), Some(1), Some(2)]);
    let weighted = compiled(&weighted(&[3, 2, 1]), &Balancing::default()).all;
    let mut first =
        |worker| Balancer::staggered(worker).pick(LbPolicy::RoundRobin, &weighted, &states, &mut rng);
    assert_ne!(first(0), first(1));
}

#[test]
fn least_request_avoids_the_busy_endpoint() {
    let (all, states) = (compiled(&weighted(&[1, 1]), &Balancing::default()).all, states(2));
    (0..5).for_each(|_| states[0].start());
    assert_eq!(picks(LEAST, &all, &states, 50), vec![1; 50]);
}

#[test]
fn random_and_least_request_follow_weights() {
    let all = compiled(&weighted(&[1, 2, 5]), &Balancing::default()).all;
    for policy in [LbPolicy::Random, LEAST] {
        let counted = counts(&picks(policy, &all, &states(3), 8_000));
        let share = |index: usize| counted.get(&index).copied().unwrap_or(0);
        if policy == LbPolicy::Random {
            for (index, expected) in [(0, 1_000), (1, 2_000), (2, 5_000_usize)] {
                assert!(share(index).abs_diff(expected) < 200, "{policy:?}: {counted:?}");
            }
        } else {
            assert!(share(2) > share(1) && share(1) > share(0), "{counted:?}");
        }
    }
}

#[test]
fn nothing_is_picked_where_nothing_is() {
    let none = compiled(&LoadAssignment::default(), &Balancing::default()).all;
    assert!(picks(LbPolicy::RoundRobin, &none, &[], 3).is_empty());
    assert!(picks(LEAST, &none, &[], 3).is_empty());
}

fn localities(groups: &[(u32, u32, &[Health])]) -> LoadAssignment {
    let mut port = 0;
    let localities = groups.iter().map(|(priority, weight, health)| LocalityEndpoints {
        priority: *priority,
        weight: *weight,
        endpoints: health
            .iter()
            .map(|health| {
                port += 1;
                endpoint(port, 1, *health, &[])
            })
            .collect(),
        ..LocalityEndpoints::default()
    });
    LoadAssignment { localities: localities.collect(), ..LoadAssignment::default() }
}

use Health::{Degraded as D, Healthy as H, Unhealthy as U};

#[test]
fn the_first_priority_takes_all_while_enough_of_it_is_well() {
    // 3 of 4 well: 75 % times 1.4 is more than all.
    let all = compiled(&localities(&[(0, 0, &[H, H, H, U]), (1, 0, &[H])]), &Balancing::default()).all;
    assert_eq!(shares(&all), [(0, 33), (1, 33), (2, 33)]);
    // Half is well: 70 % stay.
    let all = compiled(&localities(&[(0, 0, &[H, H, U, U]), (1, 0, &[H])]), &Balancing::default()).all;
    assert_eq!(shares(&all), [(0, 35), (1, 35), (4, 30)]);
    // A gap in the priorities is no matter.
    let all = compiled(&localities(&[(0, 0, &[U]), (7, 0, &[H])]), &Balancing::default()).all;
    assert_eq!(shares(&all), [(1, 100)]);
}

#[test]
fn degraded_endpoints_are_used_where_healthy_ones_are_too_few() {
    let all = compiled(&localities(&[(0, 0, &[H, H, D, D])]), &Balancing::default()).all;
    assert_eq!(shares(&all), [(0, 35), (1, 35), (2, 15), (3, 15)]);
    let all = compiled(&localities(&[(0, 0, &[H, H, H, D])]), &Balancing::default()).all;
    assert_eq!(shares(&all), [(0, 33), (1, 33), (2, 33)]);
    let all = compiled(&localities(&[(0, 0, &[D, U])]), &Balancing::default()).all;
    assert_eq!(shares(&all), [(0, 100)]);
}

#[test]
fn what_eds_calls_unhealthy_gets_nothing_unless_a_threshold_is_set() {
    let few = localities(&[(0, 0, &[H, U, U])]);
    assert_eq!(shares(&compiled(&few, &Balancing::default()).all), [(0, 100)]);
    assert!(compiled(&localities(&[(0, 0, &[U, U])]), &Balancing::default()).all.is_empty());
    let panics = |threshold| Balancing { panic_threshold: Some(threshold), ..Balancing::default() };
    let all = compiled(&few, &panics(50.0)).all;
    assert!(all.is_panic());
    assert_eq!(shares(&all), [(0, 33), (1, 33), (2, 33)]);
    assert_eq!(shares(&compiled(&few, &panics(30.0)).all), [(0, 100)]);
    assert_eq!(shares(&compiled(&few, &panics(0.0)).all), [(0, 100)]);
    // All of them panic: each gets a share by its size.
    let all = compiled(
        &localities(&[(0, 0, &[H, U, U, U, U, U, U, U, U, U]), (1, 0, &[H, H, U, U, U, U, U, U, U, U])]),
        &panics(50.0),
    )
    .all;
    assert!(shares(&all).iter().all(|(_, share)| *share == 5), "{:?}", shares(&all));
    // Another priority is well, so that nobody has to panic.
    let all = compiled(&localities(&[(0, 0, &[H, U, U]), (1, 0, &[H, H])]), &panics(50.0)).all;
    assert_eq!(shares(&all), [(0, 46), (3, 27), (4, 27)]);
}

#[test]
fn localities_share_by_weight_and_health() {
    let by_locality = Balancing { by_locality: true, ..Balancing::default() };
    let both = localities(&[(0, 1, &[H, H]), (0, 3, &[H]), (0, 0, &[H])]);
    assert_eq!(shares(&compiled(&both, &by_locality).all), [(0, 13), (1, 13), (2, 75)]);
    // Without the setting the weights play no part.
    assert_eq!(shares(&compiled(&both, &Balancing::default()).all), [(0, 25), (1, 25), (2, 25), (3, 25)]);
    // Half of a locality counts as 70 % of it.
    let ill = localities(&[(0, 1, &[H, U]), (0, 1, &[H, H])]);
    assert_eq!(shares(&compiled(&ill, &by_locality).all), [(0, 41), (2, 29), (3, 29)]);
}

fn labelled() -> LoadAssignment {
    LoadAssignment::of(vec![
        endpoint(0, 1, H, &[("version", "1"), ("stage", "prod")]),
        endpoint(1, 1, H, &[("version", "2"), ("stage", "prod")]),
        endpoint(2, 1, H, &[("version", "2"), ("stage", "test")]),
        endpoint(3, 1, U, &[("version", "3")]),
    ])
}

fn wanted(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn with_subsets(fallback: SubsetFallback, selectors: &[(&[&str], Option<SubsetFallback>)]) -> Balancing {
    let selectors = selectors.iter().map(|(keys, fallback)| SubsetSelector {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        fallback: fallback.clone(),
    });
    let subsets = Subsets {
        selectors: selectors.collect(),
        fallback,
        default: wanted(&[("stage", "prod")]),
        panic_mode_any: false,
    };
    Balancing { subsets: Some(Arc::new(subsets)), ..Balancing::default() }
}

#[test]
fn a_subset_is_the_endpoints_with_the_labels() {
    let balancing =
        with_subsets(SubsetFallback::None, &[(&["version"], None), (&["stage", "version"], None)]);
    let compiled = compiled(&labelled(), &balancing);
    let of = |labels: &[(&str, &str)]| {
        let (choices, way) = compiled.of(Some(&wanted(labels)));
        (shares(choices), way)
    };
    assert_eq!(of(&[("version", "2")]), (vec![(1, 50), (2, 50)], Way::Subset));
    assert_eq!(of(&[("version", "2"), ("stage", "test")]), (vec![(2, 100)], Way::Subset));
    assert_eq!(of(&[("version", "3")]), (vec![], Way::Subset), "all of it is unwell");
    assert_eq!(of(&[("stage", "prod")]), (vec![], Way::Fallback), "no selector has this key alone");
    assert_eq!(shares(compiled.of(None).0), []);
}

#[test]
fn what_no_subset_fits_falls_back() {
    let labels = wanted(&[("version", "9")]);
    for (fallback, expected) in [
        (SubsetFallback::Any, vec![(0, 33), (1, 33), (2, 33)]),
        (SubsetFallback::Default, vec![(0, 50), (1, 50)]),
        (SubsetFallback::None, vec![]),
    ] {
        let compiled = compiled(&labelled(), &with_subsets(fallback.clone(), &[(&["version"], None)]));
        assert_eq!(shares(compiled.of(Some(&labels)).0), expected, "{fallback:?}");
        assert_eq!(shares(compiled.of(None).0), expected, "{fallback:?}");
    }
    let fewer = SubsetFallback::Keys(vec!["version".into()]);
    let balancing =
        with_subsets(SubsetFallback::None, &[(&["version"], None), (&["stage", "version"], Some(fewer))]);
    let compiled = compiled(&labelled(), &balancing);
    let (choices, way) = compiled.of(Some(&wanted(&[("stage", "none"), ("version", "1")])));
    assert_eq!((shares(choices), way), (vec![(0, 100)], Way::Fallback));
}

use std::time::Duration;

use super::*;
use crate::config::{
    Address, Arm, Balancing, Cluster, ConnectionOptions, Domain, Endpoint, EndpointSource, Health,
    HttpOptions, Listener, PathMatch, Patience, PriorityThresholds, Route, RouteSource, ServedListener,
    VirtualHost,
};

fn endpoint(port: u16) -> Endpoint {
    Endpoint::at(Address::Socket(([127, 0, 0, 1], port).into()))
}

fn cluster(name: &str, ports: &[u16]) -> (ClusterName, ServedCluster) {
    let endpoints = Arc::new(LoadAssignment::of(ports.iter().map(|p| endpoint(*p)).collect()));
    let cluster = Arc::new(Cluster {
        window: None,
        health_check: None,
        name: name.into(),
        endpoints: EndpointSource::Static(endpoints.clone()),
        connect_timeout: Duration::from_secs(5),
        balancing: Balancing::default(),
        thresholds: PriorityThresholds::default(),
        connections: ConnectionOptions::default(),
        transport: Default::default(),
        transport_matches: Vec::new(),
    });
    (name.into(), ServedCluster { cluster, endpoints })
}

fn routes(arms: &[(&str, u32)]) -> Arc<RouteConfiguration> {
    let arms = arms.iter().map(|(name, weight)| Arm::new(*name, *name, *weight)).collect();
    let route = Route::forwarding(PathMatch::Prefix("/".into()), vec![], arms);
    Arc::new(RouteConfiguration::new("r", vec![VirtualHost::new("all", vec![Domain::Any], vec![route])]))
}

fn listener(name: &str, routes: &Arc<RouteConfiguration>) -> ServedListener {
    let address = Address::Socket(([127, 0, 0, 1], 80).into());
    let listener = Listener::plain(
        name.into(),
        address,
        RouteSource::Rds("r".into(), Patience::default()),
        HttpOptions::ingress(),
    );
    ServedListener { listener: Arc::new(listener), routes: vec![routes.clone()] }
}

#[test]
fn a_weight_change_shares_every_cluster_and_endpoint() {
    let mut config = Config {
        listeners: vec![listener("l", &routes(&[("v1", 9), ("v2", 1)]))],
        clusters: Arc::new([cluster("v1", &[1, 2]), cluster("v2", &[3])].into()),
        ..Config::default()
    };
    let first = Snapshot::default().next(&config, |_| false).expect("compiles");
    config.listeners[0].routes = vec![routes(&[("v1", 5), ("v2", 5)])];
    let second = first.next(&config, |_| false).expect("compiles");
    assert_eq!(second.generation, first.generation + 1);
    for ((_, old), (_, new)) in first.clusters().zip(second.clusters()) {
        assert!(Arc::ptr_eq(old, new), "{} was made again", new.name);
    }
    let same = second.next(&config, |_| false).expect("compiles");
    assert!(Arc::ptr_eq(
        &same.listener(0).expect("l").chains[0].routes,
        &second.listener(0).expect("l").chains[0].routes
    ));
}

#[test]
fn an_endpoint_that_stays_keeps_its_state() {
    let mut config = Config { clusters: Arc::new([cluster("v1", &[1, 2])].into()), ..Config::default() };
    let first = Snapshot::default().next(&config, |_| false).expect("compiles");
    first.cluster(0).expect("v1").endpoints[1].start();
    Arc::make_mut(&mut config.clusters).extend([cluster("v1", &[2, 3])]);
    let second = first.next(&config, |_| false).expect("compiles");
    let in_flight: Vec<_> = second.cluster(0).expect("v1").endpoints.iter().map(|e| e.in_flight()).collect();
    assert_eq!(in_flight, [1, 0]);
}

#[test]
fn a_route_to_a_cluster_that_comes_later_finds_it_there() {
    let mut config = Config { listeners: vec![listener("l", &routes(&[("late", 1)]))], ..Config::default() };
    let first = Snapshot::default().next(&config, |_| false).expect("compiles");
    let slot =
        first.listener(0).expect("l").chains[0].routes.routes()[0].targets[0].slot.expect("a named cluster");
    assert!(first.cluster(slot).is_none());
    Arc::make_mut(&mut config.clusters).extend([cluster("a", &[1]), cluster("late", &[2])]);
    let second = first.next(&config, |_| false).expect("compiles");
    assert!(Arc::ptr_eq(
        &first.listener(0).expect("l").chains[0].routes,
        &second.listener(0).expect("l").chains[0].routes
    ));
    assert_eq!(second.cluster(slot).expect("late").name.as_str(), "late");
}

#[test]
fn a_slot_is_never_given_away_while_a_route_points_to_it() {
    let mut config = Config {
        listeners: vec![listener("l", &routes(&[("v1", 1)]))],
        clusters: Arc::new([cluster("v1", &[1])].into()),
        ..Config::default()
    };
    let first = Snapshot::default().next(&config, |_| false).expect("compiles");
    let slot =
        first.listener(0).expect("l").chains[0].routes.routes()[0].targets[0].slot.expect("a named cluster");
    config.clusters = Arc::new([cluster("other", &[2]), cluster("another", &[3])].into());
    let second = first.next(&config, |_| false).expect("compiles");
    assert!(second.cluster(slot).is_none(), "v1 is gone and nothing took its place");
    config.listeners.clear();
    Arc::make_mut(&mut config.clusters).extend([cluster("third", &[4])]);
    let third = second.next(&config, |_| false).expect("compiles");
    assert_eq!(third.clusters().count(), 3);
    assert!(third.clusters().map(|(slot, _)| slot).max() <= Some(3), "freed slots are used again");
}

#[test]
fn an_unusable_endpoint_takes_no_requests() {
    let (name, mut served) = cluster("v1", &[1, 2]);
    let mut assignment = (*served.endpoints).clone();
    assignment.localities[0].endpoints[0].health = Health::Unhealthy;
    served.endpoints = Arc::new(assignment);
    let config = Config { clusters: Arc::new([(name, served)].into()), ..Config::default() };
    let snapshot = Snapshot::default().next(&config, |_| false).expect("compiles");
    let cluster = snapshot.cluster(0).expect("v1");
    assert_eq!(cluster.endpoints.len(), 2);
    assert_eq!(cluster.choices.all.shares(), [(1, 1.0)]);
}

#[test]
fn validate_clusters_refuses_a_route_that_leads_nowhere() {
    let mut validated = (*routes(&[("gone", 1)])).clone();
    validated.validate_clusters = true;
    let config = Config { listeners: vec![listener("l", &Arc::new(validated))], ..Config::default() };
    let error = Snapshot::default().next(&config, |_| false).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "route configuration \"r\": virtual_hosts[0].routes[0].route: route to cluster \"gone\", which does not exist"
    );
}

#[test]
fn a_listeners_slot_is_never_given_to_another() {
    let mut config = Config {
        listeners: vec![listener("public", &routes(&[("v1", 1)]))],
        clusters: Arc::new([cluster("v1", &[1])].into()),
        ..Config::default()
    };
    let first = Snapshot::default().next(&config, |_| false).expect("compiles");
    config.listeners = vec![listener("internal", &routes(&[("v1", 1)]))];
    let second = first.next(&config, |_| false).expect("compiles");
    assert!(second.listener(0).is_none(), "connections of the old listener meet nothing");
    assert_eq!(second.listener(1).expect("the new one").name.as_str(), "internal");
    config.listeners.clear();
    let third =
        second.next(&config, |_| false).expect("compiles").next(&config, |_| false).expect("compiles");
    config.listeners = vec![listener("third", &routes(&[("v1", 1)]))];
    assert!(third.next(&config, |_| false).expect("compiles").listener(2).is_some());
}

#[test]
fn a_removed_listener_stays_for_its_connections_with_the_clusters_that_it_leads_to() {
    let mut config = Config {
        listeners: vec![listener("l", &routes(&[("v1", 1)]))],
        clusters: Arc::new([cluster("v1", &[1])].into()),
        ..Config::default()
    };
    let first = Snapshot::default().next(&config, |_| true).expect("compiles");
    config = Config { clusters: Arc::new([cluster("other", &[2])].into()), ..Config::default() };
    let second = first.next(&config, |_| true).expect("compiles");
    let departing = second.listener(0).expect("still there");
    assert!(departing.is_departing);
    assert_eq!(second.live_listeners().count(), 0);
    let slot = departing.chains[0].routes.routes()[0].targets[0].slot.expect("a named cluster");
    assert_eq!(second.cluster(slot).expect("v1").name.as_str(), "v1");
    let third = second.next(&config, |_| false).expect("compiles");
    assert!(third.listener(0).is_none());
    assert_eq!(third.clusters().count(), 1);
    // It may come back before.
    config.listeners = vec![listener("l", &routes(&[("other", 1)]))];
    let back = second.next(&config, |_| true).expect("compiles");
    assert!(!back.listener(0).expect("l").is_departing);
}

#[test]
fn labels_are_unique_whatever_the_names() {
    let mut twice = (*routes(&[("v1", 1)])).clone();
    let host = twice.virtual_hosts[0].clone();
    twice.virtual_hosts[0].routes.extend(host.routes.clone());
    twice.virtual_hosts.push(VirtualHost { domains: vec![Domain::Exact("a".into())], ..host });
    for route in twice.virtual_hosts.iter_mut().flat_map(|h| &mut h.routes) {
        route.name = "same".into();
    }
    let config = Config {
        listeners: vec![listener("a", &Arc::new(twice.clone())), listener("b", &Arc::new(twice))],
        ..Config::default()
    };
    let snapshot = Snapshot::default().next(&config, |_| false).expect("compiles");
    let labels: Vec<_> = snapshot
        .listeners()
        .flat_map(|(_, l)| l.chains[0].routes.routes())
        .map(|r| r.label.to_string())
        .collect();
    let distinct: BTreeSet<_> = labels.iter().collect();
    assert_eq!(distinct.len(), 6, "{labels:?}");
}

//! The server against our own client, over a network that delays, cuts and reorders nothing within a stream.

#![allow(clippy::disallowed_methods, reason = "any start does; from there on time is simulated")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::config::{Address, EndpointSource};
use proxy_core::snapshot::Snapshot;
use proxy_core::xds::{AdsClient, Origin, Request, Resources, Subscriptions, Update, Variant};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use xds_proto::google::rpc::Status;
use xds_proto::type_url;

use super::*;
use crate::ir::{ImplicitGateway, Inputs, build};
use crate::lower::{Dialect, Lowering};
use crate::model::{
    Backend, BackendEndpoint, BackendRef, BackendSpec, HttpRoute, HttpRouteRule, HttpRouteSpec, Kind,
    Metadata, Object, Objects, Resource,
};
use crate::registry::Instances;

mod foreign;

fn address(port: u16) -> Address {
    Address::Socket(([127, 0, 0, 1], port).into())
}

/// A configuration with these arms; every arm has a backend with one endpoint.
fn published(version: u64, arms: &[(u16, u32)]) -> Arc<Published> {
    let references = arms.iter().map(|(id, weight)| BackendRef {
        name: format!("v{id}"),
        weight: *weight,
        ..BackendRef::default()
    });
    let rule = HttpRouteRule { backend_refs: references.collect(), ..HttpRouteRule::default() };
    let spec = HttpRouteSpec { rules: vec![rule], ..HttpRouteSpec::default() };
    let route: HttpRoute = Object::new(Kind::HttpRoute, Metadata::named("default", "shop"), spec);
    let backend = |id: &u16| -> Resource {
        let endpoint = BackendEndpoint { address: address(9_000 + id).to_string(), labels: BTreeMap::new() };
        let spec = BackendSpec { endpoints: vec![endpoint], ..BackendSpec::default() };
        let backend: Backend =
            Object::new(Kind::Backend, Metadata::named("default", &format!("v{id}")), spec);
        backend.into()
    };
    let backends = arms.iter().map(|(id, _)| backend(id));
    let objects: Objects = backends.chain([route.into()]).map(Arc::new).collect();
    let gateway = ImplicitGateway { address: address(80), access_log: None };
    let built = build(Inputs { objects: &objects, instances: &Instances::new(), gateway: &gateway });
    let sets = Lowering::of(&built.ir).expect("what is lowered is what a proxy takes").sets().clone();
    Arc::new(Published { version, sets })
}

fn request(type_url: &str, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "n".into(), user_agent_name: "envoy".into(), ..Node::default() }),
        type_url: type_url.into(),
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        response_nonce: nonce.into(),
        ..DiscoveryRequest::default()
    }
}

fn types(output: &Output) -> Vec<&str> {
    output.responses.iter().map(|r| type_url::short_name(r.type_url())).collect()
}

/// A stream whose client follows everything and has acknowledged the first configuration.
fn settled(now: Instant, arms: &[(u16, u32)]) -> Stream {
    let mut stream = Stream::new("test".into(), published(1, arms));
    let names: Vec<String> = arms.iter().map(|(id, _)| format!("v{id}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut ask = |request| stream.on_request(request, now).expect("taken");
    let clusters = ask(request(type_url::CLUSTER, &[], ""));
    let endpoints = ask(request(type_url::CLUSTER_LOAD_ASSIGNMENT, &names, ""));
    let listeners = ask(request(type_url::LISTENER, &[], ""));
    let routes = ask(request(type_url::ROUTE_CONFIGURATION, &["weir"], ""));
    for (url, output, names) in [
        (type_url::CLUSTER, clusters, &[][..]),
        (type_url::CLUSTER_LOAD_ASSIGNMENT, endpoints, &names),
        (type_url::LISTENER, listeners, &[]),
        (type_url::ROUTE_CONFIGURATION, routes, &["weir"]),
    ] {
        let [response] = output.responses.as_slice() else {
            panic!("one response, not {:?}", types(&output))
        };
        let answer = ask(request(url, names, response.nonce()));
        assert!(answer.responses.is_empty(), "an ACK is not answered");
    }
    stream
}

#[test]
fn a_weight_change_sends_routes_only() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 90), (2, 10)]);
    let output = stream.on_config(published(2, &[(1, 50), (2, 50)]), now);
    assert_eq!(types(&output), ["RouteConfiguration"]);
    assert!(stream.on_config(published(3, &[(1, 50), (2, 50)]), now).responses.is_empty(), "nothing changed");
}

#[test]
fn routes_wait_for_the_endpoints_of_a_new_cluster_but_not_for_the_ack_of_clusters() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 1)]);
    let output = stream.on_config(published(2, &[(1, 1), (2, 1)]), now);
    assert_eq!(types(&output), ["Cluster"], "the client does not know v2's endpoints yet");
    // Envoy asks for endpoints before it acknowledges the clusters.
    let asked = request(type_url::CLUSTER_LOAD_ASSIGNMENT, &["v1", "v2"], "1");
    assert_eq!(
        types(&stream.on_request(asked, now).expect("taken")),
        ["ClusterLoadAssignment", "RouteConfiguration"]
    );
}

#[test]
fn routes_are_not_held_for_ever() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 1)]);
    stream.on_config(published(2, &[(1, 1), (2, 1)]), now);
    let deadline = stream.deadline().expect("something is held");
    assert!(stream.on_deadline(now).responses.is_empty());
    assert_eq!(types(&stream.on_deadline(deadline)), ["RouteConfiguration"]);
    assert_eq!(stream.deadline(), None, "the wait is over, whatever the client does");
    let next = stream.on_config(published(3, &[(1, 1), (2, 1), (3, 1)]), deadline);
    assert_eq!(types(&next), ["Cluster"], "a newer cluster is waited for again");
}

#[test]
fn a_removed_cluster_goes_only_after_its_routes() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 1), (2, 1)]);
    let output = stream.on_config(published(2, &[(1, 1)]), now);
    assert_eq!(types(&output), ["RouteConfiguration"]);
    let nonce = output.responses[0].nonce().to_owned();
    let output =
        stream.on_request(request(type_url::ROUTE_CONFIGURATION, &["weir"], &nonce), now).expect("taken");
    assert_eq!(types(&output), ["Cluster", "ClusterLoadAssignment"]);
    let first = output.responses[0].clone().into_state().expect("the state of the world");
    assert_eq!(first.resources.len(), 1);
}

#[test]
fn a_removed_cluster_stays_while_the_routes_without_it_are_refused() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 1), (2, 1)]);
    let output = stream.on_config(published(2, &[(1, 1)]), now);
    let mut refusal = request(type_url::ROUTE_CONFIGURATION, &["weir"], output.responses[0].nonce());
    refusal.error_detail = Some(Status { code: 3, message: "\"weir\": no".into(), details: vec![] });
    let output = stream.on_request(refusal, now).expect("taken");
    assert!(output.responses.is_empty(), "neither a removal nor the same routes again");
    assert_eq!(
        output.events,
        [Event::Refused {
            type_url: type_url::ROUTE_CONFIGURATION,
            reason: "\"weir\": no".into(),
            resources: vec!["weir".into()],
            config_version: 2,
        }]
    );
}

#[test]
fn a_request_with_a_stale_nonce_is_ignored() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 1), (2, 1)]);
    stream.on_config(published(2, &[(1, 3), (2, 1)]), now);
    let output =
        stream.on_request(request(type_url::ROUTE_CONFIGURATION, &["other"], "3"), now).expect("taken");
    assert!(output.responses.is_empty() && output.events.is_empty());
}

#[test]
fn an_endpoint_request_after_a_cluster_update_is_always_answered() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 1)]);
    // The same name in another cluster resource: Envoy warms it again and asks for the endpoints it already has.
    let mut changed = Published { version: 2, sets: published(1, &[(1, 1)]).sets.clone() };
    let cluster = xds_proto::envoy::config::cluster::v3::Cluster {
        name: "v1".into(),
        alt_stat_name: "changed".into(),
        ..Default::default()
    };
    let standard = &mut changed.sets[Dialect::Standard as usize];
    standard.replace(type_url::CLUSTER, "v1", type_url::pack(&cluster));
    assert_eq!(types(&stream.on_config(Arc::new(changed), now)), ["Cluster"]);
    let asked = request(type_url::CLUSTER_LOAD_ASSIGNMENT, &["v1"], "1");
    assert_eq!(types(&stream.on_request(asked, now).expect("taken")), ["ClusterLoadAssignment"]);
}

#[test]
fn a_stream_without_a_node_ends() {
    let now = Instant::now();
    let mut stream = Stream::new("test".into(), published(1, &[(1, 1)]));
    let mut nameless = request(type_url::CLUSTER, &[], "");
    nameless.node = None;
    assert_eq!(stream.on_request(nameless, now).expect_err("ends"), StreamError::NoNode);
}

#[test]
fn a_type_that_is_not_served_does_not_disturb_the_others() {
    let now = Instant::now();
    let mut stream = settled(now, &[(1, 1)]);
    let strange = || request("type.googleapis.com/envoy.service.runtime.v3.Runtime", &["r"], "");
    let output = stream.on_request(strange(), now).expect("taken");
    assert!(output.responses.is_empty() && matches!(output.events.as_slice(), [Event::UnknownType { .. }]));
    assert!(stream.on_request(strange(), now).expect("taken").events.is_empty(), "told once");
    assert_eq!(
        types(&stream.on_config(published(2, &[(1, 2)]), now)),
        Vec::<&str>::new(),
        "one arm, the same"
    );
}

/// One proxy on one connection at a time.
struct Proxy {
    client: AdsClient,
    snapshot: Snapshot,
    up: VecDeque<Request>,
    down: VecDeque<Response>,
    stream: Option<Stream>,
}

impl Proxy {
    fn new(variant: Variant) -> Self {
        let node = Node { id: "p".into(), user_agent_name: "weir".into(), ..Node::default() };
        let subscriptions =
            Subscriptions { listeners: Some(Origin::Ads), clusters: Some(Origin::Ads), variant };
        Self {
            client: AdsClient::new(node, subscriptions, Resources::default()),
            snapshot: Snapshot::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            stream: None,
        }
    }

    fn connect(&mut self, config: &Arc<Published>, now: Instant) {
        self.stream = Some(Stream::new("sim".into(), config.clone()));
        self.up = self.client.connected(now).into();
        self.down.clear();
    }

    fn disconnect(&mut self) {
        self.stream = None;
        self.client.disconnected();
        self.up.clear();
        self.down.clear();
    }

    fn deliver_up(&mut self, now: Instant) {
        if let (Some(stream), Some(request)) = (&mut self.stream, self.up.pop_front()) {
            let output = match request {
                Request::State(request) => stream.on_request(request, now),
                Request::Delta(request) => stream.on_request(request, now),
            };
            let output = output.expect("our client keeps the protocol");
            self.down.extend(output.responses);
        }
    }

    fn deliver_down(&mut self, now: Instant) {
        if let Some(response) = self.down.pop_front() {
            let update = match response {
                Response::State(response) => Update::from(response),
                Response::Delta(response) => Update::from(response),
            };
            let review = self.client.review(update, now);
            self.snapshot = self.snapshot.next(review.config(), |_| false).expect("compiles");
            let conclusion = self.client.conclude(review, now);
            assert!(conclusion.rejections.is_empty(), "{:?}", conclusion.rejections);
            self.up.extend(conclusion.requests);
        }
    }

    /// Every route that is served leads to clusters that are served.
    fn check(&self, seed: u64) {
        for (_, listener) in self.snapshot.listeners() {
            for target in listener.chains.iter().flat_map(|c| c.routes.routes()).flat_map(|r| &r.targets) {
                assert!(
                    target
                        .slot
                        .and_then(|slot| self.snapshot.cluster(slot))
                        .is_some_and(|c| c.is_usable(None)),
                    "seed {seed}: a route leads to {} without endpoints",
                    target.cluster
                );
            }
        }
    }

    /// The arms that are served.
    fn arms(&self) -> Vec<(String, u32)> {
        let listeners = self.snapshot.listeners();
        let arms = listeners
            .flat_map(|(_, l)| &l.chains)
            .flat_map(|c| c.routes.routes().iter().flat_map(|r| c.routes.arms(r)));
        arms.map(|a| (a.name.to_string(), a.weight.0)).collect()
    }
}

/// Seeded: configurations, deliveries, cuts and reconnections in any order. A route never arrives before its cluster,
/// and in the end the proxy serves the last configuration and nothing else.
#[test]
fn proxies_converge_and_never_see_a_route_before_its_cluster() {
    for seed in 0..600 {
        let variant = if seed % 2 == 0 { Variant::StateOfTheWorld } else { Variant::Delta };
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut config = published(1, &[(1, 1)]);
        let mut proxy = Proxy::new(variant);
        for version in 2..200 {
            now += Duration::from_millis(rng.random_range(0..50));
            match rng.random_range(0..20) {
                0 | 1 => {
                    // Any arms from 0 to 5, at least one of weight.
                    let chosen: Vec<u16> = (0..6).filter(|_| rng.random_range(0..2) == 0).collect();
                    let mut arms: Vec<(u16, u32)> =
                        chosen.into_iter().map(|id| (id, rng.random_range(0..100))).collect();
                    arms.push((6, 1));
                    config = published(version, &arms);
                    if let Some(stream) = &mut proxy.stream {
                        proxy.down.extend(stream.on_config(config.clone(), now).responses);
                    }
                }
                2 => proxy.disconnect(),
                3 if proxy.stream.is_none() => proxy.connect(&config, now),
                4..=11 => proxy.deliver_up(now),
                _ => proxy.deliver_down(now),
            }
            proxy.check(seed);
        }
        if proxy.stream.is_none() {
            proxy.connect(&config, now);
        }
        while !proxy.up.is_empty() || !proxy.down.is_empty() {
            proxy.deliver_up(now);
            proxy.deliver_down(now);
            proxy.check(seed);
        }
        let expected: Vec<_> = config
            .for_dialect(Dialect::Weir)
            .of_type(type_url::CLUSTER)
            .keys()
            .map(ToString::to_string)
            .collect();
        let held: Vec<_> = proxy.client.resources().clusters().map(|c| c.value.name.to_string()).collect();
        assert_eq!(held, expected, "seed {seed}: clusters");
        let served: Vec<_> = proxy.arms().into_iter().map(|(name, _)| name).collect();
        assert_eq!(served, expected, "seed {seed}: arms");
        for cluster in proxy.client.resources().clusters() {
            assert!(matches!(cluster.value.endpoints, EndpointSource::Eds(..)));
        }
    }
}

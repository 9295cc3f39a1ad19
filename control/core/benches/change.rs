//! What a change of one weight among many routes costs the control plane, step by step.
//!
//! ```text
//!   read ─► propose ─► build ─► lower
//! ```
//! And when each of many subscribers hears of it, on virtual time: one thread serves all streams in turn, so that the n-th
//! hears of it after the work for the n before it. The work for each is measured: the state machine and the encoding; what HTTP/2
//! and the kernel take is put at [`WIRE`], and the way at [`WAY`].
//!
//! Times are medians of a few runs on whatever machine it is: they say where the time goes, and decide nothing.

#![allow(clippy::disallowed_methods, reason = "a clock belongs to a bench")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control_core::ads::{Published, Response, Stream};
use control_core::ir::{ImplicitGateway, Inputs, KnownRoutes, build_after};
use control_core::lower::Lowering;
use control_core::model::{Memory, Objects, Resource, read};
use control_core::registry::Instances;
use control_core::version::{Catalog, Edit};
use prost::Message as _;
use proxy_core::config::Address;
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use xds_proto::type_url;

const STEPS: [&str; 4] = ["read", "propose", "build", "lower and check"];

/// For each response, beside the work that is measured: what `benches fleet` finds of a control plane's time for each of 1,000
/// proxies over real connections.
const WIRE: Duration = Duration::from_micros(30);
/// From one machine to another, in one data centre.
const WAY: Duration = Duration::from_millis(1);

fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let (routes, runs) = if is_smoke { (100, 2) } else { (10_000, 15) };
    for gateways in [1, 100] {
        println!("{routes} routes on {gateways} gateways, one of which changes; ms");
        for (step, time) in STEPS.iter().zip(medians(routes, gateways, runs)) {
            println!("  {step:<16} {:>8.2}", time.as_secs_f64() * 1e3);
        }
    }
    for subscribers in if is_smoke { vec![10] } else { vec![1_000, 10_000] } {
        let heard = subscribers_hear(subscribers);
        let at = |share: f64| heard[(share * (subscribers - 1) as f64) as usize].as_secs_f64() * 1e3;
        println!(
            "{subscribers} subscribers on virtual time, ms: median {:.0}, p99 {:.0}, last {:.0}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// When each of so many subscribers hears that a weight among ten routes changed, in order.
fn subscribers_hear(count: usize) -> Vec<Duration> {
    let gateway =
        ImplicitGateway { address: Address::Socket(([127, 0, 0, 1], 8080).into()), access_log: None };
    let instances = Instances::default();
    let mut lowering = Lowering::default();
    let mut published = (1..=2).map(|version: u64| {
        let documents =
            read(&"shop.yaml".into(), &text(100, 1, version as usize % 2), &mut Memory::default());
        let objects: Objects = documents.into_iter().map(|d| d.content.expect("it is valid")).collect();
        let built = build_after(
            Inputs { objects: &objects, instances: &instances, gateway: &gateway },
            &KnownRoutes::default(),
        );
        lowering = lowering.next(&built.ir).expect("what we send is valid");
        Arc::new(Published { version, sets: lowering.sets().clone() })
    });
    let (first, second) = (published.next().expect("one"), published.next().expect("another"));
    let now = Instant::now();
    let mut streams: Vec<Stream> = (0..count).map(|number| subscribed(number, first.clone(), now)).collect();
    let mut clock = Duration::ZERO;
    let mut heard: Vec<Duration> = Vec::with_capacity(count);
    for stream in &mut streams {
        let started = Instant::now();
        let output = stream.on_config(second.clone(), now);
        let sent = output.responses.into_iter().filter_map(Response::into_delta);
        let sent: Vec<_> = sent.map(|response| response.encode_to_vec()).collect();
        assert_eq!(sent.len(), 1, "the routes, and nothing else");
        clock += started.elapsed() + WIRE;
        heard.push(clock + WAY);
    }
    heard
}

/// A proxy that follows, and has taken what there is.
fn subscribed(number: usize, published: Arc<Published>, now: Instant) -> Stream {
    let mut stream = Stream::new("bench".into(), published);
    let node = Node { id: format!("proxy-{number}"), user_agent_name: "weir".to_owned(), ..Node::default() };
    let mut asked: Vec<_> = [type_url::CLUSTER, type_url::LISTENER]
        .map(|type_url| DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        })
        .into();
    while let Some(request) = asked.pop() {
        let output = stream.on_request(request, now).expect("it goes on");
        for response in output.responses.into_iter().filter_map(Response::into_delta) {
            asked.push(DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            });
            let next = match response.type_url.as_str() {
                type_url::CLUSTER => type_url::CLUSTER_LOAD_ASSIGNMENT,
                type_url::LISTENER => type_url::ROUTE_CONFIGURATION,
                _ => continue,
            };
            asked.push(DeltaDiscoveryRequest {
                type_url: next.to_owned(),
                resource_names_subscribe: response.resources.into_iter().map(|r| r.name).collect(),
                ..DeltaDiscoveryRequest::default()
            });
        }
    }
    stream
}

fn medians(routes: usize, gateways: usize, runs: usize) -> Vec<Duration> {
    let gateway =
        ImplicitGateway { address: Address::Socket(([127, 0, 0, 1], 8080).into()), access_log: None };
    let instances = Instances::default();
    let mut catalog = Catalog::default();
    let (file, mut memory) = (Arc::from("shop.yaml"), Memory::default());
    let mut taken: Vec<Arc<Resource>> = Vec::new();
    let (mut before, mut routes_before) = (Lowering::default(), KnownRoutes::default());
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); STEPS.len()];
    for run in 0..=runs {
        let text = text(routes, gateways, run % 2);
        let mut clock = Clock { at: Instant::now(), laps: Vec::new() };
        memory.begin();
        let documents = read(&file, &text, &mut memory).into_iter();
        let read: Vec<Arc<Resource>> = documents.map(|d| d.content.expect("it is valid")).collect();
        clock.lap();
        let is_new = |resource: &&Arc<Resource>| !taken.iter().any(|before| Arc::ptr_eq(before, resource));
        let edits: Vec<_> = read.iter().filter(is_new).cloned().map(Edit::Put).collect();
        let proposal = catalog.propose(edits, "bench", "", SystemTime::UNIX_EPOCH).expect("it is different");
        clock.lap();
        let built = build_after(
            Inputs { objects: &proposal.objects, instances: &instances, gateway: &gateway },
            &routes_before,
        );
        clock.lap();
        let lowering = before.next(&built.ir).expect("what we send is valid");
        clock.lap();
        catalog.accept(proposal);
        taken = read;
        (before, routes_before) = (lowering, built.routes);
        // The first run is of everything.
        if run > 0 {
            times.iter_mut().zip(clock.laps).for_each(|(times, lap)| times.push(lap));
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    times.iter_mut().map(median).collect()
}

struct Clock {
    at: Instant,
    laps: Vec<Duration>,
}

impl Clock {
    fn lap(&mut self) {
        let now = Instant::now();
        self.laps.push(now - self.at);
        self.at = now;
    }
}

/// Routes of which the last leads to one of two arms.
fn text(routes: usize, gateways: usize, arm: usize) -> String {
    let mut text = String::new();
    let parents = (0..gateways).filter(|_| gateways > 1);
    for i in parents.clone() {
        writeln!(
            text,
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: g{i} }}\nspec:\n  gatewayClassName: weir\n  listeners: [ {{ name: http, protocol: HTTP, port: {} }} ]\n---",
            9000 + i
        )
        .expect("text");
    }
    for first in (0..routes).step_by(100) {
        writeln!(
            text,
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: shop-{first} }}\nspec:"
        )
        .expect("text");
        if gateways > 1 {
            writeln!(text, "  parentRefs: [ {{ name: g{} }} ]", first / 100 % gateways).expect("text");
        }
        writeln!(text, "  rules:").expect("text");
        for route in first..first + 100 {
            let second = if route + 1 == routes { arm * 100 } else { 0 };
            writeln!(
                text,
                "  - matches: [ {{ path: {{ value: /route-{route} }} }} ]\n    backendRefs: [ {{ name: v1, weight: {} }}, {{ name: v2, weight: {second} }} ]",
                100 - second
            )
            .expect("text");
        }
        text.push_str("---\n");
    }
    for name in ["v1", "v2"] {
        writeln!(
            text,
            "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: {name} }}\nspec: {{ endpoints: [ {{ address: \"127.0.0.1:80\" }} ] }}\n---"
        )
        .expect("text");
    }
    text
}

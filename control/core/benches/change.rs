//! What a change of one weight among many routes costs the control plane, step by step.
//!
//! ```text
//!   read ─► propose ─► build ─► lower
//! ```
//! Times are medians of a few runs on whatever machine it is: they say where the time goes, and decide nothing.

#![allow(clippy::disallowed_methods, reason = "a clock belongs to a bench")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use control_core::ir::{ImplicitGateway, Inputs, KnownRoutes, build_after};
use control_core::lower::Lowering;
use control_core::model::{Memory, Resource, read};
use control_core::registry::Instances;
use control_core::version::{Catalog, Edit};
use proxy_core::config::Address;

const STEPS: [&str; 4] = ["read", "propose", "build", "lower and check"];

fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let (routes, runs) = if is_smoke { (100, 2) } else { (10_000, 15) };
    for gateways in [1, 100] {
        println!("{routes} routes on {gateways} gateways, one of which changes; ms");
        for (step, time) in STEPS.iter().zip(medians(routes, gateways, runs)) {
            println!("  {step:<16} {:>8.2}", time.as_secs_f64() * 1e3);
        }
    }
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

//! What is made from what was there before is what would be made from nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;

use control_core::ir::{ImplicitGateway, Inputs, KnownRoutes, Place, build, build_after};
use control_core::lower::{Audience, Dialect, Lowering, ResourceSet};
use control_core::model::{Memory, Objects, Resource, read};
use control_core::registry::Instances;
use proxy_core::config::Address;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Resources, and what each may say; any of them may be away.
const POOL: &[(&str, &[&str])] = &[
    (
        "weir.dev/v1 Backend a",
        &["endpoints: [{ address: '127.0.0.1:1' }]", "endpoints: [{ address: 'a.example:1' }]"],
    ),
    (
        "weir.dev/v1 Backend b",
        &[
            "endpoints: [{ address: '127.0.0.1:2' }]",
            "{}",
            "{ trafficDistribution: PreferClose, endpoints: [{ address: '127.0.0.1:2', labels: { zone: x } }, { address: '127.0.0.1:4' }] }",
            "{ trafficDistribution: PreferSameZone, endpoints: [{ address: '127.0.0.1:2', labels: { zone: y, region: r } }] }",
        ],
    ),
    ("weir.dev/v1 Backend far/c", &["endpoints: [{ address: '127.0.0.1:3' }]"]),
    (
        "gateway.networking.k8s.io/v1 HTTPRoute one",
        &[
            "rules: [{ backendRefs: [{ name: a, weight: 9 }, { name: b, weight: 1 }] }]",
            "rules: [{ backendRefs: [{ name: a, weight: 5 }, { name: c, namespace: far, weight: 5 }] }]",
            "{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: s, port: 80 }] }] }",
        ],
    ),
    (
        "gateway.networking.k8s.io/v1 HTTPRoute two",
        &[
            "{ hostnames: [two.example], rules: [{ matches: [{ path: { value: /x } }, { method: PUT }], backendRefs: [{ name: b }] }] }",
            "{ parentRefs: [{ name: g }, { name: weir }], hostnames: ['*.example'], rules: [{ backendRefs: [{ name: nobody }] }] }",
            "rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplaceFullPath, replaceFullPath: /y } } }] }]",
        ],
    ),
    (
        "gateway.networking.k8s.io/v1 GRPCRoute calls",
        &[
            "rules: [{ matches: [{ method: { service: shop.Cart } }], backendRefs: [{ name: a }] }]",
            "{ hostnames: [calls.example], rules: [{ backendRefs: [{ name: b }] }] }",
        ],
    ),
    (
        "gateway.networking.k8s.io/v1 Gateway g",
        &[
            "{ gatewayClassName: weir, listeners: [{ name: http, port: 9000, protocol: HTTP }] }",
            "{ gatewayClassName: weir, infrastructure: { labels: { zone: x } }, listeners: [{ name: http, port: 9001, protocol: HTTP, hostname: '*.example' }] }",
        ],
    ),
    (
        "gateway.networking.k8s.io/v1beta1 ReferenceGrant far/lets",
        &[
            "{ from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default }], to: [{ group: weir.dev, kind: Backend }] }",
        ],
    ),
    (
        "v1 Service s",
        &[
            "{ ports: [{ port: 80, targetPort: 8080 }] }",
            "{ ports: [{ port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c }] }",
        ],
    ),
    (
        "weir.dev/v1 TrafficPolicy p",
        &[
            "{ targetRef: { kind: HTTPRoute, name: one }, split: { key: { header: x-user } } }",
            "{ targetRef: { kind: HTTPRoute, name: one }, groups: [{ group: staff, backendRefs: [{ name: b, weight: 1 }] }] }",
            "{ targetRef: { kind: Backend, name: a }, loadBalancing: LeastRequest }",
        ],
    ),
    ("weir.dev/v1 UserGroup staff", &["{ members: [ann] }", "{ members: [ann, bob] }"]),
    ("weir.dev/v1 FlowRule stop", &["{ match: { x-bad: '1' }, action: drop }"]),
];

fn resource(what: &str, spec: &str) -> Arc<Resource> {
    let mut words = what.split(' ');
    let mut word = || words.next().expect("three words");
    let (version, kind, name) = (word(), word(), word());
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let spec = if spec.starts_with('{') { spec.to_owned() } else { format!("{{ {spec} }}") };
    let text = format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: {spec}\n"
    );
    let documents = read(&"pool".into(), &text, &mut Memory::default());
    documents.into_iter().next().expect("one").content.unwrap_or_else(|refused| panic!("{refused}:\n{text}"))
}

#[test]
fn a_change_leads_to_what_a_fresh_start_would() {
    let gateway =
        ImplicitGateway { address: Address::Socket((Ipv4Addr::LOCALHOST, 8_080).into()), access_log: None };
    let instances = Instances::new();
    let mut random = SmallRng::seed_from_u64(7);
    let mut objects = Objects::default();
    let (mut known, mut lowering) = (KnownRoutes::default(), Lowering::default());
    for step in 0..600 {
        // One change, or a few at once.
        for _ in 0..random.random_range(1..=3) {
            let (what, says) = POOL[random.random_range(0..POOL.len())];
            match random.random_range(0..=says.len()) {
                0 => drop(objects.remove(&resource(what, says[0]).key())),
                n => drop(objects.put(resource(what, says[n - 1]))),
            }
        }
        let inputs = Inputs { objects: &objects, instances: &instances, gateway: &gateway };
        let (fresh, next) = (build(inputs), build_after(inputs, &known));
        assert_eq!(fresh.ir, next.ir, "step {step}");
        assert_eq!(fresh.statuses, next.statuses, "step {step}");
        let fresh = Lowering::of(&fresh.ir).expect("it is valid");
        lowering = lowering.next(&next.ir).expect("it is valid");
        for dialect in Dialect::ALL {
            // A type of which there is nothing may be there, empty.
            let (fresh, next) = (fresh.set(dialect), lowering.set(dialect));
            for url in xds_proto::type_url::ALL {
                assert_eq!(fresh.of_type(url), next.of_type(url), "step {step}, {dialect:?}, {url}");
            }
            let text = |text: &str| text.to_owned();
            let near = Place { region: text("r"), zone: text("y") };
            let audiences = [
                Audience::default(),
                Audience { labels: [(text("zone"), text("x"))].into(), ..Audience::default() },
                Audience { namespace: Some(text("far")), place: near, ..Audience::default() },
                Audience { place: Place { region: text(""), zone: text("x") }, ..Audience::default() },
            ];
            for audience in audiences {
                let of = |set: &ResourceSet| (set.listeners_for(&audience), set.endpoints_for(&audience));
                assert_eq!(of(fresh), of(next), "step {step}, {dialect:?}");
            }
        }
        known = next.routes;
    }
}

//! What a node is told depends on what it says of itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use control_core::ir::{ImplicitGateway, Inputs, Place, build};
use control_core::lower::{Audience, Dialect, Lowering};
use control_core::model::{Memory, Objects, read};
use control_core::registry::Instances;
use prost::Message as _;
use proxy_core::config::Address;
use xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_proto::json::read as message;

fn lowered(text: &str) -> Lowering {
    let documents = read(&"a.yaml".into(), text, &mut Memory::default());
    let objects: Objects =
        documents.into_iter().map(|d| d.content.unwrap_or_else(|refused| panic!("{refused}"))).collect();
    let address = Address::Socket((Ipv4Addr::LOCALHOST, 8_080).into());
    let gateway = ImplicitGateway { address, access_log: None };
    let built = build(Inputs { objects: &objects, instances: &Instances::new(), gateway: &gateway });
    Lowering::of(&built.ir).expect("what is lowered is what a proxy takes")
}

/// The node that a bootstrap describes so.
fn audience(node: &str) -> Audience {
    Audience::of(&message(node).expect("a node").0)
}

const NEAR: &str = "
apiVersion: weir.dev/v1
kind: Backend
metadata: { name: near }
spec:
  trafficDistribution: PreferSameZone
  endpoints:
  - { address: '10.0.0.1:1', labels: { zone: a, region: west } }
  - { address: '10.0.0.2:1', labels: { topology.kubernetes.io/zone: b, topology.kubernetes.io/region: west } }
  - { address: '10.0.0.3:1', labels: { zone: c, region: east } }
  - { address: '10.0.0.4:1' }
---
apiVersion: weir.dev/v1
kind: Backend
metadata: { name: everywhere }
spec: { endpoints: [ { address: '10.0.0.5:1', labels: { zone: a } }, { address: '10.0.0.6:1', labels: { zone: b } } ] }
";

/// Last parts of addresses by priority, as a node sees them.
fn priorities(lowering: &Lowering, dialect: Dialect, node: &str, cluster: &str) -> BTreeMap<u32, String> {
    let set = lowering.set(dialect);
    let own = set.endpoints_for(&audience(node));
    let all = set.of_type(xds_proto::type_url::CLUSTER_LOAD_ASSIGNMENT);
    let bytes = &own.as_ref().unwrap_or(all)[cluster].any.value;
    let assignment = ClusterLoadAssignment::decode(&**bytes).expect("an assignment");
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    for locality in assignment.endpoints {
        let said = format!("{:?}", locality.lb_endpoints);
        let numbers = (1..=6).filter(|n| said.contains(&format!("\"10.0.0.{n}\"")));
        found.entry(locality.priority).or_default().extend(numbers.map(|n| n.to_string()));
    }
    found
}

#[test]
fn near_endpoints_come_first_where_that_is_wanted() {
    let lowering = lowered(NEAR);
    let seen =
        |node: &str| priorities(&lowering, Dialect::Weir, node, "near").into_values().collect::<Vec<_>>();
    assert_eq!(seen("{ id: n }").concat().len(), 4, "nobody is near a node of unknown place");
    assert_eq!(seen("{ id: n }").len(), 1);
    assert_eq!(seen("{ id: n, locality: { region: west, zone: a } }"), ["1", "2", "43"]);
    assert_eq!(seen("{ id: n, locality: { region: west, zone: b } }"), ["2", "1", "43"]);
    assert_eq!(seen("{ id: n, locality: { region: west, zone: z } }"), ["12", "43"]);
    assert_eq!(seen("{ id: n, locality: { region: east, zone: c } }"), ["3", "412"]);
    assert_eq!(seen("{ id: n, locality: { region: north, zone: z } }").len(), 1);
    for dialect in Dialect::ALL {
        let node = "{ id: n, locality: { region: west, zone: a } }";
        // Priorities have no gaps, and who does not ask for it has one.
        assert_eq!(priorities(&lowering, dialect, node, "near").into_keys().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(priorities(&lowering, dialect, node, "everywhere").into_keys().collect::<Vec<_>>(), [0]);
    }
    // A zone alone says enough of a node, too; and a zone of another region is another one.
    assert_eq!(seen("{ id: n, locality: { zone: a } }")[0], "1");
    assert_eq!(seen("{ id: n, locality: { region: east, zone: a } }"), ["3", "412"]);
    assert_eq!(seen("{ id: n, locality: { region: north, zone: a } }").len(), 1);
    // The zone alone is enough where nobody says more.
    let zones = "
apiVersion: v1
kind: Service
metadata: { name: s }
spec: { trafficDistribution: PreferClose, ports: [ { port: 80 } ] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: s-1, labels: { kubernetes.io/service-name: s } }
addressType: IPv4
ports: [ { port: 80 } ]
endpoints: [ { addresses: [10.0.0.1], zone: a }, { addresses: [10.0.0.2], zone: b } ]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r }
spec: { rules: [ { backendRefs: [ { name: s, port: 80 } ] } ] }
";
    let lowering = lowered(zones);
    let node = "{ id: n, locality: { region: west, zone: b } }";
    let seen = priorities(&lowering, Dialect::Standard, node, "s:80");
    assert_eq!(seen.into_values().collect::<Vec<_>>(), ["2", "1"]);
    // Zones without regions beside endpoints with regions take nothing away from these.
    let lowering = lowered(&format!("{zones}---{NEAR}"));
    let node = "{ id: n, locality: { region: west, zone: b } }";
    assert_eq!(priorities(&lowering, Dialect::Weir, node, "near")[&0], "2");
    let node = "{ id: n, locality: { region: north, zone: b } }";
    assert_eq!(priorities(&lowering, Dialect::Weir, node, "s:80")[&0], "2");
    assert_eq!(priorities(&lowering, Dialect::Weir, node, "near").len(), 1);
}

#[test]
fn how_far_a_place_is() {
    let place = |region: &str, zone: &str| Place { region: region.to_owned(), zone: zone.to_owned() };
    for (from, to, distance) in [
        (place("r", "a"), place("r", "a"), 0),
        (place("r", "a"), place("", "a"), 0),
        (place("r", "a"), place("s", "a"), 2),
        (place("r", "a"), place("r", "b"), 1),
        (place("r", "a"), place("r", ""), 1),
        (place("r", ""), place("r", ""), 1),
        (place("", ""), place("", ""), 2),
    ] {
        assert_eq!(from.distance(&to), distance, "{from:?} {to:?}");
    }
}

/// Two environments with gateways of one port: a proxy of one never hears of the other.
#[test]
fn a_node_of_a_namespace_gets_its_gateways_alone() {
    let gateway = |namespace: &str, labels: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: g, namespace: {namespace} }}\nspec:\n  \
             gatewayClassName: weir\n  infrastructure: {{ labels: {labels} }}\n  listeners: [ {{ name: http, port: 80, protocol: HTTP }} ]\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r, namespace: {namespace} }}\nspec:\n  \
             parentRefs: [ {{ name: g }} ]\n  rules: [ {{}} ]\n"
        )
    };
    let lowering = lowered(&(gateway("production", "{}") + &gateway("staging", "{ tier: edge }")));
    let seen = |node: &str| {
        let set = lowering.set(Dialect::Standard);
        let own = set.listeners_for(&audience(node));
        let listeners = own.unwrap_or_else(|| set.of_type(xds_proto::type_url::LISTENER).clone());
        listeners.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (production, staging) = ("production/g/80".to_owned(), "staging/g/80".to_owned());
    // The older one; of equal age the first by name.
    assert_eq!(seen("{ id: n, metadata: { labels: { tier: edge } } }"), std::slice::from_ref(&production));
    assert_eq!(seen("{ id: n, metadata: { NAMESPACE: production, labels: { tier: edge } } }"), [production]);
    assert_eq!(seen("{ id: n, metadata: { namespace: staging, labels: { tier: edge } } }"), [staging]);
    assert!(seen("{ id: n, metadata: { namespace: staging } }").is_empty());
}

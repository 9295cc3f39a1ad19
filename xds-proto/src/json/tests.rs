use proptest::prelude::*;
use prost_types::Any;

use super::*;
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::core::v3::Node;
use crate::envoy::config::route::v3::{RouteConfiguration, RouteMatch};
use crate::envoy::service::discovery::v3::DiscoveryResponse;

fn refused<M: Message + Default + prost::Name + fmt::Debug>(text: &str) -> String {
    read::<M>(text).expect_err(text).to_string()
}

#[test]
fn every_shape_of_a_value_is_read_from_yaml_and_json() {
    let yaml = "
name: c
connect_timeout: 0.25s
type: STRICT_DNS
lb_policy: 1
per_connection_buffer_limit_bytes: 32768
common_lb_config: { healthy_panic_threshold: { value: 12.5 } }
circuit_breakers: { thresholds: [ { max_requests: '7', max_pending_requests: 0 } ] }
metadata:
  filter_metadata:
    envoy.lb: { stage: canary, n: 1, deep: [ true, null, { a: b } ] }
";
    let json = r#"{
  "name": "c", "connectTimeout": "0.250s", "type": "STRICT_DNS", "lbPolicy": "LEAST_REQUEST",
  "perConnectionBufferLimitBytes": 32768.0, "commonLbConfig": { "healthyPanicThreshold": { "value": "12.5" } },
  "circuitBreakers": { "thresholds": [ { "maxRequests": 7, "maxPendingRequests": 0 } ] },
  "metadata": { "filterMetadata": { "envoy.lb": { "stage": "canary", "n": 1, "deep": [ true, null, { "a": "b" } ] } } },
  "lb_subset_config": null
}"#;
    let (from_yaml, _) = read::<Cluster>(yaml).expect("YAML");
    let (from_json, _) = read::<Cluster>(json).expect("JSON");
    assert_eq!(from_yaml.connect_timeout, Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }));
    let thresholds = &from_yaml.circuit_breakers.as_ref().expect("given").thresholds[0];
    assert_eq!((thresholds.max_requests, thresholds.max_pending_requests), (Some(7), Some(0)));
    assert_eq!(from_yaml.lb_policy, 1);
    // `Struct` holds a map, whose order is its own: as JSON both are the same.
    let as_json = |cluster: &Cluster| to_json("envoy.config.cluster.v3.Cluster", &cluster.encode_to_vec());
    assert_eq!(as_json(&from_yaml), as_json(&from_json));
    let shown = as_json(&from_yaml).expect("known");
    assert_eq!(
        shown["metadata"]["filter_metadata"]["envoy.lb"]["deep"],
        serde_json::json!([true, null, { "a": "b" }])
    );
}

#[test]
fn a_packed_message_names_its_type_anywhere() {
    let first = r#"{ "resources": [ { "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "r" } ] }"#;
    let last = r#"{ "resources": [ { "name": "r", "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration" } ] }"#;
    let expected =
        crate::type_url::pack(&RouteConfiguration { name: "r".to_owned(), ..RouteConfiguration::default() });
    for text in [first, last] {
        assert_eq!(read::<DiscoveryResponse>(text).expect(text).0.resources, std::slice::from_ref(&expected));
    }
    let empty = read::<DiscoveryResponse>(r#"{ "resources": [ {} ] }"#).expect("an Any of nothing");
    assert_eq!(empty.0.resources, [Any::default()]);
}

#[test]
fn what_is_wrong_is_said_with_line_column_and_path() {
    let packed = |inner: &str| {
        format!(
            "{{\n \"resources\": [\n  {{ \"@type\": \"t/envoy.config.route.v3.RouteConfiguration\",\n    {inner} }} ] }}"
        )
    };
    for (text, expected) in [
        (
            "name: c\nlb_polcy: RANDOM\n",
            "2:1: lb_polcy: Cluster has no field `lb_polcy`, did you mean `lb_policy`?",
        ),
        (
            "name: c\nlb_policy: LEAST_REQEST\n",
            "2:12: lb_policy: `LEAST_REQEST` is not a LbPolicy, did you mean `LEAST_REQUEST`?",
        ),
        (
            "{ \"name\": \"c\",\n  \"lb_policy\": \"RADNOM\" }",
            "2:16: lb_policy: `RADNOM` is not a LbPolicy, did you mean `RANDOM`?",
        ),
        (
            "connect_timeout: soon\n",
            "1:1: connect_timeout: invalid value: string \"soon\", expected a duration, which is written like 30s or 0.25s",
        ),
        (
            "connect_timeout: 30\n",
            "1:1: connect_timeout: invalid type: integer `30`, expected a duration, which is written like 30s or 0.25s",
        ),
        (
            "{\"connect_timeout\": 30}",
            "1:21: connect_timeout: invalid type: integer `30`, expected a duration, which is written like 30s or 0.25s",
        ),
        (
            "circuit_breakers:\n  thresholds:\n  - max_requests: -1\n",
            "3:19: circuit_breakers.thresholds[0].max_requests: -1 is not a whole number from 0 to 4294967295",
        ),
        (
            "outlier_detection: {}\n",
            "1:1: outlier_detection: field `outlier_detection` of Cluster is not supported",
        ),
        ("metadata: { filter_metadata: [] }\n", "1:30: metadata.filter_metadata: a map is expected here"),
        ("name: c\nname: d\n", "2:1: "),
        ("{ \"name\": \"c\", \"name\": \"d\" }", "1:16: name: is given twice"),
        ("name: [\n", "1:7: name: a text is expected here"),
        ("name: \"\n", "1:1: "),
    ] {
        let said = refused::<Cluster>(text);
        assert!(said.starts_with(expected), "{text:?}:\n{said}\n{expected}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let said = refused::<DiscoveryResponse>(&packed("\"virtual_hosts\": [ { \"domain\": [] } ]"));
    assert_eq!(
        said,
        "4:26: resources[0].virtual_hosts[0].domain: VirtualHost has no field `domain`, did you mean `domains`?"
    );
    let said =
        refused::<DiscoveryResponse>("resources: [ { '@type': t/envoy.config.route.v3.RouteConfigration } ]");
    assert!(said.contains("unknown type envoy.config.route.v3.RouteConfigration, did you mean `envoy.config.route.v3.RouteConfiguration`?"), "{said}");
    let said = refused::<DiscoveryResponse>("resources: [ { name: r } ]");
    assert!(said.contains("resources[0]: `@type` is missing"), "{said}");
    let said = refused::<RouteMatch>("{ prefix: /a, path: /b }");
    assert!(said.contains("path: cannot stand beside `prefix`"), "{said}");
}

#[test]
fn a_bootstrap_may_have_keys_of_its_own() {
    let (_, unknown) =
        read::<Bootstrap>("layered_runtime: { layers: [] }\nadmin: { profile_path: x }\n").expect("read");
    assert_eq!(unknown, ["layered_runtime", "admin.profile_path"]);
    let said = refused::<Bootstrap>("static_resources:\n  clusters:\n  - name: c\n    typo: 1\n");
    assert_eq!(
        said,
        "4:5: static_resources.clusters[0].typo: Cluster has no field `typo`, did you mean `type`?"
    );
}

#[test]
fn a_path_leads_to_its_place() {
    let yaml = "static_resources:\n  listeners:\n  - name: in\n    filter_chains:\n    - filters: [ { name: a }, { name: b } ]\n";
    let at = |path: &str| place_of(yaml, path).map(|place| place.to_string());
    assert_eq!(at("static_resources.listeners[0].name").as_deref(), Some("3:5"));
    assert_eq!(at("static_resources.listeners[0].filter_chains[0].filters[1].name").as_deref(), Some("5:33"));
    assert_eq!(
        at("static_resources.listeners[0].nothing.here").as_deref(),
        Some("3:5"),
        "the last place on the way"
    );
    assert_eq!(at("nowhere"), None);
    let json = "{\n \"virtualHosts\": [\n  { \"perFilter\": { \"a.b\": { \"x\": 1 } } }\n ]\n}";
    let at = |path: &str| place_of(json, path).map(|place| place.to_string());
    assert_eq!(at("virtual_hosts[0].per_filter[\"a.b\"].[weir.X].x").as_deref(), Some("3:29"));
    assert_eq!(at("virtual_hosts[0]").as_deref(), Some("3:3"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = read::<Cluster>(&text);
        let _ = place_of(&text, "a[0].b");
    }

    /// What `prost-reflect` writes is read as the same message.
    #[test]
    fn what_is_written_is_read_back(id in "\\PC{0,20}", version in any::<u32>(), number in any::<i32>()) {
        let metadata = prost_types::Struct {
            fields: [("n".to_owned(), prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(number.into())) })].into(),
        };
        let node = Node { id, cluster: version.to_string(), metadata: Some(metadata), ..Node::default() };
        let json = to_json("envoy.config.core.v3.Node", &node.encode_to_vec()).expect("known");
        prop_assert_eq!(read::<Node>(&json.to_string()).expect("read").0, node);
    }
}

#![allow(clippy::disallowed_methods, reason = "any start does; from there on time is an argument")]

use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::envoy::config::core::v3::{AggregatedConfigSource, ConfigSource};
use xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_proto::type_url::pack;

use prost::Message as _;
use xds_proto::envoy::service::discovery::v3::DiscoveryResponse;
use xds_proto::prost_types::Any;

use super::*;

fn client() -> AdsClient {
    let node = Node { id: "n".into(), ..Node::default() };
    AdsClient::new(
        node,
        Subscriptions {
            listeners: Some(Origin::Ads),
            clusters: Some(Origin::Ads),
            variant: Variant::StateOfTheWorld,
        },
        Resources::default(),
    )
}

fn eds_cluster(name: &str) -> Any {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    };
    pack(&Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), service_name: String::new() }),
        ..Cluster::default()
    })
}

fn endpoints(name: &str) -> Any {
    pack(&ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() })
}

fn response(type_url: &str, version: &str, nonce: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources,
        control_plane: None,
    }
}

fn take(client: &mut AdsClient, response: DiscoveryResponse) -> Conclusion {
    let review = client.review(response, now());
    client.conclude(review, now())
}

fn now() -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START
}

fn state(request: &Request) -> &DiscoveryRequest {
    match request {
        Request::State(request) => request,
        Request::Delta(_) => panic!("the state of the world"),
    }
}

fn summary(requests: &[Request]) -> Vec<(&str, &str, &str, Vec<&str>)> {
    requests
        .iter()
        .map(state)
        .map(|r| {
            let names = r.resource_names.iter().map(String::as_str).collect();
            (type_url::short_name(&r.type_url), r.version_info.as_str(), r.response_nonce.as_str(), names)
        })
        .collect()
}

fn clusters(client: &AdsClient) -> Vec<String> {
    client.resources().clusters().map(|held| held.value.name.to_string()).collect()
}

#[test]
fn the_first_requests_ask_for_clusters_then_listeners_and_only_the_first_carries_the_node() {
    let mut client = client();
    let requests = client.connected(now());
    assert_eq!(summary(&requests), [("Cluster", "", "", vec![]), ("Listener", "", "", vec![])]);
    assert!(state(&requests[0]).node.is_some() && state(&requests[1]).node.is_none());
}

#[test]
fn every_response_gets_one_ack_with_its_nonce_and_new_names_are_asked_for() {
    let mut client = client();
    client.connected(now());
    let conclusion = take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("c")]));
    assert_eq!(
        summary(&conclusion.requests),
        [("Cluster", "1", "a", vec![]), ("ClusterLoadAssignment", "", "", vec!["c"])]
    );
    assert!(conclusion.requests.iter().all(|r| r.refusal().is_none()));
}

#[test]
fn a_cluster_serves_once_its_endpoints_are_known() {
    let mut client = client();
    client.connected(now());
    take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("c")]));
    assert!(client.resources().config().clusters.is_empty());
    take(&mut client, response(type_url::CLUSTER_LOAD_ASSIGNMENT, "1", "b", vec![endpoints("c")]));
    assert_eq!(client.resources().config().clusters.len(), 1);
}

/// Point 11 of the protocol's rules for a proxy, its second half.
#[test]
fn a_cluster_with_a_check_serves_once_its_endpoints_were_checked() {
    use crate::config::{Address, Verdict};
    let with_check = |thresholds: u32| {
        let mut cluster = Cluster::decode(&*eds_cluster("a").value).expect("a cluster");
        let second = Some(xds_proto::prost_types::Duration { seconds: 1, nanos: 0 });
        cluster.health_checks.push(xds_proto::envoy::config::core::v3::HealthCheck {
            timeout: second,
            interval: second,
            healthy_threshold: Some(thresholds),
            unhealthy_threshold: Some(1),
            health_checker: Some(
                xds_proto::envoy::config::core::v3::health_check::HealthChecker::TcpHealthCheck(
                    Default::default(),
                ),
            ),
            ..Default::default()
        });
        pack(&cluster)
    };
    let at = |port: u16| Address::Socket(([127, 0, 0, 1], port).into());
    let endpoints = |ports: &[u32]| {
        let endpoint = |port: &u32| {
            format!(
                "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}"
            )
        };
        let all: Vec<_> = ports.iter().map(endpoint).collect();
        let yaml =
            format!("{{ cluster_name: a, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }}", all.join(", "));
        pack(&xds_proto::json::read::<ClusterLoadAssignment>(&yaml).expect("YAML").0)
    };
    let served = |client: &AdsClient| -> Vec<(u16, Verdict)> {
        let of =
            client.resources().served_clusters().values().flat_map(|served| served.endpoints.endpoints());
        let shown = of.map(|endpoint| match &endpoint.address {
            Address::Socket(address) => (address.port(), endpoint.verdict),
            Address::Pipe(_) => (0, endpoint.verdict),
        });
        shown.collect()
    };
    let tell = |client: &mut AdsClient, found: &[(u16, Verdict)]| {
        let verdicts = found.iter().map(|(port, verdict)| (at(*port), *verdict)).collect();
        let review = client.review_checked([("a".into(), Arc::new(verdicts))]);
        client.conclude(review, now());
    };
    use Verdict::{Failed, Healthy, Pending};
    let mut client = client();
    client.connected(now());
    take(&mut client, response(type_url::CLUSTER, "1", "1", vec![with_check(1)]));
    take(&mut client, response(type_url::CLUSTER_LOAD_ASSIGNMENT, "1", "2", vec![endpoints(&[1, 2])]));
    assert!(served(&client).is_empty() && client.resources().awaits_checks());
    tell(&mut client, &[(1, Healthy)]);
    assert!(served(&client).is_empty(), "the other was not checked yet");
    tell(&mut client, &[(1, Healthy), (2, Failed)]);
    assert_eq!(served(&client), [(1, Healthy), (2, Failed)]);
    assert!(!client.resources().awaits_checks());

    // Another check does not make the endpoints strangers, and a value that says the same is the same.
    let before = client.resources().served_clusters()["a"].endpoints.clone();
    take(&mut client, response(type_url::CLUSTER, "2", "3", vec![with_check(7)]));
    assert!(Arc::ptr_eq(&before, &client.resources().served_clusters()["a"].endpoints));

    // One who joins takes nothing yet; where all are new, the old ones stay until one is known to be well.
    take(&mut client, response(type_url::CLUSTER_LOAD_ASSIGNMENT, "2", "4", vec![endpoints(&[1, 2, 3])]));
    assert_eq!(served(&client), [(1, Healthy), (2, Failed), (3, Pending)]);
    take(&mut client, response(type_url::CLUSTER_LOAD_ASSIGNMENT, "3", "5", vec![endpoints(&[4, 5])]));
    assert_eq!(served(&client), [(1, Healthy), (2, Failed), (3, Pending)]);
    tell(&mut client, &[(4, Failed)]);
    assert_eq!(served(&client).len(), 3);
    tell(&mut client, &[(4, Failed), (5, Healthy)]);
    assert_eq!(served(&client), [(4, Failed), (5, Healthy)]);
    // Nobody is well, and everybody was asked.
    take(&mut client, response(type_url::CLUSTER_LOAD_ASSIGNMENT, "4", "6", vec![endpoints(&[4])]));
    assert_eq!(served(&client), [(4, Failed)]);
}

#[test]
fn a_nack_names_the_reason_keeps_the_last_version_and_applies_what_is_valid() {
    let mut client = client();
    client.connected(now());
    take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("old"), eds_cluster("stays")]));
    let mut broken = eds_cluster("stays");
    // lb_policy (6), a number that no policy has.
    broken.value.extend([6 << 3, 99]);
    let conclusion =
        take(&mut client, response(type_url::CLUSTER, "2", "b", vec![broken, eds_cluster("new")]));
    let answer = state(&conclusion.requests[0]);
    assert_eq!((answer.version_info.as_str(), answer.response_nonce.as_str()), ("1", "b"));
    let text = &answer.error_detail.as_ref().expect("a NACK").message;
    assert_eq!(
        text,
        "envoy.config.cluster.v3.Cluster \"stays\": lb_policy: 99 is not a known value of \
         envoy.config.cluster.v3.Cluster.LbPolicy"
    );
    assert_eq!(
        clusters(&client),
        ["new", "stays"],
        "the valid one is taken, the refused one keeps its predecessor"
    );
}

#[test]
fn absence_deletes_clusters_but_not_endpoints() {
    let mut client = client();
    client.connected(now());
    take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("c"), eds_cluster("d")]));
    take(
        &mut client,
        response(type_url::CLUSTER_LOAD_ASSIGNMENT, "1", "b", vec![endpoints("c"), endpoints("d")]),
    );
    take(&mut client, response(type_url::CLUSTER_LOAD_ASSIGNMENT, "2", "c", vec![endpoints("c")]));
    assert_eq!(client.resources().endpoints().count(), 2);
    let conclusion = take(&mut client, response(type_url::CLUSTER, "2", "d", vec![eds_cluster("c")]));
    assert_eq!(clusters(&client), ["c"]);
    assert_eq!(client.resources().endpoints().count(), 1, "nobody names d's endpoints any more");
    assert_eq!(summary(&conclusion.requests)[1], ("ClusterLoadAssignment", "2", "c", vec!["c"]));
    take(&mut client, response(type_url::CLUSTER, "3", "e", vec![]));
    assert!(clusters(&client).is_empty(), "an empty list deletes all");
}

#[test]
fn two_resources_of_one_name_refuse_the_whole_response() {
    let mut client = client();
    client.connected(now());
    take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("kept")]));
    let conclusion =
        take(&mut client, response(type_url::CLUSTER, "2", "b", vec![eds_cluster("c"), eds_cluster("c")]));
    assert!(
        conclusion.requests[0].refusal().expect("a NACK").message.contains("two resources are named \"c\"")
    );
    assert_eq!(clusters(&client), ["kept"]);
}

#[test]
fn a_type_that_was_not_asked_for_is_refused() {
    let mut client = client();
    client.connected(now());
    let conclusion = take(&mut client, response("type.googleapis.com/x.Y", "1", "a", vec![]));
    assert_eq!(conclusion.requests.len(), 1);
    assert!(conclusion.requests[0].refusal().is_some());
}

#[test]
fn versions_outlive_the_stream_and_nonces_do_not() {
    let mut client = client();
    client.connected(now());
    take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("c")]));
    client.disconnected();
    assert_eq!(clusters(&client), ["c"], "losing the control plane changes nothing");
    let requests = client.connected(now());
    assert_eq!(
        summary(&requests),
        [
            ("Cluster", "1", "", vec![]),
            ("ClusterLoadAssignment", "", "", vec!["c"]),
            ("Listener", "", "", vec![])
        ]
    );
    assert!(state(&requests[0]).node.is_some());
}

#[test]
fn an_unchanged_resource_keeps_its_value() {
    let mut client = client();
    client.connected(now());
    take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("c")]));
    let before = client.resources().clusters().next().expect("c").value.clone();
    take(&mut client, response(type_url::CLUSTER, "2", "b", vec![eds_cluster("c"), eds_cluster("d")]));
    assert!(Arc::ptr_eq(&before, &client.resources().clusters().next().expect("c").value));
}

#[test]
fn what_the_caller_refuses_is_not_served() {
    let mut client = client();
    client.connected(now());
    let mut review = client.review(response(type_url::CLUSTER, "1", "a", vec![eds_cluster("c")]), now());
    review.refuse("no".into());
    let conclusion = client.conclude(review, now());
    assert!(conclusion.requests[0].refusal().is_some());
    assert!(clusters(&client).is_empty());
}

#[test]
fn a_type_that_the_bootstrap_does_not_follow_is_refused() {
    let node = Node { id: "n".into(), ..Node::default() };
    let subscriptions =
        Subscriptions { listeners: Some(Origin::Ads), clusters: None, ..Subscriptions::default() };
    let mut client = AdsClient::new(node, subscriptions, Resources::default());
    client.connected(now());
    let conclusion = take(&mut client, response(type_url::CLUSTER, "1", "a", vec![eds_cluster("c")]));
    assert!(conclusion.requests[0].refusal().is_some());
    assert!(clusters(&client).is_empty());
}

/// What is settled at the cost of what changed is what is settled whole, in every detail, and so is the snapshot.
#[test]
fn what_is_settled_in_part_is_what_would_be_settled_whole() {
    use crate::snapshot::Snapshot;
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    let assignment = |name: &str, port: u32| {
        let yaml = format!(
            "{{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: \
             127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}"
        );
        pack(&xds_proto::json::read::<ClusterLoadAssignment>(&yaml).expect("YAML").0)
    };
    let node = Node { id: "n".into(), ..Node::default() };
    let subscriptions =
        Subscriptions { listeners: Some(Origin::Ads), clusters: Some(Origin::Ads), variant: Variant::Delta };
    let mut client = AdsClient::new(node, subscriptions, Resources::default());
    client.connected(now());
    let mut rng = SmallRng::seed_from_u64(3);
    let mut snapshot = Snapshot::default();
    let name = |rng: &mut SmallRng| format!("c{}", rng.random_range(0..12));
    for step in 0..600 {
        let (type_url, of): (_, fn(&str) -> Any) = match rng.random_range(0..8) {
            0 => (type_url::CLUSTER, eds_cluster),
            _ => (type_url::CLUSTER_LOAD_ASSIGNMENT, endpoints),
        };
        let mut names: Vec<String> = (0..rng.random_range(1..4)).map(|_| name(&mut rng)).collect();
        names.sort();
        names.dedup();
        let (gone, here): (Vec<_>, Vec<_>) = names.into_iter().partition(|_| rng.random_range(0..4) == 0);
        let resource = |name: &String| xds_proto::envoy::service::discovery::v3::Resource {
            name: name.clone(),
            version: step.to_string(),
            resource: Some(match type_url == type_url::CLUSTER {
                true => of(name),
                false => assignment(name, 1 + step % 5),
            }),
            ..Default::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: step.to_string(),
            resources: here.iter().map(resource).collect(),
            removed_resources: gone,
            ..DeltaDiscoveryResponse::default()
        };
        let review = client.review(response, now());
        let config = review.config().clone();
        client.conclude(review, now());
        let mut whole = client.resources().clone();
        whole.touch();
        let expected = whole.settle();
        let shown = |config: &Config| -> Vec<_> {
            let of = |(name, served): (&ClusterName, &crate::config::ServedCluster)| {
                (name.clone(), Arc::as_ptr(&served.cluster), Arc::as_ptr(&served.endpoints))
            };
            config.clusters.iter().map(of).collect()
        };
        assert_eq!(shown(&config), shown(&expected), "step {step}");
        assert_eq!(config.warming, expected.warming, "step {step}");
        let held = |resources: &Resources| {
            resources.named_endpoints().map(|(n, _)| n.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(held(client.resources()), held(&whole), "step {step}");

        let next = snapshot.next(&config, |_| true).expect("it compiles");
        let fresh = Snapshot::default().next(&config, |_| true).expect("it compiles");
        let tables = |snapshot: &Snapshot| {
            let mut tables: Vec<_> = snapshot
                .clusters()
                .map(|(slot, table)| {
                    assert_eq!(snapshot.cluster_slot(table.name.as_str()), Some(slot));
                    let addresses: Vec<_> = table.endpoints.iter().map(|e| e.address.clone()).collect();
                    (table.name.clone(), addresses, Arc::as_ptr(&table.source))
                })
                .collect();
            tables.sort_by(|a, b| a.0.cmp(&b.0));
            tables
        };
        assert_eq!(tables(&next), tables(&fresh), "step {step}");
        snapshot = next;
    }
}

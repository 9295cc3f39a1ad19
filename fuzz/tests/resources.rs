//! The properties of resources, over valid ones with random bytes changed, and over random texts.

use proptest::prelude::*;
use xds_proto::json;

/// Resources with a little of everything, in YAML.
const CORPUS: &[(&str, &str)] = &[
    (
        "envoy.config.route.v3.RouteConfiguration",
        "{ name: r, ignore_port_in_host_matching: true, virtual_hosts: [ { name: h, domains: [ shop.example, '*.example', 'a*', '*' ], routes: [
           { match: { prefix: /shop, headers: [ { name: x-user, string_match: { safe_regex: { regex: '[0-9]+' } }, invert_match: true } ] },
             route: { weighted_clusters: { clusters: [ { name: a, weight: 3 }, { name: b, weight: 1 } ] }, prefix_rewrite: / },
             typed_per_filter_config: { weir.split: { '@type': t/weir.split.v1.SplitPolicy, cookie: { name: c, ttl: 5s }, override_header: x-beta } } },
           { match: { path_separated_prefix: /shop, cookies: [ { name: a, string_match: { prefix: b } } ] }, redirect: { https_redirect: true } },
           { match: { safe_regex: { regex: '/item/.*' }, query_parameters: [ { name: q, present_match: true } ] }, direct_response: { status: 204 } },
           { match: { path: /item/17, runtime_fraction: { default_value: { numerator: 50 } } }, route: { cluster: a } },
           { match: { prefix: /, grpc: {} }, route: { cluster_header: x-user, hash_policy: [ { header: { header_name: x-user } } ] } },
           { match: { prefix: / }, route: { weighted_clusters: { use_hash_policy: true, clusters: [ { name: a, weight: 1 }, { name: b, weight: 1 } ] },
             hash_policy: [ { cookie: { name: a } } ], regex_rewrite: { pattern: { regex: '^/(.*)$' }, substitution: '/x/\\\\1' } } } ] } ] }",
    ),
    (
        "envoy.config.cluster.v3.Cluster",
        "{ name: c, type: STRICT_DNS, connect_timeout: 1s, lb_policy: LEAST_REQUEST, common_lb_config: { healthy_panic_threshold: { value: 30 } },
           lb_subset_config: { fallback_policy: ANY_ENDPOINT, subset_selectors: [ { keys: [ a ] } ] },
           load_assignment: { cluster_name: c, endpoints: [ { priority: 0, lb_endpoints: [ { load_balancing_weight: 2, endpoint: { address: {
           socket_address: { address: shop.test, port_value: 80 } } } } ] } ] } }",
    ),
    (
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "{ cluster_name: c, policy: { drop_overloads: [ { category: x, drop_percentage: { numerator: 5 } } ] }, endpoints: [ { locality: { zone: z },
           load_balancing_weight: 3, lb_endpoints: [ { health_status: DEGRADED, endpoint: { address: { socket_address: { address: 10.0.0.1, port_value: 80 } } } } ] } ] }",
    ),
];

fn wire(name: &str, text: &str) -> Vec<u8> {
    json::to_wire(name, text).unwrap_or_else(|error| panic!("{name}: {error}")).0
}

fn all(bytes: &[u8]) {
    fuzz::gate(bytes);
    fuzz::route_table(bytes);
    fuzz::document(bytes);
}

#[test]
fn the_corpus_holds() {
    for (name, text) in CORPUS {
        let bytes = wire(name, text);
        all(&bytes);
        fuzz::document(text.as_bytes());
        for end in 0..bytes.len() {
            fuzz::gate(&bytes[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_hold(
        which in 0..CORPUS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let (name, text) = CORPUS[which];
        let mut bytes = wire(name, text);
        for (place, byte) in changes {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        all(&bytes);
    }

    #[test]
    fn changed_texts_hold(which in 0..CORPUS.len(), place in any::<prop::sample::Index>(), with in "\\PC{0,3}") {
        let mut text = CORPUS[which].1.to_owned();
        let at = (place.index(text.len())..).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.insert_str(at, &with);
        fuzz::document(text.as_bytes());
    }
}

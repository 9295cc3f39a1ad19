use xds_proto::envoy::config::bootstrap::v3::Bootstrap;
use xds_proto::envoy::config::route::v3::RouteConfiguration as WireRoutes;
use xds_proto::json;
use xds_proto::type_url::pack;

use std::time::Duration;

use super::*;
use crate::config::{
    Action, Address, Condition, Domain, EndpointSource, FieldName, FilterChain, HeaderMatch, Health,
    HttpOptions, KeySource, LbPolicy, PathMatch, Patience, Predicate, RouteSource, SplitBy, SplitKey,
    TextMatch, Weight,
};
use crate::http1::{ServerHeader, Underscores};
use crate::path::EscapedSlashes;

/// Listeners and clusters as people write them.
fn bootstrap(static_resources: &str) -> Bootstrap {
    let (bootstrap, warnings) =
        json::read(&format!("static_resources: {static_resources}")).expect("valid YAML");
    assert!(warnings.is_empty(), "{warnings:?}");
    bootstrap
}

fn read_cluster(yaml: &str) -> Result<Cluster, String> {
    let bootstrap = bootstrap(&format!("{{ clusters: [{yaml}] }}"));
    let clusters = bootstrap.static_resources.expect("some").clusters;
    cluster(&pack(&clusters[0])).map(|a| a.value).map_err(|e| e.to_string())
}

const ROUTER: &str = "http_filters: [{ name: router, typed_config: { '@type': \
                      type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }]";
const ADDRESS: &str = "address: { socket_address: { address: 127.0.0.1, port_value: 80 } }";

fn hcm(settings: &str) -> String {
    format!(
        "{{ name: hcm, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, {settings} }} }}"
    )
}

fn read_listener(yaml: &str) -> Result<Listener, String> {
    let bootstrap = bootstrap(&format!("{{ listeners: [{yaml}] }}"));
    let listeners = bootstrap.static_resources.expect("some").listeners;
    listener(&pack(&listeners[0])).map(|a| a.value).map_err(|e| e.to_string())
}

/// A listener whose inline route configuration holds this virtual host.
fn read_routes(routes: &str) -> Result<RouteConfiguration, String> {
    let settings = format!(
        "{ROUTER}, route_config: {{ name: r, virtual_hosts: [{{ name: h, domains: ['*'], routes: [{routes}] }}] }}"
    );
    let text = format!("{{ name: l, {ADDRESS}, filter_chains: [{{ filters: [{}] }}] }}", hcm(&settings));
    match &read_listener(&text)?.chains[0].routes {
        RouteSource::Inline(routes) => Ok((**routes).clone()),
        RouteSource::Rds(..) | RouteSource::RdsFile(..) => Err("not inline".to_owned()),
    }
}

#[test]
fn a_static_cluster_is_read_whole() {
    let cluster = read_cluster(
        "{ name: c, connect_timeout: 0.25s, lb_policy: LEAST_REQUEST, load_assignment: { cluster_name: c, endpoints: [
           { lb_endpoints: [
             { endpoint: { address: { socket_address: { address: '::1', port_value: 8080 } } } },
             { endpoint: { address: { pipe: { path: /run/a.sock } } }, health_status: DRAINING } ] } ] } }",
    )
    .expect("valid");
    assert_eq!(cluster.connect_timeout, Duration::from_millis(250));
    assert_eq!(cluster.balancing.policy, LbPolicy::LeastRequest { choices: 2 });
    let EndpointSource::Static(assignment) = &cluster.endpoints else { panic!("static") };
    let endpoints: Vec<_> = assignment.endpoints().map(|e| (e.address.to_string(), e.health)).collect();
    assert_eq!(
        endpoints,
        [("[::1]:8080".to_owned(), Health::Healthy), ("unix:/run/a.sock".to_owned(), Health::Unhealthy)]
    );
}

#[test]
fn a_cluster_over_eds_is_asked_for_by_service_name() {
    let eds = |extra: &str| {
        format!("{{ name: c, type: EDS, eds_cluster_config: {{ eds_config: {{ ads: {{}} }}{extra} }} }}")
    };
    assert_eq!(
        read_cluster(&eds("")).expect("valid").endpoints,
        EndpointSource::Eds("c".into(), Patience::default())
    );
    assert_eq!(
        read_cluster(&eds(", service_name: s")).expect("valid").endpoints,
        EndpointSource::Eds("s".into(), Patience::default())
    );
}

#[test]
fn clusters_that_make_no_sense_are_refused_with_the_place() {
    let named = |rest: &str| format!("{{ name: c, {rest} }}");
    let endpoint = |address: &str| {
        named(&format!(
            "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {address} }} }}] }}] }}"
        ))
    };
    let at = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address: ";
    let http2 = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { '@type': \
                 type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                 explicit_http_config: { http2_protocol_options: { initial_stream_window_size: 1 } } } }";
    let cases = [
        ("{ name: '' }".to_owned(), "\"\": name: is required".to_owned()),
        (named("type: STATIC"), "load_assignment: is required".into()),
        (named("type: STRICT_DNS"), "load_assignment: is required".into()),
        (
            named("type: ORIGINAL_DST, load_assignment: { cluster_name: c }"),
            "load_assignment: is not for clusters of type ORIGINAL_DST".into(),
        ),
        (named("type: EDS"), "eds_cluster_config.eds_config: ads or path_config_source is required".into()),
        (
            named("connect_timeout: 0s, load_assignment: { cluster_name: c }"),
            "connect_timeout: must be greater".into(),
        ),
        (named("lb_policy: MAGLEV, load_assignment: { cluster_name: c }"), "lb_policy: MAGLEV is not".into()),
        (named("load_assignment: {}"), "load_assignment.cluster_name: is required".into()),
        (
            named("http2_protocol_options: { allow_metadata: true }"),
            "http2_protocol_options.allow_metadata: METADATA frames".into(),
        ),
        (named(http2), "http2_protocol_options.initial_stream_window_size: 1 is not from 65535".into()),
        (
            endpoint("{ socket_address: { address: localhost, port_value: 1 } }"),
            format!("{at}\"localhost\" is not an IP"),
        ),
        (
            endpoint("{ socket_address: { address: 1.1.1.1, port_value: 70000 } }"),
            format!("{at}70000 is not a port"),
        ),
        (endpoint("{ socket_address: { address: 1.1.1.1 } }"), format!("{at}port_value is required")),
        (
            endpoint("{ socket_address: { protocol: UDP, address: 1.1.1.1, port_value: 1 } }"),
            format!("{at}only TCP"),
        ),
        (endpoint("{ pipe: { path: '@x' } }"), format!("{at}\"@x\": abstract sockets")),
    ];
    for (yaml, part) in cases {
        let error = read_cluster(&yaml).expect_err(&part);
        assert!(error.contains(&part), "{error:?} lacks {part:?}");
        assert!(error.starts_with("envoy.config.cluster.v3.Cluster"), "{error}");
    }
}

#[test]
fn a_listener_follows_rds_or_has_its_routes_inline() {
    let rds = hcm(&format!("{ROUTER}, rds: {{ config_source: {{ ads: {{}} }}, route_config_name: r }}"));
    let first = read_listener(&format!("{{ name: l, {ADDRESS}, filter_chains: [{{ filters: [{rds}] }}] }}"))
        .expect("valid");
    assert_eq!(first.chains[0].routes, RouteSource::Rds("r".into(), Patience::default()));
    let default = format!("{{ name: l, {ADDRESS}, default_filter_chain: {{ filters: [{rds}] }} }}");
    // A chain that asks for nothing takes part in the search, the default one does not.
    let chain = &read_listener(&default).expect("valid").chains[0];
    assert_eq!(*chain, FilterChain { matching: None, ..first.chains[0].clone() });
    assert_eq!(first.address, Address::Socket(([127, 0, 0, 1], 80).into()));
}

#[test]
fn listeners_that_make_no_sense_are_refused_with_the_place() {
    let rds = "rds: { config_source: { ads: {} }, route_config_name: r }";
    let with = |chains: &str| format!("{{ name: l, {ADDRESS}, {chains} }}");
    let one = |settings: &str| with(&format!("filter_chains: [{{ filters: [{}] }}]", hcm(settings)));
    let at = "filter_chains[0].filters[0].typed_config.";
    let cases = [
        ("{ name: l }".to_owned(), "address: is required".to_owned()),
        (with("stat_prefix: s"), "filter_chains: a filter chain is required".into()),
        (with("filter_chains: [{}]"), "filter_chains[0].filters: exactly one filter".into()),
        (
            with(&format!(
                "filter_chains: [{{ filters: [{0}] }}, {{ filters: [{0}] }}]",
                hcm(&format!("{ROUTER}, {rds}"))
            )),
            "filter_chains[1].filter_chain_match: some connections are for filter_chains[0] just as well"
                .into(),
        ),
        (
            with(&format!(
                "filter_chains: [{{ filters: [{}] }}], default_filter_chain: {{}}",
                hcm(&format!("{ROUTER}, {rds}"))
            )),
            "default_filter_chain.filters: exactly one filter".into(),
        ),
        (one(ROUTER), format!("{at}rds or route_config: is required")),
        (one(rds), format!("{at}http_filters: the chain must end in the router")),
        (
            one(&format!("{ROUTER}, {rds}, codec_type: HTTP3")),
            format!("{at}codec_type: HTTP3 is not supported"),
        ),
        (
            one(&format!("{ROUTER}, rds: {{ route_config_name: r }}")),
            format!("{at}rds.config_source: ads or path_config_source is required"),
        ),
        (
            one(&format!("{ROUTER}, rds: {{ config_source: {{ ads: {{}} }} }}")),
            "rds.route_config_name: is required".into(),
        ),
        (
            one(&format!("{}, {rds}", ROUTER.replace("name: router,", "name: router, disabled: true,"))),
            "http_filters[0].disabled".into(),
        ),
    ];
    for (yaml, part) in cases {
        let error = read_listener(&yaml).expect_err(&part);
        assert!(error.contains(&part), "{error:?} lacks {part:?}");
    }
}

/// The settings of a connection manager with these fields, or the refusal.
fn read_http(fields: &str) -> Result<HttpOptions, String> {
    let rds = "rds: { config_source: { ads: {} }, route_config_name: r }";
    let manager = hcm(&format!("{ROUTER}, {rds}, {fields}"));
    let listener =
        read_listener(&format!("{{ name: l, {ADDRESS}, filter_chains: [{{ filters: [{manager}] }}] }}"))?;
    Ok((*listener.chains[0].http).clone())
}

#[test]
fn what_a_connection_manager_sets_wins_and_the_rest_is_the_directions() {
    let seconds = |n| Some(Duration::from_secs(n));
    let prefixed = |options: HttpOptions| HttpOptions { stat_prefix: "s".into(), ..options };
    assert_eq!(read_http("codec_type: AUTO").expect("valid"), prefixed(HttpOptions::ingress()));
    let sidecar = hcm(&format!("{ROUTER}, rds: {{ config_source: {{ ads: {{}} }}, route_config_name: r }}"));
    let inbound = format!(
        "{{ name: l, {ADDRESS}, traffic_direction: INBOUND, filter_chains: [{{ filters: [{sidecar}] }}] }}"
    );
    assert_eq!(*read_listener(&inbound).expect("valid").chains[0].http, prefixed(HttpOptions::sidecar()));

    let set = read_http(
        "use_remote_address: true, xff_num_trusted_hops: 2, skip_xff_append: true, via: v, server_name: s, \
         generate_request_id: false, preserve_external_request_id: true, always_set_request_id_in_response: true, \
         request_headers_timeout: 1s, request_timeout: 2s, delayed_close_timeout: 4s, drain_timeout: 5s, \
         max_request_headers_kb: 96, normalize_path: false, merge_slashes: true, \
         path_with_escaped_slashes_action: REJECT_REQUEST, server_header_transformation: APPEND_IF_ABSENT, \
         upgrade_configs: [ { upgrade_type: WebSocket }, { upgrade_type: CONNECT, enabled: false } ], \
         common_http_protocol_options: { idle_timeout: 6s, max_connection_duration: 7s, max_stream_duration: 8s, \
           max_headers_count: 9, max_requests_per_connection: 10, max_response_headers_kb: 11, \
           headers_with_underscores_action: DROP_HEADER }, \
         http_protocol_options: { allow_absolute_url: false, default_host_for_http_10: h, enable_trailers: true }",
    )
    .expect("valid");
    let hop = &set.hop;
    assert!(
        hop.is_edge
            && !hop.appends_forwarded_for
            && !hop.generates_request_id
            && hop.keeps_external_request_id
    );
    assert_eq!((hop.trusted_hops, &*hop.via, set.answers_request_id), (2, "v", true));
    assert_eq!(set.server, ServerHeader::IfAbsent("s".into()));
    let times = &set.timeouts;
    assert_eq!((times.header, times.request, times.keep_alive), (seconds(1), seconds(2), seconds(6)));
    assert_eq!((times.connection, times.exchange), (seconds(7), seconds(8)));
    assert_eq!((times.delayed_close, times.drain), (Duration::from_secs(4), Duration::from_secs(5)));
    let limits = &set.requests.limits;
    assert_eq!((limits.head_bytes, limits.headers, limits.underscores), (96 << 10, 9, Underscores::Drop));
    assert_eq!((set.responses.head_bytes, set.requests_per_connection), (11 << 10, Some(10)));
    assert!(!set.requests.http10 && !set.requests.absolute_form && set.forwards_trailers);
    assert!(!set.paths.normalize && set.paths.merge_slashes);
    assert_eq!(set.paths.escaped_slashes, EscapedSlashes::Reject);
    assert!(set.allows_upgrade(b"WEBSOCKET", &[]) && !set.allows_upgrade(b"connect", &[]));

    let idle = read_http("stream_idle_timeout: 3s").expect("valid").timeouts;
    assert_eq!([idle.stream_idle, idle.body_idle, idle.write, idle.tunnel_idle], [seconds(3); 4]);
    let never = read_http("stream_idle_timeout: 0s, request_headers_timeout: 0s").expect("valid").timeouts;
    assert_eq!([never.stream_idle, never.body_idle, never.header], [None; 3]);
}

#[test]
fn settings_that_cannot_be_obeyed_are_refused_with_the_place() {
    for (fields, part) in [
        ("stream_error_on_invalid_http_message: true", "stream_error_on_invalid_http_message: a connection"),
        ("max_request_headers_kb: 0", "max_request_headers_kb: 0 is not from 1 to 8192"),
        (
            "common_http_protocol_options: { max_headers_count: 1000 }",
            "max_headers_count: 1000 is not from 1 to 128",
        ),
        (
            "http_protocol_options: { allow_chunked_length: true }",
            "allow_chunked_length: a message with both",
        ),
        ("request_timeout: -1s", "request_timeout: must not be negative"),
        ("drain_timeout: 99999999s", "drain_timeout: is more than a year"),
        ("server_name: \"a\\r\\nb\"", "server_name: \"a\\r\\nb\" cannot stand in a header"),
        (
            "upgrade_configs: [ { upgrade_type: h2c } ]",
            "upgrade_configs[0].upgrade_type: h2c is never switched to",
        ),
        ("access_log: [ { name: x } ]", "access_log[0].typed_config: is required"),
        ("local_reply_config: { mappers: [ {} ] }", "local_reply_config.mappers[0].filter: is required"),
        (
            "local_reply_config: { body_format: { text_format: '%NOPE%' } }",
            "body_format.text_format: %NOPE% is not",
        ),
    ] {
        let error = read_http(fields).expect_err(fields);
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    for (fields, part) in [
        (
            "circuit_breakers: { thresholds: [ { max_requests: 1 }, { priority: DEFAULT } ] }",
            "circuit_breakers.thresholds[1].priority: default has thresholds already",
        ),
        ("per_connection_buffer_limit_bytes: 1", "per_connection_buffer_limit_bytes: 1 is not from 1024"),
    ] {
        let cluster = format!("{{ name: c, load_assignment: {{ cluster_name: c }}, {fields} }}");
        let error = read_cluster(&cluster).expect_err(fields);
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[test]
fn routes_are_read_whole() {
    let routes = read_routes(
        "{ match: { path: /a, headers: [{ name: X-A, string_match: { exact: b } }, { name: ':method', present_match: true },
            { name: y, present_match: false }] }, route: { cluster: c } },
         { name: split, match: { path_separated_prefix: /s }, route: { weighted_clusters: { clusters: [
            { name: v1, weight: 1 }, { name: v2, weight: 0 }, { name: v1, weight: 3 }] } },
           typed_per_filter_config: { weir.split: { '@type': type.googleapis.com/weir.split.v1.SplitPolicy, header: X-User, salt: s } } }",
    )
    .expect("valid");
    let [first, second] = routes.virtual_hosts[0].routes.as_slice() else { panic!("two routes") };
    assert_eq!(first.path, PathMatch::Exact("/a".into()));
    let header = |name, predicate| Condition::Header(HeaderMatch::new(name, predicate));
    assert_eq!(
        first.conditions,
        [
            header(FieldName::Header("x-a".into()), Predicate::Text(TextMatch::exact("b"))),
            header(FieldName::Method, Predicate::Present),
            header(FieldName::Header("y".into()), Predicate::Absent),
        ]
    );
    assert_eq!(first.arms()[0].weight, Weight(1));
    let arms: Vec<_> = second.arms().iter().map(|a| (a.name.as_str(), a.weight.0)).collect();
    assert_eq!(arms, [("v1", 1), ("v2", 0), ("v1#2", 3)]);
    let Action::Forward(forward) = &second.action else { panic!("it forwards") };
    let key = SplitKey { source: KeySource::Header("x-user".into()), salt: "s".into() };
    assert_eq!(forward.split.by, SplitBy::User(key));
}

#[test]
fn routes_that_make_no_sense_are_refused_with_the_place() {
    let go = "route: { cluster: c }";
    let split = |clusters: &str| {
        format!("{{ match: {{ prefix: / }}, route: {{ weighted_clusters: {{ clusters: [{clusters}] }} }} }}")
    };
    let at = "route_config.virtual_hosts[0].routes[0].";
    let cases = [
        (format!("{{ {go} }}"), "match: is required"),
        (
            format!("{{ match: {{}}, {go} }}"),
            "match.prefix, path, path_separated_prefix, safe_regex, path_match_policy or connect_matcher: is required",
        ),
        (
            format!("{{ match: {{ path_separated_prefix: /a/ }}, {go} }}"),
            "match.path_separated_prefix: \"/a/\" must start",
        ),
        ("{ match: { prefix: / } }".to_owned(), "route, redirect or direct_response: is required"),
        (
            "{ match: { prefix: / }, route: {} }".to_owned(),
            "route.cluster, cluster_header or weighted_clusters: is required",
        ),
        (
            format!("{{ match: {{ prefix: /, headers: [{{ name: ':status' }}] }}, {go} }}"),
            "match.headers[0].name: \":status\" is not",
        ),
        (
            format!("{{ match: {{ prefix: /, headers: [{{ name: x, string_match: {{}} }}] }}, {go} }}"),
            "match.headers[0].string_match.exact, prefix, suffix, contains or safe_regex: is required",
        ),
        (split("{ name: a, weight: 0 }"), "route.weighted_clusters.clusters: the weights add up to 0"),
        (split("{ name: a }"), "route.weighted_clusters.clusters[0].weight: is required"),
        (split("{ name: a, weight: 4294967295 }, { name: b, weight: 1 }"), "add up to more than"),
        (
            format!(
                "{{ match: {{ prefix: / }}, {go}, typed_per_filter_config: {{ x: {{ '@type': type.googleapis.com/weir.split.v1.SplitPolicy }} }} }}"
            ),
            "typed_per_filter_config[\"x\"]: no such filter",
        ),
        (
            format!(
                "{{ match: {{ prefix: / }}, {go}, typed_per_filter_config: {{ weir.fault: {{ '@type': type.googleapis.com/weir.fault.v1.Correlation, delay: 0.5 }} }} }}"
            ),
            "typed_per_filter_config[\"weir.fault\"]: goes with envoy.filters.http.fault at the same level or above",
        ),
        (
            format!(
                "{{ match: {{ prefix: / }}, {go}, typed_per_filter_config: {{ weir.split: {{ '@type': type.googleapis.com/weir.split.v1.SplitPolicy }} }} }}"
            ),
            "typed_per_filter_config[\"weir.split\"]: says nothing",
        ),
    ];
    for (yaml, part) in cases {
        let error = read_routes(&yaml).expect_err(part);
        assert!(error.contains(part) && error.contains(at), "{error:?} lacks {part:?}");
    }
}

#[test]
fn domains_are_told_apart_and_must_be_unique() {
    use xds_proto::envoy::config::route::v3::VirtualHost;
    let with = |hosts: &[&[&str]]| {
        let host = |domains: &&[&str]| VirtualHost {
            name: "h".into(),
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            ..VirtualHost::default()
        };
        let wire = WireRoutes {
            name: "r".into(),
            virtual_hosts: hosts.iter().map(host).collect(),
            ..WireRoutes::default()
        };
        route_configuration(&pack(&wire)).map(|a| a.value).map_err(|e| e.to_string())
    };
    let routes = with(&[&["Shop.example.com", "*.example.com", "shop.*"], &["*"]]).expect("valid");
    assert_eq!(
        routes.virtual_hosts[0].domains,
        [
            Domain::Exact("shop.example.com".into()),
            Domain::Suffix(".example.com".into()),
            Domain::Prefix("shop.".into())
        ]
    );
    assert_eq!(routes.virtual_hosts[1].domains, [Domain::Any]);
    for (hosts, part) in [
        (&[&["a"][..], &["A"]][..], "is a domain of two virtual hosts"),
        (&[&["a.*.b"]], "`*` may stand at one end only"),
        (&[&["*a*"]], "`*` may stand at one end only"),
        (&[&[""]], "is not a domain"),
        (&[&[]], "at least one domain is required"),
    ] {
        let error = with(hosts).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
}

proptest::proptest! {
    /// Whatever the bytes: a value or a sentence, never a panic.
    #[test]
    fn arbitrary_resources_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        for url in [type_url::LISTENER, type_url::CLUSTER, type_url::ROUTE_CONFIGURATION, type_url::CLUSTER_LOAD_ASSIGNMENT] {
            let any = Any { type_url: url.to_owned(), value: bytes.clone() };
            let _ = listener(&any);
            let _ = cluster(&any);
            let _ = route_configuration(&any);
            let _ = load_assignment(&any);
        }
    }
}

//! Clusters and their endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use xds_proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy,
};
use xds_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use xds_proto::envoy::config::core::v3::{
    Address, DataSource, Http2ProtocolOptions, Locality, Metadata, TransportSocket, data_source,
};
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsCertificate, UpstreamTlsContext,
};
use xds_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use xds_proto::prost_types::{Struct, Value, value};
use xds_proto::type_url::pack;
use xds_proto::weir::breaker::v1::{CountWindow, count_window::Scope};

use super::{Dialect, address, ads, health, inline, named_address, route, tls_socket};
use crate::ir::{self, BackendAddress, BackendProtocol, LoadBalancing, Place};
use crate::model::{BreakerScope, BreakerWindow, CircuitBreaker};

/// Where Linux distributions keep the roots of the machine.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) fn cluster(name: &str, backend: &ir::Backend, dialect: Dialect) -> Cluster {
    let policy = match backend.load_balancing {
        LoadBalancing::RoundRobin => LbPolicy::RoundRobin,
        // Clients of gRPC refuse it unless they are told otherwise (gRFC A48).
        LoadBalancing::LeastRequest if dialect == Dialect::Grpc => LbPolicy::RoundRobin,
        LoadBalancing::LeastRequest => LbPolicy::LeastRequest,
    };
    let discovery = if backend.has_names() { DiscoveryType::StrictDns } else { DiscoveryType::Eds };
    let eds = EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        eds_cluster_config: (!backend.has_names()).then_some(eds),
        load_assignment: backend.has_names().then(|| load_assignment(name, backend, dialect, None)),
        lb_policy: policy as i32,
        // Where a name has addresses of both families, most backends listen on the older one.
        dns_lookup_family: if backend.has_names() { DnsLookupFamily::V4Preferred as i32 } else { 0 },
        typed_extension_protocol_options: extensions(backend, dialect),
        transport_socket: backend.tls.as_ref().filter(|_| dialect != Dialect::Grpc).map(tls),
        transport_socket_matches: health::transports(backend, dialect),
        circuit_breakers: circuit_breakers(&backend.limits),
        health_checks: health::checks(backend, dialect),
        common_lb_config: health::no_panic(backend, dialect),
        ..Cluster::default()
    }
}

/// What stands beside the cluster's own fields. Envoy has no breaker over outcomes.
fn extensions(backend: &ir::Backend, dialect: Dialect) -> HashMap<String, xds_proto::prost_types::Any> {
    let mut options = protocol_options(backend, dialect);
    if let Some(window) = backend.limits.window.as_ref().filter(|_| dialect == Dialect::Weir) {
        options.insert("weir.breaker".to_owned(), pack(&count_window(window)));
    }
    options
}

fn count_window(window: &BreakerWindow) -> CountWindow {
    let open = window.wait_duration_in_open_state.as_deref().and_then(crate::model::duration);
    let scope = match window.scope {
        BreakerScope::Backend => Scope::Cluster,
        BreakerScope::Endpoint => Scope::Endpoint,
    };
    CountWindow {
        size: window.sliding_window_size.unwrap_or(BreakerWindow::SIZE),
        minimum_calls: window.minimum_number_of_calls,
        failure_rate_threshold: window.failure_rate_threshold,
        open_duration: open.and_then(|open| open.try_into().ok()),
        half_open_calls: window.permitted_number_of_calls_in_half_open_state,
        scope: scope as i32,
    }
}

fn protocol_options(backend: &ir::Backend, dialect: Dialect) -> HashMap<String, xds_proto::prost_types::Any> {
    if backend.protocol == BackendProtocol::Http || dialect == Dialect::Grpc {
        return HashMap::new();
    }
    let http2 = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let explicit = ExplicitHttpConfig { protocol_config: Some(http2) };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    };
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    HashMap::from([(name.to_owned(), pack(&options))])
}

fn tls(tls: &ir::BackendTls) -> TransportSocket {
    let name = |name: &ir::ExpectedName| {
        let (san_type, text) = match name {
            ir::ExpectedName::Dns(name) => (SanType::Dns, name),
            ir::ExpectedName::Uri(uri) => (SanType::Uri, uri),
        };
        SubjectAltNameMatcher { san_type: san_type as i32, matcher: Some(route::exactly(text)) }
    };
    let file = |path: &str| DataSource {
        specifier: Some(data_source::Specifier::Filename(path.to_owned())),
        watched_directory: None,
    };
    let shown = tls.shown.as_ref().map(|files| TlsCertificate {
        certificate_chain: Some(file(&files.chain)),
        private_key: Some(file(&files.key)),
        watched_directory: None,
    });
    let validation = CertificateValidationContext {
        trusted_ca: Some(tls.roots.as_deref().map_or_else(|| file(SYSTEM_ROOTS), inline)),
        match_typed_subject_alt_names: tls.names.iter().map(name).collect(),
        ..CertificateValidationContext::default()
    };
    let context = UpstreamTlsContext {
        sni: tls.server_name.clone(),
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: shown.into_iter().collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    tls_socket(pack(&context))
}

fn circuit_breakers(limits: &CircuitBreaker) -> Option<CircuitBreakers> {
    let has_limits = limits.max_connections.is_some()
        || limits.max_pending_requests.is_some()
        || limits.max_requests.is_some();
    has_limits.then(|| CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: limits.max_connections,
            max_pending_requests: limits.max_pending_requests,
            max_requests: limits.max_requests,
            ..Thresholds::default()
        }],
    })
}

/// The endpoints, as they look from a place where that matters: the near ones first.
pub(super) fn load_assignment(
    name: &str,
    backend: &ir::Backend,
    dialect: Dialect,
    from: Option<&Place>,
) -> ClusterLoadAssignment {
    let are_weighted = backend.endpoints.iter().any(|endpoint| endpoint.weight != 1);
    let lb_endpoint = |endpoint: &ir::Endpoint| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(match &endpoint.address {
                BackendAddress::Known(known) => address(known),
                BackendAddress::Name(host, port) => Address { address: Some(named_address(host, *port)) },
            }),
            health_check_config: health::config(endpoint, backend, dialect),
            hostname: String::new(),
        })),
        metadata: metadata(&endpoint.labels),
        load_balancing_weight: are_weighted.then_some(endpoint.weight),
        ..LbEndpoint::default()
    };
    let mut groups: BTreeMap<(u32, Place), Vec<&ir::Endpoint>> = BTreeMap::new();
    for endpoint in &backend.endpoints {
        let place = endpoint.place();
        let distance = from.map_or(0, |from| from.distance(&place));
        groups.entry((distance, place)).or_default().push(endpoint);
    }
    // One that is empty is still one: clients of gRPC wait for what has none.
    if groups.is_empty() {
        groups.insert((0, Place::default()), Vec::new());
    }
    // Priorities have no gaps (gRFC A27).
    let distances: BTreeSet<u32> = groups.keys().map(|(distance, _)| *distance).collect();
    let locality = |((distance, place), endpoints): (&(u32, Place), &Vec<&ir::Endpoint>)| {
        // Clients of gRPC leave out localities without a weight (gRFC A27).
        let is_grpc = dialect == Dialect::Grpc;
        let Place { region, zone } = place.clone();
        let locality = Locality { region, zone, sub_zone: String::new() };
        let weight = endpoints.iter().map(|endpoint| endpoint.weight).sum::<u32>().max(1);
        LocalityLbEndpoints {
            lb_endpoints: endpoints.iter().map(|endpoint| lb_endpoint(endpoint)).collect(),
            locality: (is_grpc || !place.is_unknown()).then_some(locality),
            load_balancing_weight: is_grpc.then_some(weight),
            priority: distances.range(..distance).count() as u32,
            ..LocalityLbEndpoints::default()
        }
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: groups.iter().map(locality).collect(),
        policy: None,
    }
}

/// Labels where Envoy's subset balancing looks for them.
fn metadata(labels: &BTreeMap<String, String>) -> Option<Metadata> {
    let text = |text: &String| Value { kind: Some(value::Kind::StringValue(text.clone())) };
    let fields: BTreeMap<_, _> = labels.iter().map(|(k, v)| (k.clone(), text(v))).collect();
    (!fields.is_empty()).then(|| Metadata {
        filter_metadata: HashMap::from([("envoy.lb".to_owned(), Struct { fields })]),
        typed_filter_metadata: HashMap::new(),
    })
}

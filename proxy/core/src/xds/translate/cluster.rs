//! Clusters, endpoints, addresses.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use xds_proto::envoy::config::cluster::v3 as cluster_proto;
use xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy as WirePolicy,
};
use xds_proto::envoy::config::cluster::v3::{CircuitBreakers, circuit_breakers};
use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::envoy::config::core::v3::{
    ApiVersion, ConfigSource, HealthStatus, Pipe, RoutingPriority, SocketAddress,
};
use xds_proto::envoy::config::endpoint::v3 as endpoint_proto;
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::envoy::extensions::upstreams::http::v3 as upstream_proto;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use xds_proto::prost_types::{self, Any};

use super::fault::{At, Fault, Translated, each, required};
use super::http::{buffer_bytes, head_bytes, header_count, set_time};
use super::{eds_name, named, unpack};
use crate::breaker::{Priority, Thresholds};
use crate::config::{
    Address, Cluster, ConnectionOptions, Endpoint, EndpointSource, LbPolicy, LoadAssignment,
    PriorityThresholds,
};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const NO_HTTP2: &str = "HTTP/2 to upstreams is not supported by this version";

pub(super) fn cluster(message: cluster_proto::Cluster) -> Translated<Cluster> {
    let cluster_proto::Cluster {
        name,
        cluster_discovery_type,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        lb_policy,
        max_requests_per_connection,
        circuit_breakers,
        http2_protocol_options,
        alt_stat_name: _, // ignorable
        load_assignment,
        typed_extension_protocol_options,
    } = message;
    named(&name)?;
    if http2_protocol_options.is_some() {
        return Err(Fault::new(NO_HTTP2).under("http2_protocol_options"));
    }
    let mut connections = ConnectionOptions {
        // 0 is no limit, as in Envoy.
        max_requests: max_requests_per_connection.filter(|count| *count > 0),
        buffer_bytes: per_connection_buffer_limit_bytes
            .map(buffer_bytes)
            .transpose()
            .at("per_connection_buffer_limit_bytes")?,
        ..ConnectionOptions::default()
    };
    protocol_options(&typed_extension_protocol_options, &mut connections)
        .at("typed_extension_protocol_options")?;
    let discovery = match cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(number)) => enum_value(number).at("type")?,
    };
    let endpoints = match discovery {
        DiscoveryType::Static if eds_cluster_config.is_some() => {
            return Err(Fault::new("is only for clusters of type EDS").under("eds_cluster_config"));
        }
        DiscoveryType::Static => {
            let assignment = required("load_assignment", load_assignment)?;
            EndpointSource::Static(Arc::new(self::load_assignment(assignment).at("load_assignment")?))
        }
        DiscoveryType::Eds if load_assignment.is_some() => {
            return Err(Fault::new("is not for clusters of type EDS").under("load_assignment"));
        }
        DiscoveryType::Eds => {
            let EdsClusterConfig { eds_config, service_name } = eds_cluster_config.unwrap_or_default();
            ads(eds_config).at("eds_config").at("eds_cluster_config")?;
            EndpointSource::Eds(eds_name(service_name, &name))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns | DiscoveryType::OriginalDst => {
            let reason = format!("{} is not supported by this version", discovery.as_str_name());
            return Err(Fault::new(reason).under("type"));
        }
    };
    Ok(Cluster {
        name: name.into(),
        endpoints,
        connect_timeout: connect_timeout_of(connect_timeout).at("connect_timeout")?,
        lb_policy: policy(lb_policy).at("lb_policy")?,
        thresholds: thresholds(circuit_breakers).at("circuit_breakers")?,
        connections,
    })
}

fn thresholds(breakers: Option<CircuitBreakers>) -> Translated<PriorityThresholds> {
    let CircuitBreakers { thresholds } = breakers.unwrap_or_default();
    let mut both = PriorityThresholds::default();
    let mut seen = HashSet::new();
    each("thresholds", thresholds, |message| {
        let circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            track_remaining: _, // ignorable: what remains is always told
        } = message;
        let priority = self::priority(priority).at("priority")?;
        if !seen.insert(priority) {
            let reason = format!("{} has thresholds already", priority.as_str());
            return Err(Fault::new(reason).under("priority"));
        }
        let defaults = Thresholds::default();
        let set = Thresholds {
            connections: max_connections.unwrap_or(defaults.connections),
            pending: max_pending_requests.unwrap_or(defaults.pending),
            requests: max_requests.unwrap_or(defaults.requests),
            retries: max_retries.unwrap_or(defaults.retries),
        };
        match priority {
            Priority::Default => both.default = set,
            Priority::High => both.high = set,
        }
        Ok(())
    })?;
    Ok(both)
}

/// Which limits something counts against.
pub(super) fn priority(number: i32) -> Translated<Priority> {
    Ok(match enum_value(number)? {
        RoutingPriority::Default => Priority::Default,
        RoutingPriority::High => Priority::High,
    })
}

/// The common options as they concern connections to endpoints.
fn common_options(
    options: core_proto::HttpProtocolOptions,
    connections: &mut ConnectionOptions,
) -> Translated<()> {
    let core_proto::HttpProtocolOptions {
        idle_timeout,
        max_headers_count,
        max_connection_duration,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
        max_response_headers_kb,
    } = options;
    set_time(&mut connections.idle_timeout, idle_timeout).at("idle_timeout")?;
    set_time(&mut connections.max_duration, max_connection_duration).at("max_connection_duration")?;
    if let Some(count) = max_requests_per_connection {
        connections.max_requests = (count > 0).then_some(count);
    }
    connections.response_head_bytes =
        max_response_headers_kb.map(head_bytes).transpose().at("max_response_headers_kb")?;
    connections.response_headers = max_headers_count.map(header_count).transpose().at("max_headers_count")?;
    // What follows is said of requests; a listener or a route says it.
    if max_stream_duration.is_some() {
        return Err(Fault::new("is for listeners and routes").under("max_stream_duration"));
    }
    if headers_with_underscores_action != 0 {
        return Err(Fault::new("is for listeners").under("headers_with_underscores_action"));
    }
    Ok(())
}

fn protocol_options(options: &HashMap<String, Any>, connections: &mut ConnectionOptions) -> Translated<()> {
    for (key, any) in options {
        let at = format!("[{key:?}]");
        if key != HTTP_PROTOCOL_OPTIONS {
            return Err(Fault::new("is not supported").under(at));
        }
        let upstream_proto::HttpProtocolOptions { common_http_protocol_options, upstream_protocol_options } =
            unpack(any).at(&at)?;
        if let Some(common) = common_http_protocol_options {
            common_options(common, connections).at("common_http_protocol_options").at(&at)?;
        }
        let protocol = upstream_protocol_options.and_then(
            |UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config })| {
                protocol_config
            },
        );
        match protocol {
            Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                if options != core_proto::Http1ProtocolOptions::default() {
                    let reason = "its fields are for listeners; to endpoints HTTP/1.1 is always strict";
                    return Err(Fault::new(reason)
                        .under("explicit_http_config.http_protocol_options")
                        .under(at));
                }
            }
            Some(ProtocolConfig::Http2ProtocolOptions(core_proto::Http2ProtocolOptions {})) => {
                return Err(Fault::new(NO_HTTP2)
                    .under("explicit_http_config.http2_protocol_options")
                    .under(at));
            }
            None => return Err(Fault::new("is required").under("explicit_http_config").under(at)),
        }
    }
    Ok(())
}

fn connect_timeout_of(timeout: Option<prost_types::Duration>) -> Translated<Duration> {
    let Some(timeout) = timeout else {
        return Ok(DEFAULT_CONNECT_TIMEOUT);
    };
    match Duration::try_from(timeout) {
        Ok(timeout) if !timeout.is_zero() => Ok(timeout),
        _ => Err(Fault::new("must be greater than 0")),
    }
}

fn policy(number: i32) -> Translated<LbPolicy> {
    match enum_value(number)? {
        WirePolicy::RoundRobin => Ok(LbPolicy::RoundRobin),
        WirePolicy::LeastRequest => Ok(LbPolicy::LeastRequest),
        other @ (WirePolicy::RingHash
        | WirePolicy::Random
        | WirePolicy::Maglev
        | WirePolicy::ClusterProvided
        | WirePolicy::LoadBalancingPolicyConfig) => {
            Err(Fault::new(format!("{} is not supported by this version", other.as_str_name())))
        }
    }
}

pub(super) fn load_assignment(message: endpoint_proto::ClusterLoadAssignment) -> Translated<LoadAssignment> {
    let endpoint_proto::ClusterLoadAssignment { cluster_name, endpoints } = message;
    if cluster_name.is_empty() {
        return Err(Fault::new("is required").under("cluster_name"));
    }
    let localities = each("endpoints", endpoints, |locality| {
        let endpoint_proto::LocalityLbEndpoints { locality: _, lb_endpoints } = locality; // locality: ignorable
        each("lb_endpoints", lb_endpoints, endpoint)
    })?;
    Ok(LoadAssignment { endpoints: localities.into_iter().flatten().collect() })
}

fn endpoint(message: endpoint_proto::LbEndpoint) -> Translated<Endpoint> {
    let endpoint_proto::LbEndpoint { health_status, metadata: _, host_identifier } = message; // metadata: ignorable
    let HostIdentifier::Endpoint(endpoint) = required("endpoint", host_identifier)?;
    let endpoint_proto::Endpoint { address, hostname: _ } = endpoint; // hostname: ignorable
    let usable = match enum_value(health_status).at("health_status")? {
        HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded => true,
        HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => false,
    };
    let address =
        required("address", address).and_then(|a| self::address(a).map_err(Fault::new).at("address"));
    Ok(Endpoint { address: address.at("endpoint")?, usable })
}

/// An address to listen on or to connect to.
///
/// # Errors
/// A sentence that says what is not an address.
pub fn address(message: core_proto::Address) -> Result<Address, String> {
    use core_proto::address::Address as Wire;
    use core_proto::socket_address::{PortSpecifier, Protocol};

    let core_proto::Address { address } = message;
    match address {
        Some(Wire::SocketAddress(SocketAddress { protocol, address, port_specifier })) => {
            if protocol != Protocol::Tcp as i32 {
                return Err("only TCP is supported".to_owned());
            }
            let ip: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
            let Some(PortSpecifier::PortValue(port)) = port_specifier else {
                return Err("port_value is required".to_owned());
            };
            let port = u16::try_from(port).map_err(|_| format!("{port} is not a port"))?;
            Ok(Address::Socket(SocketAddr::new(ip, port)))
        }
        Some(Wire::Pipe(Pipe { path })) if path.starts_with('@') => {
            Err(format!("{path:?}: abstract sockets are not supported"))
        }
        Some(Wire::Pipe(Pipe { path })) if !path.is_empty() => Ok(Address::Pipe(PathBuf::from(path))),
        Some(Wire::Pipe(_)) => Err("path is required".to_owned()),
        None => Err("is required".to_owned()),
    }
}

/// A configuration source that must be the aggregated stream.
pub(super) fn ads(source: Option<ConfigSource>) -> Translated<()> {
    let ConfigSource { resource_api_version, config_source_specifier } = source.unwrap_or_default();
    if resource_api_version == ApiVersion::V2 as i32 {
        return Err(Fault::new("V2 is not supported").under("resource_api_version"));
    }
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(core_proto::AggregatedConfigSource {})) => Ok(()),
        None => Err(Fault::new("is required").under("ads")),
    }
}

/// An enum number. The gate let only known ones pass, so this fails for a caller that went around it.
pub(super) fn enum_value<E: TryFrom<i32>>(number: i32) -> Translated<E> {
    E::try_from(number).map_err(|_| Fault::new(format!("{number} is not a known value")))
}

//! Clusters: where their endpoints come from, and how connections to them are kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use xds_proto::envoy::config::cluster::v3 as cluster_proto;
use xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy,
    OriginalDstLbConfig, TransportSocketMatch,
};
use xds_proto::envoy::config::cluster::v3::{CircuitBreakers, circuit_breakers};
use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::envoy::config::core::v3::{
    ApiVersion, ConfigSource, PathConfigSource, RoutingPriority, WatchedDirectory,
};
use xds_proto::envoy::extensions::upstreams::http::v3 as upstream_proto;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use xds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use xds_proto::prost_types::{self, Any};
use xds_proto::weir::breaker::v1::{CountWindow, count_window::Scope};

use super::fault::{At, Fault, Translated, each, required};
use super::http::{buffer_bytes, duration, head_bytes, header_count, set_time};
use super::{balancing, dns, eds_name, endpoint, health, http2, named, tls, unpack};
use crate::breaker::{Priority, Thresholds, WindowOptions};
use crate::config::{
    Cluster, ConnectionOptions, EndpointSource, Patience, PriorityThresholds, TransportMatch,
    UpstreamProtocol,
};
use crate::xds::Origin;

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BREAKER: &str = "weir.breaker";
const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn cluster(message: cluster_proto::Cluster) -> Translated<Cluster> {
    let cluster_proto::Cluster {
        name,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        lb_policy,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        http2_protocol_options,
        dns_refresh_rate,
        dns_lookup_family,
        lb_subset_config,
        transport_socket,
        metadata: _, // ignorable
        common_lb_config,
        alt_stat_name: _,                 // ignorable
        ignore_health_on_host_removal: _, // what is removed is removed, whatever its health
        load_assignment,
        typed_extension_protocol_options,
        respect_dns_ttl,
        load_balancing_policy,
        transport_socket_matches,
        dns_failure_refresh_rate,
        wait_for_warm_on_init: _, // ignorable
        typed_dns_resolver_config,
        dns_jitter,
        cluster_discovery_type,
        mut lb_config,
    } = message;
    named(&name)?;
    let mut connections = ConnectionOptions {
        // 0 is no limit, as in Envoy.
        max_requests: max_requests_per_connection.filter(|count| *count > 0),
        buffer_bytes: per_connection_buffer_limit_bytes
            .map(buffer_bytes)
            .transpose()
            .at("per_connection_buffer_limit_bytes")?,
        ..ConnectionOptions::default()
    };
    if let Some(options) = http2_protocol_options {
        connections.protocol = UpstreamProtocol::Http2;
        http2::options(options, &mut connections.http2).at("http2_protocol_options")?;
    }
    let window = extensions(&typed_extension_protocol_options, &mut connections)
        .at("typed_extension_protocol_options")?;
    let lookups = dns::of_cluster(
        dns_refresh_rate,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_jitter,
        typed_dns_resolver_config,
        dns_lookup_family,
    )?;
    let source = source(cluster_discovery_type, lookups)?;
    if eds_cluster_config.is_some() && !matches!(source, Source::Eds) {
        return Err(Fault::new("is only for clusters of type EDS").under("eds_cluster_config"));
    }
    let endpoints = match source {
        Source::OriginalDst if load_assignment.is_some() => {
            return Err(Fault::new("is not for clusters of type ORIGINAL_DST").under("load_assignment"));
        }
        Source::OriginalDst => original_dst(&mut lb_config)?,
        Source::Static => {
            let assignment = required("load_assignment", load_assignment)?;
            EndpointSource::Static(Arc::new(endpoint::load_assignment(assignment).at("load_assignment")?))
        }
        Source::Eds if load_assignment.is_some() => {
            return Err(Fault::new("is not for clusters of type EDS").under("load_assignment"));
        }
        Source::Eds => {
            let EdsClusterConfig { eds_config, service_name } = eds_cluster_config.unwrap_or_default();
            let (from, patience) = config_source(eds_config).at("eds_config").at("eds_cluster_config")?;
            match from {
                Origin::Ads => EndpointSource::Eds(eds_name(service_name, &name), patience),
                Origin::File(path) => EndpointSource::EdsFile(eds_name(service_name, &name), path),
            }
        }
        Source::Dns(wire) => {
            let assignment = required("load_assignment", load_assignment)?;
            EndpointSource::Dns(Arc::new(dns::targets(assignment, wire)?))
        }
    };
    let lb_policy = match (&endpoints, enum_value(lb_policy)) {
        // The client chose the endpoint.
        (EndpointSource::OriginalDst { .. }, Ok(LbPolicy::ClusterProvided)) => LbPolicy::RoundRobin as i32,
        _ => lb_policy,
    };
    let picking = balancing::Wire {
        lb_policy,
        lb_config,
        load_balancing_policy,
        common: common_lb_config,
        subsets: lb_subset_config,
    };
    Ok(Cluster {
        name: name.into(),
        endpoints,
        connect_timeout: connect_timeout_of(connect_timeout).at("connect_timeout")?,
        balancing: balancing::balancing(picking)?,
        thresholds: thresholds(circuit_breakers).at("circuit_breakers")?,
        window,
        health_check: health::check(health_checks)?,
        connections,
        transport: transport_socket
            .map(tls::upstream)
            .transpose()
            .at("transport_socket")?
            .unwrap_or_default(),
        transport_matches: each("transport_socket_matches", transport_socket_matches, transport_match)?,
    })
}

fn transport_match(message: TransportSocketMatch) -> Translated<TransportMatch> {
    let TransportSocketMatch { name: _, r#match, transport_socket } = message; // the name is for people
    Ok(TransportMatch {
        labels: r#match.map(endpoint::labels).transpose().at("match")?.unwrap_or_default(),
        transport: tls::upstream(required("transport_socket", transport_socket)?).at("transport_socket")?,
    })
}

fn original_dst(lb_config: &mut Option<LbConfig>) -> Translated<EndpointSource> {
    let Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig { upstream_port_override })) = *lb_config
    else {
        return Ok(EndpointSource::OriginalDst { port: None });
    };
    *lb_config = None;
    let port = match upstream_port_override {
        None | Some(0) => None,
        Some(port) => Some(u16::try_from(port).map_err(|_| {
            Fault::new(format!("{port} is not a port")).under("original_dst_lb_config.upstream_port_override")
        })?),
    };
    Ok(EndpointSource::OriginalDst { port })
}

/// Where endpoints come from.
enum Source {
    Static,
    Eds,
    Dns(dns::Wire),
    OriginalDst,
}

fn source(discovery: Option<ClusterDiscoveryType>, mut lookups: dns::Wire) -> Translated<Source> {
    let kind = match discovery {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(number)) => enum_value(number).at("type")?,
        Some(ClusterDiscoveryType::ClusterType(CustomClusterType { name: _, typed_config })) => {
            let at = "cluster_type.typed_config";
            let any = required(at, typed_config)?;
            return Ok(Source::Dns(dns::of_extension(unpack(&any).at(at)?).at(at)?));
        }
    };
    match kind {
        DiscoveryType::StrictDns => Ok(Source::Dns(lookups)),
        DiscoveryType::LogicalDns => {
            lookups.all_addresses = false;
            Ok(Source::Dns(lookups))
        }
        DiscoveryType::Static | DiscoveryType::Eds | DiscoveryType::OriginalDst
            if lookups.says_anything() =>
        {
            Err(Fault::new("has settings of DNS, and looks nothing up").under("type"))
        }
        DiscoveryType::Static => Ok(Source::Static),
        DiscoveryType::Eds => Ok(Source::Eds),
        DiscoveryType::OriginalDst => Ok(Source::OriginalDst),
    }
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

/// What stands beside the cluster's own fields: how it is spoken to, and the breaker that standard xDS has no field for.
fn extensions(
    options: &HashMap<String, Any>,
    connections: &mut ConnectionOptions,
) -> Translated<Option<WindowOptions>> {
    let mut breaker = None;
    for (key, any) in options {
        let at = format!("[{key:?}]");
        if key == BREAKER {
            breaker = Some(unpack(any).and_then(window).at(&at)?);
            continue;
        }
        if key != HTTP_PROTOCOL_OPTIONS {
            return Err(Fault::new("is not supported").under(at));
        }
        let upstream_proto::HttpProtocolOptions { common_http_protocol_options, upstream_protocol_options } =
            unpack(any).at(&at)?;
        if let Some(common) = common_http_protocol_options {
            common_options(common, connections).at("common_http_protocol_options").at(&at)?;
        }
        protocol(upstream_protocol_options, connections).at(&at)?;
    }
    Ok(breaker)
}

/// A breaker over the outcomes of the last calls.
fn window(message: CountWindow) -> Translated<WindowOptions> {
    let CountWindow { size, minimum_calls, failure_rate_threshold, open_duration, half_open_calls, scope } =
        message;
    let within = |field: &'static str, value: u32, most: u32| match value {
        value if (1..=most).contains(&value) => Ok(value),
        value => Err(Fault::new(format!("{value} is not from 1 to {most}")).under(field)),
    };
    let size = within("size", size, 1_000)?;
    Ok(WindowOptions {
        size,
        minimum: within("minimum_calls", minimum_calls.unwrap_or(size), size)?,
        failure_percent: within("failure_rate_threshold", failure_rate_threshold.unwrap_or(50), 100)?,
        open: open_duration.map_or(Ok(Duration::from_secs(60)), duration).at("open_duration")?,
        half_open: within("half_open_calls", half_open_calls.unwrap_or(10), 1_000)?,
        is_of_endpoint: enum_value::<Scope>(scope).at("scope")? == Scope::Endpoint,
    })
}

/// What the endpoints speak.
fn protocol(options: Option<UpstreamProtocolOptions>, connections: &mut ConnectionOptions) -> Translated<()> {
    let (field, protocol, http1, http2) = match options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config })) => {
            let field = "explicit_http_config";
            match protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                    (field, UpstreamProtocol::Http1, Some(options), None)
                }
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    (field, UpstreamProtocol::Http2, None, Some(options))
                }
                None => return Err(Fault::new("is required").under(field)),
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options,
            http2_protocol_options,
        })) => {
            let field = "use_downstream_protocol_config";
            (field, UpstreamProtocol::Downstream, http_protocol_options, http2_protocol_options)
        }
        Some(UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options,
            http2_protocol_options,
        })) => ("auto_config", UpstreamProtocol::Alpn, http_protocol_options, http2_protocol_options),
        None => return Err(Fault::new("is required").under("explicit_http_config")),
    };
    connections.protocol = protocol;
    if http1.is_some_and(|options| options != core_proto::Http1ProtocolOptions::default()) {
        let reason = "its fields are for listeners; to endpoints HTTP/1.1 is always strict";
        return Err(Fault::new(reason).under("http_protocol_options").under(field));
    }
    if let Some(options) = http2 {
        http2::options(options, &mut connections.http2).at("http2_protocol_options").at(field)?;
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

/// A configuration source, and how long it is waited for.
pub(super) fn config_source(source: Option<ConfigSource>) -> Translated<(Origin, Patience)> {
    let ConfigSource { initial_fetch_timeout, resource_api_version, config_source_specifier } =
        source.unwrap_or_default();
    if resource_api_version == ApiVersion::V2 as i32 {
        return Err(Fault::new("V2 is not supported").under("resource_api_version"));
    }
    let mut patience = Patience::default();
    if let Some(time) = initial_fetch_timeout {
        let time = duration(time).at("initial_fetch_timeout")?;
        patience = Patience((!time.is_zero()).then_some(time));
    }
    let origin = match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(core_proto::AggregatedConfigSource {})) => Ok(Origin::Ads),
        Some(ConfigSourceSpecifier::Path(path)) => file(path).at("path"),
        Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource { path, watched_directory })) => {
            // Its folder is watched in any case, and a link to it as well.
            if watched_directory.is_some_and(|WatchedDirectory { path }| path.is_empty()) {
                return Err(Fault::new("is required").under("path_config_source.watched_directory.path"));
            }
            file(path).at("path").at("path_config_source")
        }
        None => Err(Fault::new("ads or path_config_source is required")),
    };
    Ok((origin?, patience))
}

fn file(path: String) -> Translated<Origin> {
    if path.is_empty() { Err(Fault::new("is required")) } else { Ok(Origin::File(path.into())) }
}

/// An enum number. The gate let only known ones pass, so this fails for a caller that went around it.
pub(super) fn enum_value<E: TryFrom<i32>>(number: i32) -> Translated<E> {
    E::try_from(number).map_err(|_| Fault::new(format!("{number} is not a known value")))
}

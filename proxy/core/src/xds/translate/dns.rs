//! Clusters whose endpoints have names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use xds_proto::envoy::config::cluster::v3::cluster::{DnsLookupFamily, RefreshRate};
use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::{DnsResolverOptions, TypedExtensionConfig};
use xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as CommonFamily;
use xds_proto::envoy::extensions::clusters::dns::v3::{DnsCluster, dns_cluster};
use xds_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use xds_proto::prost_types;

use super::cluster::enum_value;
use super::endpoint::{self, host_and_port};
use super::fault::{At, Fault, Translated, each, required};
use super::http::duration;
use super::unpack;
use crate::config::{Address, DnsOptions, DnsTargets, LookupFamily};

/// Envoy's defaults.
const REFRESH: Duration = Duration::from_secs(5);
const LEAST: Duration = Duration::from_millis(1);

/// The fields of a cluster, in either of their forms, that say how names are looked up.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) refresh: Option<prost_types::Duration>,
    pub(super) failure: Option<(Option<prost_types::Duration>, Option<prost_types::Duration>)>,
    pub(super) respects_ttl: bool,
    pub(super) jitter: Option<prost_types::Duration>,
    pub(super) resolver: Option<TypedExtensionConfig>,
    pub(super) family: LookupFamily,
    pub(super) all_addresses: bool,
}

impl Wire {
    /// Whether something is said that only a DNS cluster can mean.
    pub(super) fn says_anything(&self) -> bool {
        self.refresh.is_some()
            || self.failure.is_some()
            || self.respects_ttl
            || self.jitter.is_some()
            || self.resolver.is_some()
    }
}

/// The older form: fields of the cluster itself.
pub(super) fn of_cluster(
    refresh: Option<prost_types::Duration>,
    failure: Option<RefreshRate>,
    respects_ttl: bool,
    jitter: Option<prost_types::Duration>,
    resolver: Option<TypedExtensionConfig>,
    family: i32,
) -> Translated<Wire> {
    let family = match enum_value(family).at("dns_lookup_family")? {
        DnsLookupFamily::Auto => LookupFamily::V6Preferred,
        DnsLookupFamily::V4Only => LookupFamily::V4,
        DnsLookupFamily::V6Only => LookupFamily::V6,
        DnsLookupFamily::V4Preferred => LookupFamily::V4Preferred,
        DnsLookupFamily::All => LookupFamily::All,
    };
    let failure = failure.map(|RefreshRate { base_interval, max_interval }| (base_interval, max_interval));
    Ok(Wire { refresh, failure, respects_ttl, jitter, resolver, family, all_addresses: true })
}

/// The newer form: an extension.
pub(super) fn of_extension(message: DnsCluster) -> Translated<Wire> {
    let DnsCluster {
        dns_refresh_rate: refresh,
        dns_failure_refresh_rate,
        respect_dns_ttl: respects_ttl,
        dns_jitter: jitter,
        typed_dns_resolver_config: resolver,
        dns_lookup_family,
        all_addresses_in_single_endpoint,
    } = message;
    let family = match enum_value(dns_lookup_family).at("dns_lookup_family")? {
        CommonFamily::Unspecified | CommonFamily::Auto => LookupFamily::V6Preferred,
        CommonFamily::V4Only => LookupFamily::V4,
        CommonFamily::V6Only => LookupFamily::V6,
        CommonFamily::V4Preferred => LookupFamily::V4Preferred,
        CommonFamily::All => LookupFamily::All,
    };
    let failure = dns_failure_refresh_rate
        .map(|dns_cluster::RefreshRate { base_interval, max_interval }| (base_interval, max_interval));
    Ok(Wire {
        refresh,
        failure,
        respects_ttl,
        jitter,
        resolver,
        family,
        all_addresses: !all_addresses_in_single_endpoint,
    })
}

/// What is looked up, and how.
pub(super) fn targets(assignment: ClusterLoadAssignment, wire: Wire) -> Translated<DnsTargets> {
    let mut names = Vec::new();
    let template = endpoint::assignment(assignment, &mut |address| {
        let (host, port) = name_and_port(address)?;
        let ip = host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        names.push(host.into_boxed_str());
        Ok(Address::Socket(SocketAddr::new(ip, port)))
    });
    let template = template.at("load_assignment")?;
    if names.is_empty() {
        return Err(Fault::new("at least one endpoint is required").under("load_assignment.endpoints"));
    }
    if !wire.all_addresses && names.len() > 1 {
        let reason = "a logical DNS cluster has exactly one endpoint";
        return Err(Fault::new(reason).under("load_assignment.endpoints"));
    }
    Ok(DnsTargets { template, names, options: options(wire)? })
}

fn name_and_port(address: core_proto::Address) -> Translated<(String, u16)> {
    use core_proto::address::Address as WireAddress;
    let core_proto::Address { address } = address;
    match address {
        Some(WireAddress::SocketAddress(address)) => {
            let (host, port) = host_and_port(address).map_err(Fault::new)?;
            let is_name = host.len() <= 254
                && host.trim_end_matches('.').split('.').all(|label| {
                    (1..=63).contains(&label.len())
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                });
            if is_name || host.parse::<IpAddr>().is_ok() {
                Ok((host, port))
            } else {
                Err(Fault::new(format!("{host:?} is not a host name")))
            }
        }
        Some(WireAddress::Pipe(_)) => Err(Fault::new("a Unix socket has no name to look up")),
        None => Err(Fault::new("is required")),
    }
}

fn options(wire: Wire) -> Translated<DnsOptions> {
    let Wire { refresh, failure, respects_ttl, jitter, resolver, family, all_addresses } = wire;
    let at_least = |time: prost_types::Duration| match duration(time)? {
        time if time >= LEAST => Ok(time),
        _ => Err(Fault::new("must be at least 1 ms")),
    };
    let refresh = refresh.map_or(Ok(REFRESH), at_least).at("dns_refresh_rate")?;
    let failure_refresh = match failure {
        None => (refresh, refresh),
        Some((base, max)) => {
            let at = "dns_failure_refresh_rate";
            let base =
                required("base_interval", base).and_then(|b| at_least(b).at("base_interval")).at(at)?;
            let max = max.map_or(Ok(base * 10), at_least).at("max_interval").at(at)?;
            if max < base {
                return Err(Fault::new("must be at least base_interval").under("max_interval").under(at));
            }
            (base, max)
        }
    };
    let mut options = DnsOptions {
        all_addresses,
        refresh,
        respects_ttl,
        failure_refresh,
        jitter: jitter.map_or(Ok(Duration::ZERO), duration).at("dns_jitter")?,
        family,
        resolvers: Vec::new(),
        tcp: false,
        query_timeout: Duration::from_secs(5),
        query_tries: 4,
    };
    if let Some(TypedExtensionConfig { name: _, typed_config }) = resolver {
        let at = "typed_dns_resolver_config.typed_config";
        let any = required(at, typed_config)?;
        self::resolver(unpack(&any).at(at)?, &mut options).at(at)?;
    }
    Ok(options)
}

fn resolver(message: CaresDnsResolverConfig, options: &mut DnsOptions) -> Translated<()> {
    let CaresDnsResolverConfig { resolvers, dns_resolver_options, query_timeout_seconds, query_tries } =
        message;
    options.resolvers =
        each("resolvers", resolvers, |wire| match endpoint::address(wire).map_err(Fault::new)? {
            Address::Socket(address) => Ok(address),
            Address::Pipe(_) => Err(Fault::new("a name server has an IP address")),
        })?;
    let DnsResolverOptions { use_tcp_for_dns_lookups, no_default_search_domain } =
        dns_resolver_options.unwrap_or_default();
    options.tcp = use_tcp_for_dns_lookups;
    if no_default_search_domain && options.resolvers.is_empty() {
        let reason = "write the name with a dot at its end instead";
        return Err(Fault::new(reason).under("dns_resolver_options.no_default_search_domain"));
    }
    if let Some(seconds) = query_timeout_seconds {
        if !(1..=60).contains(&seconds) {
            return Err(Fault::new(format!("{seconds} is not from 1 to 60")).under("query_timeout_seconds"));
        }
        options.query_timeout = Duration::from_secs(seconds);
    }
    if let Some(tries) = query_tries {
        if !(1..=16).contains(&tries) {
            return Err(Fault::new(format!("{tries} is not from 1 to 16")).under("query_tries"));
        }
        options.query_tries = tries;
    }
    Ok(())
}

//! Route configurations.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use xds_proto::envoy::config::route::v3 as route_proto;
use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_proto::envoy::config::route::v3::route_action::upgrade_config::ConnectConfig;
use xds_proto::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration, UpgradeConfig};
use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use xds_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_proto::prost_types::Any;
use xds_proto::weir::split::v1::{SplitPolicy, split_policy};

use super::fault::{At, Fault, Translated, each, required};
use super::http::{duration, protocol};
use super::{named, unpack};
use crate::config::{
    Arm, Domain, FieldName, HeaderMatch, PathMatch, Predicate, Route, RouteConfiguration, RouteOptions,
    RouteTimeout, Split, SplitKey, VirtualHost, Weight,
};

/// The key of [`SplitPolicy`] in `Route.typed_per_filter_config`.
const SPLIT: &str = "weir.split";

/// As a resource of its own, which needs a name.
pub(super) fn route_configuration(
    message: route_proto::RouteConfiguration,
) -> Translated<RouteConfiguration> {
    named(&message.name)?;
    routes(message)
}

/// Inline in a listener, where the name is optional.
pub(super) fn routes(message: route_proto::RouteConfiguration) -> Translated<RouteConfiguration> {
    let route_proto::RouteConfiguration {
        name,
        virtual_hosts,
        validate_clusters,
        ignore_port_in_host_matching,
    } = message;
    let mut domains = HashSet::new();
    let virtual_hosts = each("virtual_hosts", virtual_hosts, |host| {
        let host = virtual_host(host)?;
        match host.domains.iter().find(|domain| !domains.insert((*domain).clone())) {
            Some(twice) => {
                Err(Fault::new(format!("{twice:?} is a domain of two virtual hosts")).under("domains"))
            }
            None => Ok(host),
        }
    })?;
    Ok(RouteConfiguration {
        name: name.into(),
        virtual_hosts,
        ignore_port_in_host_matching,
        validate_clusters: validate_clusters.unwrap_or(false),
    })
}

fn virtual_host(message: route_proto::VirtualHost) -> Translated<VirtualHost> {
    let route_proto::VirtualHost { name, domains, routes } = message;
    named(&name)?;
    if domains.is_empty() {
        return Err(Fault::new("at least one domain is required").under("domains"));
    }
    Ok(VirtualHost {
        name: name.into(),
        domains: each("domains", domains, |text| domain(&text))?,
        routes: each("routes", routes, route)?,
    })
}

fn domain(text: &str) -> Translated<Domain> {
    let lower = text.to_ascii_lowercase();
    let domain = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
        (Some(""), _) => Domain::Any,
        (Some(suffix), _) => Domain::Suffix(suffix.into()),
        (None, Some(prefix)) => Domain::Prefix(prefix.into()),
        (None, None) => Domain::Exact(lower.as_str().into()),
    };
    match &domain {
        Domain::Exact(rest) | Domain::Suffix(rest) | Domain::Prefix(rest)
            if rest.is_empty() || rest.contains('*') =>
        {
            Err(Fault::new(format!("{text:?} is not a domain: `*` may stand at one end only")))
        }
        _ => Ok(domain),
    }
}

fn route(message: route_proto::Route) -> Translated<Route> {
    let route_proto::Route { name, r#match, action, typed_per_filter_config } = message;
    let (path, headers) = required("match", r#match).and_then(|m| route_match(m).at("match"))?;
    let route_proto::route::Action::Route(action) = required("route", action)?;
    let key = split_key(&typed_per_filter_config).at("typed_per_filter_config")?;
    let (arms, options) = route_action(action).at("route")?;
    Ok(Route { name: Arc::from(name), path, headers, split: Split { arms, key }, options })
}

fn route_match(message: route_proto::RouteMatch) -> Translated<(PathMatch, Vec<HeaderMatch>)> {
    let route_proto::RouteMatch { headers, path_specifier } = message;
    let path = match required("prefix, path, path_separated_prefix or connect_matcher", path_specifier)? {
        PathSpecifier::Prefix(text) => PathMatch::Prefix(text.into()),
        PathSpecifier::Path(text) => PathMatch::Exact(text.into()),
        PathSpecifier::ConnectMatcher(route_proto::route_match::ConnectMatcher {}) => PathMatch::Connect,
        PathSpecifier::PathSeparatedPrefix(text) => {
            // As in Envoy: "/" or "/a/" would say nothing that `prefix` does not.
            if !text.starts_with('/') || text.ends_with('/') || text.contains(['?', '#']) {
                let reason =
                    format!("{text:?} must start with `/`, not end with it and hold neither `?` nor `#`");
                return Err(Fault::new(reason).under("path_separated_prefix"));
            }
            PathMatch::SeparatedPrefix(text.into())
        }
    };
    Ok((path, each("headers", headers, header_match)?))
}

pub(super) fn header_match(message: route_proto::HeaderMatcher) -> Translated<HeaderMatch> {
    let route_proto::HeaderMatcher { name, header_match_specifier } = message;
    named(&name)?;
    let lower = name.to_ascii_lowercase();
    let name = match lower.as_str() {
        ":method" => FieldName::Method,
        ":path" => FieldName::Path,
        ":authority" | "host" => FieldName::Authority,
        other if is_token(other) => FieldName::Header(other.into()),
        other => return Err(Fault::new(format!("{other:?} is not a header name")).under("name")),
    };
    let predicate = match header_match_specifier {
        None | Some(HeaderMatchSpecifier::PresentMatch(true)) => Predicate::Present,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => Predicate::Absent,
        Some(HeaderMatchSpecifier::ExactMatch(value)) => Predicate::Exact(value.into()),
        Some(HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern })) => match match_pattern {
            Some(MatchPattern::Exact(value)) => Predicate::Exact(value.into()),
            None => return Err(Fault::new("is required").under("string_match.exact")),
        },
    };
    Ok(HeaderMatch { name, predicate })
}

fn route_action(action: route_proto::RouteAction) -> Translated<(Vec<Arm>, RouteOptions)> {
    let route_proto::RouteAction {
        cluster_specifier,
        timeout,
        priority,
        idle_timeout,
        upgrade_configs,
        max_stream_duration,
    } = action;
    let timeout = match timeout.map(duration).transpose().at("timeout")? {
        None => RouteTimeout::Default,
        Some(Duration::ZERO) => RouteTimeout::Never,
        Some(time) => RouteTimeout::Whole(time),
    };
    let exchange = match max_stream_duration {
        Some(MaxStreamDuration { max_stream_duration: Some(time) }) => {
            Some(duration(time).at("max_stream_duration.max_stream_duration")?)
        }
        Some(MaxStreamDuration { max_stream_duration: None }) | None => None,
    };
    let mut terminates_connect = false;
    let upgrades = each("upgrade_configs", upgrade_configs, |config| {
        let UpgradeConfig { upgrade_type, enabled, connect_config } = config;
        let protocol = protocol(&upgrade_type)?;
        if let Some(ConnectConfig {}) = connect_config {
            if &*protocol != "connect" {
                return Err(Fault::new("is for CONNECT only").under("connect_config"));
            }
            terminates_connect = true;
        }
        Ok((protocol, enabled.unwrap_or(true)))
    })?;
    let options = RouteOptions {
        timeout,
        idle_timeout: idle_timeout.map(duration).transpose().at("idle_timeout")?,
        exchange,
        priority: super::cluster::priority(priority).at("priority")?,
        upgrades,
        terminates_connect,
    };
    Ok((arms(cluster_specifier)?, options))
}

fn arms(cluster_specifier: Option<ClusterSpecifier>) -> Translated<Vec<Arm>> {
    match required("cluster or weighted_clusters", cluster_specifier)? {
        ClusterSpecifier::Cluster(name) if name.is_empty() => Err(Fault::new("is required").under("cluster")),
        ClusterSpecifier::Cluster(name) => {
            Ok(vec![Arm { name: name.as_str().into(), cluster: name.into(), weight: Weight(1) }])
        }
        ClusterSpecifier::WeightedClusters(weighted) => weighted_clusters(weighted).at("weighted_clusters"),
    }
}

fn weighted_clusters(message: route_proto::WeightedCluster) -> Translated<Vec<Arm>> {
    let route_proto::WeightedCluster { clusters } = message;
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut sum = 0_u64;
    let arms = each("clusters", clusters, |arm| {
        let ClusterWeight { name, weight } = arm;
        named(&name)?;
        let weight = required("weight", weight)?;
        sum += u64::from(weight);
        let times = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
        let arm = if *times == 1 { name.clone() } else { format!("{name}#{times}") };
        Ok(Arm { name: arm.into(), cluster: name.into(), weight: Weight(weight) })
    })?;
    match sum {
        0 => Err(Fault::new("the weights add up to 0").under("clusters")),
        1..=0xffff_ffff => Ok(arms),
        _ => Err(Fault::new("the weights add up to more than 2^32 - 1").under("clusters")),
    }
}

fn split_key(config: &HashMap<String, Any>) -> Translated<Option<SplitKey>> {
    let mut key = None;
    for (filter, any) in config {
        let at = format!("[{filter:?}]");
        if filter != SPLIT {
            return Err(Fault::new("no such filter").under(at));
        }
        let SplitPolicy { salt, key: wire } = unpack(any).at(&at)?;
        let split_policy::Key::Header(header) = required("header", wire).at(&at)?;
        let header = header.to_ascii_lowercase();
        if !is_token(&header) {
            return Err(Fault::new(format!("{header:?} is not a header name")).under("header").under(at));
        }
        key = Some(SplitKey { header: header.into(), salt: salt.into() });
    }
    Ok(key)
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

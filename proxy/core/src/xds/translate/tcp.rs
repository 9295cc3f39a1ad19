//! TCP proxies: a route configuration of one route, so that connections are split as requests are.

use std::collections::HashMap;
use std::sync::Arc;

use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};
use xds_proto::envoy::r#type::v3::HashPolicy;
use xds_proto::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};

use super::fault::{At, Fault, Translated, each, required};
use super::http::set_time;
use super::{access, endpoint, named, split};
use crate::config::{
    Action, Arm, Domain, HttpOptions, KeySource, PathMatch, Route, RouteConfiguration, RouteSource, SplitBy,
    SplitKey, TcpOptions, VirtualHost,
};

/// How long both sides may be silent where nothing is said, as in Envoy.
const DEFAULT_IDLE: std::time::Duration = std::time::Duration::from_secs(3_600);

pub(super) fn proxy(
    message: TcpProxy,
    mut options: HttpOptions,
) -> Translated<(RouteSource, HttpOptions, TcpOptions)> {
    let TcpProxy {
        stat_prefix,
        access_log,
        max_connect_attempts,
        idle_timeout,
        metadata_match,
        hash_policy,
        max_downstream_connection_duration,
        cluster_specifier,
    } = message;
    if stat_prefix.is_empty() {
        return Err(Fault::new("is required").under("stat_prefix"));
    }
    let subset = metadata_match.as_ref().map(endpoint::lb_labels).transpose().at("metadata_match")?;
    let mut arms = match required("cluster or weighted_clusters", cluster_specifier)? {
        ClusterSpecifier::Cluster(name) => {
            named(&name).map_err(|_| Fault::new("is required").under("cluster"))?;
            vec![Arm::new(name.as_str(), name.as_str(), 1)]
        }
        ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }) => {
            weighted(clusters).at("weighted_clusters")?
        }
    };
    for arm in &mut arms {
        // What an arm says of itself stands above what is said of all.
        let own = arm.subset.take().map(|own| (*own).clone()).unwrap_or_default();
        let mut labels = subset.clone().unwrap_or_default();
        labels.extend(own);
        arm.subset = (!labels.is_empty()).then(|| Arc::new(labels));
    }
    options.stat_prefix = stat_prefix.into();
    options.access_logs = each("access_log", access_log, access::access_log)?;
    options.timeouts.tunnel_idle = Some(DEFAULT_IDLE);
    set_time(&mut options.timeouts.tunnel_idle, idle_timeout).at("idle_timeout")?;
    set_time(&mut options.timeouts.connection, max_downstream_connection_duration)
        .at("max_downstream_connection_duration")?;
    let attempts = match max_connect_attempts {
        None => 1,
        Some(attempts @ 1..) => attempts,
        Some(0) => return Err(Fault::new("must be at least 1").under("max_connect_attempts")),
    };
    let is_sticky = !each("hash_policy", hash_policy, by_address)?.is_empty();
    let mut route = Route::forwarding(PathMatch::Prefix("/".into()), vec![], arms);
    if is_sticky && let Action::Forward(forward) = &mut route.action {
        forward.split.by = SplitBy::User(SplitKey { source: KeySource::SourceIp, salt: "".into() });
    }
    let host = VirtualHost::new("tcp", vec![Domain::Any], vec![route]);
    let routes = RouteConfiguration::new("", vec![host]);
    Ok((RouteSource::Inline(Arc::new(routes)), options, TcpOptions { attempts }))
}

fn weighted(clusters: Vec<ClusterWeight>) -> Translated<Vec<Arm>> {
    let mut seen = HashMap::new();
    let arms = each("clusters", clusters, |ClusterWeight { name, weight, metadata_match }| {
        named(&name)?;
        let mut arm = Arm::new(split::unique(&mut seen, name.clone()).as_str(), name.as_str(), weight);
        arm.subset =
            metadata_match.as_ref().map(endpoint::lb_labels).transpose().at("metadata_match")?.map(Arc::new);
        Ok(arm)
    })?;
    if arms.iter().map(|arm| u64::from(arm.weight.0)).sum::<u64>() == 0 {
        return Err(Fault::new("the weights are all 0").under("clusters"));
    }
    Ok(arms)
}

fn by_address(message: HashPolicy) -> Translated<()> {
    let HashPolicy { policy_specifier } = message;
    let PolicySpecifier::SourceIp(SourceIp {}) = required("source_ip", policy_specifier)?;
    Ok(())
}

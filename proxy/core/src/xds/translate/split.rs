//! How a route's requests are divided over clusters.

use std::collections::HashMap;
use std::sync::Arc;

use xds_proto::envoy::config::core::v3::Metadata;
use xds_proto::envoy::config::route::v3 as route_proto;
use xds_proto::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
};
use xds_proto::envoy::config::route::v3::route_action::{ClusterSpecifier, HashPolicy as WireHashPolicy};
use xds_proto::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier;
use xds_proto::envoy::config::route::v3::weighted_cluster::{ClusterWeight, RandomValueSpecifier};
use xds_proto::prost_types::Duration;
use xds_proto::weir::split::v1::{SplitPolicy, split_policy};

use super::action::{cookie_text, header_name, host_text};
use super::cluster::enum_value;
use super::endpoint::lb_labels;
use super::fault::{At, Fault, Translated, each, required};
use super::http::duration;
use super::matching::substitution;
use super::{edit, named, overrides};
use crate::config::{
    Arm, ClusterRef, HashPolicy, HashSource, HeaderEdits, KeyCookie, KeySource, Labels, Split, SplitBy,
    SplitKey, Unavailable, Weight,
};

pub(super) fn split(
    specifier: Option<ClusterSpecifier>,
    metadata_match: Option<Metadata>,
    hash_policy: Vec<WireHashPolicy>,
) -> Translated<Split> {
    let labels = metadata_match.map(|m| lb_labels(&m).at("metadata_match")).transpose()?.unwrap_or_default();
    let hashes = each("hash_policy", hash_policy, self::hash_policy)?;
    let lone = |cluster: ClusterRef, name: &str| Arm {
        cluster,
        subset: (!labels.is_empty()).then(|| Arc::new(labels.clone())),
        ..Arm::new(name, name, 1)
    };
    let (arms, random) = match required("cluster, cluster_header or weighted_clusters", specifier)? {
        ClusterSpecifier::Cluster(name) if name.is_empty() => {
            return Err(Fault::new("is required").under("cluster"));
        }
        ClusterSpecifier::Cluster(name) => (vec![lone(ClusterRef::Name(name.as_str().into()), &name)], None),
        ClusterSpecifier::ClusterHeader(header) => {
            let header = header_name(&header).at("cluster_header")?;
            (vec![lone(ClusterRef::Header(header.clone()), &format!("header {header}"))], None)
        }
        ClusterSpecifier::WeightedClusters(weighted) => {
            weighted_clusters(weighted, &labels).at("weighted_clusters")?
        }
    };
    let by = match random {
        None | Some(RandomValueSpecifier::UseHashPolicy(false)) => SplitBy::Turn,
        Some(RandomValueSpecifier::UseHashPolicy(true)) => SplitBy::Hash(hashes),
        Some(RandomValueSpecifier::HeaderName(name)) => {
            SplitBy::Number(header_name(&name).at("weighted_clusters.header_name")?)
        }
    };
    Ok(Split { arms, by, override_header: None, unavailable: Unavailable::Fail })
}

type Weighted = (Vec<Arm>, Option<RandomValueSpecifier>);

fn weighted_clusters(message: route_proto::WeightedCluster, labels: &Labels) -> Translated<Weighted> {
    let route_proto::WeightedCluster { clusters, runtime_key_prefix, total_weight, random_value_specifier } =
        message;
    if !runtime_key_prefix.is_empty() {
        return Err(
            Fault::new("there is no runtime layer that could hold weights").under("runtime_key_prefix")
        );
    }
    if clusters.is_empty() {
        return Err(Fault::new("at least one is required").under("clusters"));
    }
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut sum = 0_u64;
    let arms = each("clusters", clusters, |message| {
        let arm = arm(message, labels, &mut seen)?;
        sum += u64::from(arm.weight.0);
        Ok(arm)
    })?;
    match (sum, total_weight) {
        (0, _) => Err(Fault::new("the weights add up to 0").under("clusters")),
        (1..=0xffff_ffff, None) => Ok((arms, random_value_specifier)),
        (1..=0xffff_ffff, Some(total)) if u64::from(total) == sum => Ok((arms, random_value_specifier)),
        (1..=0xffff_ffff, Some(total)) => {
            let reason = format!("is {total}, but the weights add up to {sum}; it may be left out");
            Err(Fault::new(reason).under("total_weight"))
        }
        _ => Err(Fault::new("the weights add up to more than 2^32 - 1").under("clusters")),
    }
}

fn arm(message: ClusterWeight, common: &Labels, seen: &mut HashMap<String, u32>) -> Translated<Arm> {
    let ClusterWeight {
        name,
        weight,
        metadata_match,
        request_headers_to_add,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_remove,
        typed_per_filter_config,
        cluster_header,
        host_rewrite_specifier,
    } = message;
    let (cluster, name) = match (name.is_empty(), cluster_header.is_empty()) {
        (false, true) => (ClusterRef::Name(name.as_str().into()), name),
        (true, false) => {
            let header = header_name(&cluster_header).at("cluster_header")?;
            (ClusterRef::Header(header.clone()), format!("header {header}"))
        }
        (true, true) => return named(&name).map(|()| Arm::new("", "", 0)),
        (false, false) => {
            return Err(Fault::new("only one of name and cluster_header may be set").under("name"));
        }
    };
    let weight = required("weight", weight)?;
    // An arm says nothing yet that its route could not say.
    let own = overrides::read(&typed_per_filter_config).at("typed_per_filter_config")?;
    if own.says_anything() {
        return Err(Fault::new("what is known here is for routes").under("typed_per_filter_config"));
    }
    let name = unique(seen, name);
    let mut labels = common.clone();
    if let Some(metadata) = metadata_match {
        // The arm's own win.
        labels.extend(lb_labels(&metadata).at("metadata_match")?);
    }
    let host = match host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(text)) => {
            Some(host_text(text).at("host_rewrite_literal")?)
        }
    };
    let edits: HeaderEdits = edit::edits(
        (request_headers_to_add, request_headers_to_remove),
        (response_headers_to_add, response_headers_to_remove),
    )?;
    Ok(Arm {
        name: name.into(),
        cluster,
        weight: Weight(weight),
        drains: false,
        subset: (!labels.is_empty()).then(|| Arc::new(labels)),
        host,
        edits,
    })
}

/// Takes what `weir.split` says of a split.
pub(super) fn apply(policy: SplitPolicy, split: &mut Split) -> Translated<()> {
    if policy == SplitPolicy::default() {
        return Err(Fault::new("says nothing: key, override_header or when_unavailable is required"));
    }
    let SplitPolicy { salt, override_header, draining_arms, when_unavailable, key } = policy;
    if let Some(key) = key {
        if split.by != SplitBy::Turn {
            let reason = "cannot decide beside use_hash_policy or header_name of the weighted clusters";
            return Err(Fault::new(reason).under("key"));
        }
        split.by = SplitBy::User(SplitKey { source: key_source(key)?, salt: salt.into() });
    } else if !salt.is_empty() {
        return Err(Fault::new("is for a split with a key").under("salt"));
    }
    if !override_header.is_empty() {
        split.override_header = Some(header_name(&override_header).at("override_header")?);
    }
    let makes_cookies = split.makes_cookies();
    each("draining_arms", draining_arms, |name| {
        if !makes_cookies {
            let reason =
                "only a cookie that the proxy makes (cookie.ttl is set) can tell who was there before";
            return Err(Fault::new(reason));
        }
        let Some(arm) = split.arms.iter_mut().find(|arm| arm.name.as_str() == name) else {
            return Err(Fault::new(format!("there is no arm {name:?}")));
        };
        if arm.weight.0 > 0 {
            return Err(Fault::new(format!("arm {name:?} has a weight, so it does not drain")));
        }
        arm.drains = true;
        Ok(())
    })?;
    split.unavailable = match enum_value(when_unavailable).at("when_unavailable")? {
        split_policy::Unavailable::Fail => Unavailable::Fail,
        split_policy::Unavailable::Spill => Unavailable::Spill,
    };
    Ok(())
}

fn key_source(key: split_policy::Key) -> Translated<KeySource> {
    Ok(match key {
        split_policy::Key::Header(name) => KeySource::Header(header_name(&name).at("header")?),
        split_policy::Key::SourceIp(split_policy::SourceIp {}) => KeySource::SourceIp,
        split_policy::Key::QueryParameter(name) if name.is_empty() => {
            return Err(Fault::new("is required").under("query_parameter"));
        }
        split_policy::Key::QueryParameter(name) => KeySource::Query(name.into()),
        split_policy::Key::Cookie(split_policy::Cookie { name, ttl, path }) => {
            KeySource::Cookie(key_cookie(name, ttl, path).at("cookie")?)
        }
    })
}

fn key_cookie(name: String, ttl: Option<Duration>, path: String) -> Translated<KeyCookie> {
    Ok(KeyCookie {
        // Cookie names are tokens, and have case (RFC 6265 §4.1.1).
        name: header_name(&name).at("name").map(|_| name.into())?,
        ttl: ttl.map(duration).transpose().at("ttl")?,
        path: cookie_text(path).at("path")?,
    })
}

fn hash_policy(message: WireHashPolicy) -> Translated<HashPolicy> {
    let WireHashPolicy { terminal, policy_specifier } = message;
    let source = match required("header, cookie, connection_properties or query_parameter", policy_specifier)?
    {
        PolicySpecifier::Header(Header { header_name: name, regex_rewrite }) => {
            let rewrite = regex_rewrite.map(substitution).transpose().at("regex_rewrite").at("header")?;
            HashSource::Header(header_name(&name).at("header_name").at("header")?, rewrite)
        }
        PolicySpecifier::Cookie(Cookie { name, ttl, path, attributes }) => {
            let attributes = each("attributes", attributes, |CookieAttribute { name, value }| {
                Ok((cookie_text(name).at("name")?, cookie_text(value).at("value")?))
            });
            HashSource::Cookie(key_cookie(name, ttl, path).at("cookie")?, attributes.at("cookie")?)
        }
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }) => {
            HashSource::SourceIp
        }
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: false }) => {
            return Err(Fault::new("is required").under("connection_properties.source_ip"));
        }
        PolicySpecifier::QueryParameter(QueryParameter { name }) => {
            named(&name).at("query_parameter")?;
            HashSource::Query(name.into())
        }
    };
    Ok(HashPolicy { source, terminal })
}

/// The name of an arm whose cluster may be that of another.
pub(super) fn unique(seen: &mut HashMap<String, u32>, name: String) -> String {
    let times = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
    if *times == 1 { name } else { format!("{name}#{times}") }
}

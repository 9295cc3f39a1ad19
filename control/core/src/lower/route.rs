//! Routes.

use std::collections::HashMap;
use std::time::Duration;

use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use xds_proto::envoy::config::route::v3::route_action::hash_policy::{self, PolicySpecifier};
use xds_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HashPolicy, HostRewriteSpecifier,
};
use xds_proto::envoy::config::route::v3::route_match::{GrpcRouteMatchOptions, PathSpecifier};
use xds_proto::envoy::config::route::v3::weighted_cluster::{
    ClusterWeight, RandomValueSpecifier, cluster_weight,
};
use xds_proto::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction,
    RouteMatch, WeightedCluster, route,
};
use xds_proto::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher,
};
use xds_proto::prost_types;
use xds_proto::type_url::pack;
use xds_proto::weir::split::v1::{SplitPolicy, split_policy};

use super::{Dialect, fault};
use crate::ir::{self, Action, Arm, Forward, HeaderEdits, Path, PathChange, Redirect, ValueCondition};

/// A cluster that there is not: its share of requests is answered with 500.
pub(super) const UNRESOLVED: &str = "unresolved";

pub(super) fn wire_route(route: &ir::Route, dialect: Dialect) -> Route {
    let action = match &route.action {
        Action::Forward(forward) => {
            route::Action::Route(forwarding(forward, &route.conditions.path, dialect))
        }
        Action::Redirect(redirect) => route::Action::Redirect(redirection(redirect, &route.conditions.path)),
        Action::Respond(status) => route::Action::DirectResponse(DirectResponseAction {
            status: (*status).into(),
            ..DirectResponseAction::default()
        }),
    };
    let mut filters = HashMap::new();
    if let Action::Forward(forward) = &route.action {
        if let Some(fault) = forward.fault.as_ref().filter(|_| dialect != Dialect::Grpc) {
            fault::filters(fault, dialect, &mut filters);
        }
        if let Some(split) = forward.split.as_ref().filter(|_| dialect == Dialect::Weir) {
            filters.insert("weir.split".to_owned(), pack(&split_policy(split)));
        }
    }
    Route {
        name: route.name.clone(),
        r#match: Some(matching(&route.conditions)),
        action: Some(action),
        request_headers_to_add: additions(&route.request),
        request_headers_to_remove: route.request.remove.clone(),
        response_headers_to_add: additions(&route.response),
        response_headers_to_remove: route.response.remove.clone(),
        typed_per_filter_config: filters,
        ..Route::default()
    }
}

fn matching(conditions: &ir::Conditions) -> RouteMatch {
    let path = match &conditions.path {
        Path::Exact(path) => PathSpecifier::Path(path.clone()),
        Path::Prefix(path) if path.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        Path::Prefix(path) => PathSpecifier::PathSeparatedPrefix(path.clone()),
        Path::Regex(path) => PathSpecifier::SafeRegex(regex(path)),
    };
    let header = |name: &str, matcher: StringMatcher| HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    };
    let method = conditions.method.iter().map(|method| header(":method", exactly(method)));
    let headers =
        conditions.headers.iter().map(|condition| header(&condition.name, string_matcher(condition)));
    let parameter = |condition: &ValueCondition| QueryParameterMatcher {
        name: condition.name.clone(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string_matcher(
            condition,
        ))),
    };
    RouteMatch {
        headers: method.chain(headers).collect(),
        query_parameters: conditions.query.iter().map(parameter).collect(),
        grpc: conditions.is_grpc.then(GrpcRouteMatchOptions::default),
        path_specifier: Some(path),
        ..RouteMatch::default()
    }
}

pub(super) fn exactly(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(text.to_owned())),
        ..StringMatcher::default()
    }
}

fn string_matcher(condition: &ValueCondition) -> StringMatcher {
    if !condition.is_regex {
        return exactly(&condition.value);
    }
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(regex(&condition.value))),
        ..StringMatcher::default()
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }
}

fn additions(edits: &HeaderEdits) -> Vec<HeaderValueOption> {
    let line = |(name, value): &(String, String), action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue { key: name.clone(), value: value.replace('%', "%%") }),
        append_action: action as i32,
        keep_empty_value: value.is_empty(),
        ..HeaderValueOption::default()
    };
    let set = edits.set.iter().map(|edit| line(edit, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edits.add.iter().map(|edit| line(edit, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

/// The nearest that others have to a key: a hash over it, which chooses among the weights in their order. (Clients of gRPC
/// draw for each call.)
fn hash_policy(forward: &Forward, dialect: Dialect) -> Option<HashPolicy> {
    let key = forward.split.as_ref().filter(|_| dialect == Dialect::Standard)?.key.as_ref()?;
    let specifier = match key {
        ir::SplitKey::Header(name) => PolicySpecifier::Header(hash_policy::Header {
            header_name: name.clone(),
            ..hash_policy::Header::default()
        }),
        ir::SplitKey::Cookie { name, ttl, path } => PolicySpecifier::Cookie(hash_policy::Cookie {
            name: name.clone(),
            ttl: ttl.map(wire_duration),
            path: path.clone(),
            ..hash_policy::Cookie::default()
        }),
        ir::SplitKey::QueryParameter(name) => {
            PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name: name.clone() })
        }
        ir::SplitKey::SourceIp => {
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true })
        }
    };
    Some(HashPolicy { policy_specifier: Some(specifier), terminal: false })
}

fn forwarding(forward: &Forward, matched: &Path, dialect: Dialect) -> RouteAction {
    let hash_policy = hash_policy(forward, dialect);
    let (prefix_rewrite, regex_rewrite) = match &forward.path {
        None => (String::new(), None),
        Some(change) => rewrite(change, matched),
    };
    RouteAction {
        cluster_specifier: Some(cluster(&forward.arms, hash_policy.is_some())),
        hash_policy: hash_policy.into_iter().collect(),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError as i32,
        prefix_rewrite,
        regex_rewrite,
        host_rewrite_specifier: forward.host.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        timeout: forward.timeout.map(wire_duration),
        idle_timeout: forward.idle_timeout.map(wire_duration),
        ..RouteAction::default()
    }
}

/// A plain cluster where an arm is alone and changes nothing.
fn cluster(arms: &[Arm], by_hash: bool) -> ClusterSpecifier {
    let name = |arm: &Arm| arm.backend.as_ref().map_or(UNRESOLVED.to_owned(), ToString::to_string);
    let is_plain = |arm: &Arm| {
        arm.request == HeaderEdits::default() && arm.response == HeaderEdits::default() && arm.host.is_none()
    };
    match arms {
        [only] if is_plain(only) => ClusterSpecifier::Cluster(name(only)),
        arms => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: arms
                .iter()
                .map(|arm| ClusterWeight {
                    name: name(arm),
                    weight: Some(arm.weight),
                    request_headers_to_add: additions(&arm.request),
                    request_headers_to_remove: arm.request.remove.clone(),
                    response_headers_to_add: additions(&arm.response),
                    response_headers_to_remove: arm.response.remove.clone(),
                    host_rewrite_specifier: arm
                        .host
                        .clone()
                        .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
                    ..ClusterWeight::default()
                })
                .collect(),
            random_value_specifier: by_hash.then_some(RandomValueSpecifier::UseHashPolicy(true)),
            ..WeightedCluster::default()
        }),
    }
}

/// A new path as a prefix, or as a substitution. (A prefix that is replaced by nothing would leave `//`.)
fn rewrite(change: &PathChange, matched: &Path) -> (String, Option<RegexMatchAndSubstitute>) {
    let substitute = |pattern: String, substitution: &str| RegexMatchAndSubstitute {
        pattern: Some(regex(&pattern)),
        substitution: substitution.replace('\\', r"\\"),
    };
    match (change, matched) {
        (PathChange::Full(path), _) => (String::new(), Some(substitute("^.*$".to_owned(), path))),
        (PathChange::Prefix(new), Path::Prefix(old)) => {
            let new = new.trim_end_matches('/');
            match (old.is_empty(), new.is_empty()) {
                (true, true) => (String::new(), None),
                (true, false) => (format!("{new}/"), None),
                (false, true) => {
                    let pattern = format!("^{}/*", ir::literal(old));
                    (String::new(), Some(substitute(pattern, "/")))
                }
                (false, false) => (new.to_owned(), None),
            }
        }
        // Validation lets prefixes be replaced only where prefixes match.
        (PathChange::Prefix(_), _) => (String::new(), None),
    }
}

fn redirection(redirect: &Redirect, matched: &Path) -> RedirectAction {
    let path = redirect.path.as_ref().and_then(|change| match change {
        PathChange::Full(path) => Some(PathRewriteSpecifier::PathRedirect(path.clone())),
        PathChange::Prefix(_) => match rewrite(change, matched) {
            (_, Some(substitution)) => Some(PathRewriteSpecifier::RegexRewrite(substitution)),
            (prefix, None) if !prefix.is_empty() => Some(PathRewriteSpecifier::PrefixRewrite(prefix)),
            _ => None,
        },
    });
    let code = match redirect.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    RedirectAction {
        host_redirect: redirect.host.clone().unwrap_or_default(),
        scheme_rewrite_specifier: redirect.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path,
        port_redirect: redirect.port.map_or(0, u32::from),
        response_code: code as i32,
        ..RedirectAction::default()
    }
}

fn split_policy(split: &ir::Split) -> SplitPolicy {
    let key = split.key.as_ref().map(|key| match key {
        ir::SplitKey::Header(name) => split_policy::Key::Header(name.clone()),
        ir::SplitKey::Cookie { name, ttl, path } => split_policy::Key::Cookie(split_policy::Cookie {
            name: name.clone(),
            ttl: ttl.map(wire_duration),
            path: path.clone(),
        }),
        ir::SplitKey::QueryParameter(name) => split_policy::Key::QueryParameter(name.clone()),
        ir::SplitKey::SourceIp => split_policy::Key::SourceIp(split_policy::SourceIp {}),
    });
    let when_unavailable =
        if split.spills { split_policy::Unavailable::Spill } else { split_policy::Unavailable::Fail };
    SplitPolicy {
        key,
        salt: split.salt.clone(),
        override_header: split.override_header.clone().unwrap_or_default(),
        draining_arms: split.draining.clone(),
        when_unavailable: when_unavailable as i32,
    }
}

pub(super) fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

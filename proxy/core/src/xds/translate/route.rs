//! Route configurations, virtual hosts and routes.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::FixedState;

use xds_proto::envoy::config::route::v3 as route_proto;
use xds_proto::envoy::config::route::v3::virtual_host::TlsRequirementType;

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::overrides::{self, Overrides};
use super::{action, edit, matching, named, split};
use crate::config::{Action, Domain, PathMatch, Route, RouteConfiguration, VirtualHost};

/// Bytes of a direct response's body, unless the configuration says otherwise (Envoy's default).
const MAX_DIRECT_BODY: u32 = 4_096;

/// As a resource of its own, which needs a name. Clusters may come later.
pub(super) fn route_configuration(
    message: route_proto::RouteConfiguration,
) -> Translated<RouteConfiguration> {
    named(&message.name)?;
    routes(message, false)
}

/// What holds for all routes of a configuration.
pub(super) struct Common {
    pub(super) max_direct_body: usize,
    pub(super) overrides: Overrides,
}

/// Inline in a listener the name is optional, and clusters are there from the start: `validates_clusters` unless it says
/// otherwise.
pub(super) fn routes(
    message: route_proto::RouteConfiguration,
    validates_clusters: bool,
) -> Translated<RouteConfiguration> {
    let route_proto::RouteConfiguration {
        name,
        virtual_hosts,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        validate_clusters,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        max_direct_response_body_size_bytes,
        ignore_port_in_host_matching,
        typed_per_filter_config,
        metadata: _, // ignorable
    } = message;
    let common = Common {
        max_direct_body: max_direct_response_body_size_bytes.unwrap_or(MAX_DIRECT_BODY) as usize,
        overrides: overrides::read(&typed_per_filter_config).at("typed_per_filter_config")?,
    };
    let mut domains: HashSet<_, FixedState> = HashSet::default();
    let virtual_hosts = each("virtual_hosts", virtual_hosts, |host| {
        let host = virtual_host(host, &common)?;
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
        validate_clusters: validate_clusters.unwrap_or(validates_clusters),
        edits: edit::edits(
            (request_headers_to_add, request_headers_to_remove),
            (response_headers_to_add, response_headers_to_remove),
        )?,
        most_specific_wins: most_specific_header_mutations_wins,
    })
}

fn virtual_host(message: route_proto::VirtualHost, common: &Common) -> Translated<VirtualHost> {
    let route_proto::VirtualHost {
        name,
        domains,
        routes,
        require_tls,
        request_headers_to_add,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_remove,
        include_request_attempt_count,
        typed_per_filter_config,
        include_attempt_count_in_response,
        metadata: _, // ignorable
    } = message;
    named(&name)?;
    if domains.is_empty() {
        return Err(Fault::new("at least one domain is required").under("domains"));
    }
    let overrides = overrides::read(&typed_per_filter_config).at("typed_per_filter_config")?;
    let overrides = overrides.over(&common.overrides);
    let requires_tls = match enum_value(require_tls).at("require_tls")? {
        TlsRequirementType::None => false,
        TlsRequirementType::All => true,
        TlsRequirementType::ExternalOnly => {
            let reason = "EXTERNAL_ONLY is not supported: which requests are internal is not told apart";
            return Err(Fault::new(reason).under("require_tls"));
        }
    };
    Ok(VirtualHost {
        name: name.into(),
        domains: each("domains", domains, |text| domain(&text))?,
        routes: each("routes", routes, |r| route(r, common, &overrides))?,
        requires_tls,
        edits: edit::edits(
            (request_headers_to_add, request_headers_to_remove),
            (response_headers_to_add, response_headers_to_remove),
        )?,
        counts_attempts: include_request_attempt_count,
        answers_attempts: include_attempt_count_in_response,
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

fn route(message: route_proto::Route, common: &Common, inherited: &Overrides) -> Translated<Route> {
    use route_proto::route::Action as Wire;
    let route_proto::Route {
        name,
        r#match,
        action,
        metadata: _,  // ignorable
        decorator: _, // ignorable
        request_headers_to_add,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_remove,
        typed_per_filter_config,
        stat_prefix: _, // ignorable
    } = message;
    let matching::Matched { path, ignores_path_case, mut conditions } =
        required("match", r#match).and_then(|m| matching::route_match(m).at("match"))?;
    let overrides = overrides::read(&typed_per_filter_config).at("typed_per_filter_config")?;
    let overrides = overrides.over(inherited);
    conditions.extend(overrides.conditions.iter().cloned());
    let forwards = matches!(action, Some(Wire::Route(_)));
    let action = match required("route, redirect or direct_response", action)? {
        Wire::Route(message) => {
            Action::Forward(Box::new(action::forward(message, &path, &overrides).at("route")?))
        }
        Wire::Redirect(message) => Action::Redirect(action::redirect(message, &path).at("redirect")?),
        Wire::DirectResponse(message) => {
            Action::Respond(action::direct_response(message, common.max_direct_body).at("direct_response")?)
        }
    };
    let mut action = action;
    let at_split = |result: Translated<()>| {
        result.at(format_args!("[{:?}]", overrides::SPLIT)).at("typed_per_filter_config")
    };
    match (&mut action, overrides.split) {
        (Action::Forward(forward), Some(policy)) => at_split(split::apply(policy, &mut forward.split))?,
        (Action::Redirect(_) | Action::Respond(_), Some(_))
            if typed_per_filter_config.contains_key(overrides::SPLIT) =>
        {
            at_split(Err(Fault::new("is for routes that forward")))?;
        }
        _ => {}
    }
    if path == PathMatch::Connect && !forwards {
        return Err(Fault::new("connect_matcher is for routes that forward").under("match"));
    }
    Ok(Route {
        name: Arc::from(name),
        path,
        ignores_path_case,
        conditions,
        action,
        edits: edit::edits(
            (request_headers_to_add, request_headers_to_remove),
            (response_headers_to_add, response_headers_to_remove),
        )?,
    })
}

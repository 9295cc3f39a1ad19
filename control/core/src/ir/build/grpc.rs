//! `GRPCRoute`: from rules to entries of a table.

use super::backends::Backends;
use super::http::{Actions, Entry, Outcome, Rank, Scope, action, values};
use super::policies::Policies;
use crate::ir::{BackendName, Conditions, Path, Route};
use crate::model::{GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, Kind, ValueMatchType};

/// The entries of a route, which are the same wherever it attaches.
pub(super) fn entries(
    route: &GrpcRoute,
    backends: &mut Backends<'_>,
    policies: &Policies<'_>,
) -> Outcome<Entry> {
    let namespace = route.metadata.namespace.as_str();
    let policy = policies.about(Kind::GrpcRoute, namespace, &route.metadata.name);
    let object = BackendName::new(namespace, &route.metadata.name).to_string();
    let mut scope = Scope::new(Kind::GrpcRoute, namespace, backends);
    let mut entries = Vec::new();
    for (i, rule) in route.spec.rules.iter().enumerate() {
        let changes = scope.changes(i, &rule.filters);
        let arms = scope.arms(i, &rule.backend_refs);
        let actions = Actions { base: action(arms, &changes, None, policy), groups: Vec::new() };
        let every = [GrpcRouteMatch::default()];
        let matches = if rule.matches.is_empty() { &every[..] } else { &rule.matches };
        for (j, written) in matches.iter().enumerate() {
            let (conditions, rank) = conditions(written);
            let rule_name = rule.name.clone().unwrap_or_else(|| i.to_string());
            let route = Route {
                name: format!("{object}/grpc/{rule_name}/{j}"),
                object: object.clone(),
                conditions,
                action: actions.base.clone(),
                request: changes.request.clone(),
                response: changes.response.clone(),
            };
            actions.expand(route, rank, &mut entries);
        }
    }
    scope.outcome(entries, route.spec.rules.len())
}

/// A longer service, then a longer method, then more headers come first (Gateway API, GRPCRouteRule.matches). A call is
/// matched before an HTTP route of the same path, as it asks for more.
fn conditions(written: &GrpcRouteMatch) -> (Conditions, Rank) {
    let headers = values(&written.headers, true);
    let (path, class, length) = written.method.as_ref().map_or((Path::Prefix(String::new()), 0, 1), path);
    let rank = (class, length, true, headers.len(), 0);
    (Conditions { path, method: None, headers, query: Vec::new(), is_grpc: true }, rank)
}

fn path(method: &GrpcMethodMatch) -> (Path, u8, usize) {
    let service = method.service.as_deref().filter(|service| !service.is_empty());
    let name = method.method.as_deref().filter(|method| !method.is_empty());
    let length = 2 + service.map_or(0, str::len) + name.map_or(0, str::len);
    match (method.kind, service, name) {
        (ValueMatchType::Exact, Some(service), Some(name)) => {
            (Path::Exact(format!("/{service}/{name}")), 2, length)
        }
        (ValueMatchType::Exact, Some(service), None) => (Path::Prefix(format!("/{service}")), 0, length),
        (ValueMatchType::Exact, None, Some(name)) => (Path::Regex(format!("/[^/]+/{name}")), 1, length),
        (_, service, name) => {
            let part = |part: Option<&str>| part.map_or("[^/]+".to_owned(), |text| format!("(?:{text})"));
            (Path::Regex(format!("/{}/{}", part(service), part(name))), 1, length)
        }
    }
}

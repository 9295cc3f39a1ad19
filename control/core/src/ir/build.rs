//! From resources to the intermediate representation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proxy_core::config::Address;

use super::{Arm, Backend, BackendName, Endpoint, GATEWAY, Gateway, Host, Ir, Path, Route, SplitKey};
use crate::model::{
    self, BackendRef, HttpRoute, HttpRouteMatch, HttpRouteRule, Metadata, Objects, Origin, PathMatchType,
    Sourced,
};

const MAX_WEIGHT: u32 = 1_000_000;

/// Resources that do not fit together. One sentence with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {object}: {reason}")]
pub struct Invalid {
    /// The document.
    pub origin: Origin,
    /// Kind and name.
    pub object: String,
    /// Path and what is wrong there.
    pub reason: String,
}

/// Says of errors which object they are about.
struct About<'a> {
    origin: &'a Origin,
    kind: &'static str,
    metadata: &'a Metadata,
}

impl About<'_> {
    fn invalid(&self, reason: impl Into<String>) -> Invalid {
        let name = BackendName::new(&self.metadata.namespace, &self.metadata.name);
        Invalid {
            origin: self.origin.clone(),
            object: format!("{} {name}", self.kind),
            reason: reason.into(),
        }
    }
}

/// Puts the resources together.
///
/// # Errors
/// The first contradiction, with the document it is in.
pub fn build(objects: &Objects, gateway: Gateway) -> Result<Ir, Invalid> {
    let backends = backends(&objects.backends)?;
    let keys = keys(objects)?;
    let mut entries = Vec::new();
    let mut seen = BTreeMap::new();
    let mut routes: Vec<_> = objects.routes.iter().collect();
    routes.sort_by_key(|r| (&r.value.metadata.namespace, &r.value.metadata.name));
    for Sourced { origin, value } in routes {
        let about = About { origin, kind: "HTTPRoute", metadata: &value.metadata };
        let id = BackendName::new(&value.metadata.namespace, &value.metadata.name);
        if let Some(first) = seen.insert(id.clone(), origin) {
            return Err(about.invalid(format!("is already defined in {first}")));
        }
        entries.extend(route_entries(&about, value, &backends, keys.get(&id))?);
    }
    Ok(Ir { gateway, hosts: hosts(&entries), backends })
}

fn backends(objects: &[Sourced<model::Backend>]) -> Result<BTreeMap<BackendName, Backend>, Invalid> {
    let mut backends = BTreeMap::new();
    for Sourced { origin, value } in objects {
        let about = About { origin, kind: "Backend", metadata: &value.metadata };
        let endpoint = |(i, endpoint): (usize, &model::BackendEndpoint)| {
            let address = address(&endpoint.address).ok_or_else(|| {
                about.invalid(format!(
                    "spec.endpoints[{i}].address: {:?} is neither IP:port nor unix:/path",
                    endpoint.address
                ))
            })?;
            Ok(Endpoint { address, labels: endpoint.labels.clone() })
        };
        let endpoints =
            value.spec.endpoints.iter().enumerate().map(endpoint).collect::<Result<_, Invalid>>()?;
        let name = BackendName::new(&value.metadata.namespace, &value.metadata.name);
        let backend = Backend { endpoints, load_balancing: value.spec.load_balancing };
        if backends.insert(name, backend).is_some() {
            return Err(about.invalid("is defined twice"));
        }
    }
    Ok(backends)
}

fn address(text: &str) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Some(Address::Pipe(PathBuf::from(path))),
        Some(_) => None,
        None => text.parse().ok().map(Address::Socket),
    }
}

/// Split keys by the route they are for.
fn keys(objects: &Objects) -> Result<BTreeMap<BackendName, SplitKey>, Invalid> {
    let mut keys = BTreeMap::new();
    for Sourced { origin, value } in &objects.policies {
        let about = About { origin, kind: "TrafficPolicy", metadata: &value.metadata };
        let target = &value.spec.target_ref;
        if target.kind != "HTTPRoute" {
            return Err(about.invalid(format!("spec.targetRef.kind: {} is not HTTPRoute", target.kind)));
        }
        if target.group.as_deref().is_some_and(|g| g != "gateway.networking.k8s.io") {
            return Err(about.invalid("spec.targetRef.group: is not gateway.networking.k8s.io"));
        }
        let namespace = &value.metadata.namespace;
        let is_target = |r: &Sourced<HttpRoute>| {
            r.value.metadata.name == target.name && r.value.metadata.namespace == *namespace
        };
        if !objects.routes.iter().any(is_target) {
            return Err(
                about.invalid(format!("spec.targetRef.name: there is no HTTPRoute {:?}", target.name))
            );
        }
        let header = value.spec.split.key.header.to_ascii_lowercase();
        if !is_header_name(&header) {
            return Err(about.invalid(format!("spec.split.key.header: {header:?} is not a header name")));
        }
        let key = SplitKey { header, salt: value.spec.split.salt.clone() };
        if keys.insert(BackendName::new(namespace, &target.name), key).is_some() {
            return Err(about.invalid(format!("HTTPRoute {:?} has another TrafficPolicy", target.name)));
        }
    }
    Ok(keys)
}

/// A match of a rule with what decides its place.
struct Entry {
    /// In lower case; empty for every host.
    hostname: String,
    route: Route,
    /// Sorts before others if it is greater (Gateway API, HTTPRouteRule.matches): exact paths, then longer ones, then
    /// more headers. Equal ones keep the order of their routes' names and rules.
    rank: (bool, usize, usize),
}

fn route_entries(
    about: &About<'_>,
    route: &HttpRoute,
    backends: &BTreeMap<BackendName, Backend>,
    key: Option<&SplitKey>,
) -> Result<Vec<Entry>, Invalid> {
    for (i, parent) in route.spec.parent_refs.iter().enumerate() {
        let is_gateway = parent.kind.as_deref().is_none_or(|k| k == "Gateway")
            && parent.group.as_deref().is_none_or(|g| g == "gateway.networking.k8s.io");
        if !is_gateway || parent.name != GATEWAY {
            let reason = format!("spec.parentRefs[{i}]: this version has one Gateway only, {GATEWAY:?}");
            return Err(about.invalid(reason));
        }
    }
    let hostnames = hostnames(about, &route.spec.hostnames)?;
    let mut entries = Vec::new();
    for (i, rule) in route.spec.rules.iter().enumerate() {
        if rule.name.is_some() && route.spec.rules[..i].iter().any(|earlier| earlier.name == rule.name) {
            let name = rule.name.as_deref().unwrap_or_default();
            return Err(about.invalid(format!("spec.rules[{i}].name: another rule is named {name:?}")));
        }
        let arms = arms(about, i, route, rule, backends)?;
        let every = [HttpRouteMatch::default()];
        let matches = if rule.matches.is_empty() { &every[..] } else { &rule.matches };
        for (j, conditions) in matches.iter().enumerate() {
            let (path, rank) = path(about, i, j, conditions)?;
            let rule_name = rule.name.clone().unwrap_or_else(|| i.to_string());
            let prefix = BackendName::new(&route.metadata.namespace, &route.metadata.name);
            let name = match matches.len() {
                1 => format!("{prefix}/{rule_name}"),
                _ => format!("{prefix}/{rule_name}/{j}"),
            };
            let headers = headers(about, i, j, conditions)?;
            let rank = (rank.0, rank.1, headers.len());
            let object = prefix.to_string();
            let route = Route { name, object, path, headers, arms: arms.clone(), key: key.cloned() };
            let entry = |hostname: &String| Entry { hostname: hostname.clone(), route: route.clone(), rank };
            entries.extend(hostnames.iter().map(entry));
        }
    }
    Ok(entries)
}

fn hostnames(about: &About<'_>, hostnames: &[String]) -> Result<Vec<String>, Invalid> {
    if hostnames.is_empty() {
        return Ok(vec![String::new()]);
    }
    let check = |(i, name): (usize, &String)| {
        let lower = name.to_ascii_lowercase();
        let labels = lower.strip_prefix("*.").unwrap_or(&lower);
        let is_label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if labels.len() <= 253 && labels.split('.').all(is_label) {
            Ok(lower)
        } else {
            Err(about.invalid(format!("spec.hostnames[{i}]: {name:?} is not a host name without port")))
        }
    };
    hostnames.iter().enumerate().map(check).collect()
}

fn arms(
    about: &About<'_>,
    rule_index: usize,
    route: &HttpRoute,
    rule: &HttpRouteRule,
    backends: &BTreeMap<BackendName, Backend>,
) -> Result<Vec<Arm>, Invalid> {
    let at = format!("spec.rules[{rule_index}].backendRefs");
    let arm = |(i, reference): (usize, &BackendRef)| {
        let at = format!("{at}[{i}]");
        let is_backend = reference.kind.as_deref().is_none_or(|k| k == "Backend")
            && reference.group.as_deref().is_none_or(|g| g == "weir.dev");
        if !is_backend {
            let kind = reference.kind.as_deref().unwrap_or("Service");
            return Err(
                about.invalid(format!("{at}: kind {kind} is not supported by this version, only Backend"))
            );
        }
        let namespace = reference.namespace.as_ref().unwrap_or(&route.metadata.namespace);
        if *namespace != route.metadata.namespace {
            return Err(about.invalid(format!(
                "{at}.namespace: another namespace needs a ReferenceGrant, which this version lacks"
            )));
        }
        let backend = BackendName::new(namespace, &reference.name);
        if !backends.contains_key(&backend) {
            return Err(about.invalid(format!("{at}.name: there is no Backend {:?}", reference.name)));
        }
        if reference.weight > MAX_WEIGHT {
            return Err(about.invalid(format!("{at}.weight: {} is more than {MAX_WEIGHT}", reference.weight)));
        }
        Ok(Arm { backend, weight: reference.weight })
    };
    let arms = rule.backend_refs.iter().enumerate().map(arm).collect::<Result<Vec<_>, _>>()?;
    if arms.iter().all(|a| a.weight == 0) {
        return Err(about.invalid(format!("{at}: at least one with a weight above 0 is required")));
    }
    if let Some(twice) =
        arms.iter().enumerate().find(|(i, a)| arms[..*i].iter().any(|b| b.backend == a.backend))
    {
        return Err(
            about.invalid(format!("{at}[{}]: {} is already an arm of this rule", twice.0, twice.1.backend))
        );
    }
    Ok(arms)
}

fn path(
    about: &About<'_>,
    rule: usize,
    index: usize,
    conditions: &HttpRouteMatch,
) -> Result<(Path, (bool, usize)), Invalid> {
    let Some(path) = &conditions.path else {
        return Ok((Path::Prefix(String::new()), (false, 1)));
    };
    let value = &path.value;
    // What can never match a request's path is refused here, not silently unreachable.
    let odd =
        value.contains("//") || value.contains(['?', '#']) || !value.bytes().all(|b| b.is_ascii_graphic());
    if !value.starts_with('/') || odd || value.split('/').any(|element| matches!(element, "." | "..")) {
        let at = format!("spec.rules[{rule}].matches[{index}].path.value");
        return Err(about.invalid(format!("{at}: {value:?} is not a plain absolute path")));
    }
    let rank = value.len();
    Ok(match path.kind {
        PathMatchType::Exact => (Path::Exact(value.clone()), (true, rank)),
        PathMatchType::PathPrefix => (Path::Prefix(value.trim_end_matches('/').to_owned()), (false, rank)),
    })
}

fn headers(
    about: &About<'_>,
    rule: usize,
    index: usize,
    conditions: &HttpRouteMatch,
) -> Result<Vec<(String, String)>, Invalid> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for (k, header) in conditions.headers.iter().enumerate() {
        let name = header.name.to_ascii_lowercase();
        if !is_header_name(&name) {
            let at = format!("spec.rules[{rule}].matches[{index}].headers[{k}].name");
            return Err(about.invalid(format!("{at}: {:?} is not a header name", header.name)));
        }
        // Of equal names only the first counts (HTTPHeaderMatch.name).
        if !headers.iter().any(|(n, _)| *n == name) {
            headers.push((name, header.value.clone()));
        }
    }
    Ok(headers)
}

/// RFC 9110 §5.6.2, in lower case.
fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A list for each hostname, with every entry whose hostname covers it: the more specific hostname first, then by rank.
fn hosts(entries: &[Entry]) -> Vec<Host> {
    let mut names: Vec<&str> = entries.iter().map(|e| e.hostname.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let host = |name: &str| {
        let mut covering: Vec<&Entry> = entries.iter().filter(|e| covers(&e.hostname, name)).collect();
        covering.sort_by_key(|e| std::cmp::Reverse((specificity(&e.hostname), e.rank)));
        Host {
            hostname: if name.is_empty() { "*".to_owned() } else { name.to_owned() },
            routes: covering.into_iter().map(|e| e.route.clone()).collect(),
        }
    };
    names.into_iter().map(host).collect()
}

/// Whether every request for `name` is also one for `pattern`.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        _ if pattern.is_empty() || pattern == name => true,
        Some(suffix) => name.trim_start_matches('*').ends_with(suffix) && name.len() >= pattern.len(),
        None => false,
    }
}

/// Greater for names that say more: without wildcard, then longer.
fn specificity(hostname: &str) -> (bool, usize) {
    (!hostname.is_empty() && !hostname.starts_with('*'), hostname.len())
}

#[cfg(test)]
mod tests;

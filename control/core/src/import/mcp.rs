//! `MCPRoute`, `networking.mesh.alipay.com/v1alpha1`: rules in order, by headers, over weighted destinations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Foreign, Given, NotImported};
use crate::model::{
    Backend, BackendRef, BackendSpec, HeaderMatch, HttpRoute, HttpRouteMatch, HttpRouteRule, HttpRouteSpec,
    InstanceSelector, Kind, Metadata, Object, Resource, ValueMatchType,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct McpRouteSpec {
    destination: String,
    rules: Vec<McpRule>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct McpRule {
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    matching: Option<McpMatch>,
    route: Vec<McpDestination>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct McpMatch {
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct McpDestination {
    destination: String,
    #[serde(default = "all")]
    weight: u32,
}

const fn all() -> u32 {
    100
}

/// A route of that name, and a backend of registered instances for each destination.
pub(super) fn import(route: Foreign<McpRouteSpec>, given: &Given) -> Result<Vec<Resource>, NotImported> {
    let namespace = route.metadata.namespace().to_owned();
    let spec = route.spec;
    let name = route.metadata.name.or_else(|| given.name.clone()).unwrap_or_else(|| spec.destination.clone());
    let (mut rules, mut backends) = (Vec::new(), BTreeMap::new());
    let mut seen: Vec<BTreeMap<String, String>> = Vec::new();
    for (i, rule) in spec.rules.into_iter().enumerate() {
        let headers = rule.matching.map(|matching| matching.headers).unwrap_or_default();
        // There the first rule that holds wins; here the one that asks for more. Both mean the same only if it comes first.
        let covers = |earlier: &BTreeMap<String, String>| {
            earlier.len() < headers.len() && earlier.iter().all(|(k, v)| headers.get(k) == Some(v))
        };
        if seen.iter().any(covers) {
            return Err(NotImported::new(format!(
                "spec.rules[{i}]: a rule before it takes all of its requests"
            )));
        }
        seen.push(headers.clone());
        let one = |(name, value): (String, String)| HeaderMatch { kind: ValueMatchType::Exact, name, value };
        let headers: Vec<_> = headers.into_iter().map(one).collect();
        let matches = match headers.is_empty() {
            true => Vec::new(),
            false => vec![HttpRouteMatch { headers, ..HttpRouteMatch::default() }],
        };
        let mut backend_refs = Vec::new();
        for McpDestination { destination, weight } in rule.route {
            backends.insert(destination.clone(), backend(&namespace, &destination));
            backend_refs.push(BackendRef { name: destination, weight, ..BackendRef::default() });
        }
        rules.push(HttpRouteRule { matches, backend_refs, ..HttpRouteRule::default() });
    }
    let mut metadata = Metadata::named(&namespace, &name);
    metadata.annotations.insert(DESTINATION.to_owned(), spec.destination);
    let spec = HttpRouteSpec { rules, ..HttpRouteSpec::default() };
    let route: HttpRoute = Object::new(Kind::HttpRoute, metadata, spec);
    Ok(backends.into_values().chain([route.into()]).collect())
}

/// What the route said it is for.
const DESTINATION: &str = "weir.dev/mcp-destination";

fn backend(namespace: &str, name: &str) -> Resource {
    let instances = InstanceSelector { service: name.to_owned(), labels: BTreeMap::new() };
    let spec = BackendSpec { instances: Some(instances), ..BackendSpec::default() };
    let backend: Backend = Object::new(Kind::Backend, Metadata::named(namespace, name), spec);
    backend.into()
}

/// A route as an `MCPRoute`.
///
/// # Errors
/// The first field that it has no place for.
pub fn export(route: &HttpRoute) -> Result<Value, NotImported> {
    let no_place = |path: String| Err(NotImported::new(format!("{path}: an MCPRoute has no place for it")));
    if !route.spec.hostnames.is_empty() {
        return no_place("spec.hostnames".to_owned());
    }
    if !route.spec.parent_refs.is_empty() {
        return no_place("spec.parentRefs".to_owned());
    }
    let mut rules = Vec::new();
    for (i, rule) in route.spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        if !rule.filters.is_empty() {
            return no_place(format!("{at}.filters"));
        }
        if rule.timeouts.is_some() {
            return no_place(format!("{at}.timeouts"));
        }
        let matching = match rule.matches.as_slice() {
            [] => None,
            [only] if only.path.is_none() && only.method.is_none() && only.query_params.is_empty() => {
                if let Some(j) = only.headers.iter().position(|h| h.kind != ValueMatchType::Exact) {
                    return no_place(format!("{at}.matches[0].headers[{j}].type"));
                }
                let headers = only.headers.iter().map(|h| (h.name.clone(), h.value.clone()));
                Some(McpMatch { headers: headers.collect() }).filter(|matching| !matching.headers.is_empty())
            }
            _ => return no_place(format!("{at}.matches")),
        };
        if let Some(j) = rule.backend_refs.iter().position(|backend| !backend.filters.is_empty()) {
            return no_place(format!("{at}.backendRefs[{j}].filters"));
        }
        let destination = |b: &BackendRef| McpDestination { destination: b.name.clone(), weight: b.weight };
        rules.push(McpRule { matching, route: rule.backend_refs.iter().map(destination).collect() });
    }
    let destination = route.metadata.annotations.get(DESTINATION).unwrap_or(&route.metadata.name).clone();
    let is_named = destination != route.metadata.name;
    let spec = McpRouteSpec { destination, rules };
    let mut value =
        json!({ "apiVersion": "networking.mesh.alipay.com/v1alpha1", "kind": "MCPRoute", "spec": spec });
    if is_named || route.metadata.namespace != "default" {
        value["metadata"] = json!({ "name": route.metadata.name, "namespace": route.metadata.namespace });
    }
    Ok(value)
}

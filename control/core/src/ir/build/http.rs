//! `HTTPRoute`: from rules to entries of a table.

use std::collections::btree_map;
use std::sync::Arc;
use std::time::Duration;

use super::backends::{Backends, Unresolved};
use super::grants::From;
use super::memory::{Target, Targets};
use super::policies::{Policies, split};
use crate::ir::{
    Action, Arm, BackendName, Condition, Conditions, Forward, HeaderEdits, Path, PathChange, Redirect, Route,
    Split, ValueCondition,
};
use crate::model::{
    BackendRef, FilterType, HeaderMatch, HttpRoute, HttpRouteFilter, HttpRouteMatch, HttpRouteRule, Kind,
    PathMatchType, PathModifier, RouteTimeouts, TrafficPolicySpec, UserGroupSpec, ValueMatchType, duration,
};

/// A match of a rule with what decides its place.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) rank: Rank,
    pub(super) route: Arc<Route>,
}

/// Sorts before others if it is greater (Gateway API, HTTPRouteRule.matches): exact paths, then expressions, then longer
/// paths, then a method, then more headers, then more parameters. Equal ones keep the order of their routes' ages and of
/// rules.
pub(super) type Rank = (u8, usize, bool, usize, usize);

/// What came of a route, whatever it attaches to.
#[derive(Debug)]
pub(super) struct Outcome<E> {
    pub(super) entries: Vec<E>,
    /// `ResolvedRefs`.
    pub(super) resolved: Condition,
    /// What is in the way of `Accepted`.
    pub(super) refused: Option<Condition>,
    /// Rules that are answered with 500, where others are served.
    pub(super) partially_invalid: Option<Condition>,
    /// What it refers to.
    pub(super) targets: Targets,
}

/// The references of a route, and what it is about.
pub(super) struct Scope<'s, 'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'s str,
    pub(super) backends: &'s mut Backends<'a>,
    targets: Targets,
    /// The first reference that leads nowhere.
    pub(super) unresolved: Option<Unresolved>,
    /// What is not supported, by rule.
    pub(super) unsupported: Vec<(usize, String)>,
}

impl<'s, 'a> Scope<'s, 'a> {
    pub(super) const fn new(kind: Kind, namespace: &'s str, backends: &'s mut Backends<'a>) -> Self {
        Self { kind, namespace, backends, targets: Targets::new(), unresolved: None, unsupported: Vec::new() }
    }

    pub(super) fn outcome<E>(self, entries: Vec<E>, rules: usize) -> Outcome<E> {
        let resolved = match self.unresolved {
            Some((reason, message)) => Condition::fails("ResolvedRefs", reason, message),
            None => Condition::holds("ResolvedRefs", "ResolvedRefs"),
        };
        let first = self.unsupported.first().map(|(rule, what)| format!("spec.rules[{rule}]: {what}"));
        let mut bad: Vec<_> = self.unsupported.iter().map(|(rule, _)| *rule).collect();
        bad.dedup();
        let all = bad.len() >= rules;
        let refused = first.clone().filter(|_| all);
        let partially = first.filter(|_| !all);
        Outcome {
            entries,
            resolved,
            targets: self.targets,
            refused: refused.map(|message| Condition::fails("Accepted", "UnsupportedValue", message)),
            partially_invalid: partially.map(|message| Condition {
                // Which of the ways it is, the message must begin with (Gateway API, RouteConditionPartiallyInvalid).
                message: format!("Dropped Rule: {message}"),
                ..Condition::holds("PartiallyInvalid", "UnsupportedValue")
            }),
        }
    }

    /// The weighted targets of a rule. One that leads nowhere keeps its share.
    pub(super) fn arms(&mut self, rule: usize, references: &[BackendRef]) -> Vec<Arm> {
        let mut arms = Vec::with_capacity(references.len());
        for reference in references {
            let from = From { kind: self.kind, namespace: self.namespace };
            let led = match self.targets.entry(Target::of(reference)) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(place) => {
                    let led = self.backends.resolve(from, place.key());
                    place.insert(led)
                }
            };
            let backend = match led {
                Ok(backend) => Some(backend.clone()),
                Err(unresolved) => {
                    self.unresolved.get_or_insert_with(|| unresolved.clone());
                    None
                }
            };
            let changes = self.changes(rule, &reference.filters);
            if changes.path.is_some() || changes.redirect.is_some() {
                self.unsupported
                    .push((rule, "a backend alone has no redirect and no path rewrite".to_owned()));
            }
            arms.push(Arm {
                backend,
                weight: reference.weight,
                request: changes.request,
                response: changes.response,
                host: changes.host,
            });
        }
        arms
    }

    pub(super) fn changes(&mut self, rule: usize, filters: &[HttpRouteFilter]) -> Changes {
        let mut changes = Changes::default();
        for filter in filters {
            match filter.kind {
                FilterType::RequestHeaderModifier => {
                    changes.request = edits(filter.request_header_modifier.as_ref());
                }
                FilterType::ResponseHeaderModifier => {
                    changes.response = edits(filter.response_header_modifier.as_ref());
                }
                FilterType::RequestRedirect => {
                    changes.redirect = filter.request_redirect.as_ref().map(|redirect| Redirect {
                        scheme: redirect.scheme.clone(),
                        host: redirect.hostname.clone(),
                        path: redirect.path.as_ref().map(path_change),
                        port: redirect.port,
                        status: redirect.status_code,
                    });
                }
                FilterType::UrlRewrite => {
                    let Some(rewrite) = &filter.url_rewrite else { continue };
                    changes.host = rewrite.hostname.clone();
                    changes.path = rewrite.path.as_ref().map(path_change);
                }
                FilterType::ExtensionRef => {
                    let message = "no ExtensionRef is supported".to_owned();
                    self.unresolved.get_or_insert(("InvalidKind", message));
                    changes.is_broken = true;
                }
                FilterType::RequestMirror | FilterType::Cors | FilterType::ExternalAuth => {
                    self.unsupported
                        .push((rule, format!("filters of the type {:?} are not supported", filter.kind)));
                    changes.is_broken = true;
                }
            }
        }
        changes
    }
}

/// What the filters of a rule, or of a backend, change.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    pub(super) request: HeaderEdits,
    pub(super) response: HeaderEdits,
    pub(super) redirect: Option<Redirect>,
    pub(super) host: Option<String>,
    pub(super) path: Option<PathChange>,
    /// A filter cannot be applied: its requests must fail.
    pub(super) is_broken: bool,
}

fn edits(modifier: Option<&crate::model::HeaderModifier>) -> HeaderEdits {
    let Some(modifier) = modifier else { return HeaderEdits::default() };
    let lines = |lines: &[crate::model::HeaderValue]| {
        let mut kept: Vec<(String, String)> = Vec::new();
        for line in lines {
            let name = line.name.to_ascii_lowercase();
            // Of equal names only the first counts (HTTPHeader.name).
            if !kept.iter().any(|(n, _)| *n == name) {
                kept.push((name, line.value.clone()));
            }
        }
        kept
    };
    HeaderEdits {
        set: lines(&modifier.set),
        add: lines(&modifier.add),
        remove: modifier.remove.iter().map(|name| name.to_ascii_lowercase()).collect(),
    }
}

fn path_change(modifier: &PathModifier) -> PathChange {
    match (&modifier.replace_full_path, &modifier.replace_prefix_match) {
        (Some(path), _) => PathChange::Full(path.clone()),
        (None, prefix) => PathChange::Prefix(prefix.clone().unwrap_or_default()),
    }
}

/// The entries of a route, which are the same wherever it attaches.
pub(super) fn entries(
    route: &HttpRoute,
    backends: &mut Backends<'_>,
    policies: &Policies<'_>,
) -> Outcome<Entry> {
    let namespace = route.metadata.namespace.as_str();
    let policy = policies.about(Kind::HttpRoute, namespace, &route.metadata.name);
    let object = BackendName::new(namespace, &route.metadata.name).to_string();
    let mut scope = Scope::new(Kind::HttpRoute, namespace, backends);
    let mut entries = Vec::new();
    for (i, rule) in route.spec.rules.iter().enumerate() {
        let changes = scope.changes(i, &rule.filters);
        let arms = scope.arms(i, &rule.backend_refs);
        let actions = Actions {
            base: action(arms, &changes, rule.timeouts.as_ref(), policy),
            groups: groups(&mut scope, i, policies, policy, &changes, rule),
        };
        let every = [HttpRouteMatch::default()];
        let matches = if rule.matches.is_empty() { &every[..] } else { &rule.matches };
        for (j, written) in matches.iter().enumerate() {
            let (conditions, rank) = conditions(written);
            let rule_name = rule.name.clone().unwrap_or_else(|| i.to_string());
            let name = match matches.len() {
                1 => format!("{object}/{rule_name}"),
                _ => format!("{object}/{rule_name}/{j}"),
            };
            let route = Route {
                name,
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

/// What a rule does, and what it does with groups of users.
pub(super) struct Actions {
    pub(super) base: Action,
    /// The group's name, who is in it, and where they go.
    pub(super) groups: Vec<(String, ValueCondition, Action)>,
}

impl Actions {
    /// The route, behind one for each group.
    pub(super) fn expand(&self, route: Route, rank: Rank, entries: &mut Vec<Entry>) {
        for (group, condition, action) in &self.groups {
            let mut of_group = route.clone();
            of_group.name = format!("{}@{group}", route.name);
            of_group.conditions.headers.push(condition.clone());
            of_group.action = action.clone();
            entries.push(Entry { rank, route: Arc::new(of_group) });
        }
        entries.push(Entry { rank, route: Arc::new(route) });
    }
}

fn groups(
    scope: &mut Scope<'_, '_>,
    index: usize,
    policies: &Policies<'_>,
    policy: Option<&TrafficPolicySpec>,
    changes: &Changes,
    rule: &HttpRouteRule,
) -> Vec<(String, ValueCondition, Action)> {
    // A rule that leads nowhere leads nobody elsewhere.
    if rule.backend_refs.is_empty() {
        return Vec::new();
    }
    let mut groups = Vec::new();
    for split in policy.into_iter().flat_map(|policy| &policy.groups) {
        let Some(group) = policies.group(scope.namespace, &split.group) else { continue };
        let arms = scope.arms(index, &split.backend_refs);
        let action = action(arms, changes, rule.timeouts.as_ref(), policy);
        groups.push((split.group.clone(), members(group), action));
    }
    groups
}

/// Who is in a group, as a condition on a header.
fn members(group: &UserGroupSpec) -> ValueCondition {
    let name = group.header.as_deref().unwrap_or("x-user-id").to_ascii_lowercase();
    if let Some(attribute) = &group.attribute {
        let name = attribute.header.to_ascii_lowercase();
        return ValueCondition { name, value: attribute.value.clone(), is_regex: false };
    }
    if let [only] = group.members.as_slice() {
        return ValueCondition { name, value: only.clone(), is_regex: false };
    }
    let value = match &group.modulo {
        Some(modulo) => remainders(modulo.divisor, &modulo.remainders),
        None => group.members.iter().map(|member| literal(member)).collect::<Vec<_>>().join("|"),
    };
    ValueCondition { name, value, is_regex: true }
}

/// An expression for this text alone.
pub(crate) fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_alphanumeric() && c != '_' && c != ' ' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Numbers that leave one of the remainders: with divisors of 100 the last two digits tell.
fn remainders(divisor: u32, wanted: &[u32]) -> String {
    let leaves = |number: &u32| wanted.contains(&(number % divisor));
    let two: Vec<_> = (0..100).filter(leaves).map(|number| format!("{number:02}")).collect();
    let one: Vec<_> = (0..10).filter(leaves).map(|number| number.to_string()).collect();
    let mut parts = vec![format!("[0-9]*(?:{})", two.join("|"))];
    parts.extend(one);
    parts.join("|")
}

/// What a rule does with a request.
pub(super) fn action(
    arms: Vec<Arm>,
    changes: &Changes,
    timeouts: Option<&RouteTimeouts>,
    policy: Option<&TrafficPolicySpec>,
) -> Action {
    if changes.is_broken {
        return Action::Respond(500);
    }
    if let Some(redirect) = &changes.redirect {
        return Action::Redirect(redirect.clone());
    }
    // Nowhere to go, or nothing that may go there (Gateway API, HTTPRouteRule.backendRefs).
    if arms.iter().all(|arm| arm.weight == 0 || arm.backend.is_none()) {
        return Action::Respond(500);
    }
    let read = |text: &Option<String>| text.as_deref().and_then(duration);
    let request = timeouts.and_then(|timeouts| read(&timeouts.request));
    let attempt = timeouts.and_then(|timeouts| read(&timeouts.backend_request));
    // There is one attempt: the shorter limit holds. Zero is none.
    let some = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
    let shorter = some(request).into_iter().chain(some(attempt)).min();
    let timeouts = policy.and_then(|policy| policy.timeouts.as_ref());
    // Of a rule, those drain that it has and gives nothing.
    let of_weight_0 = arms.iter().filter(|arm| arm.weight == 0);
    let draining: Vec<String> =
        of_weight_0.filter_map(|arm| arm.backend.as_ref()).map(ToString::to_string).collect();
    Action::Forward(Forward {
        arms,
        split: policy
            .and_then(|policy| policy.split.as_ref())
            .map(split)
            .map(|s| s.of(&draining))
            .filter(|s| *s != Split::default()),
        host: changes.host.clone(),
        path: changes.path.clone(),
        timeout: shorter.or(request).or(attempt).or_else(|| read(&timeouts?.request)),
        idle_timeout: timeouts.and_then(|timeouts| read(&timeouts.idle)),
        fault: policy.and_then(|policy| policy.fault.clone()),
    })
}

fn conditions(written: &HttpRouteMatch) -> (Conditions, Rank) {
    let (path, class, length) = match &written.path {
        None => (Path::Prefix(String::new()), 0, 1),
        Some(path) => {
            let (value, length) = (path.value.clone(), path.value.len());
            match path.kind {
                PathMatchType::Exact => (Path::Exact(value), 2, length),
                PathMatchType::RegularExpression => (Path::Regex(value), 1, length),
                PathMatchType::PathPrefix => {
                    (Path::Prefix(value.trim_end_matches('/').to_owned()), 0, length)
                }
            }
        }
    };
    let headers = values(&written.headers, true);
    let query = values(&written.query_params, false);
    let rank = (class, length, written.method.is_some(), headers.len(), query.len());
    (Conditions { path, method: written.method.clone(), headers, query, is_grpc: false }, rank)
}

/// Of equal names only the first counts (HTTPHeaderMatch.name).
pub(super) fn values(matches: &[HeaderMatch], are_headers: bool) -> Vec<ValueCondition> {
    let mut values: Vec<ValueCondition> = Vec::new();
    for written in matches {
        let name = if are_headers { written.name.to_ascii_lowercase() } else { written.name.clone() };
        if !values.iter().any(|value| value.name == name) {
            let is_regex = written.kind == ValueMatchType::RegularExpression;
            values.push(ValueCondition { name, value: written.value.clone(), is_regex });
        }
    }
    values
}

//! What can be used and is hardly meant: routes that never match, splits to nowhere, domains in each other's way.
//!
//! Everything here is certain: a finding says what will happen, not what looks unusual.

mod cover;
mod regex;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::config::{
    Action, Arm, ClusterName, ClusterRef, Condition, Config, Domain, EndpointSource, Forward, Fraction,
    HeaderMatch, ListenerName, PathMatch, PathRewrite, Predicate, RedirectPath, Route, RouteConfigName,
    RouteConfiguration, ServedCluster, SplitBy, TextForm, TextMatch, Unavailable, VirtualHost,
};
use crate::http1;
use crate::lb::SubsetChoices;

/// Something that is hardly meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it is.
    pub spot: Spot,
    /// What will happen.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

/// A place in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The route configuration.
    pub configuration: RouteConfigName,
    /// The first listener that it serves, if that is known.
    pub listener: Option<ListenerName>,
    /// The path within the route configuration, such as `virtual_hosts[0].routes[2]`.
    pub path: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.advice)
    }
}

/// Looks through everything that is served. `is_part`: clusters that are not here may come from elsewhere.
pub fn lint(config: &Config, is_part: bool) -> Vec<Finding> {
    let mut linter =
        Linter { clusters: &config.clusters, is_part, findings: Vec::new(), choices: BTreeMap::new() };
    let mut seen = BTreeSet::new();
    for served in &config.listeners {
        // One that several listeners name is told of once.
        for routes in &served.routes {
            if seen.insert(Arc::as_ptr(routes)) {
                linter.configuration(routes, Some(&served.listener.name));
            }
        }
    }
    linter.findings
}

/// Looks through a route configuration alone, whose clusters are not known.
pub fn lint_routes(routes: &RouteConfiguration) -> Vec<Finding> {
    let mut linter =
        Linter { clusters: &BTreeMap::new(), is_part: true, findings: Vec::new(), choices: BTreeMap::new() };
    linter.configuration(routes, None);
    linter.findings
}

struct Linter<'a> {
    clusters: &'a BTreeMap<ClusterName, ServedCluster>,
    is_part: bool,
    findings: Vec<Finding>,
    /// Of the clusters that were looked at.
    choices: BTreeMap<ClusterName, SubsetChoices>,
}

/// Where the linter is.
#[derive(Clone, Copy)]
struct At<'a> {
    configuration: &'a RouteConfigName,
    listener: Option<&'a ListenerName>,
}

impl Linter<'_> {
    fn tell(&mut self, at: At<'_>, path: String, what: String, advice: impl Into<String>) {
        let spot = Spot { configuration: at.configuration.clone(), listener: at.listener.cloned(), path };
        self.findings.push(Finding { spot, what, advice: advice.into() });
    }

    fn configuration(&mut self, routes: &RouteConfiguration, listener: Option<&ListenerName>) {
        let at = At { configuration: &routes.name, listener };
        self.domains(at, routes);
        for (number, host) in routes.virtual_hosts.iter().enumerate() {
            // One that is for TLS sends everybody else there.
            if host.routes.is_empty() && !host.requires_tls {
                let what = format!(
                    "virtual host {:?} has no routes: all its requests are answered with 404",
                    host.name
                );
                self.tell(at, format!("virtual_hosts[{number}]"), what, "add a route, or remove it");
            }
            self.routes(at, number, host);
        }
    }

    fn domains(&mut self, at: At<'_>, routes: &RouteConfiguration) {
        let all: Vec<_> = routes
            .virtual_hosts
            .iter()
            .enumerate()
            .flat_map(|(h, host)| {
                host.domains.iter().enumerate().map(move |(d, domain)| (h, d, host, domain))
            })
            .collect();
        for (h, d, host, domain) in &all {
            let path = || format!("virtual_hosts[{h}].domains[{d}]");
            if let Domain::Exact(name) = domain
                && routes.ignore_port_in_host_matching
                && has_port(name)
            {
                let what = format!(
                    "domain {name:?} never matches: ignore_port_in_host_matching takes the port off every host"
                );
                self.tell(at, path(), what, "write it without the port");
            }
            for (o, _, other, overlapped) in all.iter().filter(|(o, ..)| o != h) {
                match (domain, overlapped) {
                    (Domain::Prefix(start), Domain::Suffix(end)) => {
                        let example = format!("{start}x{end}");
                        let fits = http1::is_host(example.as_bytes())
                            && !(routes.ignore_port_in_host_matching && example.contains(':'));
                        if !fits || taker(routes, &example) != Some(*o) {
                            continue;
                        }
                        let what = format!(
                            "domains overlap: hosts such as {example:?} fit {domain:?} of virtual host {:?} and {overlapped:?} of {:?}, which takes them",
                            host.name,
                            other.name,
                            domain = domain.to_string(),
                            overlapped = overlapped.to_string(),
                        );
                        self.tell(at, path(), what, "name the hosts that are meant");
                    }
                    (Domain::Exact(with_port), Domain::Exact(name))
                        if !routes.ignore_port_in_host_matching
                            && with_port.rsplit_once(':').is_some_and(|(host, _)| *host == **name) =>
                    {
                        let what = format!(
                            "domains overlap: {with_port:?} of virtual host {:?} is the host {name:?} of {:?}; which one a request meets depends on whether the client sends the port",
                            host.name, other.name,
                        );
                        self.tell(
                            at,
                            path(),
                            what,
                            "set ignore_port_in_host_matching, or put both into one virtual host",
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    fn routes(&mut self, at: At<'_>, number: usize, host: &VirtualHost) {
        for (index, route) in host.routes.iter().enumerate() {
            let path = format!("virtual_hosts[{number}].routes[{index}]");
            let name = label(&host.name, index, route);
            if let Some(never) = route.conditions.iter().find(|condition| is_never(condition)) {
                let what = format!("route {name} never matches: it asks for {never}");
                self.tell(at, format!("{path}.match"), what, "raise the fraction, or remove the route");
            } else if let Some((before, cover)) =
                host.routes[..index].iter().enumerate().find(|(_, before)| cover::covers(before, route))
            {
                let what = format!(
                    "route {name} never matches: route {} before it takes all of its requests",
                    label(&host.name, before, cover)
                );
                self.tell(at, format!("{path}.match"), what, "move it up, or remove it");
            }
            self.expressions(at, &path, &name, route);
            if let Action::Forward(forward) = &route.action {
                self.arms(at, &path, &name, forward);
            }
        }
    }

    fn arms(&mut self, at: At<'_>, path: &str, name: &str, forward: &Forward) {
        let split = &forward.split;
        for (index, arm) in split.arms.iter().enumerate() {
            let lone = split.arms.len() == 1;
            let path = match lone {
                true => format!("{path}.route"),
                false => format!("{path}.route.weighted_clusters.clusters[{index}]"),
            };
            let whose = match lone {
                true => format!("route {name}"),
                false => format!("arm {:?} of route {name}", arm.name.as_str()),
            };
            if let Some((what, status, advice)) = self.destination(arm, forward.cluster_not_found) {
                let others =
                    split.arms.iter().enumerate().filter(|(other, arm)| *other != index && arm.weight.0 > 0);
                let mut others = others.map(|(_, arm)| arm);
                let spills = split.unavailable == Unavailable::Spill
                    && others.any(|other| self.destination(other, 0).is_none());
                let outcome = match spills {
                    true => "its requests go to the other arms".to_owned(),
                    false => format!("its requests are answered with {status}"),
                };
                self.tell(at, path.clone(), format!("{whose} {what}: {outcome}"), advice);
            }
            let stays = arm.drains && matches!(split.by, SplitBy::User(_));
            if arm.weight.0 == 0 && split.override_header.is_none() && !stays {
                let what = format!("{whose} is never seen: its weight is 0 and no header can name it");
                self.tell(at, path, what, "give it a weight or an override_header, drain it, or remove it");
            }
        }
    }

    /// What is wrong with where an arm leads, and the status that its requests get.
    fn destination(&mut self, arm: &Arm, not_found: u16) -> Option<(String, u16, &'static str)> {
        let ClusterRef::Name(name) = &arm.cluster else { return None };
        let Some(served) = self.clusters.get(name) else {
            let what = format!("leads to cluster {:?}, which does not exist", name.as_str());
            return (!self.is_part).then_some((what, not_found, "add the cluster, or correct the name"));
        };
        if !matches!(served.cluster.endpoints, EndpointSource::Static(_) | EndpointSource::EdsFile(..)) {
            return None;
        }
        if served.endpoints.endpoints().next().is_none() {
            let what = format!("leads to cluster {:?}, which has no endpoints", name.as_str());
            return Some((what, 503, "add an endpoint"));
        }
        let choices = self
            .choices
            .entry(name.clone())
            .or_insert_with(|| SubsetChoices::new(&served.endpoints, &served.cluster.balancing));
        if choices.of(arm.subset.as_deref()).0.is_empty() {
            let what =
                format!("leads to cluster {:?}, of which no endpoint can take its requests", name.as_str());
            return Some((what, 503, "correct the labels, the weights or the health of the endpoints"));
        }
        None
    }

    fn expressions(&mut self, at: At<'_>, path: &str, name: &str, route: &Route) {
        // Another match would change what is rewritten, or what case means.
        if let PathMatch::Regex(pattern) = &route.path
            && let Some(plain) = regex::plain_path(pattern.as_str())
            && !route.ignores_path_case
            && (!rewrites_prefix(route) || plain.starts_with("path:"))
        {
            let what = format!(
                "route {name} matches by the expression {:?}, which costs more than it says",
                pattern.as_str()
            );
            self.tell(at, format!("{path}.match.safe_regex"), what, format!("write {plain}"));
        }
        let headers = route.conditions.iter().filter_map(|condition| match condition {
            Condition::Header(header) => Some(header),
            _ => None,
        });
        for (index, header) in headers.enumerate() {
            let HeaderMatch { name: field, predicate, .. } = header;
            let Predicate::Text(TextMatch { form: TextForm::Regex(pattern), .. }) = predicate else {
                continue;
            };
            if let Some(plain) = regex::plain_text(pattern.as_str()) {
                let what = format!(
                    "route {name} matches header {field} by the expression {:?}, which costs more than it says",
                    pattern.as_str()
                );
                self.tell(
                    at,
                    format!("{path}.match.headers[{index}]"),
                    what,
                    format!("write string_match: {plain}"),
                );
            }
        }
    }
}

/// A route as logs call it.
fn label(host: &str, index: usize, route: &Route) -> String {
    match &*route.name {
        "" => format!("\"{host}/#{index}\""),
        name => format!("\"{host}/{name}\""),
    }
}

/// Whether it replaces what a prefix matched.
fn rewrites_prefix(route: &Route) -> bool {
    match &route.action {
        Action::Forward(forward) => matches!(forward.path, PathRewrite::Prefix(_)),
        Action::Redirect(redirect) => matches!(redirect.path, RedirectPath::Rewrite(PathRewrite::Prefix(_))),
        Action::Respond(_) => false,
    }
}

fn is_never(condition: &Condition) -> bool {
    matches!(condition, Condition::Fraction(Fraction { millionths: 0 }))
}

fn has_port(domain: &str) -> bool {
    domain
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The virtual host that takes a host, by number: exact, then the longest suffix, then the longest prefix, then any.
fn taker(routes: &RouteConfiguration, host: &str) -> Option<usize> {
    let hosts = routes.virtual_hosts.iter().enumerate();
    let domains = hosts.flat_map(|(number, host)| host.domains.iter().map(move |domain| (number, domain)));
    let covering = domains.filter(|(_, domain)| domain.covers(host));
    covering.max_by_key(|(_, domain)| domain.precedence()).map(|(number, _)| number)
}

#[cfg(test)]
mod tests;

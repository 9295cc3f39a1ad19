//! How the search for a route went: what was looked at, and why it did not fit.

use std::fmt;

use super::RequestView;
use super::condition;
use super::host::without_port;
use super::path;
use super::request::{cookie, query_parameter, without_query};
use super::table::{CompiledRoute, NoRoute, RouteTable};
use crate::config::{Condition, Domain, FieldName, PathMatch};

/// The search for a request's route.
#[derive(Debug)]
pub struct Trail<'a> {
    /// The virtual host that serves the request's host, by number, and its domain that says so.
    pub virtual_host: Option<(usize, &'a Domain)>,
    /// Its routes in their order, up to the one that takes the request.
    pub tried: Vec<Tried<'a>>,
    /// What [`RouteTable::find`] says.
    pub found: Result<(usize, &'a CompiledRoute), NoRoute>,
}

/// A route that was looked at.
#[derive(Debug)]
pub struct Tried<'a> {
    /// The route.
    pub route: &'a CompiledRoute,
    /// Why it does not take the request; nothing if it does.
    pub mismatch: Option<Mismatch<'a>>,
}

/// Why a route does not take a request. As text: what it asks for, and what the request has.
#[derive(Debug)]
pub enum Mismatch<'a> {
    /// Its condition on the path does not hold.
    Path(&'a PathMatch),
    /// The first of its other conditions that does not hold, and what the request has instead, where that can be said.
    Condition(&'a Condition, Option<String>),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "it asks that {path}"),
            Self::Condition(condition, None) => write!(f, "it asks that {condition}"),
            Self::Condition(condition, Some(found)) => write!(f, "it asks that {condition}; {found}"),
        }
    }
}

impl RouteTable {
    /// Looks for a request's route as [`Self::find`] does, and tells of every route that is tried before. Cost: all routes of
    /// the virtual host one by one; not for the request path.
    pub fn explain(&self, request: &impl RequestView) -> Trail<'_> {
        let found = self.find(request);
        let virtual_host = self.virtual_host(request.authority()).and_then(|number| {
            let domain = self.domain(number, request.authority())?;
            Some((number, domain))
        });
        let mut tried = Vec::new();
        if let Some((number, _)) = virtual_host
            && !matches!(found, Err(NoRoute::TlsRequired))
        {
            let winner = found.as_ref().ok().map(|(number, _)| *number);
            for (number, route) in self.routes_of(number) {
                let mismatch = if winner == Some(number) { None } else { self.mismatch(route, request) };
                tried.push(Tried { route, mismatch });
                if winner == Some(number) {
                    break;
                }
            }
        }
        Trail { virtual_host, tried, found }
    }

    /// The most specific domain of a virtual host that covers an authority.
    fn domain(&self, virtual_host: usize, authority: &[u8]) -> Option<&Domain> {
        let authority =
            if self.config.ignore_port_in_host_matching { without_port(authority) } else { authority };
        let host = String::from_utf8_lossy(authority).to_ascii_lowercase();
        let domains = self.config.virtual_hosts[virtual_host].domains.iter();
        domains.filter(|domain| domain.covers(&host)).max_by_key(|domain| domain.precedence())
    }

    fn mismatch(&self, route: &CompiledRoute, request: &impl RequestView) -> Option<Mismatch<'_>> {
        let config = self.route_config(route);
        if !path::holds(&config.path, config.ignores_path_case, without_query(request.path())) {
            return Some(Mismatch::Path(&config.path));
        }
        let fails = |condition: &&Condition| match condition {
            Condition::Node(_) => !route.serves(),
            condition => !condition::holds(condition, request),
        };
        let condition = config.conditions.iter().find(fails)?;
        Some(Mismatch::Condition(condition, what_is(condition, request)))
    }
}

/// What the request has in the place that a condition asks about.
fn what_is(condition: &Condition, request: &impl RequestView) -> Option<String> {
    let text = |value: &[u8]| format!("it is {:?}", String::from_utf8_lossy(value));
    let none = || "the request has none".to_owned();
    match condition {
        Condition::Header(wanted) => {
            let name = match &wanted.name {
                FieldName::Header(name) => name,
                FieldName::Method => return Some(text(request.method())),
                FieldName::Path => return Some(text(request.path())),
                FieldName::Authority => return Some(text(request.authority())),
                FieldName::Scheme => return Some(text(request.scheme())),
            };
            let values: Vec<_> = request.header(name.as_bytes()).map(String::from_utf8_lossy).collect();
            Some(match values.as_slice() {
                [] => none(),
                [value] => format!("it is {value:?}"),
                values => format!("they are {values:?}"),
            })
        }
        Condition::Query(wanted) => {
            Some(query_parameter(request.path(), wanted.name.as_bytes()).map_or_else(none, text))
        }
        Condition::Cookie(wanted) => Some(cookie(request, wanted.name.as_bytes()).map_or_else(none, text)),
        Condition::Fraction(_) => {
            let drawn = request.draw() % 1_000_000;
            Some(format!("this request drew {}.{:04} %", drawn / 10_000, drawn % 10_000))
        }
        Condition::SourceAddress(_) => Some(match request.source() {
            Some(address) => format!("it is {address}"),
            None => "it is not known".to_owned(),
        }),
        Condition::SourceLabels(_) => Some(match request.source_labels() {
            Some(labels) => {
                let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("they are {}", labels.join(", "))
            }
            None => "no endpoint has the client's address".to_owned(),
        }),
        Condition::Grpc | Condition::Node(_) => None,
    }
}

//! Route configurations, put together from routes that are written once.
//!
//! A message of Protocol Buffers is its fields, one behind the other: a route's bytes are the same in every configuration that
//! it is part of, and from one version to the next.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use proxy_core::xds::{Rejection, translate};
use xds_proto::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use xds_proto::prost_types::Any;
use xds_proto::type_url;

use super::route::wire_route;
use super::{Dialect, grpc};
use crate::ir;

/// A route as each dialect has it: as a field of a virtual host.
#[derive(Debug, Clone)]
struct Wire {
    weir: Arc<[u8]>,
    /// The same as `weir` where nothing is Weir's own.
    standard: Arc<[u8]>,
    /// Empty where clients of gRPC do not understand it.
    grpc: Arc<[u8]>,
}

impl Wire {
    fn of(route: &ir::Route) -> Self {
        let weir = fields(vec![wire_route(route, Dialect::Weir)]);
        let is_sticky = matches!(&route.action, ir::Action::Forward(forward) if forward.split.is_some());
        let standard = match is_sticky {
            true => fields(vec![wire_route(route, Dialect::Standard)]),
            false => weir.clone(),
        };
        let grpc = match grpc::is_understood(route) {
            true => fields(grpc::understood(wire_route(route, Dialect::Grpc))),
            false => Arc::default(),
        };
        Self { weir, standard, grpc }
    }

    const fn of_dialect(&self, dialect: Dialect) -> &Arc<[u8]> {
        match dialect {
            Dialect::Weir => &self.weir,
            Dialect::Standard => &self.standard,
            Dialect::Grpc => &self.grpc,
        }
    }
}

fn fields(routes: Vec<Route>) -> Arc<[u8]> {
    VirtualHost { routes, ..VirtualHost::default() }.encode_to_vec().into()
}

/// A route that is the same only if it is the very same: routes that stay are shared from version to version.
#[derive(Debug, Clone)]
struct Same(Arc<ir::Route>);

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// The routes of a listener, written.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    wires: HashMap<Same, Wire, RandomState>,
    /// What clients of gRPC can call of it.
    pub(super) targets: Targets,
}

/// What clients of gRPC call, and the routes behind each: hosts by their names, and routes by theirs, for those that are for
/// any host.
pub(super) type Targets = BTreeMap<String, Vec<Arc<[u8]>>>;

impl Written {
    /// Writes the routes of a table, but for those that were written before. What is new is read as a proxy would read it.
    pub(super) fn of(table: &ir::Table, before: Option<&Self>) -> Result<Self, Rejection> {
        let mut wires = HashMap::with_capacity_and_hasher(
            before.map_or(0, |before| before.wires.len()),
            RandomState::default(),
        );
        let mut fresh: Vec<Wire> = Vec::new();
        let mut targets: HashMap<&str, Vec<Arc<[u8]>>, RandomState> = HashMap::default();
        for host in &table.hosts {
            for route in &host.routes {
                let wire: &Wire = wires.entry(Same(route.clone())).or_insert_with_key(|same| {
                    let known = before.and_then(|before| before.wires.get(same));
                    known.cloned().unwrap_or_else(|| {
                        let wire = Wire::of(route);
                        fresh.push(wire.clone());
                        wire
                    })
                });
                if wire.grpc.is_empty() {
                    continue;
                }
                if !host.hostname.starts_with('*') {
                    targets.entry(&host.hostname).or_default().push(wire.grpc.clone());
                } else if host.hostname == "*" {
                    targets.entry(&route.object).or_default().push(wire.grpc.clone());
                }
            }
        }
        check_routes(&fresh)?;
        let targets = targets.into_iter().map(|(name, routes)| (name.to_owned(), routes)).collect();
        Ok(Self { wires, targets })
    }

    /// The table as a route configuration.
    pub(super) fn configuration(&self, name: &str, table: &ir::Table, dialect: Dialect) -> Any {
        let hosts = table.hosts.iter().map(|host| {
            let written = host.routes.iter().filter_map(|route| self.wires.get(&Same(route.clone())));
            let routes = written.map(|wire| &**wire.of_dialect(dialect)).collect();
            HostFields { name: &host.hostname, domain: &host.hostname, routes }
        });
        configuration(name, hosts)
    }
}

/// The routes of what clients of gRPC call by a name. Whoever asked for it calls nobody else by it.
pub(super) fn target<'a>(name: &'a str, routes: impl Iterator<Item = &'a Arc<[u8]>>) -> Any {
    configuration(name, [HostFields { name, domain: "*", routes: routes.map(|route| &**route).collect() }])
}

fn check_routes(fresh: &[Wire]) -> Result<(), Rejection> {
    if fresh.is_empty() {
        return Ok(());
    }
    let foreign = fresh.iter().filter(|wire| !Arc::ptr_eq(&wire.weir, &wire.standard));
    let foreign = foreign.map(|wire| &*wire.standard).collect();
    let weir = fresh.iter().map(|wire| &*wire.weir).collect();
    let grpc = fresh.iter().map(|wire| &*wire.grpc).collect();
    [weir, foreign, grpc].into_iter().try_for_each(|routes| {
        let host = HostFields { name: "new", domain: "*", routes };
        check(&configuration("new", [host]))
    })
}

/// A virtual host whose routes are written.
struct HostFields<'a> {
    name: &'a str,
    domain: &'a str,
    routes: Vec<&'a [u8]>,
}

/// The tag of `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;

/// In the order of the fields' numbers, as a message would be written in one go.
fn configuration<'a>(name: &str, hosts: impl IntoIterator<Item = HostFields<'a>>) -> Any {
    let mut value =
        RouteConfiguration { name: name.to_owned(), ..RouteConfiguration::default() }.encode_to_vec();
    for host in hosts {
        let start = VirtualHost {
            name: host.name.to_owned(),
            domains: vec![host.domain.to_owned()],
            ..VirtualHost::default()
        };
        let length = start.encoded_len() + host.routes.iter().map(|route| route.len()).sum::<usize>();
        encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut value);
        encode_varint(length as u64, &mut value);
        value.reserve(length);
        value.extend(start.encode_to_vec());
        host.routes.iter().for_each(|route| value.extend_from_slice(route));
    }
    // Gateway API: the port of the Host header plays no part.
    let end = RouteConfiguration { ignore_port_in_host_matching: true, ..RouteConfiguration::default() };
    value.extend(end.encode_to_vec());
    Any { type_url: type_url::ROUTE_CONFIGURATION.to_owned(), value }
}

/// The hosts of a table without their routes, read as a proxy would.
pub(super) fn check_hosts(name: &str, table: &ir::Table) -> Result<(), Rejection> {
    let hosts = table.hosts.iter();
    let bare =
        hosts.map(|host| HostFields { name: &host.hostname, domain: &host.hostname, routes: Vec::new() });
    check(&configuration(name, bare))
}

fn check(any: &Any) -> Result<(), Rejection> {
    translate::route_configuration(any).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_is_what_would_be_written_in_one_go() {
        let route = |name: &str| Route { name: name.to_owned(), ..Route::default() };
        let whole = RouteConfiguration {
            name: "shop".to_owned(),
            virtual_hosts: ["a", "b"]
                .map(|host| VirtualHost {
                    name: host.to_owned(),
                    domains: vec![host.to_owned()],
                    routes: vec![route("one"), route("two")],
                    ..VirtualHost::default()
                })
                .into(),
            ignore_port_in_host_matching: true,
            ..RouteConfiguration::default()
        };
        let (one, two) = (fields(vec![route("one")]), fields(vec![route("two")]));
        let hosts = ["a", "b"].map(|name| HostFields { name, domain: name, routes: vec![&one, &two] });
        assert_eq!(configuration("shop", hosts), type_url::pack(&whole));
    }
}

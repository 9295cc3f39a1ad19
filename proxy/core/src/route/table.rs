//! The compiled form of a route configuration.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::RequestView;
use super::header;
use super::host::HostIndex;
use super::path::PathIndex;
use crate::config::{
    Arm, ArmName, ClusterName, HeaderMatch, RouteConfigName, RouteConfiguration, RouteOptions, Split,
    VirtualHost,
};
use crate::split::Rendezvous;

/// Where requests go, by virtual host and route. Immutable.
#[derive(Debug)]
pub struct RouteTable {
    /// The name in its labels: the configuration's, unless another table has that.
    pub name: RouteConfigName,
    hosts: HostIndex,
    virtual_hosts: Box<[HostTable]>,
    /// All routes; a virtual host's lie together.
    routes: Box<[CompiledRoute]>,
}

#[derive(Debug)]
struct HostTable {
    name: Arc<str>,
    paths: PathIndex,
    /// The number of its first route in the whole table.
    offset: u32,
}

/// One route, ready to serve.
#[derive(Debug)]
pub struct CompiledRoute {
    /// What it is called in logs and metrics, and by which its split's credits are found again.
    pub label: Arc<RouteLabel>,
    headers: Box<[HeaderMatch]>,
    /// The arms as configured, for the sequence.
    pub arms: Box<[Arm]>,
    /// The arms' clusters, by the same index.
    pub targets: Box<[ArmTarget]>,
    /// How an arm is chosen.
    pub choice: Choice,
    /// How requests are sent.
    pub options: RouteOptions,
}

/// Where an arm leads.
#[derive(Debug)]
pub struct ArmTarget {
    /// Its name.
    pub name: ArmName,
    /// Its cluster's name.
    pub cluster: ClusterName,
    /// The place of that cluster in the snapshot; empty there while no such cluster is served.
    pub slot: usize,
}

/// How an arm is chosen.
#[derive(Debug)]
pub enum Choice {
    /// There is only one that takes requests.
    Only(usize),
    /// The exact sequence, request by request.
    Sequence,
    /// By the user, as far as the request names one; else by the sequence.
    Keyed {
        /// The header that names the user, in lower case.
        header: Box<str>,
        /// The sticky choice.
        rendezvous: Rendezvous,
    },
}

/// A route's place: configuration, virtual host and route. Unique in a snapshot. A route without a name of its own goes by
/// its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteLabel {
    /// The route configuration's name.
    pub config: RouteConfigName,
    /// The virtual host's name.
    pub virtual_host: Arc<str>,
    /// The route's name, or `#` and its number in the virtual host.
    pub route: Arc<str>,
}

impl fmt::Display for RouteLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.config, self.virtual_host, self.route)
    }
}

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No virtual host serves the request's host.
    NoVirtualHost,
    /// This virtual host has no route that matches.
    NoMatch {
        /// The virtual host's name.
        virtual_host: Arc<str>,
    },
}

impl RouteTable {
    /// Compiles a configuration under a name that no other table has, as credits and counters go by it. `slot_of` gives
    /// the place of a cluster by name.
    pub fn compile(
        config: &RouteConfiguration,
        name: &RouteConfigName,
        mut slot_of: impl FnMut(&ClusterName) -> usize,
    ) -> Self {
        let mut labels = HashSet::new();
        let mut routes = Vec::new();
        let mut virtual_hosts = Vec::with_capacity(config.virtual_hosts.len());
        for host in &config.virtual_hosts {
            let offset = u32::try_from(routes.len()).unwrap_or(u32::MAX);
            let paths = PathIndex::new(host.routes.iter().map(|r| (&r.path, r.headers.is_empty())));
            virtual_hosts.push(HostTable { name: host.name.clone(), paths, offset });
            routes.extend(compile_routes(name, host, &mut labels, &mut slot_of));
        }
        let domains =
            (0..).zip(&config.virtual_hosts).flat_map(|(i, h)| h.domains.iter().map(move |d| (d, i)));
        Self {
            name: name.clone(),
            hosts: HostIndex::new(domains, config.ignore_port_in_host_matching),
            virtual_hosts: virtual_hosts.into(),
            routes: routes.into(),
        }
    }

    /// The first route that matches, and its number in the table. No allocation; for the cost see the module.
    ///
    /// # Errors
    /// How far the search came.
    pub fn find(&self, request: &impl RequestView) -> Result<(usize, &CompiledRoute), NoRoute> {
        let host = self.hosts.find(request.authority()).ok_or(NoRoute::NoVirtualHost)?;
        let host = &self.virtual_hosts[host as usize];
        let path = without_query(request.path());
        let found = host.paths.first(path, |number| {
            let route = &self.routes[(host.offset + number) as usize];
            route.headers.iter().all(|condition| header::holds(condition, request))
        });
        match found {
            Some(number) => {
                let number = (host.offset + number) as usize;
                Ok((number, &self.routes[number]))
            }
            None => Err(NoRoute::NoMatch { virtual_host: host.name.clone() }),
        }
    }

    /// All routes in their order.
    pub fn routes(&self) -> &[CompiledRoute] {
        &self.routes
    }
}

fn compile_routes(
    config: &RouteConfigName,
    host: &VirtualHost,
    labels: &mut HashSet<Arc<RouteLabel>>,
    slot_of: &mut impl FnMut(&ClusterName) -> usize,
) -> Vec<CompiledRoute> {
    let mut label = |number: usize, name: &str| {
        let candidates = [name.to_owned(), format!("{name}#{number}")].into_iter();
        // Virtual hosts may share a name as well; in the end a count tells routes apart.
        let more = (2..).map(|n| format!("{name}#{number}.{n}"));
        let label = |route: String| {
            let virtual_host = host.name.clone();
            Arc::new(RouteLabel { config: config.clone(), virtual_host, route: route.into() })
        };
        let fresh = candidates.chain(more).filter(|c| !c.is_empty()).map(label).find(|l| !labels.contains(l));
        let fresh = fresh.expect("the candidates never end");
        labels.insert(fresh.clone());
        fresh
    };
    (0..)
        .zip(&host.routes)
        .map(|(number, route)| CompiledRoute {
            label: label(number, &route.name),
            headers: route.headers.clone().into(),
            arms: route.split.arms.clone().into(),
            targets: route
                .split
                .arms
                .iter()
                .map(|arm| ArmTarget {
                    name: arm.name.clone(),
                    cluster: arm.cluster.clone(),
                    slot: slot_of(&arm.cluster),
                })
                .collect(),
            choice: choice(&route.split),
            options: route.options.clone(),
        })
        .collect()
}

fn choice(split: &Split) -> Choice {
    let mut taking = split.arms.iter().enumerate().filter(|(_, arm)| arm.weight.0 > 0).map(|(i, _)| i);
    match (taking.next(), taking.next(), &split.key) {
        (Some(only), None, _) => Choice::Only(only),
        (_, _, Some(key)) => {
            Choice::Keyed { header: key.header.clone(), rendezvous: Rendezvous::new(&split.arms, &key.salt) }
        }
        (_, _, None) => Choice::Sequence,
    }
}

/// The path without its query (RFC 3986 §3.4).
pub(super) fn without_query(path: &[u8]) -> &[u8] {
    memchr::memchr(b'?', path).map_or(path, |at| &path[..at])
}

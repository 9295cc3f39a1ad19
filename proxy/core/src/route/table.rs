//! The compiled form of a route configuration.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::RequestView;
use super::condition;
use super::fields::Fields;
use super::host::HostIndex;
use super::path::{self, PathIndex, Search};
use super::request::without_query;
use crate::config::{
    Action, Arm, ArmName, ClusterName, ClusterRef, Condition, Forward, HashPolicy, HashSource, KeySource,
    NodeFacts, Route, RouteConfigName, RouteConfiguration, Split, SplitBy, VirtualHost,
};
use crate::split::Rendezvous;

/// Where requests go, by virtual host and route. Immutable.
#[derive(Debug)]
pub struct RouteTable {
    /// The name in its labels: the configuration's, unless another table has that.
    pub name: RouteConfigName,
    /// What it was compiled from.
    pub config: Arc<RouteConfiguration>,
    hosts: HostIndex,
    virtual_hosts: Box<[HostTable]>,
    /// All routes; a virtual host's lie together.
    routes: Box<[CompiledRoute]>,
    /// A route wants a random number: it takes a share of requests, or makes cookies.
    pub draws: bool,
    /// A route wants to know the client's address.
    pub asks_for_source: bool,
}

#[derive(Debug)]
struct HostTable {
    /// The routes' paths; none where they are so few that trying them is as fast.
    paths: Option<Box<PathIndex>>,
    fields: Fields,
    /// The number of its first route in the whole table.
    offset: u32,
}

/// Routes that are tried one by one.
const FEW_ROUTES: usize = 4;

/// One route, ready to serve.
#[derive(Debug)]
pub struct CompiledRoute {
    /// What it is called in logs and metrics, and by which its split's credits are found again.
    pub label: Arc<RouteLabel>,
    /// Its place in the configuration.
    host: u32,
    number: u32,
    /// Headers without which it cannot match.
    required: u64,
    /// It is for this proxy.
    serves: bool,
    /// The arms' clusters, by the same index; none where the route does not forward.
    pub targets: Box<[ArmTarget]>,
    /// How an arm is chosen.
    pub choice: Choice,
}

/// Where an arm leads.
#[derive(Debug)]
pub struct ArmTarget {
    /// Its name.
    pub name: ArmName,
    /// Its cluster's name; that of the header where a header names it.
    pub cluster: ClusterName,
    /// The place of that cluster in the snapshot; empty there while no such cluster is served. Unset where a header names
    /// the cluster.
    pub slot: Option<usize>,
}

/// How an arm is chosen.
#[derive(Debug)]
pub enum Choice {
    /// There is none to choose: the route does not forward.
    None,
    /// There is only one that takes requests.
    Only(usize),
    /// The exact sequence, request by request.
    Sequence,
    /// By the user, as far as the request names one; else by the sequence.
    Keyed(Rendezvous),
    /// By a number of the request, over the running sum of weights; else by the sequence.
    Number,
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
    /// This virtual host is for TLS only.
    TlsRequired,
}

impl RouteTable {
    /// Compiles a configuration under a name that no other table has, as credits and counters go by it. `slot_of` gives
    /// the place of a cluster by name.
    pub fn compile(
        config: &Arc<RouteConfiguration>,
        name: &RouteConfigName,
        node: &NodeFacts,
        mut slot_of: impl FnMut(&ClusterName) -> usize,
    ) -> Self {
        let mut labels = HashSet::default();
        let count = config.virtual_hosts.iter().map(|host| host.routes.len()).sum();
        let mut routes = Vec::with_capacity(count);
        let mut virtual_hosts = Vec::with_capacity(config.virtual_hosts.len());
        for (number, host) in (0..).zip(&config.virtual_hosts) {
            let offset = routes.len();
            let mut fields = Fields::default();
            let mut compiler = Compiler { config: name, node, labels: &mut labels, fields: &mut fields };
            routes.extend(compiler.routes(number, host, &mut slot_of));
            let compiled = &routes[offset..];
            let paths = (host.routes.len() > FEW_ROUTES).then(|| {
                Box::new(PathIndex::new(&host.routes, &fields, |number| compiled[number as usize].serves))
            });
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            virtual_hosts.push(HostTable { paths, fields, offset });
        }
        let domains =
            (0..).zip(&config.virtual_hosts).flat_map(|(i, h)| h.domains.iter().map(move |d| (d, i)));
        let routes_of = || config.virtual_hosts.iter().flat_map(|host| &host.routes);
        Self {
            name: name.clone(),
            hosts: HostIndex::new(domains, config.ignore_port_in_host_matching),
            virtual_hosts: virtual_hosts.into(),
            routes: routes.into(),
            draws: routes_of().any(draws),
            asks_for_source: routes_of().any(asks_for_source),
            config: config.clone(),
        }
    }

    /// The first route that matches, and its number in the table. For the cost see the module.
    ///
    /// # Errors
    /// How far the search came.
    pub fn find(&self, request: &impl RequestView) -> Result<(usize, &CompiledRoute), NoRoute> {
        let number = self.hosts.find(request.authority()).ok_or(NoRoute::NoVirtualHost)?;
        let (host, config) =
            (&self.virtual_hosts[number as usize], &self.config.virtual_hosts[number as usize]);
        if config.requires_tls && request.scheme() != b"https" {
            return Err(NoRoute::TlsRequired);
        }
        let path = without_query(request.path());
        let search = HostSearch { table: self, host, config, request, present: Cell::new(None) };
        let found = match &host.paths {
            Some(paths) => paths.first(path, &search),
            None => (0..).zip(&config.routes).map(|(number, _)| number).find(|number| {
                let route = &config.routes[*number as usize];
                path::holds(&route.path, route.ignores_path_case, path) && search.matches(*number)
            }),
        };
        match found {
            Some(number) => {
                let number = (host.offset + number) as usize;
                Ok((number, &self.routes[number]))
            }
            None => Err(NoRoute::NoMatch { virtual_host: config.name.clone() }),
        }
    }

    /// The virtual host that serves an authority, by number.
    pub fn virtual_host(&self, authority: &[u8]) -> Option<usize> {
        self.hosts.find(authority).map(|number| number as usize)
    }

    /// All routes in their order.
    pub fn routes(&self) -> &[CompiledRoute] {
        &self.routes
    }

    /// The routes of a virtual host, with their numbers in the table.
    pub fn routes_of(&self, host: usize) -> impl Iterator<Item = (usize, &CompiledRoute)> {
        let offset = self.virtual_hosts[host].offset as usize;
        let count = self.config.virtual_hosts[host].routes.len();
        (offset..offset + count).map(|number| (number, &self.routes[number]))
    }

    /// What a route was compiled from.
    pub fn route_config(&self, route: &CompiledRoute) -> &Route {
        &self.host_config(route).routes[route.number as usize]
    }

    /// The virtual host of a route.
    pub fn host_config(&self, route: &CompiledRoute) -> &VirtualHost {
        &self.config.virtual_hosts[route.host as usize]
    }

    /// How a route forwards, if it does.
    pub fn forward(&self, route: &CompiledRoute) -> Option<&Forward> {
        match &self.route_config(route).action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }

    /// The arms of a route; none where it does not forward.
    pub fn arms(&self, route: &CompiledRoute) -> &[Arm] {
        self.route_config(route).arms()
    }
}

fn draws(route: &Route) -> bool {
    let cookie = |policy: &HashPolicy| matches!(policy.source, HashSource::Cookie(..));
    route.conditions.iter().any(|condition| matches!(condition, Condition::Fraction(_)))
        || match &route.action {
            Action::Forward(forward) => match &forward.split.by {
                SplitBy::Hash(policies) => policies.iter().any(cookie),
                _ => forward.split.makes_cookies(),
            },
            Action::Redirect(_) | Action::Respond(_) => false,
        }
}

fn asks_for_source(route: &Route) -> bool {
    let by_source = |by: &SplitBy| match by {
        SplitBy::User(key) => key.source == KeySource::SourceIp,
        SplitBy::Hash(policies) => policies.iter().any(|policy| policy.source == HashSource::SourceIp),
        SplitBy::Turn | SplitBy::Number(_) => false,
    };
    let of_source =
        |condition: &Condition| matches!(condition, Condition::SourceAddress(_) | Condition::SourceLabels(_));
    route.conditions.iter().any(of_source)
        || matches!(&route.action, Action::Forward(forward) if by_source(&forward.split.by))
}

impl CompiledRoute {
    /// Whether it is for this proxy.
    pub const fn serves(&self) -> bool {
        self.serves
    }
}

/// A virtual host's routes and a request.
struct HostSearch<'a, R> {
    table: &'a RouteTable,
    host: &'a HostTable,
    config: &'a VirtualHost,
    request: &'a R,
    /// Which of the headers that routes ask for are there; looked for once.
    present: Cell<Option<u64>>,
}

impl<R: RequestView> HostSearch<'_, R> {
    /// The bits of the headers that are there.
    #[inline]
    fn present(&self) -> u64 {
        self.present.get().unwrap_or_else(|| {
            let present = self.host.fields.present(self.request);
            self.present.set(Some(present));
            present
        })
    }
}

impl<R: RequestView> Search for HostSearch<'_, R> {
    #[inline]
    fn has(&self, bit: u8) -> bool {
        self.present() >> bit & 1 != 0
    }

    #[inline]
    fn matches(&self, number: u32) -> bool {
        let route = &self.table.routes[(self.host.offset + number) as usize];
        if route.required != 0 && self.present() & route.required != route.required {
            return false;
        }
        let conditions = &self.config.routes[number as usize].conditions;
        route.serves && conditions.iter().all(|condition| condition::holds(condition, self.request))
    }

    fn values(&self, header: &str, mut take: impl FnMut(&[u8])) {
        let mut values = self.request.header(header.as_bytes());
        let Some(first) = values.next() else { return };
        take(first);
        let Some(second) = values.next() else { return };
        // Of several lines each counts, and all of them, joined.
        let lines: Vec<_> = [first, second].into_iter().chain(values).collect();
        lines[1..].iter().for_each(|line| take(line));
        take(&lines.join(&b','));
    }
}

/// Compiles the routes of one virtual host.
struct Compiler<'a> {
    config: &'a RouteConfigName,
    node: &'a NodeFacts,
    labels: &'a mut HashSet<Arc<RouteLabel>, FixedState>,
    fields: &'a mut Fields,
}

impl Compiler<'_> {
    fn routes(
        &mut self,
        host_number: u32,
        host: &VirtualHost,
        slot_of: &mut impl FnMut(&ClusterName) -> usize,
    ) -> Vec<CompiledRoute> {
        let mut compile = |(number, route): (u32, &Route)| {
            let for_this = |condition: &Condition| match condition {
                Condition::Node(wanted) => self.node.fit(wanted),
                _ => true,
            };
            CompiledRoute {
                label: self.label(host, number, &route.name),
                host: host_number,
                number,
                required: self.fields.required(&route.conditions),
                serves: route.conditions.iter().all(for_this),
                targets: route.arms().iter().map(|arm| target(arm, slot_of)).collect(),
                choice: choice(&route.action),
            }
        };
        (0..).zip(&host.routes).map(&mut compile).collect()
    }

    fn label(&mut self, host: &VirtualHost, number: u32, name: &str) -> Arc<RouteLabel> {
        let candidates = [name.to_owned(), format!("{name}#{number}")].into_iter();
        // Virtual hosts may share a name as well; in the end a count tells routes apart.
        let more = (2..).map(|n| format!("{name}#{number}.{n}"));
        let label = |route: String| {
            let virtual_host = host.name.clone();
            Arc::new(RouteLabel { config: self.config.clone(), virtual_host, route: route.into() })
        };
        let mut fresh = candidates.chain(more).filter(|c| !c.is_empty()).map(label);
        let fresh = fresh.find(|label| !self.labels.contains(label)).expect("the candidates never end");
        self.labels.insert(fresh.clone());
        fresh
    }
}

fn target(arm: &Arm, slot_of: &mut impl FnMut(&ClusterName) -> usize) -> ArmTarget {
    let (cluster, slot) = match &arm.cluster {
        ClusterRef::Name(cluster) => (cluster.clone(), Some(slot_of(cluster))),
        ClusterRef::Header(header) => (format!("header {header}").into(), None),
    };
    ArmTarget { name: arm.name.clone(), cluster, slot }
}

fn choice(action: &Action) -> Choice {
    let Action::Forward(forward) = action else { return Choice::None };
    let split = &forward.split;
    let Split { arms, by, override_header, .. } = split;
    let mut taking = arms.iter().enumerate().filter(|(_, arm)| arm.weight.0 > 0).map(|(i, _)| i);
    // One that makes cookies tells even the users of a lone arm where they are.
    let only_one = override_header.is_none() && !split.makes_cookies();
    match (taking.next(), taking.next(), by) {
        (Some(only), None, _) if only_one => Choice::Only(only),
        (_, _, SplitBy::User(key)) => Choice::Keyed(Rendezvous::new(arms, &key.salt)),
        (_, _, SplitBy::Turn) => Choice::Sequence,
        (_, _, SplitBy::Hash(_) | SplitBy::Number(_)) => Choice::Number,
    }
}

//! From configuration to snapshot, taking over from the last one whatever did not change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{ChainTable, ClusterTable, Departing, ListenerTable, Snapshot};
use crate::config::{
    Address, Arm, ClusterName, ClusterRef, Condition, Config, FilterChain, ListenerName, LoadAssignment,
    RouteConfigName, RouteConfiguration, ServedCluster, ServedListener,
};
use crate::endpoint::EndpointState;
use crate::lb::SubsetChoices;
use crate::route::{RouteTable, SourceLabels};

/// Values by place; a name keeps its place.
#[derive(Debug, Clone)]
pub(super) struct Slots<N, T> {
    places: Arc<BTreeMap<N, usize>>,
    values: Arc<Vec<Option<T>>>,
}

impl<N, T> Default for Slots<N, T> {
    fn default() -> Self {
        Self { places: Arc::default(), values: Arc::default() }
    }
}

impl<N: Ord + Clone, T: Clone> Slots<N, T> {
    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.values.get(slot)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.values.iter().enumerate().filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }

    pub(super) fn place_of<Q: Ord + ?Sized>(&self, name: &Q) -> Option<usize>
    where
        N: std::borrow::Borrow<Q>,
    {
        self.places.get(name).copied()
    }

    fn named(&self, name: &N) -> Option<&T> {
        self.get(*self.places.get(name)?)
    }

    /// No values yet, and the places of those names that are still needed. All places stay in being: whether one may be
    /// given to another name is for the caller to say.
    fn successor(&self, needed: impl Fn(&N) -> bool) -> Self {
        let places = match self.places.keys().all(&needed) {
            true => self.places.clone(),
            false => {
                let stay = self.places.iter().filter(|(name, _)| needed(name));
                Arc::new(stay.map(|(name, place)| (name.clone(), *place)).collect())
            }
        };
        let mut values = Vec::new();
        values.resize_with(self.values.len(), || None);
        Self { places, values: Arc::new(values) }
    }

    /// Puts a value in its place.
    fn set(&mut self, place: usize, value: Option<T>) {
        Arc::make_mut(&mut self.values)[place] = value;
    }

    /// Whether these are the very same values.
    pub(super) fn are_the_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.values, &other.values)
    }

    /// The name's place, a free one where it has none.
    fn place(&mut self, name: &N, free: &mut Vec<usize>) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = free.pop().unwrap_or_else(|| {
            let values = Arc::make_mut(&mut self.values);
            values.push(None);
            values.len() - 1
        });
        Arc::make_mut(&mut self.places).insert(name.clone(), place);
        place
    }

    fn free(&self) -> Vec<usize> {
        let mut taken = vec![false; self.values.len()];
        self.places.values().for_each(|place| taken[*place] = true);
        (0..taken.len()).filter(|place| !taken[*place]).collect()
    }
}

/// A configuration that contradicts itself across resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A route configuration with `validate_clusters` leads to a cluster that is not there.
    #[error("route configuration {config:?}: {path}: route to cluster {cluster:?}, which does not exist")]
    MissingCluster {
        /// The listener that it serves.
        listener: ListenerName,
        /// The route configuration.
        config: String,
        /// The route, by its path in the configuration.
        path: String,
        /// The missing cluster.
        cluster: String,
    },
}

impl Snapshot {
    /// Compiles `config`. Tables of resources that are the same (by `Arc`) are shared with `self`, and endpoints keep
    /// their state by identity. Off the request path; cost grows with what changed, plus one look at each name.
    ///
    /// Listeners and chains that `config` lacks depart: they stay, with the clusters that they lead to, for the connections that are
    /// open, for as long as `stays` says so.
    ///
    /// # Errors
    /// [`CompileError`]; `self` then stays what is served.
    pub fn next(&self, config: &Config, stays: impl Fn(&Departing) -> bool) -> Result<Self, CompileError> {
        validate_clusters(config)?;
        if let Some(next) = self.next_clusters(config) {
            return Ok(next);
        }
        let names: HashSet<_> = config.listeners.iter().map(|l| &l.listener.name).collect();
        let departing: Vec<_> = self
            .listeners
            .iter()
            .filter(|(_, old)| !names.contains(&old.name))
            .filter(|(_, old)| stays(&Departing { listener: old.name.clone(), chain: None }))
            .map(|(slot, old)| (slot, old.clone()))
            .collect();
        let mut referenced = referenced_clusters(config);
        let left_chains: HashMap<_, _> = config
            .listeners
            .iter()
            .filter_map(|served| self.listeners.named(&served.listener.name))
            .map(|old| (&old.name, left_chains(old, config, &stays)))
            .collect();
        let left =
            departing.iter().flat_map(|(_, old)| old.all_chains()).chain(left_chains.values().flatten());
        let left: BTreeSet<_> = left.flat_map(|chain| chain.routes.config.clusters()).cloned().collect();
        referenced.extend(&left);

        let mut clusters =
            self.clusters.successor(|name| config.clusters.contains_key(name) || referenced.contains(name));
        let mut free = clusters.free();
        for (name, served) in &*config.clusters {
            let place = clusters.place(name, &mut free);
            clusters.set(place, Some(self.cluster_table(name, served)));
        }
        for name in &referenced {
            let place = clusters.place(name, &mut free);
            if clusters.get(place).is_none() && left.contains(*name) {
                clusters.set(place, self.clusters.named(name).cloned());
            }
        }

        // One that departs keeps its place: it may come back before its connections are gone.
        let departs = |name: &ListenerName| departing.iter().any(|(_, old)| old.name == *name);
        let mut listeners = self.listeners.successor(|name| names.contains(&name) || departs(name));
        // Open connections know their listener by its slot, so a slot is never given to another one.
        let mut never_reused = Vec::new();
        let mut tables = RouteTables { previous: self, config, made: HashMap::new(), names: HashSet::new() };
        for served in &config.listeners {
            let slot_of = |name: &ClusterName| clusters.places.get(name).copied().unwrap_or(usize::MAX);
            let chains = served.listener.chains.iter().zip(&served.routes);
            let routes: Vec<_> = chains
                .map(|(chain, routes)| tables.table(&served.listener.name, chain, routes, slot_of))
                .collect();
            let place = listeners.place(&served.listener.name, &mut never_reused);
            let old = self.listeners.named(&served.listener.name);
            let left = old.and_then(|old| left_chains.get(&old.name)).map_or(&[][..], Vec::as_slice);
            let same = old.filter(|old| {
                let same_routes = |(chain, routes): (&Arc<ChainTable>, _)| Arc::ptr_eq(&chain.routes, routes);
                !old.is_departing
                    && Arc::ptr_eq(&old.listener, &served.listener)
                    && old.chains.iter().zip(&routes).all(same_routes)
                    && old.departing.len() == left.len()
            });
            let table = same.cloned().unwrap_or_else(|| Arc::new(listener_table(served, routes, old, left)));
            listeners.set(place, Some(table));
        }
        for (slot, old) in departing {
            listeners.set(slot, Some(if old.is_departing { old } else { Arc::new(departed(&old)) }));
        }
        let source_labels = source_labels(config);
        let config = config.clone();
        Ok(Self { generation: self.generation + 1, listeners, clusters, source_labels, config })
    }

    /// The next snapshot where only the values of clusters are others, as when endpoints change: at the cost of what changed,
    /// plus a look at the pointers of the rest. None where there is more to do.
    fn next_clusters(&self, config: &Config) -> Option<Self> {
        let departs =
            self.listeners().any(|(_, listener)| listener.is_departing || !listener.departing.is_empty());
        let are_same = config.listeners.len() == self.config.listeners.len()
            && config.listeners.iter().zip(&self.config.listeners).all(|(new, old)| new.is_the_same(old));
        let has_same_names = config.clusters.len() == self.config.clusters.len();
        if departs || !are_same || !has_same_names || !Arc::ptr_eq(&config.node, &self.config.node) {
            return None;
        }
        let mut clusters = self.clusters.clone();
        if !Arc::ptr_eq(&config.clusters, &self.config.clusters) {
            for ((name, new), (known, old)) in config.clusters.iter().zip(&*self.config.clusters) {
                if new.is_the_same(old) {
                    continue;
                }
                if name != known {
                    return None;
                }
                clusters.set(self.clusters.place_of(name)?, Some(self.cluster_table(name, new)));
            }
        }
        let (listeners, source_labels) = (self.listeners.clone(), source_labels(config));
        Some(Self {
            generation: self.generation + 1,
            listeners,
            clusters,
            source_labels,
            config: config.clone(),
        })
    }

    fn cluster_table(&self, name: &ClusterName, served: &ServedCluster) -> Arc<ClusterTable> {
        let old = self.clusters.named(name);
        if let Some(old) = old
            && Arc::ptr_eq(&old.cluster, &served.cluster)
            && Arc::ptr_eq(&old.source, &served.endpoints)
        {
            return old.clone();
        }
        let (cluster, source) = (&served.cluster, &served.endpoints);
        let has_names = source.endpoints().any(|endpoint| !endpoint.hostname.is_empty());
        let hostnames = source.endpoints().filter(|_| has_names).map(|endpoint| endpoint.hostname.clone());
        Arc::new(ClusterTable {
            name: name.clone(),
            policy: cluster.balancing.policy,
            choices: SubsetChoices::new(source, &cluster.balancing),
            drops: source.drops.clone().into(),
            connect_timeout: cluster.connect_timeout,
            thresholds: cluster.thresholds,
            state: old.map(|old| old.state.clone()).unwrap_or_default(),
            connections: cluster.connections,
            endpoints: endpoint_states(name, source, old.map(|o| &*o.endpoints).unwrap_or_default()),
            hostnames: hostnames.collect(),
            cluster: cluster.clone(),
            source: source.clone(),
        })
    }
}

/// The chain that took the same connections before, and protected them alike.
fn before<'a>(old: &'a ListenerTable, chain: &FilterChain) -> Option<&'a Arc<ChainTable>> {
    let is_same = |old: &FilterChain| {
        old.name == chain.name
            && old.matching == chain.matching
            && old.tls == chain.tls
            && old.serves == chain.serves
    };
    old.chains.iter().find(|old| is_same(&old.chain))
}

/// The chains of a listener that is still there which are not, and whose connections may stay for a while.
fn left_chains(
    old: &ListenerTable,
    config: &Config,
    stays: impl Fn(&Departing) -> bool,
) -> Vec<Arc<ChainTable>> {
    let now = config.listeners.iter().filter(|served| served.listener.name == old.name);
    let kept: HashSet<_> = now
        .flat_map(|served| &served.listener.chains)
        .filter_map(|chain| before(old, chain))
        .map(|chain| chain.place)
        .collect();
    old.all_chains()
        .filter(|chain| !kept.contains(&chain.place))
        .filter(|chain| stays(&Departing { listener: old.name.clone(), chain: Some(chain.place) }))
        .map(departed_chain)
        .collect()
}

/// A listener's chains with their routes. One that was there before keeps its place, and is shared where it is the same.
fn listener_table(
    served: &ServedListener,
    routes: Vec<Arc<RouteTable>>,
    old: Option<&Arc<ListenerTable>>,
    left: &[Arc<ChainTable>],
) -> ListenerTable {
    let listener = &served.listener;
    let mut places: Vec<Option<usize>> = vec![None; old.map_or(0, |old| old.places.len())];
    let mut chains = Vec::with_capacity(routes.len());
    for (index, (chain, routes)) in listener.chains.iter().zip(routes).enumerate() {
        let before = old.and_then(|old| before(old, chain));
        let place = before.map_or(places.len(), |old| old.place);
        places.resize(places.len().max(place + 1), None);
        places[place] = Some(index);
        let same = before
            .filter(|old| !old.is_departing && Arc::ptr_eq(&old.routes, &routes) && old.chain == *chain);
        chains.push(same.cloned().unwrap_or_else(|| {
            let (http, chain) = (chain.http.clone(), chain.clone());
            Arc::new(ChainTable { place, routes, http, chain, is_departing: false })
        }));
    }
    for (index, chain) in left.iter().enumerate() {
        places[chain.place] = Some(chains.len() + index);
    }
    ListenerTable {
        name: listener.name.clone(),
        address: listener.address.clone(),
        chains: chains.into(),
        is_departing: false,
        listener: listener.clone(),
        departing: left.into(),
        places: places.into(),
    }
}

/// A chain as it was, for the connections that it has.
fn departed_chain(chain: &Arc<ChainTable>) -> Arc<ChainTable> {
    if chain.is_departing {
        return chain.clone();
    }
    let ChainTable { place, routes, http, chain, .. } = &**chain;
    let (routes, http, chain) = (routes.clone(), http.clone(), chain.clone());
    Arc::new(ChainTable { place: *place, routes, http, chain, is_departing: true })
}

/// A listener as it was, for the connections that it has.
fn departed(old: &ListenerTable) -> ListenerTable {
    ListenerTable {
        name: old.name.clone(),
        address: old.address.clone(),
        chains: old.chains.iter().map(departed_chain).collect(),
        is_departing: true,
        listener: old.listener.clone(),
        departing: old.departing.clone(),
        places: old.places.clone(),
    }
}

/// Labels of endpoints by their address, if a route asks for those of its callers.
fn source_labels(config: &Config) -> Arc<SourceLabels> {
    let routes = config.listeners.iter().flat_map(|served| &served.routes);
    let hosts = routes.flat_map(|routes| &routes.virtual_hosts);
    let mut conditions = hosts.flat_map(|host| &host.routes).flat_map(|route| &route.conditions);
    if !conditions.any(|condition| matches!(condition, Condition::SourceLabels(_))) {
        return Arc::default();
    }
    let mut labels = SourceLabels::default();
    for endpoint in config.clusters.values().flat_map(|served| served.endpoints.endpoints()) {
        if let Address::Socket(address) = &endpoint.address
            && !endpoint.labels.is_empty()
        {
            labels.entry(address.ip().to_canonical()).or_insert_with(|| endpoint.labels.clone());
        }
    }
    Arc::new(labels)
}

/// The states of a load assignment's endpoints: the old one where the address is the same.
fn endpoint_states(
    cluster: &ClusterName,
    assignment: &LoadAssignment,
    old: &[Arc<EndpointState>],
) -> Box<[Arc<EndpointState>]> {
    let known: HashMap<_, _> = old.iter().map(|state| (&state.address, state)).collect();
    let state = |address: &Address| match known.get(address) {
        Some(state) => Arc::clone(state),
        None => Arc::new(EndpointState::new(cluster.clone(), address.clone())),
    };
    assignment.endpoints().map(|endpoint| state(&endpoint.address)).collect()
}

/// Route tables, each compiled once, however many listeners share it.
struct RouteTables<'a> {
    previous: &'a Snapshot,
    config: &'a Config,
    made: HashMap<*const RouteConfiguration, Arc<RouteTable>>,
    names: HashSet<RouteConfigName>,
}

impl RouteTables<'_> {
    fn table(
        &mut self,
        listener: &ListenerName,
        chain: &FilterChain,
        config: &Arc<RouteConfiguration>,
        slot_of: impl Fn(&ClusterName) -> usize,
    ) -> Arc<RouteTable> {
        if let Some(made) = self.made.get(&Arc::as_ptr(config)) {
            return made.clone();
        }
        let name = self.name(listener, chain, config);
        // Names of clusters kept their places, so a table of the same configuration still points to the right ones.
        let mut old = self.previous.listeners.iter().flat_map(|(_, old)| &old.chains);
        let table = match old.find(|old| Arc::ptr_eq(&old.routes.config, config) && old.routes.name == name) {
            Some(old) => old.routes.clone(),
            None => Arc::new(RouteTable::compile(config, &name, &self.config.node, slot_of)),
        };
        self.made.insert(Arc::as_ptr(config), table.clone());
        table
    }

    /// The configuration's name, with the listener's where that is empty or taken: names of inline configurations need
    /// not differ, and many control planes call each of them the same.
    fn name(
        &mut self,
        listener: &ListenerName,
        chain: &FilterChain,
        config: &RouteConfiguration,
    ) -> RouteConfigName {
        let name = &config.name;
        if !name.as_str().is_empty() && self.names.insert(name.clone()) {
            return name.clone();
        }
        let slash = if chain.name.is_empty() { "" } else { "/" };
        let mut qualified = RouteConfigName::from(format!("{name}@{listener}{slash}{}", chain.name));
        let mut number = 2;
        while !self.names.insert(qualified.clone()) {
            qualified = RouteConfigName::from(format!("{name}@{listener}{slash}{}#{number}", chain.name));
            number += 1;
        }
        qualified
    }
}

/// Every cluster that a served route leads to.
fn referenced_clusters(config: &Config) -> BTreeSet<&ClusterName> {
    let mut seen = HashSet::new();
    let routes = config.listeners.iter().flat_map(|served| &served.routes);
    routes.filter(|routes| seen.insert(Arc::as_ptr(routes))).flat_map(|routes| routes.clusters()).collect()
}

fn validate_clusters(config: &Config) -> Result<(), CompileError> {
    let exists = |arm: &Arm| match &arm.cluster {
        ClusterRef::Name(name) => config.clusters.contains_key(name) || config.warming.contains(name),
        ClusterRef::Header(_) => true,
    };
    let of_chains =
        config.listeners.iter().flat_map(|served| served.routes.iter().map(move |routes| (served, routes)));
    for (served, config) in of_chains.filter(|(_, routes)| routes.validate_clusters) {
        let hosts = config.virtual_hosts.iter().enumerate();
        let routes =
            hosts.flat_map(|(h, host)| host.routes.iter().enumerate().map(move |(r, route)| (h, r, route)));
        for (host, number, route) in routes {
            let Some(arm) = route.arms().iter().find(|arm| !exists(arm)) else { continue };
            let ClusterRef::Name(cluster) = &arm.cluster else { continue };
            return Err(CompileError::MissingCluster {
                listener: served.listener.name.clone(),
                config: config.name.to_string(),
                path: format!("virtual_hosts[{host}].routes[{number}].route"),
                cluster: cluster.to_string(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

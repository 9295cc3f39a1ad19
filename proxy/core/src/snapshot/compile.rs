//! From configuration to snapshot, taking over from the last one whatever did not change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{ClusterTable, ListenerTable, Snapshot};
use crate::config::{
    Address, ClusterName, Config, LoadAssignment, RouteConfigName, RouteConfiguration, ServedCluster,
    ServedListener,
};
use crate::endpoint::EndpointState;
use crate::route::RouteTable;

/// Values by place; a name keeps its place.
#[derive(Debug, Clone)]
pub(super) struct Slots<N, T> {
    places: BTreeMap<N, usize>,
    values: Vec<Option<T>>,
}

impl<N, T> Default for Slots<N, T> {
    fn default() -> Self {
        Self { places: BTreeMap::new(), values: Vec::new() }
    }
}

impl<N: Ord + Clone, T> Slots<N, T> {
    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.values.get(slot)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.values.iter().enumerate().filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }

    fn named(&self, name: &N) -> Option<&T> {
        self.get(*self.places.get(name)?)
    }

    /// No values yet, and the places of those names that are still needed. All places stay in being: whether one may be
    /// given to another name is for the caller to say.
    fn successor(&self, needed: impl Fn(&N) -> bool) -> Self {
        let places: BTreeMap<_, _> =
            self.places.iter().filter(|(n, _)| needed(n)).map(|(n, p)| (n.clone(), *p)).collect();
        let mut values = Vec::new();
        values.resize_with(self.values.len(), || None);
        Self { places, values }
    }

    /// The name's place, a free one where it has none.
    fn place(&mut self, name: &N, free: &mut Vec<usize>) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = free.pop().unwrap_or_else(|| {
            self.values.push(None);
            self.values.len() - 1
        });
        self.places.insert(name.clone(), place);
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
    #[error("route configuration {config:?}: route to cluster {cluster:?}, which does not exist")]
    MissingCluster {
        /// The route configuration.
        config: String,
        /// The missing cluster.
        cluster: String,
    },
}

impl Snapshot {
    /// Compiles `config`. Tables of resources that are the same (by `Arc`) are shared with `self`, and endpoints keep
    /// their state by identity. Off the request path; cost grows with what changed, plus one look at each name.
    ///
    /// # Errors
    /// [`CompileError`]; `self` then stays what is served.
    pub fn next(&self, config: &Config) -> Result<Self, CompileError> {
        validate_clusters(config)?;
        let referenced = referenced_clusters(config);
        let mut clusters =
            self.clusters.successor(|name| config.clusters.contains_key(name) || referenced.contains(name));
        let mut free = clusters.free();
        for (name, served) in &config.clusters {
            let place = clusters.place(name, &mut free);
            clusters.values[place] = Some(self.cluster_table(name, served));
        }
        for name in &referenced {
            clusters.place(name, &mut free);
        }

        let names: Vec<_> = config.listeners.iter().map(|l| &l.listener.name).collect();
        let mut listeners = self.listeners.successor(|name| names.contains(&name));
        // Open connections know their listener by its slot, so a slot is never given to another one.
        let mut never_reused = Vec::new();
        let mut tables = RouteTables { previous: self, made: HashMap::new(), names: HashSet::new() };
        for served in &config.listeners {
            let slot_of = |name: &ClusterName| clusters.places.get(name).copied().unwrap_or(usize::MAX);
            let routes = tables.table(served, slot_of);
            let place = listeners.place(&served.listener.name, &mut never_reused);
            let same = self.listeners.named(&served.listener.name).filter(|old| {
                Arc::ptr_eq(&old.listener, &served.listener) && Arc::ptr_eq(&old.routes, &routes)
            });
            listeners.values[place] = Some(same.cloned().unwrap_or_else(|| {
                Arc::new(ListenerTable {
                    name: served.listener.name.clone(),
                    address: served.listener.address.clone(),
                    routes,
                    http: served.listener.http.clone(),
                    listener: served.listener.clone(),
                    source: served.routes.clone(),
                })
            }));
        }
        Ok(Self { generation: self.generation + 1, listeners, clusters })
    }

    fn cluster_table(&self, name: &ClusterName, served: &ServedCluster) -> Arc<ClusterTable> {
        let old = self.clusters.named(name);
        if let Some(old) = old
            && Arc::ptr_eq(&old.cluster, &served.cluster)
            && Arc::ptr_eq(&old.source, &served.endpoints)
        {
            return old.clone();
        }
        let endpoints =
            endpoint_states(name, &served.endpoints, old.map(|o| &*o.endpoints).unwrap_or_default());
        let usable = endpoints.iter().zip(&served.endpoints.endpoints).filter(|(_, config)| config.usable);
        Arc::new(ClusterTable {
            name: name.clone(),
            lb_policy: served.cluster.lb_policy,
            connect_timeout: served.cluster.connect_timeout,
            thresholds: served.cluster.thresholds,
            state: old.map(|old| old.state.clone()).unwrap_or_default(),
            connections: served.cluster.connections,
            usable: usable.map(|(state, _)| state.clone()).collect(),
            endpoints,
            cluster: served.cluster.clone(),
            source: served.endpoints.clone(),
        })
    }
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
    assignment.endpoints.iter().map(|endpoint| state(&endpoint.address)).collect()
}

/// Route tables, each compiled once, however many listeners share it.
struct RouteTables<'a> {
    previous: &'a Snapshot,
    made: HashMap<*const RouteConfiguration, Arc<RouteTable>>,
    names: HashSet<RouteConfigName>,
}

impl RouteTables<'_> {
    fn table(&mut self, served: &ServedListener, slot_of: impl Fn(&ClusterName) -> usize) -> Arc<RouteTable> {
        let config = &served.routes;
        if let Some(made) = self.made.get(&Arc::as_ptr(config)) {
            return made.clone();
        }
        let name = self.name(served);
        // Names of clusters kept their places, so a table of the same configuration still points to the right ones.
        let mut old = self.previous.listeners.iter().map(|(_, old)| old);
        let table = match old.find(|old| Arc::ptr_eq(&old.source, config) && old.routes.name == name) {
            Some(old) => old.routes.clone(),
            None => Arc::new(RouteTable::compile(config, &name, slot_of)),
        };
        self.made.insert(Arc::as_ptr(config), table.clone());
        table
    }

    /// The configuration's name, with the listener's where that is empty or taken: names of inline configurations need
    /// not differ, and many control planes call each of them the same.
    fn name(&mut self, served: &ServedListener) -> RouteConfigName {
        let name = &served.routes.name;
        if !name.as_str().is_empty() && self.names.insert(name.clone()) {
            return name.clone();
        }
        let qualified = RouteConfigName::from(format!("{name}@{}", served.listener.name));
        self.names.insert(qualified.clone());
        qualified
    }
}

/// Every cluster that a served route leads to.
fn referenced_clusters(config: &Config) -> BTreeSet<&ClusterName> {
    let mut seen = HashSet::new();
    let tables = config.listeners.iter().filter(|l| seen.insert(Arc::as_ptr(&l.routes)));
    tables.flat_map(|served| served.routes.clusters()).collect()
}

fn validate_clusters(config: &Config) -> Result<(), CompileError> {
    for served in config.listeners.iter().filter(|l| l.routes.validate_clusters) {
        let exists = |name: &ClusterName| config.clusters.contains_key(name) || config.warming.contains(name);
        if let Some(missing) = served.routes.clusters().find(|name| !exists(name)) {
            return Err(CompileError::MissingCluster {
                config: served.routes.name.to_string(),
                cluster: missing.to_string(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

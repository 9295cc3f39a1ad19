//! The snapshot: everything a request needs to know, compiled, immutable, and swapped as one value.

mod compile;

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::ClusterState;
use crate::chain::{self, ConnectionFacts};
use crate::config::{
    Address, Cluster, ClusterName, Config, ConnectionOptions, Drop, Endpoint, FilterChain, HttpOptions,
    Labels, LbPolicy, Listener, ListenerName, LoadAssignment, PriorityThresholds,
};
use crate::endpoint::EndpointState;
use crate::lb::SubsetChoices;
use crate::route::{RouteTable, SourceLabels};

pub use compile::CompileError;

/// One generation of configuration. A request loads it once and keeps it to its end.
///
/// Listeners and clusters have slots: a name keeps its slot from one snapshot to the next for as long as anything refers
/// to it, so that what did not change is shared as it is.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with each snapshot of this process.
    pub generation: u64,
    listeners: compile::Slots<ListenerName, Arc<ListenerTable>>,
    clusters: compile::Slots<ClusterName, Arc<ClusterTable>>,
    /// Labels of all endpoints by their address, where a route asks for those of its callers.
    pub source_labels: Arc<SourceLabels>,
    /// What it was compiled from.
    config: Config,
}

/// A listener and its chains.
#[derive(Debug)]
pub struct ListenerTable {
    /// Its name.
    pub name: ListenerName,
    /// Where it listens.
    pub address: Address,
    /// Its chains, in the order of the configuration's.
    pub chains: Box<[Arc<ChainTable>]>,
    /// It was removed: connections that are open still are served by it, and end with their next response.
    pub is_departing: bool,
    /// As it was configured.
    pub listener: Arc<Listener>,
    /// Chains that are gone or have become others, for the connections that they have.
    departing: Box<[Arc<ChainTable>]>,
    /// Chains by their place: an index into both lists together, for as long as the chain is there.
    places: Box<[Option<usize>]>,
}

/// What was removed and serves the connections that it has: a listener, or one of its chains by its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Departing {
    /// The listener.
    pub listener: ListenerName,
    /// The chain, where the listener is still there.
    pub chain: Option<usize>,
}

/// A filter chain and its routes.
#[derive(Debug)]
pub struct ChainTable {
    /// What its connections know it by. A chain keeps its place from one snapshot to the next for as long as it takes the
    /// same connections and protects them alike: a connection is never served by what would not have taken it.
    pub place: usize,
    /// Its routes.
    pub routes: Arc<RouteTable>,
    /// The settings of its HTTP connection manager.
    pub http: Arc<HttpOptions>,
    /// As it was configured.
    pub chain: FilterChain,
    /// It was removed, or the listener that it is a part of.
    pub is_departing: bool,
}

impl ListenerTable {
    /// The chain for a connection.
    pub fn choose(&self, facts: &ConnectionFacts<'_>) -> Option<&Arc<ChainTable>> {
        chain::choose(&self.listener.chains, facts).map(|index| &self.chains[index])
    }

    /// The chain at a place, if it is there still.
    pub fn chain(&self, place: usize) -> Option<&Arc<ChainTable>> {
        self.all_chains().nth((*self.places.get(place)?)?)
    }

    /// Those that take connections, and those that have some still.
    pub fn all_chains(&self) -> impl Iterator<Item = &Arc<ChainTable>> {
        self.chains.iter().chain(&self.departing)
    }

    /// How many places there are or were.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// The settings that hold before a chain is chosen, and for the listener as a whole: the first chain's.
    pub fn http(&self) -> &HttpOptions {
        // A listener has a chain, as translation makes sure.
        &self.chains[0].http
    }
}

/// A cluster and its endpoints.
#[derive(Debug)]
pub struct ClusterTable {
    /// Its name.
    pub name: ClusterName,
    /// How an endpoint is picked.
    pub policy: LbPolicy,
    /// Among which endpoints.
    pub choices: SubsetChoices,
    /// Requests that are refused on purpose.
    pub drops: Box<[Drop]>,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// What may go on at once.
    pub thresholds: PriorityThresholds,
    /// What goes on at the moment.
    pub state: Arc<ClusterState>,
    /// How connections are kept.
    pub connections: ConnectionOptions,
    /// All endpoints, those without new requests included.
    pub endpoints: Box<[Arc<EndpointState>]>,
    /// The cluster as it was configured.
    pub cluster: Arc<Cluster>,
    /// The endpoints as they were configured, in the same order.
    pub source: Arc<LoadAssignment>,
    /// Names of the endpoints, in their order; empty where none has one.
    hostnames: Box<[Box<str>]>,
}

impl ClusterTable {
    /// What is configured of the endpoints, in their order.
    pub fn endpoint_configs(&self) -> impl Iterator<Item = &Endpoint> {
        self.source.endpoints()
    }

    /// The host name of an endpoint; empty where it has none.
    pub fn hostname(&self, endpoint: usize) -> &str {
        self.hostnames.get(endpoint).map_or("", |name| name)
    }

    /// Whether some endpoint can take a request that wants endpoints with these labels. Cost: as [`SubsetChoices::of`].
    pub fn is_usable(&self, labels: Option<&Labels>) -> bool {
        !self.choices.of(labels).0.is_empty()
    }
}

impl Snapshot {
    /// The listener in a slot, if one is served there.
    pub fn listener(&self, slot: usize) -> Option<&Arc<ListenerTable>> {
        self.listeners.get(slot)
    }

    /// The cluster in a slot, if one is served there.
    pub fn cluster(&self, slot: usize) -> Option<&Arc<ClusterTable>> {
        self.clusters.get(slot)
    }

    /// The slot of a cluster by its name.
    pub fn cluster_slot(&self, name: &str) -> Option<usize> {
        self.clusters.place_of(name)
    }

    /// All listeners with their slots, without those that were removed.
    pub fn live_listeners(&self) -> impl Iterator<Item = (usize, &Arc<ListenerTable>)> {
        self.listeners().filter(|(_, listener)| !listener.is_departing)
    }

    /// What departs, each with the time that it may take.
    pub fn departing(&self) -> Vec<(Departing, Duration)> {
        let mut found = Vec::new();
        for (_, table) in self.listeners() {
            let departing = |chain| Departing { listener: table.name.clone(), chain };
            if table.is_departing {
                found.push((departing(None), table.http().timeouts.drain));
                continue;
            }
            let chains = table.departing.iter();
            found.extend(chains.map(|chain| (departing(Some(chain.place)), chain.http.timeouts.drain)));
        }
        found
    }

    /// All listeners with their slots, removed ones that still have connections included.
    pub fn listeners(&self) -> impl Iterator<Item = (usize, &Arc<ListenerTable>)> {
        self.listeners.iter()
    }

    /// Whether `other` serves exactly the same.
    pub fn serves_same(&self, other: &Self) -> bool {
        fn same<'a, T: 'a>(
            mut a: impl Iterator<Item = (usize, &'a Arc<T>)>,
            mut b: impl Iterator<Item = (usize, &'a Arc<T>)>,
        ) -> bool {
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return true,
                    (Some((i, a)), Some((j, b))) if i == j && Arc::ptr_eq(a, b) => {}
                    _ => return false,
                }
            }
        }
        same(self.listeners(), other.listeners())
            && (self.clusters.are_the_same(&other.clusters) || same(self.clusters(), other.clusters()))
    }

    /// All clusters with their slots.
    pub fn clusters(&self) -> impl Iterator<Item = (usize, &Arc<ClusterTable>)> {
        self.clusters.iter()
    }
}

//! The snapshot: everything a request needs to know, compiled, immutable, and swapped as one value.

mod compile;

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::ClusterState;
use crate::config::{
    Address, Cluster, ClusterName, ConnectionOptions, HttpOptions, LbPolicy, Listener, ListenerName,
    LoadAssignment, PriorityThresholds, RouteConfiguration,
};
use crate::endpoint::EndpointState;
use crate::route::RouteTable;

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
}

/// A listener and its routes.
#[derive(Debug)]
pub struct ListenerTable {
    /// Its name.
    pub name: ListenerName,
    /// Where it listens.
    pub address: Address,
    /// Its routes.
    pub routes: Arc<RouteTable>,
    /// The settings of its HTTP connection manager.
    pub http: Arc<HttpOptions>,
    listener: Arc<Listener>,
    source: Arc<RouteConfiguration>,
}

/// A cluster and its endpoints.
#[derive(Debug)]
pub struct ClusterTable {
    /// Its name.
    pub name: ClusterName,
    /// How an endpoint is picked.
    pub lb_policy: LbPolicy,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// What may go on at once.
    pub thresholds: PriorityThresholds,
    /// What goes on at the moment.
    pub state: Arc<ClusterState>,
    /// How connections are kept.
    pub connections: ConnectionOptions,
    /// The endpoints that take requests.
    pub usable: Box<[Arc<EndpointState>]>,
    /// All endpoints, those without new requests included.
    pub endpoints: Box<[Arc<EndpointState>]>,
    cluster: Arc<Cluster>,
    source: Arc<LoadAssignment>,
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

    /// All listeners with their slots.
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
        same(self.listeners(), other.listeners()) && same(self.clusters(), other.clusters())
    }

    /// All clusters with their slots.
    pub fn clusters(&self) -> impl Iterator<Item = (usize, &Arc<ClusterTable>)> {
        self.clusters.iter()
    }
}

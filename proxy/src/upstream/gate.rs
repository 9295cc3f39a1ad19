//! Who may have a connection, who waits for one, and what is counted meanwhile.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use proxy_core::breaker::{ClusterState, Priority, Resource};
use proxy_core::snapshot::ClusterTable;
use tokio::sync::Notify;

use super::{Demand, Pool};
use crate::forward::Reason;

/// What a pool's connections know of it: not the pool itself, which holds them.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Connections of the pool, idle or not.
    open: Cell<u32>,
    /// Requests that wait for one of them.
    waiting: Cell<u32>,
    freed: Notify,
}

impl Gate {
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.get()
    }

    /// Until a connection or a stream may be free.
    pub(super) async fn wait(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(self);
        self.freed.notified().await;
    }

    pub(super) fn wake_one(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        self.freed.notify_waiters();
    }
}

/// Counts a request among those that wait.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// A connection's place under the cluster's limit, given back when it closes.
#[derive(Debug)]
pub(super) struct Place {
    gate: Rc<Gate>,
    state: Arc<ClusterState>,
    priority: Priority,
}

impl Place {
    /// A place for another connection. Each worker may have one to each endpoint, whatever the limit, or it could
    /// starve beside workers that hold all of them.
    pub(super) fn take(gate: &Rc<Gate>, demand: &Demand<'_>) -> Option<Self> {
        let (state, priority) = (&demand.cluster.state, demand.priority);
        if !state.try_take(priority, Resource::Connections, demand.cluster.thresholds.of(priority)) {
            if gate.open.get() > 0 {
                return None;
            }
            state.take(priority, Resource::Connections);
        }
        gate.open.set(gate.open.get() + 1);
        Some(Self { gate: gate.clone(), state: state.clone(), priority })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.give_back(self.priority, Resource::Connections);
        self.gate.open.set(self.gate.open.get() - 1);
        self.gate.wake_one();
    }
}

/// A place among those that wait for a connection.
pub(super) struct Pending<'a> {
    state: &'a ClusterState,
    priority: Priority,
}

impl<'a> Pending<'a> {
    /// # Errors
    /// No more may wait.
    pub(super) fn take(demand: &Demand<'a>) -> Result<Self, Reason> {
        let (state, priority) = (&*demand.cluster.state, demand.priority);
        if state.try_take(priority, Resource::Pending, demand.cluster.thresholds.of(priority)) {
            return Ok(Self { state, priority });
        }
        demand.cells.pending_overflows.add(1);
        Err(Resource::Pending.into())
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.state.give_back(self.priority, Resource::Pending);
    }
}

/// Counts what goes on at an endpoint, and a request at its cluster, for as long as it lives.
#[derive(Debug)]
pub(crate) struct InFlight {
    pool: Rc<Pool>,
    request: Option<(Arc<ClusterState>, Priority)>,
}

impl InFlight {
    /// # Errors
    /// The cluster may have no more requests.
    pub(crate) fn request(
        pool: &Rc<Pool>,
        cluster: &ClusterTable,
        priority: Priority,
    ) -> Result<Self, Reason> {
        if !cluster.state.try_take(priority, Resource::Requests, cluster.thresholds.of(priority)) {
            return Err(Resource::Requests.into());
        }
        pool.endpoint.start();
        Ok(Self { pool: pool.clone(), request: Some((cluster.state.clone(), priority)) })
    }

    /// A connection as a whole, which is no request.
    pub(crate) fn connection(pool: &Rc<Pool>) -> Self {
        pool.endpoint.start();
        Self { pool: pool.clone(), request: None }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pool.endpoint.finish();
        if let Some((state, priority)) = &self.request {
            state.give_back(*priority, Resource::Requests);
        }
    }
}

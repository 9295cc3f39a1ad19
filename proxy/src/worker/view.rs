//! A worker's view of a snapshot: the same tables, and beside them what only this worker has, such as pools, turns and
//! credits. Parts are made when a request first needs them; parts of the last view are taken over where the snapshot
//! shares what they belong to.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::config::HttpOptions;
use proxy_core::lb::Balancer;
use proxy_core::route::{Choice, CompiledRoute, RequestView, RouteTable};
use proxy_core::snapshot::{ClusterTable, ListenerTable, Snapshot};
use proxy_core::split::Sequence;

use super::Worker;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::{ArmCells, ArmKey, ClusterCells, ListenerCells, ListenerKey};
use crate::upstream::Pool;

/// What one request sees from its start to its end.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    listeners: Slots<ListenerView>,
    clusters: Slots<ClusterView>,
}

/// Values by the snapshot's slots, each made at most once.
type Slots<T> = Vec<OnceCell<Rc<T>>>;

/// A listener's routes and log.
pub(crate) struct ListenerView {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) logs: Vec<AccessLog>,
    /// A log asks for a time between first and last byte.
    pub(crate) wants_phases: bool,
    pub(crate) cells: Arc<ListenerCells>,
    source: Arc<ListenerTable>,
    routes: Slots<RouteView>,
}

/// A route's split and counters.
pub(crate) struct RouteView {
    table: Arc<RouteTable>,
    number: usize,
    sequence: Rc<RefCell<Sequence>>,
    pub(crate) cells: Box<[Arc<ArmCells>]>,
}

/// A cluster's turn and pools.
pub(crate) struct ClusterView {
    pub(crate) table: Arc<ClusterTable>,
    pub(crate) cells: Arc<ClusterCells>,
    balancer: RefCell<Balancer>,
    /// In the order of the table's usable endpoints.
    pools: Box<[Rc<Pool>]>,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>, last: Option<&Self>) -> Self {
        let mut view = Self { listeners: Vec::new(), clusters: Vec::new(), snapshot };
        let slots = view.snapshot.listeners().map(|(slot, _)| slot + 1).max().unwrap_or(0);
        view.listeners.resize_with(slots, OnceCell::new);
        let slots = view.snapshot.clusters().map(|(slot, _)| slot + 1).max().unwrap_or(0);
        view.clusters.resize_with(slots, OnceCell::new);
        if let Some(last) = last {
            view.take_over(last);
        }
        view
    }

    fn take_over(&self, last: &Self) {
        for (slot, table) in self.snapshot.listeners() {
            if let Some(old) = last.listeners.get(slot).and_then(OnceCell::get)
                && Arc::ptr_eq(&old.source, table)
            {
                let _ = self.listeners[slot].set(old.clone());
            }
        }
        for (slot, table) in self.snapshot.clusters() {
            // A slot may have gone to another cluster.
            if let Some(old) = last.clusters.get(slot).and_then(OnceCell::get)
                && old.table.name == table.name
            {
                let same = Arc::ptr_eq(&old.table, table);
                let view = if same { old.clone() } else { Rc::new(ClusterView::succeed(table, old)) };
                let _ = self.clusters[slot].set(view);
            }
        }
    }

    /// The listener in a slot, if the snapshot has one there.
    pub(crate) fn listener(&self, worker: &Worker, slot: usize) -> Option<Rc<ListenerView>> {
        let cell = self.listeners.get(slot)?;
        if let Some(view) = cell.get() {
            return Some(view.clone());
        }
        let source = self.snapshot.listener(slot)?;
        Some(cell.get_or_init(|| Rc::new(ListenerView::new(worker, source))).clone())
    }

    /// The cluster in a slot, if the snapshot has one there.
    pub(crate) fn cluster(&self, worker: &Worker, slot: usize) -> Option<Rc<ClusterView>> {
        let cell = self.clusters.get(slot)?;
        if let Some(view) = cell.get() {
            return Some(view.clone());
        }
        let table = self.snapshot.cluster(slot)?;
        Some(cell.get_or_init(|| Rc::new(ClusterView::new(worker, table))).clone())
    }

    /// Closes what was idle for long and hands over log lines.
    pub(crate) fn housekeeping(&self, now: Instant) {
        for cluster in self.clusters.iter().filter_map(OnceCell::get) {
            let options = &cluster.table.connections;
            cluster.pools.iter().for_each(|pool| pool.sweep(now, options));
        }
        for listener in self.listeners.iter().filter_map(OnceCell::get) {
            listener.logs.iter().for_each(AccessLog::flush);
        }
    }
}

impl ListenerView {
    fn new(worker: &Worker, source: &Arc<ListenerTable>) -> Self {
        let mut routes = Vec::new();
        routes.resize_with(source.routes.routes().len(), OnceCell::new);
        Self {
            table: source.routes.clone(),
            wants_phases: source.http.access_logs.iter().any(|log| log.format.wants_phases()),
            logs: AccessLog::open(&worker.shared.logs, &source.http.access_logs, &worker.cells),
            cells: worker.shared.registry.listener(
                ListenerKey { listener: source.name.clone(), stat_prefix: source.http.stat_prefix.clone() },
                worker.id,
            ),
            source: source.clone(),
            routes,
        }
    }

    /// The settings of the HTTP connection manager.
    pub(crate) fn http(&self) -> &HttpOptions {
        &self.source.http
    }

    /// The view of the table's route `number`.
    pub(crate) fn route(&self, worker: &Worker, number: usize, route: &CompiledRoute) -> Rc<RouteView> {
        let make = || Rc::new(RouteView::new(worker, &self.table, number, route));
        self.routes[number].get_or_init(make).clone()
    }
}

impl RouteView {
    fn new(worker: &Worker, table: &Arc<RouteTable>, number: usize, route: &CompiledRoute) -> Self {
        let cells = route.targets.iter().map(|target| {
            let key = ArmKey {
                route: route.label.clone(),
                arm: target.name.clone(),
                cluster: target.cluster.clone(),
            };
            worker.shared.registry.arm(key, worker.id)
        });
        Self {
            table: table.clone(),
            number,
            sequence: worker.sequence(&route.label, &route.arms),
            cells: cells.collect(),
        }
    }

    pub(crate) fn compiled(&self) -> &CompiledRoute {
        &self.table.routes()[self.number]
    }

    /// The arm that takes a request, by index.
    pub(crate) fn choose(&self, route: &CompiledRoute, request: &impl RequestView) -> usize {
        match &route.choice {
            Choice::Only(arm) => *arm,
            Choice::Sequence => self.sequence.borrow_mut().next(),
            Choice::Keyed { header, rendezvous } => match request.header(header.as_bytes()).next() {
                Some(user) => rendezvous.pick(user),
                None => self.sequence.borrow_mut().next(),
            },
        }
    }
}

impl ClusterView {
    fn new(worker: &Worker, table: &Arc<ClusterTable>) -> Self {
        Self {
            table: table.clone(),
            cells: worker.shared.registry.cluster(&table.name, worker.id),
            balancer: RefCell::new(Balancer::staggered(worker.id)),
            pools: table.usable.iter().map(|endpoint| Rc::new(Pool::new(endpoint.clone()))).collect(),
        }
    }

    /// The view of a cluster that changed: endpoints that stayed keep their pools.
    fn succeed(table: &Arc<ClusterTable>, old: &Self) -> Self {
        let by_endpoint: std::collections::HashMap<_, _> =
            old.pools.iter().map(|pool| (Arc::as_ptr(&pool.endpoint), pool)).collect();
        let pool = |endpoint| match by_endpoint.get(&Arc::as_ptr(endpoint)) {
            Some(pool) => Rc::clone(pool),
            None => Rc::new(Pool::new(Arc::clone(endpoint))),
        };
        Self {
            table: table.clone(),
            cells: old.cells.clone(),
            balancer: RefCell::new(*old.balancer.borrow()),
            pools: table.usable.iter().map(pool).collect(),
        }
    }

    /// The pool of the endpoint whose turn it is.
    pub(crate) fn pick(&self, worker: &Worker) -> Option<Rc<Pool>> {
        let mut rng = worker.rng.borrow_mut();
        let index = self.balancer.borrow_mut().pick(self.table.lb_policy, &self.table.usable, &mut rng)?;
        Some(self.pools[index].clone())
    }
}

//! A worker's view of a snapshot: the same tables, and beside them what only this worker has, such as pools, turns and
//! credits. Parts are made when a request first needs them; parts of the last view are taken over where the snapshot
//! shares what they belong to.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::config::{Arm, HttpOptions, Labels, Route, Split, Unavailable, Weight};
use proxy_core::lb::{self, Balancer};
use proxy_core::route::{CompiledRoute, NewUser, RequestView, RouteTable};
use proxy_core::snapshot::{ClusterTable, ListenerTable, Snapshot};
use proxy_core::split::{Phase, Sequence};
use rand::RngExt as _;

use super::Worker;
use crate::forward::Reason;
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
    pub(crate) table: Arc<RouteTable>,
    number: usize,
    sequence: Rc<RefCell<Sequence>>,
    /// The turns of the others while some arms have no usable endpoint, and which those are.
    spill: RefCell<Option<(Vec<bool>, Sequence)>>,
    pub(crate) cells: Box<[Arc<ArmCells>]>,
    /// Whether anything of its requests or responses is edited, at whatever level.
    pub(crate) has_edits: bool,
}

/// The arm of a request.
pub(crate) struct Taken {
    /// By index.
    pub(crate) arm: usize,
    /// The arm that should have taken it, and had no usable endpoint.
    pub(crate) spilled_from: Option<usize>,
    /// Cookies for the response.
    pub(crate) cookies: Vec<NewUser>,
}

/// A cluster's turn and pools.
pub(crate) struct ClusterView {
    pub(crate) table: Arc<ClusterTable>,
    pub(crate) cells: Arc<ClusterCells>,
    balancer: RefCell<Balancer>,
    /// In the order of the table's endpoints.
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
            let Some(old) = last.listeners.get(slot).and_then(OnceCell::get) else { continue };
            if Arc::ptr_eq(&old.source, table) {
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

    /// Whether the listener was removed: its connections end with their next response.
    pub(crate) fn is_departing(&self) -> bool {
        self.source.is_departing
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
        let cell = |arm: &str, cluster: &str| {
            let key = ArmKey { route: route.label.clone(), arm: arm.into(), cluster: cluster.into() };
            worker.shared.registry.arm(key, worker.id)
        };
        let mut cells: Vec<_> =
            route.targets.iter().map(|target| cell(target.name.as_str(), target.cluster.as_str())).collect();
        if cells.is_empty() {
            // A route that does not forward is counted as well, under no arm.
            cells.push(cell("", ""));
        }
        Self {
            table: table.clone(),
            number,
            sequence: worker.sequence(&route.label, table.arms(route)),
            spill: RefCell::default(),
            cells: cells.into(),
            has_edits: has_edits(table, route),
        }
    }

    pub(crate) fn compiled(&self) -> &CompiledRoute {
        &self.table.routes()[self.number]
    }

    /// What it was compiled from.
    pub(crate) fn config(&self) -> &Route {
        self.table.route_config(self.compiled())
    }

    /// The arm that takes a request. `usable` is asked where a split spills.
    pub(crate) fn choose(
        &self,
        split: &Split,
        request: &impl RequestView,
        usable: impl Fn(usize) -> bool,
    ) -> Taken {
        let route = self.compiled();
        let chosen = route.choose(split, request);
        let arm = chosen.arm.unwrap_or_else(|| self.sequence.borrow_mut().next());
        let spills = split.unavailable == Unavailable::Spill && split.arms.len() > 1 && !usable(arm);
        let other = match spills {
            true => route.spill(split, &chosen, &usable).or_else(|| self.spill(split, &usable)),
            false => None,
        };
        let (arm, spilled_from) = match other {
            Some(other) => (other, Some(arm)),
            None => (arm, None),
        };
        Taken { arm, spilled_from, cookies: chosen.cookies }
    }

    /// The turn of one of the arms that are usable, by their weights.
    fn spill(&self, split: &Split, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let can: Vec<_> =
            (0..split.arms.len()).map(|arm| split.arms[arm].weight.0 > 0 && usable(arm)).collect();
        if !can.contains(&true) {
            return None;
        }
        let mut spill = self.spill.borrow_mut();
        if spill.as_ref().is_none_or(|(known, _)| *known != can) {
            let without = |(arm, can): (&Arm, &bool)| Arm {
                weight: if *can { arm.weight } else { Weight(0) },
                ..arm.clone()
            };
            let arms: Vec<_> = split.arms.iter().zip(&can).map(without).collect();
            *spill = Some((can, Sequence::new(&arms, Phase::START)));
        }
        spill.as_mut().map(|(_, sequence)| sequence.next())
    }
}

fn has_edits(table: &RouteTable, route: &CompiledRoute) -> bool {
    let (config, host) = (table.route_config(route), table.host_config(route));
    let arms = config.arms().iter().map(|arm| &arm.edits);
    arms.chain([&config.edits, &host.edits, &table.config.edits]).any(|edits| edits.lists().is_some())
        || host.answers_attempts
}

impl ClusterView {
    fn new(worker: &Worker, table: &Arc<ClusterTable>) -> Self {
        Self {
            table: table.clone(),
            cells: worker.shared.registry.cluster(&table.name, worker.id),
            balancer: RefCell::new(Balancer::staggered(worker.id)),
            pools: table.endpoints.iter().map(|endpoint| Rc::new(Pool::new(endpoint.clone()))).collect(),
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
            balancer: RefCell::new(old.balancer.borrow().clone()),
            pools: table.endpoints.iter().map(pool).collect(),
        }
    }

    /// An endpoint that has `labels`, by its index, and its pool.
    pub(crate) fn pick(&self, worker: &Worker, labels: Option<&Labels>) -> Result<(usize, Rc<Pool>), Reason> {
        let mut rng = worker.rng.borrow_mut();
        for drop in &self.table.drops {
            if rng.random_range(0..1_000_000) < drop.millionths {
                self.cells.dropped.add(1);
                return Err(Reason::Dropped);
            }
        }
        let (choices, way) = self.table.choices.of(labels);
        if way == lb::Way::Fallback {
            self.cells.subset_fallbacks.add(1);
        }
        if choices.is_panic() {
            self.cells.panics.add(1);
        }
        let endpoints = &self.table.endpoints;
        let picked = self.balancer.borrow_mut().pick(self.table.policy, choices, endpoints, &mut rng);
        let index = picked.ok_or(Reason::NoEndpoint)?;
        Ok((index, self.pools[index].clone()))
    }
}

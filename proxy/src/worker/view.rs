//! A worker's view of a snapshot: the same tables, and beside them what only this worker has, such as pools, turns and
//! credits. Parts are made when a request first needs them; parts of the last view are taken over where the snapshot
//! shares what they belong to.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::config::{
    Address, Arm, Endpoint, EndpointSource, HttpOptions, Labels, ListenerName, Route, Split, Unavailable,
    Weight,
};
use proxy_core::endpoint::EndpointState;
use proxy_core::lb::{self, Balancer};
use proxy_core::route::{CompiledRoute, NewUser, RequestView, RouteTable};
use proxy_core::snapshot::{ChainTable, ClusterTable, Snapshot};
use proxy_core::split::{Phase, Sequence};
use rand::RngExt as _;

use super::Worker;
use crate::connection::{ChainId, Connection};
use crate::forward::{Reason, RequestContext};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::{ArmCells, ArmKey, ClusterCells, ListenerCells, ListenerKey};
use crate::tls::ServerContext;
use crate::upstream::{ClusterBreakers, Link, Passage, Pool};

/// What one request sees from its start to its end.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The chains of each listener, by their place.
    listeners: Vec<Slots<ChainView>>,
    clusters: Slots<ClusterView>,
}

/// Values by the snapshot's slots, each made at most once.
type Slots<T> = Vec<OnceCell<Rc<T>>>;

/// A filter chain's routes and log.
pub(crate) struct ChainView {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) logs: Vec<AccessLog>,
    /// A log asks for a time between first and last byte.
    pub(crate) wants_phases: bool,
    pub(crate) cells: Arc<ListenerCells>,
    /// What its handshakes are made with; none where it has none, or where that cannot be used.
    pub(crate) tls: Option<Arc<ServerContext>>,
    source: Arc<ChainTable>,
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
    /// Whether the last request was held up on purpose, and refused.
    pub(crate) faults: Cell<(Option<bool>, Option<bool>)>,
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
    pub(crate) breakers: ClusterBreakers,
    /// In the order of the table's endpoints.
    pools: Box<[Rc<Pool>]>,
    links: Box<[Rc<Link>]>,
    /// Pools of endpoints that nobody configured: those that clients wanted (`ORIGINAL_DST`).
    wanted: RefCell<HashMap<Address, Rc<Pool>>>,
}

/// Where a request goes.
pub(crate) struct Picked {
    /// The endpoint's index; none of one that its client wanted.
    pub(crate) endpoint: Option<usize>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) link: Rc<Link>,
    /// What its breaker wants to know the outcome by, where there is one.
    pub(crate) passage: Option<Passage>,
}

/// Endpoints that clients wanted and that are remembered, by cluster.
const MAX_WANTED: usize = 4_096;

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>, last: Option<(&Worker, &Self)>) -> Self {
        let mut view = Self { listeners: Vec::new(), clusters: Vec::new(), snapshot };
        for (slot, listener) in view.snapshot.listeners() {
            view.listeners.resize_with(view.listeners.len().max(slot + 1), Vec::new);
            view.listeners[slot].resize_with(listener.places(), OnceCell::new);
        }
        let slots = view.snapshot.clusters().map(|(slot, _)| slot + 1).max().unwrap_or(0);
        view.clusters.resize_with(slots, OnceCell::new);
        if let Some((worker, last)) = last {
            view.take_over(worker, last);
        }
        view
    }

    fn take_over(&self, worker: &Worker, last: &Self) {
        for (slot, listener) in self.snapshot.listeners() {
            let Some(last) = last.listeners.get(slot) else { continue };
            for table in listener.all_chains() {
                let old = last.get(table.place).and_then(OnceCell::get);
                if let Some(old) = old.filter(|old| Arc::ptr_eq(&old.source, table)) {
                    let _ = self.listeners[slot][table.place].set(old.clone());
                }
            }
        }
        for (slot, old) in last.clusters.iter().enumerate() {
            let Some(old) = old.get() else { continue };
            // A slot may have gone to another cluster.
            if let Some(table) = self.snapshot.cluster(slot).filter(|table| table.name == old.table.name) {
                let same = Arc::ptr_eq(&old.table, table);
                let view = if same { old.clone() } else { Rc::new(ClusterView::succeed(worker, table, old)) };
                let _ = self.clusters[slot].set(view);
            }
            let next =
                self.clusters.get(slot).and_then(OnceCell::get).filter(|n| n.table.name == old.table.name);
            if !next.is_some_and(|next| Rc::ptr_eq(next, old)) {
                old.retire(next.map(|next| &**next));
            }
        }
    }

    /// The chain that serves a connection, if the snapshot has it still.
    pub(crate) fn chain(&self, worker: &Worker, at: ChainId) -> Option<Rc<ChainView>> {
        let cell = self.listeners.get(at.slot())?.get(at.place())?;
        if let Some(view) = cell.get() {
            return Some(view.clone());
        }
        let listener = self.snapshot.listener(at.slot())?;
        let source = listener.chain(at.place())?;
        Some(cell.get_or_init(|| Rc::new(ChainView::new(worker, &listener.name, source))).clone())
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
            cluster.wanted.borrow().values().for_each(|pool| pool.sweep(now, options));
        }
        for chain in self.listeners.iter().flatten().filter_map(OnceCell::get) {
            chain.logs.iter().for_each(AccessLog::flush);
        }
    }
}

impl ChainView {
    fn new(worker: &Worker, listener: &ListenerName, source: &Arc<ChainTable>) -> Self {
        let mut routes = Vec::new();
        routes.resize_with(source.routes.routes().len(), OnceCell::new);
        Self {
            table: source.routes.clone(),
            wants_phases: source.http.access_logs.iter().any(|log| log.format.wants_phases()),
            logs: AccessLog::open(&worker.shared.logs, &source.http.access_logs, &worker.cells),
            cells: worker.shared.registry.listener(
                ListenerKey { listener: listener.clone(), stat_prefix: source.http.stat_prefix.clone() },
                worker.id,
            ),
            tls: source.chain.tls.as_ref().map(|tls| worker.shared.tls.server(tls)),
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
            faults: Cell::default(),
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

/// How each endpoint is connected to; endpoints that are reached alike share it. At least one.
fn links(worker: &Worker, table: &ClusterTable) -> Box<[Rc<Link>]> {
    let cluster = &table.cluster;
    let link = |endpoint: &Endpoint| Rc::new(Link::new(&worker.shared.tls, cluster, endpoint));
    if cluster.reaches_each_its_way() && !table.endpoints.is_empty() {
        return table.endpoint_configs().map(link).collect();
    }
    let any = link(&Endpoint::at(Address::Socket(([0, 0, 0, 0], 0).into())));
    vec![any; table.endpoints.len().max(1)].into()
}

impl ClusterView {
    fn new(worker: &Worker, table: &Arc<ClusterTable>) -> Self {
        Self {
            table: table.clone(),
            cells: worker.shared.registry.cluster(&table.name, worker.id),
            balancer: RefCell::new(Balancer::staggered(worker.id)),
            breakers: worker.shared.registry.breakers.of(table),
            pools: table.endpoints.iter().map(|endpoint| Rc::new(Pool::new(endpoint.clone()))).collect(),
            links: links(worker, table),
            wanted: RefCell::default(),
        }
    }

    /// The view of a cluster that changed: endpoints that stayed, and are reached as before, keep their pools and how
    /// they are connected to.
    fn succeed(worker: &Worker, table: &Arc<ClusterTable>, old: &Self) -> Self {
        let (cluster, former) = (&table.cluster, &old.table.cluster);
        let speaks_alike = cluster.connections.protocol == former.connections.protocol
            && cluster.connections.http2 == former.connections.http2;
        let known: HashMap<_, _> =
            old.pools.iter().enumerate().map(|(at, pool)| (Arc::as_ptr(&pool.endpoint), at)).collect();
        let was: Vec<_> = old.table.endpoint_configs().collect();
        let (mut pools, mut links) = (Vec::new(), Vec::new());
        let each_its_way = cluster.reaches_each_its_way() || former.reaches_each_its_way();
        let mut any = (!each_its_way && speaks_alike && cluster.transport == former.transport)
            .then(|| old.links[0].clone());
        for (state, config) in table.endpoints.iter().zip(table.endpoint_configs()) {
            let kept = known.get(&Arc::as_ptr(state)).copied().filter(|at| {
                let reaches_alike =
                    || was.get(*at).is_some_and(|was| cluster.reaches(config) == former.reaches(was));
                speaks_alike && if each_its_way { reaches_alike() } else { any.is_some() }
            });
            let make = || Rc::new(Link::new(&worker.shared.tls, cluster, config));
            match kept {
                Some(at) => {
                    pools.push(old.pools[at].clone());
                    links.push(old.links[at].clone());
                }
                None => {
                    pools.push(Rc::new(Pool::new(state.clone())));
                    links.push(if each_its_way { make() } else { any.get_or_insert_with(make).clone() });
                }
            }
        }
        if links.is_empty() {
            links.extend(self::links(worker, table));
        }
        // What is carried otherwise from now on is carried on other connections.
        let keeps_wanted = speaks_alike && cluster.transport == former.transport;
        let wanted = if keeps_wanted { old.wanted.borrow().clone() } else { HashMap::new() };
        Self {
            table: table.clone(),
            cells: old.cells.clone(),
            balancer: RefCell::new(old.balancer.borrow().clone()),
            breakers: worker.shared.registry.breakers.of(table),
            pools: pools.into(),
            links: links.into(),
            wanted: RefCell::new(wanted),
        }
    }

    /// Closes what is idle in the pools that `next` has not taken over: a tunnel may hold this view for long.
    fn retire(&self, next: Option<&Self>) {
        let stays: HashSet<_> =
            next.map(Self::all_pools).unwrap_or_default().iter().map(Rc::as_ptr).collect();
        self.all_pools()
            .iter()
            .filter(|pool| !stays.contains(&Rc::as_ptr(pool)))
            .for_each(|pool| pool.retire());
    }

    fn all_pools(&self) -> Vec<Rc<Pool>> {
        self.pools.iter().chain(self.wanted.borrow().values()).cloned().collect()
    }

    /// An endpoint that has `labels`.
    pub(crate) fn pick(&self, cx: &RequestContext<'_>, labels: Option<&Labels>) -> Result<Picked, Reason> {
        if let EndpointSource::OriginalDst { port } = self.table.cluster.endpoints {
            return self.wanted_by(cx.connection, port).ok_or(Reason::NoEndpoint);
        }
        let mut rng = cx.worker.rng.borrow_mut();
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
        let mut pick = || {
            let picked = self.balancer.borrow_mut().pick(self.table.policy, choices, endpoints, &mut rng);
            picked.ok_or(Reason::NoEndpoint)
        };
        let (index, passage) = match &self.breakers {
            ClusterBreakers::None => (pick()?, None),
            ClusterBreakers::Whole(breaker) => {
                (pick()?, Some(breaker.try_pass(Instant::now()).ok_or(Reason::BreakerOpen)?))
            }
            ClusterBreakers::Each(breakers) => {
                let (first, now) = (pick()?, Instant::now());
                // Whoever is shut is passed over: the next one that is not takes the call.
                let others = || {
                    let after = choices.indices().skip_while(|index| *index != first).skip(1);
                    after.chain(choices.indices())
                };
                let mut candidates = std::iter::once(first).chain(others());
                let passed = candidates.find_map(|index| Some((index, Some(breakers[index].try_pass(now)?))));
                passed.ok_or(Reason::BreakerOpen)?
            }
        };
        let (pool, link) = (self.pools[index].clone(), self.links[index].clone());
        Ok(Picked { endpoint: Some(index), pool, link, passage })
    }

    /// The endpoint that a client wanted before it was sent here.
    fn wanted_by(&self, connection: &Connection, port: Option<u16>) -> Option<Picked> {
        let address = Address::Socket(connection.wanted(port)?);
        let mut known = self.wanted.borrow_mut();
        if known.len() >= MAX_WANTED && !known.contains_key(&address) {
            known.retain(|_, pool| Rc::strong_count(pool) > 1);
        }
        let make = || {
            let state = EndpointState::new(self.table.name.clone(), address.clone());
            Rc::new(Pool::new(Arc::new(state)))
        };
        let pool = known.entry(address.clone()).or_insert_with(make).clone();
        Some(Picked { endpoint: None, pool, link: self.links.first()?.clone(), passage: None })
    }
}

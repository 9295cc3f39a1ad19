//! Connections to endpoints: one pool a worker and endpoint, last in, first out.
//!
//! Pools are not shared between workers, so taking a connection is a pop from a vector. The most recently used
//! connection is the one least likely to have been closed by its peer.

mod link;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::breaker::{ClusterState, Priority, Resource};
use proxy_core::config::ConnectionOptions;
use proxy_core::endpoint::EndpointState;
use proxy_core::http1::Method;
use proxy_core::snapshot::ClusterTable;
use tokio::sync::Notify;

use crate::forward::Reason;
use crate::http2::Trunk;
use crate::socket::Socket;
use crate::telemetry::{ClusterCells, WorkerCells};
use link::Connected;
pub(crate) use link::{Link, spoken};

/// Room for idle connections that a pool keeps when it has fewer.
const MAX_KEPT_ROOM: usize = 8;

/// One worker's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) endpoint: Arc<EndpointState>,
    idle: RefCell<Vec<Idle>>,
    /// Connections that speak HTTP/2.
    trunks: RefCell<Vec<Rc<SharedTrunk>>>,
    /// A connection that will speak HTTP/2 is being made: whoever wants a stream waits for it.
    connecting: Cell<bool>,
    gate: Rc<Gate>,
    /// Responses for which a request that may not be repeated still gets a fresh connection: the endpoint has closed an
    /// idle one, and the next close may cross a request.
    distrust: Cell<u8>,
}

/// How long an endpoint that closes idle connections is distrusted.
const DISTRUST: u8 = 32;

/// What a pool's connections know of it: not the pool itself, which holds them.
#[derive(Debug, Default)]
struct Gate {
    /// Connections of the pool, idle or not.
    open: Cell<u32>,
    /// Requests that wait for one of them.
    waiting: Cell<u32>,
    freed: Notify,
}

impl Gate {
    /// Until a connection or a stream may be free.
    async fn wait(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(self);
        self.freed.notified().await;
    }

    fn wake_one(&self) {
        if self.waiting.get() > 0 {
            self.freed.notify_one();
        }
    }
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    since: Instant,
    /// Its last response had no body by rule: one that came all the same may lie in the kernel.
    suspect: bool,
}

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) socket: Socket,
    opened: Instant,
    /// Requests sent on it.
    requests: u32,
    hold: Hold,
}

/// What is given back when a connection or a stream ends.
#[derive(Debug)]
enum Hold {
    Connection {
        _place: Place,
    },
    /// A connection on which the endpoint was told who the client is: it serves nobody else.
    Client {
        _place: Place,
    },
    Stream {
        _stream: StreamPlace,
    },
}

/// A connection of many streams.
#[derive(Debug)]
struct SharedTrunk {
    trunk: Trunk,
    _place: Place,
}

/// A stream's place on its connection.
#[derive(Debug)]
struct StreamPlace {
    shared: Rc<SharedTrunk>,
    gate: Rc<Gate>,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.shared.trunk.end_stream();
        self.gate.wake_one();
    }
}

impl Upstream {
    /// Lays a protocol over it; it serves nothing else then.
    pub(crate) fn layer(self, over: impl FnOnce(Socket) -> Socket) -> Self {
        let hold = match self.hold {
            Hold::Connection { _place } => Hold::Client { _place },
            hold => hold,
        };
        Self { socket: over(self.socket), hold, ..self }
    }
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) upstream: Upstream,
    /// Whether it served a request before: its peer may have closed it in the meantime.
    pub(crate) reused: bool,
}

/// A connection's place under the cluster's limit, given back when it closes.
#[derive(Debug)]
struct Place {
    gate: Rc<Gate>,
    state: Arc<ClusterState>,
    priority: Priority,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.give_back(self.priority, Resource::Connections);
        self.gate.open.set(self.gate.open.get() - 1);
        self.gate.wake_one();
    }
}

/// What an endpoint is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    /// What it chooses.
    Alpn,
}

/// Who wants a connection, and under which limits.
pub(crate) struct Demand<'a> {
    pub(crate) cluster: &'a ClusterTable,
    pub(crate) priority: Priority,
    pub(crate) method: Method,
    /// A connection that served before will not do.
    pub(crate) fresh: bool,
    /// How the endpoint is connected to.
    pub(crate) link: &'a Link,
    /// What it is spoken to in.
    pub(crate) protocol: Protocol,
    /// The client's address and the one that it wanted.
    pub(crate) told: Option<(SocketAddr, SocketAddr)>,
    /// The time, roughly.
    pub(crate) now: Instant,
    /// A random number below 100.
    pub(crate) percent: u32,
    pub(crate) worker: &'a WorkerCells,
    pub(crate) cells: &'a ClusterCells,
}

/// Holds one of a limited resource.
struct Held<'a> {
    state: &'a ClusterState,
    priority: Priority,
    resource: Resource,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.state.give_back(self.priority, self.resource);
    }
}

impl Demand<'_> {
    /// A place among those that wait for a connection.
    fn pend(&self) -> Result<Held<'_>, Reason> {
        let (state, priority, resource) = (&*self.cluster.state, self.priority, Resource::Pending);
        if state.try_take(priority, resource, self.cluster.thresholds.of(priority)) {
            return Ok(Held { state, priority, resource });
        }
        self.cells.pending_overflows.add(1);
        Err(resource.into())
    }
}

impl Pool {
    pub(crate) fn new(endpoint: Arc<EndpointState>) -> Self {
        Self {
            endpoint,
            idle: RefCell::default(),
            trunks: RefCell::default(),
            connecting: Cell::new(false),
            gate: Rc::default(),
            distrust: Cell::new(0),
        }
    }

    /// A connection: an idle one, a new one, or, where the cluster may have no more, the next that becomes free.
    ///
    /// # Errors
    /// A circuit breaker's limit, or that the endpoint cannot be reached.
    pub(crate) async fn acquire(&self, demand: &Demand<'_>) -> Result<Leased, Reason> {
        match demand.protocol {
            Protocol::Http2 => return self.acquire_stream(demand).await,
            // What it has chosen once, it chooses again.
            Protocol::Alpn if self.idle.borrow().is_empty() => return self.acquire_stream(demand).await,
            Protocol::Alpn | Protocol::Http1 => {}
        }
        // Whoever waits already comes first.
        let fresh = self.wants_fresh(demand) || demand.link.tells_client();
        if !fresh
            && self.idle.borrow().len() > self.gate.waiting.get() as usize
            && let Some(leased) = self.take_idle(demand)
        {
            return Ok(leased);
        }
        let _pending = demand.pend()?;
        loop {
            if let Some(place) = self.place(demand) {
                return self.connect(place, demand).await;
            }
            // Whoever needs a fresh connection takes the place of an idle one.
            let idle = if fresh { self.idle.borrow_mut().pop() } else { None };
            if idle.is_some() {
                drop(idle);
                continue;
            }
            demand.cells.connection_overflows.add(1);
            self.gate.wait().await;
            if !fresh && let Some(leased) = self.take_idle(demand) {
                return Ok(leased);
            }
        }
    }

    /// A stream: on a connection that has room for one, or on a new one.
    async fn acquire_stream(&self, demand: &Demand<'_>) -> Result<Leased, Reason> {
        if !demand.fresh
            && let Some(leased) = self.take_stream(demand)
        {
            return Ok(leased);
        }
        let _pending = demand.pend()?;
        let mut fresh = demand.fresh;
        loop {
            if !self.connecting.get()
                && let Some(place) = self.place(demand)
            {
                return self.open_trunk(place, demand).await;
            }
            demand.cells.connection_overflows.add(u64::from(!self.connecting.get()));
            self.gate.wait().await;
            // What was connected in the meantime is fresh enough.
            fresh &= !self.connecting.get() && self.trunks.borrow().is_empty();
            if !fresh && let Some(leased) = self.take_stream(demand) {
                // There may be room for the next one as well.
                self.gate.wake_one();
                return Ok(leased);
            }
        }
    }

    /// A stream of a connection that is there.
    fn take_stream(&self, demand: &Demand<'_>) -> Option<Leased> {
        let options = &demand.cluster.connections;
        let shared = {
            let mut trunks = self.trunks.borrow_mut();
            trunks.retain(|shared| !shared.trunk.is_closed() && !is_worn_out(shared, options, demand.now));
            trunks.iter().find(|shared| shared.trunk.has_room()).cloned()
        }?;
        demand.worker.upstream_reuses.add(1);
        Some(self.lease_stream(shared, true))
    }

    fn lease_stream(&self, shared: Rc<SharedTrunk>, reused: bool) -> Leased {
        let socket = shared.trunk.stream();
        let (opened, requests) = (shared.trunk.opened, shared.trunk.served());
        let _stream = StreamPlace { shared, gate: self.gate.clone() };
        Leased { upstream: Upstream { socket, opened, requests, hold: Hold::Stream { _stream } }, reused }
    }

    async fn open_trunk(&self, place: Place, demand: &Demand<'_>) -> Result<Leased, Reason> {
        self.connecting.set(true);
        let connecting = Connecting(self);
        let Connected { socket, is_tls, chose_http2 } = self.connect_socket(demand).await?;
        if demand.protocol == Protocol::Alpn && !chose_http2 {
            drop(connecting);
            let hold = Hold::Connection { _place: place };
            let upstream = Upstream { socket, opened: Instant::now(), requests: 1, hold };
            return Ok(Leased { upstream, reused: false });
        }
        let options = &demand.cluster.connections.http2;
        let trunk =
            Trunk::open(socket, options, is_tls, demand.percent).await.ok_or(Reason::ConnectFailed)?;
        let shared = Rc::new(SharedTrunk { trunk, _place: place });
        self.trunks.borrow_mut().push(shared.clone());
        drop(connecting);
        Ok(self.lease_stream(shared, false))
    }

    /// A place for another connection. Each worker may have one to each endpoint, whatever the limit, or it could
    /// starve beside workers that hold all of them.
    fn place(&self, demand: &Demand<'_>) -> Option<Place> {
        let (state, priority) = (&demand.cluster.state, demand.priority);
        if !state.try_take(priority, Resource::Connections, demand.cluster.thresholds.of(priority)) {
            if self.gate.open.get() > 0 {
                return None;
            }
            state.take(priority, Resource::Connections);
        }
        self.gate.open.set(self.gate.open.get() + 1);
        Some(Place { gate: self.gate.clone(), state: state.clone(), priority })
    }

    /// Whether an idle connection is still good for nothing but waiting; if not, its endpoint is distrusted.
    fn is_quiet(&self, upstream: &Upstream) -> bool {
        let is_quiet = upstream.socket.is_quiet();
        if !is_quiet {
            self.distrust.set(DISTRUST);
        }
        is_quiet
    }

    /// Whether a connection that served before will not do.
    fn wants_fresh(&self, demand: &Demand<'_>) -> bool {
        if demand.fresh || demand.method.is_idempotent() || self.distrust.get() == 0 {
            return demand.fresh;
        }
        // Does it still close them? What it closed goes, so that it is not asked about again.
        let mut closed = Vec::new();
        closed.extend(self.idle.borrow_mut().extract_if(.., |idle| !self.is_quiet(&idle.upstream)));
        true
    }

    /// An idle connection that is still quiet. What the runtime knows suffices for a request that can be repeated; for
    /// another, and after a response without body, the kernel is asked as well.
    fn take_idle(&self, demand: &Demand<'_>) -> Option<Leased> {
        loop {
            let Idle { mut upstream, suspect, .. } = self.idle.borrow_mut().pop()?;
            let ask_kernel = suspect || !demand.method.is_idempotent();
            if upstream.socket.is_quiet() && (!ask_kernel || upstream.socket.is_empty()) {
                demand.worker.upstream_reuses.add(1);
                upstream.requests += 1;
                return Some(Leased { upstream, reused: true });
            }
            self.distrust.set(DISTRUST);
        }
    }

    async fn connect(&self, place: Place, demand: &Demand<'_>) -> Result<Leased, Reason> {
        let Connected { socket, .. } = self.connect_socket(demand).await?;
        let hold = match demand.link.tells_client() {
            true => Hold::Client { _place: place },
            false => Hold::Connection { _place: place },
        };
        let upstream = Upstream { socket, opened: Instant::now(), requests: 1, hold };
        Ok(Leased { upstream, reused: false })
    }

    async fn connect_socket(&self, demand: &Demand<'_>) -> Result<Connected, Reason> {
        let timeout = demand.cluster.connect_timeout;
        let connecting = demand.link.connect(&self.endpoint.address, demand.told);
        let connected =
            tokio::time::timeout(timeout, connecting).await.unwrap_or(Err(Reason::ConnectTimeout));
        match &connected {
            Ok(_) => {
                demand.worker.upstream_connects.add(1);
                demand.cells.connects.add(1);
            }
            Err(reason) => {
                demand.worker.upstream_connect_failures.add(1);
                demand.cells.connect_failures.add(1);
                demand.cells.connect_timeouts.add(u64::from(*reason == Reason::ConnectTimeout));
            }
        }
        connected
    }

    /// Gives a connection back on which a response ended exactly where it should. `workers` share the cluster's limit.
    pub(crate) fn put(
        &self,
        upstream: Upstream,
        suspect: bool,
        now: Instant,
        cluster: &ClusterTable,
        workers: usize,
    ) {
        if matches!(upstream.hold, Hold::Stream { .. } | Hold::Client { .. }) {
            // A stream's connection is where it always was; a client's own ends here.
            return;
        }
        self.distrust.set(self.distrust.get().saturating_sub(1));
        let ConnectionOptions { max_requests, max_duration, .. } = cluster.connections;
        let worn_out = max_requests.is_some_and(|max| upstream.requests >= max)
            || max_duration.is_some_and(|max| now.saturating_duration_since(upstream.opened) >= max);
        let room = (cluster.thresholds.default.connections as usize / workers.max(1)).max(1);
        let full = self.idle.borrow().len() >= room;
        if worn_out || full {
            // Its place is given back, and whoever waits is told.
            return;
        }
        self.idle.borrow_mut().push(Idle { upstream, since: now, suspect });
        self.gate.wake_one();
    }

    /// Closes what has been idle for too long or was closed by its peer.
    pub(crate) fn sweep(&self, now: Instant, options: &ConnectionOptions) {
        let ConnectionOptions { idle_timeout: timeout, max_duration, .. } = options;
        let (mut closing, mut leaving) = (Vec::new(), Vec::new());
        {
            let mut idle = self.idle.borrow_mut();
            let stays = |i: &Idle| {
                timeout.is_none_or(|timeout| now.saturating_duration_since(i.since) < timeout)
                    && max_duration.is_none_or(|max| now.saturating_duration_since(i.upstream.opened) < max)
                    && self.is_quiet(&i.upstream)
            };
            closing.extend(idle.extract_if(.., |i| !stays(i)));
            idle.shrink_to(MAX_KEPT_ROOM);
        }
        {
            let mut trunks = self.trunks.borrow_mut();
            let is_over = |shared: &SharedTrunk| {
                let idle =
                    |since| timeout.is_some_and(|timeout| now.saturating_duration_since(since) >= timeout);
                shared.trunk.is_closed()
                    || shared.trunk.idle_since().is_some_and(idle)
                    || is_worn_out(shared, options, now)
            };
            leaving.extend(trunks.extract_if(.., |shared| is_over(shared)));
        }
        drop(leaving);
        // Closing gives places back, which may look at the pool again.
        drop(closing);
        // A place under the cluster's limit may have become free at another endpoint or worker.
        self.gate.wake_one();
    }
}

/// Whether a connection takes no more streams; those that are open stay.
fn is_worn_out(shared: &SharedTrunk, options: &ConnectionOptions, now: Instant) -> bool {
    options.max_requests.is_some_and(|max| shared.trunk.served() >= max)
        || options.max_duration.is_some_and(|max| now.saturating_duration_since(shared.trunk.opened) >= max)
}

/// While one connects, the others wait.
struct Connecting<'a>(&'a Pool);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.gate.wake_one();
    }
}

/// Counts a request among those that wait.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// Counts a request at its cluster and endpoint for as long as it lives.
#[derive(Debug)]
pub(crate) struct InFlight {
    pool: Rc<Pool>,
    state: Arc<ClusterState>,
    priority: Priority,
}

impl InFlight {
    /// # Errors
    /// The cluster may have no more requests.
    pub(crate) fn admit(pool: &Rc<Pool>, cluster: &ClusterTable, priority: Priority) -> Result<Self, Reason> {
        if !cluster.state.try_take(priority, Resource::Requests, cluster.thresholds.of(priority)) {
            return Err(Resource::Requests.into());
        }
        pool.endpoint.start();
        Ok(Self { pool: pool.clone(), state: cluster.state.clone(), priority })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pool.endpoint.finish();
        self.state.give_back(self.priority, Resource::Requests);
    }
}

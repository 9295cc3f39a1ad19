//! One worker's connections to one endpoint: last in, first out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::breaker::Resource;
use proxy_core::config::ConnectionOptions;
use proxy_core::endpoint::EndpointState;
use proxy_core::snapshot::ClusterTable;

use super::gate::{Gate, Pending, Place};
use super::link::{Chosen, Connected};
use super::trunks::Trunks;
use super::{Demand, Hold, Leased, Protocol, Upstream};
use crate::forward::Reason;
use crate::http2::Trunk;
use crate::stranger;

/// Room for idle connections that a pool keeps when it has fewer.
const MAX_KEPT_ROOM: usize = 8;
/// How long an endpoint that closes idle connections is distrusted.
const DISTRUST: u8 = 32;

/// One worker's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) endpoint: Arc<EndpointState>,
    idle: RefCell<Vec<Idle>>,
    trunks: Trunks,
    /// A connection that others will share is being made: whoever wants a stream waits for it.
    connecting: Cell<bool>,
    /// How often that failed, and why the last time.
    failures: Cell<(u32, Option<Reason>)>,
    /// What the endpoint has chosen to speak, where it could choose.
    chosen: Cell<Option<Protocol>>,
    gate: Rc<Gate>,
    /// Responses for which a request that may not be repeated still gets a fresh connection: the endpoint has closed an
    /// idle one, and the next close may cross a request.
    distrust: Cell<u8>,
    /// The endpoint is reached otherwise by now, or not at all: nothing is kept here any more.
    retired: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    since: Instant,
    /// Its last response had no body by rule: one that came all the same may lie in the kernel.
    suspect: bool,
}

impl Pool {
    pub(crate) fn new(endpoint: Arc<EndpointState>) -> Self {
        Self {
            endpoint,
            idle: RefCell::default(),
            trunks: Trunks::default(),
            connecting: Cell::new(false),
            failures: Cell::default(),
            chosen: Cell::default(),
            gate: Rc::default(),
            distrust: Cell::new(0),
            retired: Cell::new(false),
        }
    }

    /// A connection: an idle one or a stream, a new one, or, where the cluster may have no more, the next that becomes
    /// free.
    ///
    /// # Errors
    /// A circuit breaker's limit, or that the endpoint cannot be reached.
    pub(crate) async fn acquire(&self, demand: &Demand<'_>) -> Result<Leased, Reason> {
        let fresh = self.wants_fresh(demand);
        // Whoever waits already comes first.
        let is_first =
            demand.protocol == Protocol::Http2 || self.idle.borrow().len() > self.gate.waiting() as usize;
        if is_first && let Some(leased) = self.take(demand, fresh) {
            return Ok(leased);
        }
        let _pending = Pending::take(demand)?;
        let mut has_overflowed = false;
        loop {
            // One connection serves many: while it is made, the others wait for it.
            if !(self.connecting.get() && self.may_share(demand)) {
                if let Some(place) = Place::take(&self.gate, demand) {
                    // Rare and large: in a box, so that the future of a request stays small.
                    return Box::pin(self.connect(place, demand)).await;
                }
                // Whoever needs a fresh connection takes the place of an idle one.
                let idle = if fresh { self.idle.borrow_mut().pop() } else { None };
                if idle.is_some() {
                    drop(idle);
                    continue;
                }
                if !std::mem::replace(&mut has_overflowed, true) {
                    demand.cells.connection_overflows.add(1);
                }
                if !demand.waits {
                    return Err(Resource::Connections.into());
                }
            }
            let (failures, _) = self.failures.get();
            self.gate.wait().await;
            if let Some(leased) = self.take(demand, fresh) {
                if leased.is_stream() {
                    // There may be room for the next one as well.
                    self.gate.wake_one();
                }
                return Ok(leased);
            }
            // Those who waited for a connection share its failure: in turn, the last would wait for all of theirs.
            if let (count, Some(reason)) = self.failures.get()
                && count != failures
            {
                return Err(reason);
            }
        }
    }

    fn take(&self, demand: &Demand<'_>, fresh: bool) -> Option<Leased> {
        let stream = match demand.protocol {
            Protocol::Http1 => None,
            Protocol::Http2 | Protocol::Alpn => self.trunks.take(&self.gate, demand),
        };
        match demand.protocol {
            _ if stream.is_some() => stream,
            Protocol::Http1 | Protocol::Alpn if !fresh => self.take_idle(demand),
            _ => None,
        }
    }

    /// Whether a new connection may serve others beside whoever has it made.
    fn may_share(&self, demand: &Demand<'_>) -> bool {
        match demand.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            // What it has chosen once, it chooses again.
            Protocol::Alpn => self.chosen.get() != Some(Protocol::Http1),
        }
    }

    async fn connect(&self, place: Place, demand: &Demand<'_>) -> Result<Leased, Reason> {
        if !self.may_share(demand) {
            return self.connect_as(place, demand).await;
        }
        self.connecting.set(true);
        let _connecting = Connecting(self);
        let connected = self.connect_as(place, demand).await;
        if let Err(reason) = connected {
            self.failures.set((self.failures.get().0.wrapping_add(1), Some(reason)));
            self.gate.wake_all();
        }
        connected
    }

    /// Connects, and speaks what was agreed upon.
    async fn connect_as(&self, place: Place, demand: &Demand<'_>) -> Result<Leased, Reason> {
        let Connected { socket, is_tls, chosen } = self.connect_socket(demand).await?;
        let protocol = match (demand.protocol, chosen) {
            (Protocol::Http1, Chosen::Http2) | (Protocol::Http2, Chosen::Http1) => {
                stranger!(address = %self.endpoint.address, "an endpoint chose what it was not offered");
                return Err(Reason::UpstreamTls);
            }
            (Protocol::Http2, _) | (_, Chosen::Http2) => Protocol::Http2,
            (Protocol::Http1 | Protocol::Alpn, _) => Protocol::Http1,
        };
        self.chosen.set(Some(protocol));
        if protocol == Protocol::Http1 {
            let hold = match demand.link.tells_client() {
                true => Hold::Client { _place: place },
                false => Hold::Connection { _place: place },
            };
            let upstream = Upstream { socket, opened: Instant::now(), requests: 1, hold };
            return Ok(Leased { upstream, reused: false });
        }
        let ConnectionOptions { http2, response_head_bytes, .. } = &demand.cluster.connections;
        let head_bytes = response_head_bytes.unwrap_or(0);
        let trunk = Trunk::open(socket, http2, head_bytes, is_tls, demand.percent).await;
        Ok(self.trunks.add(&self.gate, demand, trunk.ok_or(Reason::ConnectFailed)?, place))
    }

    async fn connect_socket(&self, demand: &Demand<'_>) -> Result<Connected, Reason> {
        let timeout = demand.cluster.connect_timeout;
        let connecting = demand.link.connect(&self.endpoint.address, demand);
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
        if demand.fresh || demand.link.tells_client() {
            return true;
        }
        if demand.method.is_idempotent() || self.distrust.get() == 0 {
            return false;
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

    /// Gives a connection back on which a response ended exactly where it should. `workers` share the cluster's limit.
    pub(crate) fn put(
        &self,
        upstream: Upstream,
        suspect: bool,
        now: Instant,
        cluster: &ClusterTable,
        workers: usize,
    ) {
        if !matches!(upstream.hold, Hold::Connection { .. }) || self.retired.get() {
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
        let mut closing = Vec::new();
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
        // Closing gives places back, which may look at the pool again.
        drop(closing);
        self.trunks.sweep(now, options);
        // A place under the cluster's limit may have become free at another endpoint or worker.
        self.gate.wake_one();
    }

    /// Keeps nothing from now on: whoever holds the pool still, for a tunnel that may last, holds no idle connection.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        drop(self.idle.take());
        self.trunks.clear();
    }
}

/// While one connects, the others wait.
struct Connecting<'a>(&'a Pool);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.gate.wake_one();
    }
}

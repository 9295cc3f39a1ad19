//! A worker: one thread, one runtime, and everything a request needs without a lock.

mod accept;
mod open;
pub(crate) mod view;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use proxy_core::config::Timeouts;
use proxy_core::overload::Pressure;
use proxy_core::route::RouteLabel;
use proxy_core::snapshot::Snapshot;
use proxy_core::split::{Phase, Sequence};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};

use crate::connection::{Connection, Peer};
use crate::deadline::Deadlines;
use crate::exchange::Exchange;
use crate::listener::{Acceptor, StdStream};
use crate::runs::Runs;
use crate::source_limit::Sources;
use crate::telemetry::access_log::LogFiles;
use crate::telemetry::{Registry, WorkerCells};
use crate::tls::Contexts;
use crate::watchdog::Vitals;
use accept::Accepting;
use open::OpenTask;
use view::View;

/// Exchanges and body buffers that are kept for the next request.
const MAX_FREE: usize = 1024;
const MAX_FREE_BODY_BUFFERS: usize = 64;
/// Room for a body while it streams. A listener's or a cluster's buffer limit may use less of it.
const BODY_BUFFER: usize = 64 << 10;
/// Connections that are worth giving memory back for when half of them have left.
const CROWD: usize = 256;
/// How often idle upstream connections are looked through and log buffers handed over.
const TICK: Duration = Duration::from_millis(250);

/// What a worker is told.
pub(crate) enum Command {
    /// A snapshot was published: let go of the old one.
    Refresh,
    /// Accept connections for the listener in this slot.
    Listen(usize, Acceptor),
    /// Stop accepting for the listener in this slot.
    Unlisten(usize),
    /// Serve a connection that another worker accepted.
    Adopt(usize, StdStream, Peer),
    /// No new connections; each open one ends with its next response.
    Drain,
    /// End now.
    Stop,
}

/// The outside's end of a worker.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    /// Open downstream connections, for balancing and for drains.
    load: Arc<AtomicUsize>,
    /// It drains, and nothing waits to be accepted any more.
    closed: Arc<AtomicBool>,
}

impl Handle {
    pub(crate) fn has_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Tells the worker something. A worker that has ended does not listen, and need not.
    pub(crate) fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) snapshots: Arc<ArcSwap<Snapshot>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) logs: Arc<LogFiles>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) tls: Arc<Contexts>,
    /// Tells the process to end.
    pub(crate) quit: Arc<Notify>,
    /// Told when a worker serves another snapshot.
    pub(crate) adopted: Arc<Notify>,
    /// Has the allocator give memory back that the calling thread no longer uses.
    pub(crate) release_memory: Option<fn()>,
}

type SnapshotCache = arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>;

/// A worker's own state. Never leaves its thread.
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) cells: Arc<WorkerCells>,
    pub(crate) shared: Shared,
    pub(crate) rng: RefCell<SmallRng>,
    peers: Vec<Handle>,
    snapshots: RefCell<SnapshotCache>,
    view: RefCell<Rc<View>>,
    sequences: RefCell<HashMap<Arc<RouteLabel>, Rc<RefCell<Sequence>>>>,
    // Boxed, so that taking one is a pointer's move.
    #[allow(clippy::vec_box)]
    exchanges: RefCell<Vec<Box<Exchange>>>,
    body_buffers: RefCell<Vec<Vec<u8>>>,
    pub(crate) runs: Runs,
    /// The same for requests on streams.
    pub(crate) stream_runs: Runs,
    /// Open connections, by number.
    connections: RefCell<HashMap<u64, OpenTask>>,
    next_connection: Cell<u64>,
    /// The most connections at once since memory was last given back.
    most_connections: Cell<usize>,
    /// Since when.
    draining: Cell<Option<Instant>>,
    /// The snapshot whose removed listeners were looked at.
    swept: Cell<u64>,
    /// A time before all others here.
    epoch: Instant,
    /// The time of the last tick: exact enough for idle time-outs, and free.
    ticked: Cell<Instant>,
    /// Microseconds since the Unix epoch at the last tick.
    ticked_unix: Cell<u64>,
    date: Cell<Date>,
}

/// The value of a `Date` header.
type Date = [u8; 29];

/// Starts the workers.
///
/// # Errors
/// If a thread or runtime cannot be made.
pub(crate) fn start(count: usize, shared: &Shared) -> io::Result<Vec<(Handle, JoinHandle<()>)>> {
    let (handles, receivers): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let (commands, receiver) = mpsc::unbounded_channel();
            (Handle { commands, load: Arc::default(), closed: Arc::default() }, receiver)
        })
        .unzip();
    let (started, outcomes) = std::sync::mpsc::channel();
    let spawn = |(id, commands): (usize, mpsc::UnboundedReceiver<Command>)| {
        let (shared, peers, started) = (shared.clone(), handles.clone(), started.clone());
        let thread = std::thread::Builder::new().name(format!("weir-worker-{id}"));
        thread.spawn(move || run(id, shared, peers, commands, &started))
    };
    let threads = receivers.into_iter().enumerate().map(spawn).collect::<io::Result<Vec<_>>>()?;
    let failed = outcomes.iter().take(count).find_map(Result::err);
    if let Some(error) = failed {
        handles.iter().for_each(|handle| handle.tell(Command::Stop));
        return Err(error);
    }
    Ok(handles.into_iter().zip(threads).collect())
}

fn run(
    id: usize,
    shared: Shared,
    peers: Vec<Handle>,
    commands: mpsc::UnboundedReceiver<Command>,
    started: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    let _ = started.send(Ok(()));
    runtime.block_on(async move {
        let worker = Rc::new(Worker::new(id, shared, peers));
        let ticker = tokio::task::spawn_local(tick(worker.clone()));
        obey(&worker, commands).await;
        ticker.abort();
    });
}

async fn obey(worker: &Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut acceptors: HashMap<usize, Accepting> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Refresh => drop(worker.view()),
            Command::Listen(slot, acceptor) => {
                if let Some(old) = acceptors.insert(slot, Accepting::start(worker, slot, acceptor)) {
                    old.stop();
                    worker.leave_behind(slot);
                }
            }
            Command::Unlisten(slot) => {
                if let Some(accepting) = acceptors.remove(&slot) {
                    accepting.stop();
                }
            }
            Command::Adopt(slot, stream, peer) => match stream.into_socket() {
                Ok(socket) => worker.clone().spawn_connection(slot, socket, peer, true),
                Err(error) => {
                    worker.peers[worker.id].load.fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!(%error, "a connection could not be handed over");
                }
            },
            Command::Drain => {
                worker.draining.set(Some(Instant::now()));
                worker.connections.borrow().values().for_each(|open| open.connection.farewell().say());
                for (_, accepting) in acceptors.drain() {
                    let _ = accepting.stop().await;
                }
                worker.peers[worker.id].closed.store(true, Ordering::Release);
            }
            Command::Stop => return,
        }
    }
}

/// Housekeeping off the request path.
async fn tick(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        worker.look_at_clocks();
        worker.shared.vitals.beat(worker.id);
        worker.view().housekeeping(worker.ticked.get());
        worker.end_idle_connections();
        worker.give_memory_back();
    }
}

impl Worker {
    fn new(id: usize, shared: Shared, peers: Vec<Handle>) -> Self {
        let mut snapshots = arc_swap::Cache::new(shared.snapshots.clone());
        let view = View::new(snapshots.load().clone(), None);
        let epoch = Instant::now();
        let worker = Self {
            id,
            cells: shared.registry.workers[id].clone(),
            shared,
            rng: RefCell::new(SmallRng::seed_from_u64(rand::random())),
            peers,
            snapshots: RefCell::new(snapshots),
            view: RefCell::new(Rc::new(view)),
            sequences: RefCell::default(),
            exchanges: RefCell::default(),
            body_buffers: RefCell::default(),
            runs: Runs::default(),
            stream_runs: Runs::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            most_connections: Cell::new(0),
            draining: Cell::new(None),
            swept: Cell::new(0),
            epoch,
            ticked: Cell::new(epoch),
            ticked_unix: Cell::new(0),
            date: Cell::new([b' '; 29]),
        };
        worker.look_at_clocks();
        worker
    }

    /// Once a tick, so that requests need not.
    fn look_at_clocks(&self) {
        self.ticked.set(Instant::now());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        self.ticked_unix.set(unix);
        self.date.set(proxy_core::access::http_date(unix));
    }

    /// The value of a `Date` header now.
    pub(crate) const fn date(&self) -> Date {
        self.date.get()
    }

    /// A moment as microseconds since the Unix epoch.
    pub(crate) fn unix_micros(&self, at: Instant) -> u64 {
        let ticked = self.ticked.get();
        let after = at.saturating_duration_since(ticked).as_micros() as u64;
        let before = ticked.saturating_duration_since(at).as_micros() as u64;
        (self.ticked_unix.get() + after).saturating_sub(before)
    }

    /// The listener in a slot has moved to another address: the connections that it has end with their next response.
    fn leave_behind(&self, slot: usize) {
        let connections = self.connections.borrow();
        for OpenTask { connection, .. } in
            connections.values().filter(|open| open.connection.chain.get().slot() == slot)
        {
            connection.left_behind.set(Some(self.ticked.get()));
            connection.farewell().say();
        }
    }

    /// In a drain, connections that were idle for the drain time end.
    fn end_idle_connections(&self) {
        let view = self.view();
        if self.swept.replace(view.snapshot.generation) != view.snapshot.generation {
            // Those of a listener that is gone for good.
            let connections = self.connections.borrow();
            let chain_of = |open: &OpenTask| {
                let chain = open.connection.chain.get();
                let (slot, place) = (chain.slot(), chain.place());
                view.snapshot.listener(slot).and_then(|listener| listener.chain(place))
            };
            for open in connections.values() {
                let chain = chain_of(open);
                if chain.is_none() && open.connection.is_idle.get() {
                    open.task.abort();
                } else if chain.is_none_or(|chain| chain.is_departing) {
                    open.connection.farewell().say();
                }
            }
        }
        let (draining, now) = (self.draining.get(), self.ticked.get());
        for OpenTask { connection, task } in self.connections.borrow().values() {
            let Some(since) = draining.or_else(|| connection.left_behind.get()) else { continue };
            let time = self.timeouts(connection).map_or(Duration::ZERO, |timeouts| timeouts.drain);
            if connection.is_idle.get() && now.saturating_duration_since(since) >= time {
                task.abort();
            }
        }
    }

    /// When a crowd has left, what it needed goes back to the system.
    fn give_memory_back(&self) {
        let open = self.connections.borrow().len();
        let most = self.most_connections.get().max(open);
        if most < CROWD || open > most / 2 {
            return self.most_connections.set(most);
        }
        self.most_connections.set(open);
        self.connections.borrow_mut().shrink_to(2 * open);
        self.runs.shrink_to(open);
        self.stream_runs.shrink_to(open);
        let mut exchanges = self.exchanges.borrow_mut();
        exchanges.truncate(open);
        exchanges.shrink_to_fit();
        drop(exchanges);
        self.body_buffers.borrow_mut().truncate(open);
        if let Some(release) = self.shared.release_memory {
            release();
        }
    }

    /// The times of what serves a connection, if it is there still.
    pub(crate) fn timeouts(&self, connection: &Connection) -> Option<Timeouts> {
        let chain = connection.chain.get();
        let (slot, place) = (chain.slot(), chain.place());
        Some(self.view().snapshot.listener(slot)?.chain(place)?.http.timeouts)
    }

    /// How full the memory is.
    pub(crate) fn pressure(&self) -> Pressure {
        self.shared.vitals.pressure()
    }

    /// How many workers there are.
    pub(crate) const fn count(&self) -> usize {
        self.peers.len()
    }

    /// This worker's view of the current snapshot. Costs a comparison while the snapshot is the same.
    pub(crate) fn view(&self) -> Rc<View> {
        let mut snapshots = self.snapshots.borrow_mut();
        let current = snapshots.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(current, &view.snapshot) {
            let next = View::new(current.clone(), Some((self, &view)));
            *view = Rc::new(next);
            self.forget_sequences(&view.snapshot);
            self.cells.generation.store(view.snapshot.generation, Ordering::Release);
            self.shared.adopted.notify_one();
        }
        view.clone()
    }

    /// The credits of a route's split, carried over from whichever snapshot had the route last.
    pub(crate) fn sequence(
        &self,
        label: &Arc<RouteLabel>,
        arms: &[proxy_core::config::Arm],
    ) -> Rc<RefCell<Sequence>> {
        let mut sequences = self.sequences.borrow_mut();
        let sequence = match sequences.get(label) {
            Some(known) if known.borrow().is_over(arms) => return known.clone(),
            Some(known) => {
                // A copy: requests that are under way on another snapshot go on with the arms that they know.
                let mut next = known.borrow().clone();
                next.rebase(arms);
                next
            }
            None => {
                let phase = Phase { worker: self.id as u32, workers: self.peers.len() as u32 };
                Sequence::new(arms, phase)
            }
        };
        let sequence = Rc::new(RefCell::new(sequence));
        sequences.insert(label.clone(), sequence.clone());
        sequence
    }

    /// Forgets splits of routes that are long gone, once there are clearly more of them than routes.
    fn forget_sequences(&self, snapshot: &Snapshot) {
        let mut sequences = self.sequences.borrow_mut();
        let routes: usize =
            snapshot.listeners().flat_map(|(_, l)| &l.chains).map(|c| c.routes.routes().len()).sum();
        if sequences.len() > 2 * routes + 64 {
            let chains = snapshot.listeners().flat_map(|(_, l)| &l.chains);
            let tables: Vec<_> = chains.map(|chain| chain.routes.clone()).collect();
            let live: std::collections::HashSet<_> =
                tables.iter().flat_map(|t| t.routes()).map(|r| &*r.label).collect();
            sequences.retain(|label, _| live.contains(&**label));
        }
    }

    pub(crate) fn exchange(&self) -> Box<Exchange> {
        self.exchanges.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn return_exchange(&self, mut exchange: Box<Exchange>) {
        let mut free = self.exchanges.borrow_mut();
        if free.len() < MAX_FREE {
            exchange.reset();
            free.push(exchange);
        }
    }

    pub(crate) fn body_buffer(&self) -> Vec<u8> {
        self.body_buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BODY_BUFFER))
    }

    pub(crate) fn return_body_buffer(&self, buffer: Vec<u8>) {
        let mut free = self.body_buffers.borrow_mut();
        if free.len() < MAX_FREE_BODY_BUFFERS {
            free.push(buffer);
        }
    }

    /// Deadlines of a connection or stream, none set.
    pub(crate) fn deadlines(&self) -> Deadlines {
        Deadlines::new(self.epoch)
    }

    /// A number from 0 to 99.
    pub(crate) fn random_percent(&self) -> u32 {
        self.rng.borrow_mut().random_range(0..100)
    }

    /// The time, up to a tick ago.
    pub(crate) const fn recent_time(&self) -> Instant {
        self.ticked.get()
    }

    pub(crate) const fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }
}

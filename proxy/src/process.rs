//! A running proxy: its threads, from start to drain.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use proxy_core::config::Address;
use proxy_core::snapshot::{CompileError, Snapshot};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};

use crate::admin::{Desk, Privileged};
use crate::bootstrap::Bootstrap;
use crate::controller::{Controller, SharedController};
use crate::listener::{OpenError, Sockets};
use crate::source_limit::Sources;
use crate::telemetry::Registry;
use crate::telemetry::access_log::LogFiles;
use crate::watchdog::{self, Orders, Vitals};
use crate::worker::{self, Handle, Shared};
use crate::{admin, cache, dns, files, probe, xds};

/// How a proxy runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Connections from clients at once, over all listeners.
    pub max_connections: usize,
    /// Bytes of memory at which the proxy refuses work: 92 % end keep-alive, 95 % refuse connections and requests. No
    /// limit where unset.
    pub heap_limit: Option<u64>,
    /// Whether a worker that is stuck for ten seconds ends the process; it is told of in any case.
    pub aborts_when_stuck: bool,
    /// Has the allocator give memory back that the calling thread no longer uses. Called rarely: when most of many
    /// connections have closed.
    pub release_memory: Option<fn()>,
    /// The privileged admin port; none where unset.
    pub privileged: Option<PrivilegedPort>,
    /// A file that keeps what the control plane said last, for a start without it; without private keys. None where unset.
    pub cache: Option<PathBuf>,
}

/// Where the privileged admin port listens, and who may use it.
#[derive(Clone)]
pub struct PrivilegedPort {
    /// A Unix socket, which only its owner may open, or a TCP address, which wants a token.
    pub address: Address,
    /// What every request over TCP must bring as a bearer token.
    pub token: Option<Arc<str>>,
    /// Sets what is logged; the error says why it cannot.
    pub set_log_level: Option<SetLogLevel>,
}

/// Sets what is logged, in Envoy's words or as a filter by module.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

impl fmt::Debug for PrivilegedPort {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivilegedPort").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How a proxy ends.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// How long `/ready` fails before anything else changes, so that whoever sends traffic here looks elsewhere.
    pub wait: Duration,
    /// How long open connections may then take to end.
    pub limit: Duration,
}

impl Default for Options {
    /// A worker for each core.
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_connections: usize::MAX,
            heap_limit: None,
            aborts_when_stuck: false,
            release_memory: None,
            privileged: None,
            cache: None,
        }
    }
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or runtime could not be made.
    #[error("threads could not be started: {0}")]
    Threads(#[from] io::Error),
    /// An address could not be listened on.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// An access log could not be opened.
    #[error("access log {sink}: {source}")]
    Log {
        /// The file.
        sink: String,
        /// Why.
        source: io::Error,
    },
    /// Keys or certificates cannot be used.
    #[error("{kind} \"{name}\": {reason}")]
    Tls {
        /// `listener` or `cluster`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Which, and why.
        reason: String,
    },
    /// The static resources contradict one another.
    #[error("static_resources: {0}")]
    Compile(#[from] CompileError),
}

/// A running proxy. Dropping it ends it at once; [`Proxy::drain`] ends it without losing a request.
#[derive(Debug)]
pub struct Proxy {
    registry: Arc<Registry>,
    logs: Arc<LogFiles>,
    quit: Arc<Notify>,
    orders: mpsc::UnboundedSender<Order>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    ListenerAddress(String, std::sync::mpsc::Sender<Option<Address>>),
    Drain(Drain),
    Stop,
}

impl Proxy {
    /// Starts workers and controller, and opens the static listeners and the admin port.
    ///
    /// # Errors
    /// [`StartError`], with nothing left running.
    pub fn start(bootstrap: Bootstrap, options: Options) -> Result<Self, StartError> {
        let workers = options.workers.max(1);
        let shared = Shared {
            snapshots: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            registry: Arc::new(Registry::new(workers)),
            logs: Arc::new(LogFiles::default()),
            quit: Arc::default(),
            adopted: Arc::default(),
            release_memory: options.release_memory,
            vitals: Arc::new(Vitals::new(workers)),
            tls: Arc::default(),
            sources: Arc::new(Sources::new(options.max_connections)),
        };
        let (handles, mut threads): (Vec<Handle>, Vec<_>) =
            worker::start(workers, &shared)?.into_iter().unzip();
        let (orders, incoming) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::channel();
        let control = std::thread::Builder::new().name("weir-control".to_owned());
        let stopping = handles.clone();
        let (registry, logs, quit) = (shared.registry.clone(), shared.logs.clone(), shared.quit.clone());
        let beside = Beside {
            privileged: options.privileged,
            cache: options.cache,
            watchdog: Orders { heap_limit: options.heap_limit, aborts: options.aborts_when_stuck },
        };
        threads.push(control.spawn(move || {
            control_thread(bootstrap, beside, &shared, handles, incoming, &started);
        })?);
        let proxy = Self { registry, logs, quit, orders, threads };
        match outcome.recv() {
            Ok(Ok(())) => Ok(proxy),
            Ok(Err(error)) => {
                stopping.iter().for_each(|worker| worker.tell(worker::Command::Stop));
                Err(error)
            }
            Err(_) => Err(io::Error::other("the control thread ended").into()),
        }
    }

    /// The address that a listener is bound to, once it serves.
    pub fn listener_address(&self, name: &str) -> Option<std::net::SocketAddr> {
        let (answer, answered) = std::sync::mpsc::channel();
        self.orders.send(Order::ListenerAddress(name.to_owned(), answer)).ok()?;
        match answered.recv().ok()?? {
            Address::Socket(address) => Some(address),
            Address::Pipe(_) => None,
        }
    }

    /// The number of the snapshot that is served; it counts up with every change.
    pub fn generation(&self) -> u64 {
        self.registry.generation()
    }

    /// Returns when somebody asked the process to end, on the privileged port.
    pub fn quit_requested(&self) -> impl Future<Output = ()> + use<> {
        let quit = self.quit.clone();
        async move { quit.notified().await }
    }

    /// Opens every access-log file again, by its path: somebody has moved the files away.
    pub fn reopen_logs(&self) {
        self.logs.reopen();
    }

    /// Fails `/ready`, waits, refuses new connections, lets each open one end with its next response, and returns when
    /// all have ended or the limit is over.
    pub fn drain(self, drain: Drain) {
        let _ = self.orders.send(Order::Drain(drain));
        self.join();
    }

    /// Ends at once: requests under way are cut.
    pub fn stop(self) {
        let _ = self.orders.send(Order::Stop);
        self.join();
    }

    fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the proxy panicked");
            }
        }
        self.logs.finish();
    }
}

type Started = std::sync::mpsc::Sender<Result<(), StartError>>;

/// What runs on the control thread beside the controller.
struct Beside {
    privileged: Option<PrivilegedPort>,
    cache: Option<PathBuf>,
    watchdog: Orders,
}

fn control_thread(
    bootstrap: Bootstrap,
    beside: Beside,
    shared: &Shared,
    workers: Vec<Handle>,
    orders: mpsc::UnboundedReceiver<Order>,
    started: &Started,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error.into()))),
    };
    runtime.block_on(async {
        match begin(bootstrap, beside, shared, workers) {
            Ok(controller) => {
                let _ = started.send(Ok(()));
                obey(controller, orders).await;
            }
            Err(error) => drop(started.send(Err(error))),
        }
    });
}

fn begin(
    bootstrap: Bootstrap,
    beside: Beside,
    shared: &Shared,
    workers: Vec<Handle>,
) -> Result<SharedController, StartError> {
    let control_plane = bootstrap.control_plane.clone();
    let admin_address = bootstrap.admin.clone();
    let controller = Rc::new(RefCell::new(Controller::new(bootstrap, shared, workers)?));
    if let Some(address) = admin_address {
        open_desk(&controller, &address, Desk::ReadOnly)?;
    }
    if let Some(PrivilegedPort { address, token, set_log_level }) = beside.privileged {
        open_desk(&controller, &address, Desk::Privileged(Privileged { token, set_log_level }))?;
    }
    if !control_plane.servers.is_empty() {
        if let Some(path) = beside.cache {
            controller.borrow_mut().restore(&path);
            tokio::task::spawn_local(cache::keep(controller.clone(), path));
        }
        tokio::task::spawn_local(xds::follow(controller.clone(), control_plane, rand::random()));
        tokio::task::spawn_local(xds::keep_time(controller.clone()));
    }
    tokio::task::spawn_local(free_retired(controller.clone()));
    tokio::task::spawn_local(refresh_tls(controller.clone()));
    tokio::task::spawn_local(files::follow(controller.clone()));
    tokio::task::spawn_local(dns::follow(controller.clone()));
    tokio::task::spawn_local(probe::follow(controller.clone()));
    tokio::task::spawn_local(watchdog::watch(
        shared.vitals.clone(),
        shared.registry.clone(),
        beside.watchdog,
    ));
    Ok(controller)
}

fn open_desk(controller: &SharedController, address: &Address, desk: Desk) -> Result<(), StartError> {
    let mut sockets = Sockets::default();
    // Only its owner may ask for what changes something.
    let mode = matches!(desk, Desk::Privileged(_)).then_some(0o600);
    sockets.open_for(address, 1, mode)?;
    let bound = sockets.local_address(address).unwrap_or_else(|| address.clone());
    let name = if matches!(desk, Desk::ReadOnly) { "admin port" } else { "privileged admin port" };
    tracing::info!(address = %bound, "{name}");
    if let Some(acceptor) = sockets.acceptors(address)?.pop() {
        let served = admin::serve(controller.clone(), acceptor, desk);
        tokio::task::spawn_local(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "an admin port ended");
            }
        });
    }
    Ok(())
}

/// Looks at the files of keys and certificates. Whatever replaces them, a rename or a link to another folder, shows in what
/// the file system says of the file at the end of all links.
async fn refresh_tls(controller: SharedController) {
    const INTERVAL: Duration = Duration::from_millis(500);
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        controller.borrow().refresh_tls();
    }
}

/// Old snapshots go when the last request that saw them has ended.
async fn free_retired(controller: SharedController) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        let mut controller = controller.borrow_mut();
        controller.let_go();
        controller.free_retired();
    }
}

async fn obey(controller: SharedController, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::ListenerAddress(name, answer) => {
                let _ = answer.send(controller.borrow().listener_address(&name));
            }
            Order::Drain(plan) => {
                drain(&controller, plan, &mut orders).await;
                break;
            }
            Order::Stop => break,
        }
    }
    controller.borrow().stop();
}

/// Announces the drain, waits, then drains until no connection is open. A second order ends the wait.
async fn drain(controller: &SharedController, plan: Drain, orders: &mut mpsc::UnboundedReceiver<Order>) {
    controller.borrow_mut().announce_drain();
    tracing::info!(wait = ?plan.wait, "ready fails from here on");
    let announced = tokio::time::Instant::now() + plan.wait;
    if !until(announced, orders, || false).await {
        return;
    }
    controller.borrow_mut().drain();
    let open = || controller.borrow().open_connections();
    tracing::info!(connections = open(), "draining");
    let done = || controller.borrow().is_drain_under_way() && open() == 0;
    let limit = tokio::time::Instant::now() + plan.limit;
    until(limit, orders, done).await;
    tracing::info!(connections = open(), "drained");
}

/// Waits until `done`, or the deadline. `false` where an order says to stop at once.
async fn until(
    deadline: tokio::time::Instant,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    done: impl Fn() -> bool,
) -> bool {
    while !done() && tokio::time::Instant::now() < deadline {
        let pause = tokio::time::sleep(Duration::from_millis(10));
        tokio::select! {
            () = pause => {}
            order = orders.recv() => match order {
                None | Some(Order::Stop) => return false,
                Some(Order::ListenerAddress(..) | Order::Drain(_)) => {}
            },
        }
    }
    true
}

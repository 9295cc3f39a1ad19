//! A running proxy: its threads, from start to drain.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proxy_core::config::Address;
use proxy_core::snapshot::{CompileError, Snapshot};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::bootstrap::Bootstrap;
use crate::controller::{Controller, SharedController};
use crate::listener::{OpenError, Sockets};
use crate::telemetry::Registry;
use crate::telemetry::access_log::LogFiles;
use crate::worker::{self, Handle, Shared};
use crate::{admin, xds};

/// How a proxy runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Worker threads, at least 1.
    pub workers: usize,
}

impl Default for Options {
    /// A worker for each core.
    fn default() -> Self {
        Self { workers: std::thread::available_parallelism().map_or(1, usize::from) }
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
    #[error("access log {}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
    orders: mpsc::UnboundedSender<Order>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    ListenerAddress(String, std::sync::mpsc::Sender<Option<Address>>),
    Drain(Duration),
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
        };
        let (handles, mut threads): (Vec<Handle>, Vec<_>) =
            worker::start(workers, &shared)?.into_iter().unzip();
        let (orders, incoming) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::channel();
        let control = std::thread::Builder::new().name("weir-control".to_owned());
        let stopping = handles.clone();
        let (registry, logs) = (shared.registry.clone(), shared.logs.clone());
        threads.push(control.spawn(move || control_thread(bootstrap, &shared, handles, incoming, &started))?);
        let proxy = Self { registry, logs, orders, threads };
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

    /// Refuses new connections, lets each open one end with its next response, and returns when all have ended or
    /// `limit` is over.
    pub fn drain(self, limit: Duration) {
        let _ = self.orders.send(Order::Drain(limit));
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

fn control_thread(
    bootstrap: Bootstrap,
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
        match begin(bootstrap, shared, workers) {
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
    shared: &Shared,
    workers: Vec<Handle>,
) -> Result<SharedController, StartError> {
    let addresses = bootstrap.control_plane.clone();
    let admin_address = bootstrap.admin.clone();
    let controller = Rc::new(RefCell::new(Controller::new(bootstrap, shared, workers)?));
    if let Some(address) = admin_address {
        let mut sockets = Sockets::default();
        sockets.open(&address, 1)?;
        tracing::info!(address = %sockets.local_address(&address).unwrap_or(address.clone()), "admin port");
        for acceptor in sockets.acceptors(&address)? {
            let controller = controller.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = admin::serve(controller, acceptor).await {
                    tracing::error!(%error, "the admin port ended");
                }
            });
        }
    }
    if !addresses.is_empty() {
        tokio::task::spawn_local(xds::follow(controller.clone(), addresses, rand::random()));
    }
    tokio::task::spawn_local(free_retired(controller.clone()));
    Ok(controller)
}

/// Old snapshots go when the last request that saw them has ended.
async fn free_retired(controller: SharedController) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        controller.borrow_mut().free_retired();
    }
}

async fn obey(controller: SharedController, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::ListenerAddress(name, answer) => {
                let _ = answer.send(controller.borrow().listener_address(&name));
            }
            Order::Drain(limit) => {
                drain(&controller, limit, &mut orders).await;
                break;
            }
            Order::Stop => break,
        }
    }
    controller.borrow().stop();
}

/// Waits until no connection is open, for `limit` at most; a second order ends the wait.
async fn drain(controller: &SharedController, limit: Duration, orders: &mut mpsc::UnboundedReceiver<Order>) {
    controller.borrow_mut().drain();
    let deadline = Instant::now() + limit;
    let open = || controller.borrow().open_connections();
    tracing::info!(connections = open(), "draining");
    let done = || controller.borrow().is_drain_under_way() && open() == 0;
    while !done() && Instant::now() < deadline {
        let pause = tokio::time::sleep(Duration::from_millis(10));
        tokio::select! {
            () = pause => {}
            order = orders.recv() => match order {
                None | Some(Order::Stop) => return,
                Some(Order::ListenerAddress(..) | Order::Drain(_)) => {}
            },
        }
    }
    tracing::info!(connections = open(), "drained");
}

//! Connections to endpoints: one pool a worker and endpoint, last in, first out.
//!
//! Pools are not shared between workers, so taking a connection is a pop from a vector. The most recently used
//! connection is the one least likely to have been closed by its peer.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::endpoint::EndpointState;
use proxy_core::http1::Method;

use crate::socket::Socket;
use crate::telemetry::WorkerCells;

/// Idle connections kept for one endpoint on one worker.
const MAX_IDLE: usize = 256;
/// Room for idle connections that a pool keeps when it has fewer.
const MAX_KEPT_ROOM: usize = 8;
/// An idle connection is closed after this long.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One worker's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) endpoint: Arc<EndpointState>,
    idle: RefCell<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    socket: Socket,
    since: Instant,
    /// Its last response had no body by rule: one that came all the same may lie in the kernel.
    suspect: bool,
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) socket: Socket,
    /// Whether it served a request before: its peer may have closed it in the meantime.
    pub(crate) reused: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the connection was refused or failed: {0}")]
    Failed(#[from] io::Error),
    #[error("the connection attempt took too long")]
    TimedOut,
}

impl Pool {
    pub(crate) const fn new(endpoint: Arc<EndpointState>) -> Self {
        Self { endpoint, idle: RefCell::new(Vec::new()) }
    }

    /// An idle connection that is still quiet. What the runtime knows suffices for a request that can be repeated; for
    /// another, and after a response without body, the kernel is asked as well.
    pub(crate) fn take_idle(&self, method: Method, cells: &WorkerCells) -> Option<Leased> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { socket, suspect, .. }) = idle.pop() {
            let ask_kernel = suspect || !method.is_idempotent();
            if socket.is_quiet() && (!ask_kernel || socket.is_empty()) {
                cells.upstream_reuses.add(1);
                return Some(Leased { socket, reused: true });
            }
        }
        None
    }

    /// A new connection.
    pub(crate) async fn connect(
        &self,
        timeout: Duration,
        cells: &WorkerCells,
    ) -> Result<Leased, ConnectError> {
        let connected = match tokio::time::timeout(timeout, Socket::connect(&self.endpoint.address)).await {
            Ok(result) => result.map_err(ConnectError::from),
            Err(_) => Err(ConnectError::TimedOut),
        };
        match &connected {
            Ok(_) => cells.upstream_connects.add(1),
            Err(_) => cells.upstream_connect_failures.add(1),
        }
        connected.map(|socket| Leased { socket, reused: false })
    }

    /// Gives a connection back on which a response ended exactly where it should.
    pub(crate) fn put(&self, socket: Socket, suspect: bool, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { socket, since: now, suspect });
        }
    }

    /// Closes what has been idle for too long or was closed by its peer.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|i| now.duration_since(i.since) < IDLE_TIMEOUT && i.socket.is_quiet());
        idle.shrink_to(MAX_KEPT_ROOM);
    }
}

/// Counts a request at its endpoint for as long as it lives.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<Pool>);

impl InFlight {
    pub(crate) fn start(pool: &Rc<Pool>) -> Self {
        pool.endpoint.start();
        Self(pool.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.endpoint.finish();
    }
}

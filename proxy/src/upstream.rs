//! Connections to endpoints: one pool a worker and endpoint.
//!
//! Pools are not shared between workers, so taking a connection is a pop from a vector. The most recently used
//! connection is the one least likely to have been closed by its peer.

mod breaker;
mod gate;
mod link;
mod pool;
mod trunks;

use std::net::SocketAddr;
use std::time::Instant;

use proxy_core::breaker::Priority;
use proxy_core::http1::Method;
use proxy_core::snapshot::ClusterTable;

pub(crate) use breaker::{Breakers, ClusterBreakers, Passage};
pub(crate) use gate::InFlight;
pub(crate) use link::{Link, contexts_of};
pub(crate) use pool::Pool;

use crate::socket::Socket;
use crate::telemetry::{ClusterCells, WorkerCells};
use gate::Place;
use trunks::StreamPlace;

/// A connection to an endpoint, or a stream on one.
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

impl Leased {
    /// Whether it is one of many on a connection.
    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self.upstream.hold, Hold::Stream { .. })
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
    /// A connection that served before will not do. (A stream on one will.)
    pub(crate) fresh: bool,
    /// Whether it waits where the cluster may have no more connections.
    pub(crate) waits: bool,
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

impl Demand<'_> {
    /// The client that a connection is for alone.
    fn told_to_endpoint(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.told.filter(|_| self.link.tells_client())
    }
}

//! Counters that one worker writes and anybody reads.

use std::ops::Index;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proxy_core::grpc;

use super::histogram::{Histogram, Lapse};
use crate::accepted::Refusal;
use crate::forward::Reason;

/// A count with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the worker that owns the cell may call this: it is a load and a store, not an addition.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts for the process.
#[derive(Debug, Default)]
pub(crate) struct WorkerCells {
    pub(crate) connections_opened: Counter,
    pub(crate) connections_closed: Counter,
    pub(crate) upstream_connects: Counter,
    pub(crate) upstream_connect_failures: Counter,
    pub(crate) upstream_reuses: Counter,
    /// Requests that were held up on purpose, and refused.
    pub(crate) delays: Counter,
    pub(crate) aborts: Counter,
    pub(crate) log_lines_dropped: Counter,
    pub(crate) panics: Counter,
    /// Handshakes with clients, those that took up an old session apart.
    pub(crate) handshakes_full: Counter,
    pub(crate) handshakes_resumed: Counter,
    /// Connections that never got to a request, by reason.
    pub(crate) refused_connections: [Counter; Refusal::ALL.len()],
    /// HTTP/2 connections that were ended for what their clients sent.
    pub(crate) http2_floods: Counter,
    /// Replies that the proxy gave itself and exchanges that broke, by reason.
    pub(crate) failures: Failures,
    /// The number of the snapshot that it serves.
    pub(crate) generation: AtomicU64,
}

/// Counts by reason.
#[derive(Debug)]
pub(crate) struct Failures([Counter; Reason::ALL.len()]);

impl Default for Failures {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Index<Reason> for Failures {
    type Output = Counter;

    fn index(&self, reason: Reason) -> &Counter {
        &self.0[reason as usize]
    }
}

/// What one worker counts for one arm of one route.
#[derive(Debug, Default)]
pub(crate) struct ArmCells {
    /// Responses by class: 1xx to 5xx; exchanges without one are counted as failures.
    pub(crate) classes: [Counter; 5],
    pub(crate) duration: Histogram,
    /// Requests that another arm took, as this one had no usable endpoint.
    pub(crate) spilled: Counter,
    /// Calls of gRPC by status; most arms have none.
    grpc: OnceLock<Box<[Counter; 17]>>,
    /// Connections of a TCP proxy; most arms have none.
    carried: OnceLock<Box<Carried>>,
}

/// Connections that went to endpoints as they were.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// Those that something ended, and those that ended in peace.
    pub(crate) connections: [Counter; 2],
    /// Bytes from clients.
    pub(crate) received: Counter,
    /// Bytes to clients.
    pub(crate) sent: Counter,
}

impl ArmCells {
    /// Counts a call of gRPC.
    pub(crate) fn grpc(&self, status: grpc::Status) {
        if let Some(counter) = self.grpc.get_or_init(Box::default).get(usize::from(status)) {
            counter.add(1);
        }
    }

    /// Calls of gRPC by status.
    pub(crate) fn grpc_calls(&self) -> impl Iterator<Item = u64> {
        self.grpc.get().into_iter().flat_map(|counters| counters.iter().map(Counter::value))
    }

    /// Counts a connection that was carried as a whole, and its bytes both ways.
    pub(crate) fn connection(&self, is_well: bool, received: u64, sent: u64) {
        let carried = self.carried.get_or_init(Box::default);
        carried.connections[usize::from(is_well)].add(1);
        carried.received.add(received);
        carried.sent.add(sent);
    }

    /// Connections that were carried as a whole.
    pub(crate) fn carried(&self) -> Option<&Carried> {
        self.carried.get().map(|carried| &**carried)
    }

    /// Requests, and those of them that were answered with a status of the five hundreds or not at all.
    pub(crate) fn outcomes(&self) -> (u64, u64) {
        let classes: u64 = self.classes.iter().map(Counter::value).sum();
        let requests = self.duration.count().max(classes);
        (requests, requests - classes + self.classes[4].value())
    }

    #[inline]
    pub(crate) fn observe(&self, status: u16, lapse: Lapse) {
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            class.add(1);
        }
        self.duration.record(lapse);
    }
}

/// What one worker counts of a TCP proxy, in Envoy's terms.
#[derive(Debug, Default)]
pub(crate) struct TcpCells {
    pub(crate) connections: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) no_route: Counter,
    pub(crate) idle_timeouts: Counter,
    pub(crate) lifetimes: Counter,
}

/// What one worker counts for one listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerCells {
    pub(crate) connections_opened: Counter,
    pub(crate) connections_closed: Counter,
    /// Connections refused because there were too many in all, or from one source.
    pub(crate) connections_refused: Counter,
    /// Requests that began.
    pub(crate) requests: Counter,
    /// What a TCP proxy has carried; nothing where requests are served.
    pub(crate) tcp: TcpCells,
    /// Responses by class: 1xx to 5xx.
    pub(crate) classes: [Counter; 5],
    pub(crate) duration: Histogram,
}

impl ListenerCells {
    #[inline]
    pub(crate) fn observe(&self, status: u16, lapse: Lapse) {
        self.duration.record(lapse);
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            class.add(1);
        }
    }
}

/// What one worker counts for one cluster. Requests are counted by arm.
#[derive(Debug, Default)]
pub(crate) struct ClusterCells {
    /// Requests sent, those that were sent again included.
    pub(crate) sent: Counter,
    /// Of exchanges that an endpoint answered to the end.
    pub(crate) duration: Histogram,
    pub(crate) connects: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) connect_timeouts: Counter,
    /// Times that a request had to wait because the cluster may have no more connections.
    pub(crate) connection_overflows: Counter,
    /// Requests refused because too many waited.
    pub(crate) pending_overflows: Counter,
    /// Requests refused because too many were under way.
    pub(crate) request_overflows: Counter,
    /// Responses that took longer than their route's timeout.
    pub(crate) timeouts: Counter,
    /// Requests refused on purpose (`drop_overloads`).
    pub(crate) dropped: Counter,
    /// Requests for which no subset fitted.
    pub(crate) subset_fallbacks: Counter,
    /// Requests that went to any endpoint, as too few were well.
    pub(crate) panics: Counter,
}

//! What outlives a snapshot: the state of an endpoint, keyed by its identity.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::{Address, ClusterName};

/// The shared state of one endpoint of one cluster. A new snapshot takes it over from the last one.
#[derive(Debug)]
pub struct EndpointState {
    /// The cluster it serves.
    pub cluster: ClusterName,
    /// Where it is.
    pub address: Address,
    /// The address as text, for logs and the Host of HTTP/1.0 clients that sent none.
    pub label: Box<str>,
    /// Requests under way, over all workers.
    in_flight: AtomicU32,
}

impl EndpointState {
    /// A new endpoint with nothing under way.
    pub fn new(cluster: ClusterName, address: Address) -> Self {
        let label = address.to_string().into();
        Self { cluster, address, label, in_flight: AtomicU32::new(0) }
    }

    /// Requests under way. Relaxed: a picker that is one request behind picks as well.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request from here to [`EndpointState::finish`]. Cost: one atomic addition.
    pub fn start(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// The request that [`EndpointState::start`] counted is over.
    pub fn finish(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    /// The address as text, for logs.
    pub label: Box<str>,
    /// Requests under way, over all workers.
    in_flight: Padded,
}

/// On a cache line of its own: all workers write it, and read the rest.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU32);

impl EndpointState {
    /// A new endpoint with nothing under way.
    pub fn new(cluster: ClusterName, address: Address) -> Self {
        let label = address.to_string().into();
        Self { cluster, address, label, in_flight: Padded::default() }
    }

    /// What stands in the Host header where an HTTP/1.0 client sent none.
    pub fn host(&self) -> &str {
        match &self.address {
            Address::Socket(_) => &self.label,
            Address::Pipe(_) => "localhost",
        }
    }

    /// Requests under way. Relaxed: a picker that is one request behind picks as well.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.0.load(Ordering::Relaxed)
    }

    /// Counts a request from here to [`EndpointState::finish`]. Cost: one atomic addition.
    pub fn start(&self) {
        self.in_flight.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The request that [`EndpointState::start`] counted is over.
    pub fn finish(&self) {
        self.in_flight.0.fetch_sub(1, Ordering::Relaxed);
    }
}

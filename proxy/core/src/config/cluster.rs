//! Clusters and their endpoints.

use std::sync::Arc;
use std::time::Duration;

use super::{Address, ClusterName};
use crate::breaker::{Priority, Thresholds};

/// `envoy.config.cluster.v3.Cluster`, speaking HTTP/1.1 to its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Unique among clusters.
    pub name: ClusterName,
    /// Where its endpoints come from.
    pub endpoints: EndpointSource,
    /// How long a connection attempt may take; 5 s where unset, as in Envoy.
    pub connect_timeout: Duration,
    /// How an endpoint is picked.
    pub lb_policy: LbPolicy,
    /// Circuit breakers, by priority.
    pub thresholds: PriorityThresholds,
    /// How connections to its endpoints are kept.
    pub connections: ConnectionOptions,
}

/// The limits of both priorities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PriorityThresholds {
    /// Of most requests.
    pub default: Thresholds,
    /// Of those that a route calls high.
    pub high: Thresholds,
}

impl PriorityThresholds {
    /// The limits of one priority.
    pub const fn of(&self, priority: Priority) -> &Thresholds {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

/// How connections to endpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// How long one may be idle; any time where unset.
    pub idle_timeout: Option<Duration>,
    /// How old one may become; it ends when it is next idle.
    pub max_duration: Option<Duration>,
    /// Requests sent on one; any number where unset.
    pub max_requests: Option<u32>,
    /// Bytes held for one direction of one connection while a body streams; the listener's where unset.
    pub buffer_bytes: Option<usize>,
    /// Bytes of a response's head; the listener's limit where unset.
    pub response_head_bytes: Option<usize>,
    /// Lines of a response's head; the listener's limit where unset.
    pub response_headers: Option<usize>,
}

impl Default for ConnectionOptions {
    /// Idle for a minute: endpoints often close after that, and a request that crosses the close has to be sent again.
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(60)),
            max_duration: None,
            max_requests: None,
            buffer_bytes: None,
            response_head_bytes: None,
            response_headers: None,
        }
    }
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    /// They are part of the cluster.
    Static(Arc<LoadAssignment>),
    /// They are asked for over EDS under this name.
    Eds(ClusterName),
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LbPolicy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Of two at random, the one with fewer requests in flight.
    LeastRequest,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadAssignment {
    /// All endpoints, in their order.
    pub endpoints: Vec<Endpoint>,
}

/// One place that serves a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// Whether EDS lets it take new requests: not when UNHEALTHY, DRAINING or TIMEOUT.
    pub usable: bool,
}

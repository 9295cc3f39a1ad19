//! Clusters and their endpoints.

use std::sync::Arc;
use std::time::Duration;

use super::{Address, ClusterName};

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

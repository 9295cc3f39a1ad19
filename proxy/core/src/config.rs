//! The typed configuration: what translation made of the wire form, and what compilation starts from.
//!
//! A value of these types makes sense in itself; names that other resources must resolve are the only loose ends.

mod address;
mod cluster;
mod condition;
mod edit;
mod health;
mod http;
mod http2;
mod listener;
mod name;
mod route;
mod tls;

pub use address::Address;
pub use cluster::{
    Balancing, Cluster, ConnectionOptions, DnsOptions, DnsTargets, Drop, Endpoint, EndpointSource, Health,
    LbPolicy, LoadAssignment, Locality, LocalityEndpoints, LookupFamily, Patience, PriorityThresholds,
    SubsetFallback, SubsetSelector, Subsets, TransportMatch,
};
pub use condition::{
    AddressRange, Condition, CookieMatch, FieldName, Fraction, HeaderMatch, NodeFacts, NodeMatch, Predicate,
    QueryMatch, TextForm, TextMatch,
};
pub use edit::{
    Append, EditList, EditLists, HeaderAddition, HeaderEdits, HeaderText, HostRewrite, PathRewrite,
};
pub use health::{CheckTarget, GrpcProbe, HealthCheck, HttpProbe, Pace, Probe, Standing, TcpProbe, Verdict};
pub use http::{BodyRate, HttpOptions, SourceLimit, Timeouts};
pub use http2::{Codec, Http2Options, Keepalive, UpstreamProtocol};
pub use listener::{
    ChainMatch, FilterChain, Inspection, Listener, ProxyProtocol, RouteSource, ServerName, Serves,
    SourceKind, TcpOptions, TransportProtocol,
};
pub use name::{ArmName, ClusterName, ListenerName, RouteConfigName};
pub use route::{
    Action, Arm, ClusterRef, DirectResponse, Domain, Forward, HashPolicy, HashSource, KeyCookie, KeySource,
    Labels, PathMatch, Redirect, RedirectPath, Route, RouteConfiguration, RouteLimits, RouteOptions,
    RouteTimeout, Split, SplitBy, SplitKey, Unavailable, VirtualHost, Weight,
};

pub use tls::{
    CertificateSource, CommonTls, DownstreamTls, Material, NameKind, NameMatch, Secret, TlsCertificate,
    TlsVersions, UpstreamTls, UpstreamTransport, Validation, ValidationSource,
};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything a proxy serves at one time, its references resolved as far as they can be.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Listeners whose routes are known.
    pub listeners: Vec<ServedListener>,
    /// Clusters whose endpoints are known.
    pub clusters: Arc<BTreeMap<ClusterName, ServedCluster>>,
    /// Clusters that are there and wait for their endpoints.
    pub warming: Arc<BTreeSet<ClusterName>>,
    /// What is known of the proxy itself.
    pub node: Arc<NodeFacts>,
}

/// A listener and the routes it serves.
#[derive(Debug, Clone)]
pub struct ServedListener {
    /// The listener.
    pub listener: Arc<Listener>,
    /// The routes of its chains, in their order, inline or from RDS.
    pub routes: Vec<Arc<RouteConfiguration>>,
}

/// A cluster and its endpoints.
#[derive(Debug, Clone)]
pub struct ServedCluster {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Its endpoints, inline or from EDS.
    pub endpoints: Arc<LoadAssignment>,
}

impl ServedCluster {
    /// Whether nothing of it is another value.
    pub fn is_the_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cluster, &other.cluster) && Arc::ptr_eq(&self.endpoints, &other.endpoints)
    }
}

impl ServedListener {
    /// The same of a listener.
    pub fn is_the_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<RouteConfiguration>, &Arc<RouteConfiguration>)| Arc::ptr_eq(a, b);
        Arc::ptr_eq(&self.listener, &other.listener)
            && self.routes.len() == other.routes.len()
            && self.routes.iter().zip(&other.routes).all(same)
    }
}

//! Route configurations: which request goes where.

use std::sync::Arc;
use std::time::Duration;

use super::{ArmName, ClusterName, RouteConfigName};
use crate::breaker::Priority;

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfiguration {
    /// Unique among route configurations; may be empty where it is inline.
    pub name: RouteConfigName,
    /// Virtual hosts with domains that are unique in the configuration.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Whether `host:port` matches the domain `host`.
    pub ignore_port_in_host_matching: bool,
    /// Whether a route to a cluster that does not exist is refused (`validate_clusters`).
    pub validate_clusters: bool,
}

impl RouteConfiguration {
    /// The clusters that its routes lead to, repeated as often as they do.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes.flat_map(|route| &route.split.arms).map(|arm| &arm.cluster)
    }
}

/// Routes for a set of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualHost {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// At least one.
    pub domains: Vec<Domain>,
    /// In the order in which they are tried: the first match wins.
    pub routes: Vec<Route>,
}

/// A host pattern, in lower case. Exact beats suffix beats prefix beats any; longer beats shorter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// `shop.example.com`
    Exact(Box<str>),
    /// `*.example.com`: this, without the star, is the end of the host, and something stands before it.
    Suffix(Box<str>),
    /// `shop.*`: this is the start of the host, and something follows.
    Prefix(Box<str>),
    /// `*`
    Any,
}

/// One rule: what it matches and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name; empty where none was given.
    pub name: Arc<str>,
    /// On the path without query.
    pub path: PathMatch,
    /// All must hold.
    pub headers: Vec<HeaderMatch>,
    /// Where matching requests go.
    pub split: Split,
    /// How they are sent.
    pub options: RouteOptions,
}

/// How a route's requests are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// How long a response may take.
    pub timeout: RouteTimeout,
    /// Silence of the endpoint, or of the client within a body, instead of the listener's; zero is any time.
    pub idle_timeout: Option<Duration>,
    /// A whole exchange, instead of the listener's; zero is any time.
    pub exchange: Option<Duration>,
    /// Which circuit breakers it counts against.
    pub priority: Priority,
    /// Protocols that may be switched to, or not, whatever the listener says.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// CONNECT ends here: the endpoint gets the tunnel's bytes as they are (`connect_config`).
    pub terminates_connect: bool,
}

/// How long a response may take, from the end of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouteTimeout {
    /// 15 s until the response's head, as nobody said anything; gRPC and upgrades may take any time.
    #[default]
    Default,
    /// This long until the response's end.
    Whole(Duration),
    /// Any time.
    Never,
}

/// A condition on the path without its query. Case matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The path starts with this.
    Prefix(Box<str>),
    /// The path starts with this, and `/` or nothing follows: `/shop` matches `/shop/cart`, not `/shopping`.
    SeparatedPrefix(Box<str>),
    /// The path is this.
    Exact(Box<str>),
    /// There is none: the request is a CONNECT (`connect_matcher`).
    Connect,
}

/// A condition on a header. Of several lines of one header one suffices, each as a
/// whole: what Envoy 1.40 does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Which header.
    pub name: FieldName,
    /// What holds of it.
    pub predicate: Predicate,
}

/// A header, or a part of the request that xDS addresses like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldName {
    /// A header, in lower case.
    Header(Box<str>),
    /// `:method`
    Method,
    /// `:path`, query included.
    Path,
    /// `:authority`
    Authority,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// The header is there.
    Present,
    /// The header is not there.
    Absent,
    /// The value is exactly this.
    Exact(Box<str>),
}

/// How requests of a route are divided over its arms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// At least one, with names unique in the split; the sum of weights is from 1 to 2^32 - 1.
    pub arms: Vec<Arm>,
    /// What keeps a user on one arm; without it the split is exact and per request.
    pub key: Option<SplitKey>,
}

/// One weighted target of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// The cluster's name; with `#2` and so on where a cluster occurs again.
    pub name: ArmName,
    /// Where its requests go.
    pub cluster: ClusterName,
    /// Its part of the sum; 0 takes no request.
    pub weight: Weight,
}

/// An arm's part of the sum of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(pub u32);

/// What a user is recognised by (`weir.split.v1.SplitPolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitKey {
    /// The header whose value is the user, in lower case.
    pub header: Box<str>,
    /// Changes who is first in a rollout.
    pub salt: Box<str>,
}

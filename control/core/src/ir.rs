//! The intermediate representation: what the resources mean, together.
//!
//! Names are resolved, precedence is settled, defaults are filled in. Weights stay the integers that people wrote: their
//! ratio is exact, which parts per million would not be for thirds.

mod build;

use std::collections::BTreeMap;
use std::fmt;

use proxy_core::config::Address;

pub use crate::model::LoadBalancing;
pub use build::{Invalid, build};

/// The listener that routes attach to when no `Gateway` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where proxies listen.
    pub address: Address,
    /// The file in which each request gets a line; none where unset.
    pub access_log: Option<String>,
}

/// The name of the implicit gateway, its listener and its route configuration.
pub const GATEWAY: &str = "weir";

/// Everything that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ir {
    /// The one gateway.
    pub gateway: Gateway,
    /// By hostname; every route that a host can reach is in its list, in the order of precedence.
    pub hosts: Vec<Host>,
    /// By name.
    pub backends: BTreeMap<BackendName, Backend>,
}

/// A backend's name; with its namespace unless that is `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendName(String);

impl BackendName {
    /// From a namespace and a name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(if namespace == "default" { name.to_owned() } else { format!("{namespace}/{name}") })
    }

    /// As text: the cluster's name in xDS.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The routes of one hostname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `*`, `*.example.com` or a name, in lower case.
    pub hostname: String,
    /// First match wins.
    pub routes: Vec<Route>,
}

/// One match of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique in the host: route, rule, match.
    pub name: String,
    /// The resource that it is part of; with its namespace unless that is `default`.
    pub object: String,
    /// The condition on the path.
    pub path: Path,
    /// Header and value.
    pub headers: Vec<(String, String)>,
    /// With a sum of weights above 0.
    pub arms: Vec<Arm>,
    /// What keeps a user on one arm.
    pub key: Option<SplitKey>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// The whole path.
    Exact(String),
    /// Every path that starts with these elements; empty for all.
    Prefix(String),
}

/// A weighted target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// Where it leads.
    pub backend: BackendName,
    /// Its part of the sum.
    pub weight: u32,
}

/// What a user is recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitKey {
    /// A request header.
    pub header: String,
    /// Changes who is first.
    pub salt: String,
}

/// A set of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where requests go.
    pub endpoints: Vec<Endpoint>,
    /// How one of them is picked.
    pub load_balancing: LoadBalancing,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
}

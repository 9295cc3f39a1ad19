//! Listeners: where requests come in and which routes they meet.

use std::sync::Arc;

use super::{Address, HttpOptions, ListenerName, RouteConfigName, RouteConfiguration};

/// `envoy.config.listener.v3.Listener` with one HTTP filter chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique among listeners.
    pub name: ListenerName,
    /// Where it listens.
    pub address: Address,
    /// The routes of its HTTP connection manager.
    pub routes: RouteSource,
    /// The settings of its HTTP connection manager.
    pub http: Arc<HttpOptions>,
}

/// Where a listener's routes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteSource {
    /// They are part of the listener.
    Inline(Arc<RouteConfiguration>),
    /// They are asked for by name over RDS.
    Rds(RouteConfigName),
    /// They are read by name from a file that holds route configurations.
    RdsFile(RouteConfigName, Arc<str>),
}

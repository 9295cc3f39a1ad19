//! Which fields of the subset are accepted without being acted upon.
//!
//! Every other field of the subset is *used*: translation destructures each message without `..`, so the compiler asks
//! for it. (Names that only label a typed configuration, such as `Filter.name`, say nothing and are not listed.) A field
//! belongs here only if ignoring it changes neither routing, security nor what reaches a backend.

/// `(message, field)`: observability names, and labels that no balancing policy of this version reads.
pub(crate) const IGNORABLE: &[(&str, &str)] = &[
    ("envoy.config.cluster.v3.Cluster", "alt_stat_name"),
    ("envoy.config.endpoint.v3.Endpoint", "hostname"),
    ("envoy.config.endpoint.v3.LbEndpoint", "metadata"),
    ("envoy.config.endpoint.v3.LocalityLbEndpoints", "locality"),
    ("envoy.config.listener.v3.FilterChain", "name"),
    ("envoy.config.listener.v3.Listener", "stat_prefix"),
    ("envoy.config.listener.v3.Listener", "traffic_direction"),
    ("envoy.extensions.filters.http.router.v3.Router", "dynamic_stats"),
    ("envoy.extensions.filters.http.router.v3.Router", "start_child_span"),
    ("envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers"),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix"),
];

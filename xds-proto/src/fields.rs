//! Which fields of the subset are accepted without being acted upon.
//!
//! Every other field of the subset is *used*: translation destructures each message without `..`, so the compiler asks
//! for it. (Names that only label a typed configuration, such as `Filter.name`, say nothing and are not listed.) A field
//! belongs here only if ignoring it changes neither routing, security nor what reaches a backend.

/// `(message, field)`: observability names, labels that no balancing policy of this version reads, and keys of a runtime
/// layer that does not exist here.
pub(crate) const IGNORABLE: &[(&str, &str)] = &[
    ("envoy.config.cluster.v3.CircuitBreakers.Thresholds", "track_remaining"),
    ("envoy.config.cluster.v3.Cluster", "alt_stat_name"),
    ("envoy.config.core.v3.RuntimeUInt32", "runtime_key"),
    ("envoy.config.endpoint.v3.Endpoint", "hostname"),
    ("envoy.config.endpoint.v3.LbEndpoint", "metadata"),
    ("envoy.config.endpoint.v3.LocalityLbEndpoints", "locality"),
    ("envoy.config.listener.v3.FilterChain", "name"),
    ("envoy.config.listener.v3.Listener", "stat_prefix"),
    ("envoy.extensions.filters.http.router.v3.Router", "dynamic_stats"),
    ("envoy.extensions.filters.http.router.v3.Router", "start_child_span"),
    ("envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers"),
];

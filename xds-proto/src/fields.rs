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
    ("envoy.config.cluster.v3.Cluster", "metadata"),
    ("envoy.config.cluster.v3.Cluster", "wait_for_warm_on_init"),
    ("envoy.config.cluster.v3.Cluster.CommonLbConfig", "update_merge_window"),
    ("envoy.config.core.v3.Http2ProtocolOptions", "max_outbound_frames"),
    ("envoy.config.core.v3.Http2ProtocolOptions", "use_oghttp2_codec"),
    ("envoy.config.core.v3.RuntimeDouble", "runtime_key"),
    ("envoy.config.core.v3.RuntimeFractionalPercent", "runtime_key"),
    ("envoy.config.core.v3.RuntimeUInt32", "runtime_key"),
    ("envoy.config.endpoint.v3.LocalityLbEndpoints", "metadata"),
    ("envoy.config.listener.v3.Listener", "stat_prefix"),
    ("envoy.config.route.v3.Route", "decorator"),
    ("envoy.config.route.v3.Route", "metadata"),
    ("envoy.config.route.v3.Route", "stat_prefix"),
    ("envoy.config.route.v3.RouteConfiguration", "metadata"),
    ("envoy.config.route.v3.VirtualHost", "metadata"),
    ("envoy.extensions.filters.http.router.v3.Router", "dynamic_stats"),
    ("envoy.extensions.filters.http.router.v3.Router", "start_child_span"),
    ("envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers"),
    ("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", "stat_prefix"),
    ("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", "initial_read_buffer_size"),
    ("envoy.type.matcher.v3.RegexMatcher", "google_re2"),
];

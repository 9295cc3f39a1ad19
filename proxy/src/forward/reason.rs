//! Why a request was not served as it should be: as data, in words, and as Envoy's response flag.

use proxy_core::breaker::Resource;

use crate::deadline::Limit;

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's.
    Upstream,
    /// The configuration's or the proxy's.
    Local,
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident: $side:ident, $status:literal, $flag:literal, $label:literal, $words:literal;)*) => {
        /// A failure on the request path.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Reason { $($(#[$meta])* $name,)* }

        impl Reason {
            pub(crate) const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// Whose doing it was.
            pub(crate) const fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }

            /// The status of the reply, where one can still be sent.
            pub(crate) const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Envoy's response flag.
            pub(crate) const fn flag(self) -> &'static str {
                match self { $(Self::$name => $flag,)* }
            }

            /// The label in metrics, and `%RESPONSE_CODE_DETAILS%`.
            pub(crate) const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// A sentence for people.
            pub(crate) const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

reasons! {
    /// The head broke a rule; the reply says which.
    MalformedHead: Downstream, 400, "DPE", "malformed_head", "the request's head is malformed";
    MalformedBody: Downstream, 400, "DPE", "malformed_body", "the request's body is not in the chunked coding";
    EscapedPath: Downstream, 400, "DPE", "escaped_path", "the path holds an escaped character that is not accepted";
    UnescapedPath: Local, 307, "", "path_redirect", "the path is sent to its unescaped form";
    ClientGone: Downstream, 0, "DC", "client_gone", "the client closed the connection before the response's end";
    HeaderTimeout: Downstream, 408, "DT", "header_timeout", "the request's head took longer than request_headers_timeout";
    RequestTimeout: Downstream, 408, "DT", "request_timeout", "the request took longer than request_timeout";
    BodyIdleTimeout: Downstream, 408, "SI", "body_idle_timeout", "the client was silent within the request's body";
    BodyTooSlow: Downstream, 408, "DT", "body_too_slow", "the request's body came slower than the least rate";
    ClientStalled: Downstream, 0, "SI", "client_write_timeout", "the client took no byte of the response for too long";
    ExchangeTimeout: Local, 408, "DT", "max_stream_duration", "the exchange took longer than max_stream_duration";
    NoVirtualHost: Local, 404, "NR", "no_virtual_host", "no virtual host serves this host";
    NoRoute: Local, 404, "NR", "no_route", "no route matches this request";
    ConnectRefused: Local, 405, "NR", "connect_refused", "CONNECT is not enabled here";
    UpgradeRefused: Local, 403, "NR", "upgrade_refused", "no upgrade to this protocol is enabled here";
    Overloaded: Local, 503, "OM", "overloaded", "the proxy's memory is nearly full";
    ListenerGone: Local, 503, "NR", "listener_gone", "this listener was removed";
    NoCluster: Local, 503, "NC", "no_cluster", "the route's cluster does not exist";
    Dropped: Local, 503, "DO", "drop_overload", "the endpoints' configuration has this share of requests refused";
    NoEndpoint: Local, 503, "UH", "no_endpoint", "the cluster has no usable endpoint";
    TooManyRequests: Local, 503, "UO", "overflow_requests", "the cluster's circuit breaker max_requests is reached";
    TooManyConnections: Local, 503, "UO", "overflow_connections", "the cluster's circuit breaker max_connections is reached";
    TooManyPending: Local, 503, "UO", "overflow_pending_requests", "the cluster's circuit breaker max_pending_requests is reached";
    BreakerOpen: Local, 503, "UO", "breaker_open", "the circuit breaker is open: too many of the last calls have failed";
    FaultAborted: Local, 503, "FI", "fault_filter_abort", "fault filter abort";
    ConnectFailed: Upstream, 503, "UF", "connect_failed", "no connection to the endpoint";
    ConnectTimeout: Upstream, 503, "UF", "connect_timeout", "the connection to the endpoint took longer than connect_timeout";
    UpstreamTls: Upstream, 503, "UF", "upstream_tls", "the TLS handshake with the endpoint failed";
    UpstreamReset: Upstream, 503, "UC", "upstream_reset", "the endpoint closed the connection without a response";
    UpstreamProtocol: Upstream, 502, "UPE", "upstream_protocol", "the endpoint's response is malformed";
    UpstreamTruncated: Upstream, 502, "UC", "upstream_truncated", "the endpoint's response ended too early";
    ResponseTimeout: Upstream, 504, "UT", "response_timeout", "the response took longer than the route's timeout";
    StreamIdleTimeout: Upstream, 504, "SI", "stream_idle_timeout", "the endpoint was silent for longer than the idle timeout";
    UpstreamStalled: Upstream, 504, "SI", "upstream_write_timeout", "the endpoint took no byte of the request for too long";
    TunnelIdleTimeout: Local, 0, "SI", "tunnel_idle_timeout", "both sides of the tunnel were silent for longer than its idle timeout";
    LifetimeReached: Local, 0, "DT", "max_connection_duration", "the connection, or its client's certificate, has reached its end";
}

impl Reason {
    /// Whether the client's next request, if it has one, is where we expect it.
    pub(crate) const fn leaves_client_in_step(self) -> bool {
        // Whoever reconnects finds the listener that took the place of this one.
        if matches!(self, Self::ListenerGone) {
            return false;
        }
        match self.side() {
            Side::Downstream => false,
            Side::Upstream | Side::Local => true,
        }
    }
}

impl From<Limit> for Reason {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Handshake | Limit::KeepAlive | Limit::Header => Self::HeaderTimeout,
            Limit::Request => Self::RequestTimeout,
            Limit::BodyIdle => Self::BodyIdleTimeout,
            Limit::BodyRate => Self::BodyTooSlow,
            Limit::Response => Self::ResponseTimeout,
            Limit::StreamIdle => Self::StreamIdleTimeout,
            Limit::ClientStall => Self::ClientStalled,
            Limit::UpstreamStall => Self::UpstreamStalled,
            Limit::Exchange => Self::ExchangeTimeout,
            Limit::TunnelIdle => Self::TunnelIdleTimeout,
            Limit::Lifetime => Self::LifetimeReached,
            Limit::HungUp => Self::ClientGone,
        }
    }
}

impl From<Resource> for Reason {
    /// The refusal names the limit.
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Connections => Self::TooManyConnections,
            Resource::Pending => Self::TooManyPending,
            Resource::Requests | Resource::Retries => Self::TooManyRequests,
        }
    }
}

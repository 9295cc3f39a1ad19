//! Why a request was not served as it should be: as data, in words, and as Envoy's response flag.

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

            /// The label in metrics.
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
    ClientGone: Downstream, 0, "DC", "client_gone", "the client closed the connection before the response's end";
    NoVirtualHost: Local, 404, "NR", "no_virtual_host", "no virtual host serves this host";
    NoRoute: Local, 404, "NR", "no_route", "no route matches this request";
    ListenerGone: Local, 503, "NR", "listener_gone", "this listener was removed";
    NoCluster: Local, 503, "NC", "no_cluster", "the route's cluster does not exist";
    NoEndpoint: Local, 503, "UH", "no_endpoint", "the cluster has no usable endpoint";
    ConnectFailed: Upstream, 503, "UF", "connect_failed", "no connection to the endpoint";
    ConnectTimeout: Upstream, 503, "UF", "connect_timeout", "the connection to the endpoint took too long";
    UpstreamReset: Upstream, 503, "UC", "upstream_reset", "the endpoint closed the connection without a response";
    UpstreamProtocol: Upstream, 502, "UPE", "upstream_protocol", "the endpoint's response is malformed";
    UpstreamTruncated: Upstream, 502, "UC", "upstream_truncated", "the endpoint's response ended too early";
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

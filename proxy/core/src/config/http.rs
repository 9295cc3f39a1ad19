//! What a listener's HTTP connection manager takes, bounds, adds and answers.

use std::sync::Arc;
use std::time::Duration;

use super::{Codec, Http2Options};
use crate::access::AccessLogConfig;
use crate::fault::Injection;
use crate::hop::HopRules;
use crate::http1::{ChunkLimits, Limits, RequestRules, ServerHeader};
use crate::local_reply::LocalReplies;
use crate::path::PathRules;

/// Settings of `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`, beside its routes.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpOptions {
    /// The prefix of its statistics in Envoy's names.
    pub stat_prefix: Box<str>,
    /// Which protocols clients may speak.
    pub codec: Codec,
    /// How HTTP/2 is spoken.
    pub http2: Http2Options,
    /// What is taken as a request.
    pub requests: RequestRules,
    /// What is taken as a response.
    pub responses: Limits,
    /// Bounds on chunked bodies.
    pub chunks: ChunkLimits,
    /// Whether trailers travel to peers that did not ask for them with `TE: trailers` (`enable_trailers`).
    pub forwards_trailers: bool,
    /// The host of an HTTP/1.0 request that names none; the endpoint's where empty.
    pub default_host: Box<str>,
    /// What is done to paths before matching.
    pub paths: PathRules,
    /// Whom to believe, and what to add.
    pub hop: HopRules,
    /// Who answers.
    pub server: ServerHeader,
    /// Whether responses carry the request's id (`always_set_request_id_in_response`).
    pub answers_request_id: bool,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Requests served on one connection of HTTP/1; any number where unset.
    pub requests_per_connection: Option<u32>,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Connections from one address; any number where unset.
    pub connections_per_source: Option<SourceLimit>,
    /// Bytes held for one direction of one connection while a body streams.
    pub buffer_bytes: usize,
    /// Protocols that may be switched to, in lower case, `connect` among them, each on or off by default.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// Whether gRPC-web is taken from clients, for endpoints that speak gRPC (`grpc_web`).
    pub bridges_grpc_web: bool,
    /// Faults on purpose, for routes that say nothing of them.
    pub injection: Option<Arc<Injection>>,
    /// What the proxy answers itself.
    pub local_replies: LocalReplies,
    /// Where requests are told of.
    pub access_logs: Vec<AccessLogConfig>,
}

/// A cap on connections by source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimit {
    /// Connections at once.
    pub connections: u32,
    /// Whether it holds for loopback as well. A default does not: behind another proxy on the same machine all
    /// connections have one source.
    pub includes_loopback: bool,
}

/// How long things may take. Unset: any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection between two requests (`common_http_protocol_options.idle_timeout`).
    pub keep_alive: Option<Duration>,
    /// A head, from its first byte (`request_headers_timeout`).
    pub header: Option<Duration>,
    /// A whole request, from its first byte (`request_timeout`).
    pub request: Option<Duration>,
    /// Silence of the client within a request body.
    pub body_idle: Option<Duration>,
    /// Whether that holds for gRPC, whose streams may be silent for long.
    pub body_idle_includes_grpc: bool,
    /// The least bytes of request body a second, on average, once the grace is over.
    pub body_rate: Option<BodyRate>,
    /// Silence of the endpoint before or within a response (`stream_idle_timeout`).
    pub stream_idle: Option<Duration>,
    /// A peer that takes no byte.
    pub write: Option<Duration>,
    /// Silence of both sides of a tunnel.
    pub tunnel_idle: Option<Duration>,
    /// A whole exchange (`max_stream_duration`).
    pub exchange: Option<Duration>,
    /// A connection; it ends with the next response after that (`max_connection_duration`).
    pub connection: Option<Duration>,
    /// A connection that shall end and stays idle (`drain_timeout`).
    pub drain: Duration,
    /// How long late bytes are still read from a client that was told to go (`delayed_close_timeout`).
    pub delayed_close: Duration,
}

/// A floor under the speed of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyRate {
    /// Bytes a second.
    pub bytes_per_second: u32,
    /// Before this, any speed will do.
    pub grace: Duration,
}

impl HttpOptions {
    /// The defaults at the edge, where clients are anybody.
    pub fn ingress() -> Self {
        let seconds = |n| Some(Duration::from_secs(n));
        Self {
            stat_prefix: "".into(),
            codec: Codec::default(),
            http2: Http2Options::INGRESS,
            requests: RequestRules::default(),
            responses: Limits::default(),
            chunks: ChunkLimits::default(),
            forwards_trailers: false,
            default_host: "".into(),
            paths: PathRules::default(),
            hop: HopRules::default(),
            server: ServerHeader::default(),
            answers_request_id: false,
            timeouts: Timeouts {
                keep_alive: seconds(60),
                header: seconds(10),
                request: None,
                body_idle: seconds(30),
                body_idle_includes_grpc: false,
                body_rate: Some(BodyRate { bytes_per_second: 240, grace: Duration::from_secs(10) }),
                stream_idle: seconds(300),
                write: seconds(30),
                tunnel_idle: seconds(300),
                exchange: None,
                connection: None,
                drain: Duration::from_secs(30),
                delayed_close: Duration::from_secs(1),
            },
            requests_per_connection: Some(10_000),
            handshake_timeout: Duration::from_secs(5),
            connections_per_source: Some(SourceLimit { connections: 1_000, includes_loopback: false }),
            buffer_bytes: 32 << 10,
            upgrades: Vec::new(),
            bridges_grpc_web: false,
            injection: None,
            local_replies: LocalReplies::default(),
            access_logs: Vec::new(),
        }
    }

    /// The defaults beside a service, where both sides are known.
    pub fn sidecar() -> Self {
        let mut options = Self::ingress();
        options.requests.limits.target_bytes = 16 << 10;
        options.timeouts.keep_alive = Some(Duration::from_secs(300));
        options.timeouts.body_idle = Some(Duration::from_secs(60));
        options.timeouts.write = Some(Duration::from_secs(60));
        options.timeouts.body_rate = None;
        options.requests_per_connection = None;
        options.handshake_timeout = Duration::from_secs(10);
        options.connections_per_source = None;
        options.buffer_bytes = 64 << 10;
        options.http2 = Http2Options::SIDECAR;
        options
    }

    /// Whether a switch to `protocol` is allowed, for a route with its own words on it.
    pub fn allows_upgrade(&self, protocol: &[u8], route: &[(Box<str>, bool)]) -> bool {
        let says = |list: &[(Box<str>, bool)]| {
            let named = list.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(protocol));
            named.map(|(_, enabled)| *enabled)
        };
        says(route).or_else(|| says(&self.upgrades)).unwrap_or(false)
    }
}

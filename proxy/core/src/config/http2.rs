//! Settings of HTTP/2 connections, on either side.

use std::time::Duration;

use crate::http2::MeterLimits;

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at once: that a client may open, or that we open on one connection to an endpoint
    /// (`max_concurrent_streams`).
    pub streams: u32,
    /// Bytes that a peer may send on one stream before we take them (`initial_stream_window_size`).
    pub stream_window: u32,
    /// The same of all streams of a connection together (`initial_connection_window_size`).
    pub connection_window: u32,
    /// Bytes of the table that header blocks refer to (`hpack_table_size`).
    pub header_table_bytes: u32,
    /// Whether extended CONNECT is offered, whatever upgrades there are (`allow_connect`).
    pub allows_connect: bool,
    /// Requests of one client's connection; any number where unset, which is the default at the edge, too: load generators
    /// and proxies multiplex for hours, and not all of them come again after a GOAWAY (`max_requests_per_connection`).
    pub requests: Option<u32>,
    /// What a connection may do beside requests.
    pub meter: MeterLimits,
    /// How it is told that a peer is gone.
    pub keepalive: Option<Keepalive>,
}

/// PING frames (`connection_keepalive`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How often; never where unset.
    pub interval: Option<Duration>,
    /// A random part of the interval that is added to it, in percent.
    pub jitter_percent: u32,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Before a request on a connection that was silent for so long.
    pub idle_interval: Option<Duration>,
}

impl Http2Options {
    /// The defaults at the edge.
    pub const INGRESS: Self = Self {
        streams: 100,
        stream_window: 64 << 10,
        connection_window: 1 << 20,
        header_table_bytes: 4 << 10,
        allows_connect: false,
        requests: None,
        meter: MeterLimits::INGRESS,
        keepalive: None,
    };
    /// The defaults beside a service.
    pub const SIDECAR: Self = Self {
        streams: 1_000,
        stream_window: 256 << 10,
        connection_window: 4 << 20,
        meter: MeterLimits::SIDECAR,
        ..Self::INGRESS
    };
    /// The defaults towards endpoints.
    pub const UPSTREAM: Self = Self { streams: 1 << 20, ..Self::SIDECAR };
}

/// What clients of a listener may speak (`codec_type`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codec {
    /// HTTP/1 or HTTP/2, told apart by ALPN or the first bytes.
    #[default]
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// What a cluster's endpoints speak (`upstream_protocol_options`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// Whatever the request came in.
    Downstream,
    /// What the endpoint chooses by ALPN; HTTP/1.1 where it chooses nothing.
    Alpn,
}

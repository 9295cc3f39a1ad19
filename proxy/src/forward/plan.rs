//! What listener, route and cluster together say about a request: how long it may take, and which tunnel it may open.

use std::time::Duration;

use proxy_core::config::{BodyRate, RouteOptions, RouteTimeout, UpstreamProtocol};
use proxy_core::http1::{HeaderId, Limits, Method, RequestHead, ResponseHead};

use super::{Reason, RequestContext};
use crate::grpc_web::Form;
use crate::upstream::Protocol;
use crate::worker::view::ClusterView;

/// What was decided about a request: where it goes and how long that may take.
pub(super) struct Plan<'a> {
    pub(super) cluster: &'a ClusterView,
    pub(super) options: &'a RouteOptions,
    pub(super) timeout: RouteTimeout,
    pub(super) stream_idle: Option<Duration>,
    pub(super) body_idle: Option<Duration>,
    pub(super) body_rate: Option<BodyRate>,
    /// A peer on either side that takes no byte.
    pub(super) write: Option<Duration>,
    pub(super) tunnel_idle: Option<Duration>,
    pub(super) buffer_bytes: usize,
    pub(super) response_limits: Limits,
    /// What the endpoint is spoken to in.
    pub(super) protocol: Protocol,
    /// The request is gRPC-web, and its endpoint speaks gRPC.
    pub(super) web: Option<Form>,
    /// The request asks for a tunnel, and may have one.
    pub(super) tunnel: Option<Tunnel>,
}

/// Which way to a tunnel a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// `Upgrade`, answered by 101.
    Upgrade,
    /// CONNECT, answered by 2xx.
    Connect,
    /// CONNECT that ends here: the endpoint gets the bytes alone.
    Terminated,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        cx: &'a RequestContext<'_>,
        cluster: &'a ClusterView,
        options: &'a RouteOptions,
        request: &RequestHead,
        buffer: &[u8],
    ) -> Self {
        let http = cx.http();
        let timeouts = &http.timeouts;
        let connections = &cluster.table.connections;
        let tunnel = match (request.method, request.upgrade) {
            (Method::Connect, _) if options.terminates_connect => Some(Tunnel::Terminated),
            (Method::Connect, _) => Some(Tunnel::Connect),
            (_, Some(_)) => Some(Tunnel::Upgrade),
            (_, None) => None,
        };
        // gRPC and tunnels last; what nobody limited does not limit them.
        let lasts = request.is_grpc || tunnel.is_some();
        let timeout = match options.timeout {
            RouteTimeout::Default if lasts => RouteTimeout::Never,
            timeout => timeout,
        };
        let body_idle = timeouts.body_idle.filter(|_| !request.is_grpc || timeouts.body_idle_includes_grpc);
        // A route's idle timeout stands for all of the listener's; 0 is any time.
        let idle = |default: Option<Duration>| match options.idle_timeout {
            None => default,
            Some(time) => Some(time).filter(|time| !time.is_zero()),
        };
        let limits = options.limits.as_deref();
        // What the route says of one of them alone stands above that.
        let own = |set: Option<Duration>, default: Option<Duration>| match set {
            None => idle(default),
            Some(time) => Some(time).filter(|time| !time.is_zero()),
        };
        let mut response_limits = http.responses;
        response_limits.head_bytes = connections.response_head_bytes.unwrap_or(response_limits.head_bytes);
        response_limits.line_bytes =
            response_limits.line_bytes.max(connections.response_head_bytes.unwrap_or_default());
        response_limits.headers = connections.response_headers.unwrap_or(response_limits.headers);
        Self {
            cluster,
            options,
            timeout,
            stream_idle: idle(timeouts.stream_idle),
            body_idle: own(limits.and_then(|l| l.body_idle), body_idle),
            body_rate: timeouts.body_rate.filter(|_| !request.is_grpc),
            write: own(limits.and_then(|l| l.write), timeouts.write),
            tunnel_idle: own(limits.and_then(|l| l.tunnel_idle), timeouts.tunnel_idle),
            buffer_bytes: connections.buffer_bytes.unwrap_or(http.buffer_bytes),
            response_limits,
            web: if request.is_grpc && http.bridges_grpc_web { Form::of(buffer, request) } else { None },
            protocol: match connections.protocol {
                // A CONNECT that ends here leaves the endpoint with bytes alone.
                _ if tunnel == Some(Tunnel::Terminated) => Protocol::Http1,
                UpstreamProtocol::Http1 => Protocol::Http1,
                UpstreamProtocol::Http2 => Protocol::Http2,
                UpstreamProtocol::Downstream if cx.stream.is_some() => Protocol::Http2,
                UpstreamProtocol::Downstream => Protocol::Http1,
                UpstreamProtocol::Alpn => Protocol::Alpn,
            },
            tunnel,
        }
    }

    /// Why a request cannot be sent that its endpoint's protocol has no words for.
    pub(super) fn unsayable(&self) -> Reason {
        // Between a browser and gRPC it is the browser's text that cannot be decoded.
        if self.web.is_some() { Reason::MalformedBody } else { Reason::UpstreamProtocol }
    }

    /// Whether `response` is the one that opens the tunnel that was asked for.
    pub(super) fn opens_tunnel(&self, response: &ResponseHead) -> bool {
        match self.tunnel {
            Some(Tunnel::Upgrade) => {
                let names_protocol = || response.headers.iter().any(|line| line.id == HeaderId::Upgrade);
                response.status == 101 && response.upgrades && names_protocol()
            }
            Some(Tunnel::Connect) => (200..300).contains(&response.status),
            Some(Tunnel::Terminated) | None => false,
        }
    }
}

//! The life of a request, top to bottom: normalise, match, admit, pick, send, observe.

mod reason;
mod relay;
mod reply;
mod stall;
mod tunnel;
mod upload;

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_core::access::Record;
use proxy_core::config::{BodyRate, HttpOptions, RouteOptions, RouteTimeout};
use proxy_core::hop;
use proxy_core::http1::{
    BodyReader, HeadError, HeaderId, Limits, Method, Output, RequestEdits, RequestHead, ResponseEdits,
    ResponseFraming, ResponseHead, Version, write_request,
};
use proxy_core::path::{self, Normalized};
use proxy_core::route::{HeadView, NoRoute};
use rand::Rng as _;
use tokio::io::AsyncWriteExt as _;

pub(crate) use reason::Reason;
pub(crate) use reply::local_reply;

use crate::connection::Connection;
use crate::deadline::{Deadlines, Limit};
use crate::exchange::{Exchange, Progress};
use crate::socket::Socket;
use crate::upstream::{Demand, InFlight, Leased, Pool};
use crate::worker::Worker;
use crate::worker::view::{ClusterView, ListenerView, RouteView, View};
use relay::{Received, UploadView};
use stall::Stall;
use tunnel::Carried;

/// How long a response's head may take where nobody said anything, as in Envoy.
const DEFAULT_ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What holds for one request from its start to its end: one snapshot, one listener, one connection.
pub(crate) struct RequestContext<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) connection: &'a Connection,
    pub(crate) view: Rc<View>,
    pub(crate) listener: Rc<ListenerView>,
    /// The first byte.
    pub(crate) started: Instant,
    /// The last byte of the head.
    pub(crate) complete: Instant,
}

impl RequestContext<'_> {
    fn http(&self) -> &HttpOptions {
        self.listener.http()
    }

    const fn deadlines(&self) -> &Deadlines {
        &self.connection.deadlines
    }

    /// Whether the connection ends with this response, whatever the client wants.
    fn connection_shall_end(&self) -> bool {
        let http = self.http();
        let worn_out = http.requests_per_connection.is_some_and(|max| self.connection.requests.get() >= max);
        let old = |max| self.started.saturating_duration_since(self.connection.opened) >= max;
        worn_out || self.worker.is_draining() || http.timeouts.connection.is_some_and(old)
    }

    fn client_stall(&self, time: Option<Duration>) -> Stall<'_> {
        Stall { deadlines: self.deadlines(), limit: Limit::ClientStall, time, rests: Limit::StreamIdle }
    }

    fn upstream_stall(&self, plan: &Plan<'_>) -> Stall<'_> {
        let time = plan.write;
        Stall { deadlines: self.deadlines(), limit: Limit::UpstreamStall, time, rests: Limit::BodyIdle }
    }

    /// The request is whole: from `now` on the response is late.
    fn await_response(&self, plan: &Plan<'_>, now: Instant) {
        let time = match plan.timeout {
            RouteTimeout::Default => Some(DEFAULT_ROUTE_TIMEOUT),
            RouteTimeout::Whole(time) => Some(time),
            RouteTimeout::Never => None,
        };
        self.deadlines().set(Limit::Response, now, time);
        self.deadlines().set(Limit::StreamIdle, now, plan.stream_idle);
    }

    /// In which form a chunked response leaves.
    fn output_for(&self, request: &RequestHead) -> Output {
        match request.version {
            Version::Http10 => Output::Content,
            Version::Http11 if request.takes_trailers || self.http().forwards_trailers => {
                Output::ChunksAndTrailers
            }
            Version::Http11 => Output::Chunks,
        }
    }
}

/// What was decided about a request: where it goes and how long that may take.
struct Plan<'a> {
    cluster: &'a ClusterView,
    options: &'a RouteOptions,
    timeout: RouteTimeout,
    stream_idle: Option<Duration>,
    body_idle: Option<Duration>,
    body_rate: Option<BodyRate>,
    /// A peer on either side that takes no byte.
    write: Option<Duration>,
    tunnel_idle: Option<Duration>,
    buffer_bytes: usize,
    response_limits: Limits,
    /// The request asks for a tunnel, and may have one.
    tunnel: Option<Tunnel>,
}

/// Which way to a tunnel a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    /// `Upgrade`, answered by 101.
    Upgrade,
    /// CONNECT, answered by 2xx.
    Connect,
    /// CONNECT that ends here: the endpoint gets the bytes alone.
    Terminated,
}

impl<'a> Plan<'a> {
    fn new(
        cx: &'a RequestContext<'_>,
        cluster: &'a ClusterView,
        options: &'a RouteOptions,
        request: &RequestHead,
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
            body_idle: idle(body_idle),
            body_rate: timeouts.body_rate.filter(|_| !request.is_grpc),
            write: idle(timeouts.write),
            tunnel_idle: idle(timeouts.tunnel_idle),
            buffer_bytes: connections.buffer_bytes.unwrap_or(http.buffer_bytes),
            response_limits,
            tunnel,
        }
    }

    /// Whether `response` is the one that opens the tunnel that was asked for.
    fn opens_tunnel(&self, response: &ResponseHead) -> bool {
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

/// What is known of a request once it was routed, for the log and the counters.
#[derive(Default)]
struct Routed {
    route: Option<Rc<RouteView>>,
    arm: usize,
    cluster: Option<Rc<ClusterView>>,
    pool: Option<Rc<Pool>>,
}

/// How an exchange with the upstream ended.
struct Finished {
    /// The final status; 0 where none reached the client.
    status: u16,
    /// Why it did not end well.
    failure: Option<Reason>,
    /// Whether the client's connection can serve another request.
    client_reusable: bool,
    /// The response was cut, and its end looks like an end: the connection must break, not close.
    looks_whole: bool,
    /// Bytes of `from_client` that belonged to the request.
    used: usize,
}

/// What the connection does next.
pub(crate) enum Next {
    /// Another request may follow; so many bytes of `from_client` were used. The second is the time at its end.
    Request(usize, Instant),
    /// The client may still be sending and is closed gently.
    Linger,
    /// The client has left, or nothing more is to be said.
    Close,
    /// The client must see that something is missing.
    Abort,
}

/// Serves the request whose head was parsed into `exchange`.
pub(crate) async fn serve(cx: &RequestContext<'_>, client: &mut Socket, exchange: &mut Exchange) -> Next {
    cx.connection.requests.set(cx.connection.requests.get() + 1);
    cx.listener.cells.requests.add(1);
    exchange.answered.clear();
    exchange.progress = Progress { is_timed: cx.listener.wants_phases, ..Progress::default() };
    let mut routed = Routed::default();
    let outcome = {
        let mut work = pin!(exchange_with_upstream(cx, client, exchange, &mut routed));
        cx.deadlines().guard(work.as_mut()).await
    };
    let finished = match outcome {
        Ok(Ok(finished)) => finished,
        Ok(Err(reason)) => return answer(cx, &routed, client, exchange, reason, "").await,
        Err(limit) if !exchange.progress.answering => {
            return answer(cx, &routed, client, exchange, limit.into(), "").await;
        }
        Err(limit) => Finished {
            status: if exchange.progress.answered { exchange.response.status } else { 0 },
            failure: Some(limit.into()),
            client_reusable: false,
            looks_whole: true,
            used: 0,
        },
    };
    cx.deadlines().clear_all();
    let ended = Instant::now();
    let failure = finished.failure;
    observe(cx, &routed, exchange, finished.status, failure, b"", ended);
    match failure {
        None if finished.client_reusable => Next::Request(finished.used, ended),
        None => Next::Linger,
        Some(Reason::ClientGone | Reason::TunnelIdleTimeout) => Next::Close,
        Some(_) if finished.looks_whole => Next::Abort,
        Some(_) => Next::Linger,
    }
}

/// Normalise, match, admit, pick, send. A failure means that nothing was sent to the client yet.
async fn exchange_with_upstream(
    cx: &RequestContext<'_>,
    client: &mut Socket,
    exchange: &mut Exchange,
    routed: &mut Routed,
) -> Result<Finished, Reason> {
    normalize(cx, exchange)?;
    // Before anything is decided: what a stranger may not say must not be matched either.
    add_hop_headers(cx, exchange);
    let (cluster, route) = route(cx, exchange, routed)?;
    let options = &route.compiled().options;
    check_tunnel(cx, exchange, options)?;
    let plan = Plan::new(cx, &cluster, options, &exchange.request);
    let pool = cluster.pick(cx.worker).ok_or(Reason::NoEndpoint)?;
    routed.pool = Some(pool.clone());
    let admitted = InFlight::admit(&pool, &cluster.table, options.priority);
    let _in_flight = admitted.inspect_err(|_| cluster.cells.request_overflows.add(1))?;
    let mut upload = Upload::prepare(cx, exchange, &pool)?;
    set_deadlines(cx, &plan, &upload);
    if plan.tunnel == Some(Tunnel::Terminated) {
        return terminate_connect(cx, &plan, &pool, client, exchange, upload.used).await;
    }
    send(cx, &plan, &pool, client, exchange, &mut upload).await
}

/// What is matched is what is forwarded.
fn normalize(cx: &RequestContext<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
    let Exchange { request, from_client, .. } = exchange;
    let Some(target) = from_client.get_mut(request.path.range()) else { return Ok(()) };
    match path::normalize(target, &cx.http().paths) {
        Ok(Normalized::Same) => Ok(()),
        Ok(Normalized::Changed(length)) => {
            request.path = request.path.prefix(length);
            Ok(())
        }
        Ok(Normalized::Redirect(length)) => {
            request.path = request.path.prefix(length);
            Err(Reason::UnescapedPath)
        }
        Err(_) => Err(Reason::EscapedPath),
    }
}

/// Match, then choose an arm and its cluster.
fn route(
    cx: &RequestContext<'_>,
    exchange: &Exchange,
    routed: &mut Routed,
) -> Result<(Rc<ClusterView>, Rc<RouteView>), Reason> {
    let request = HeadView {
        head: &exchange.request,
        buffer: &exchange.from_client,
        added: &exchange.added,
        default_host: &cx.http().default_host,
    };
    let (number, compiled) = cx.listener.table.find(&request).map_err(|missing| match missing {
        _ if exchange.request.method == Method::Connect => Reason::ConnectRefused,
        NoRoute::NoVirtualHost => Reason::NoVirtualHost,
        NoRoute::NoMatch { .. } => Reason::NoRoute,
    })?;
    let route = cx.listener.route(cx.worker, number, compiled);
    let arm = route.choose(compiled, &request);
    let target = compiled.targets.get(arm).ok_or(Reason::NoRoute)?;
    *routed = Routed { route: Some(route.clone()), arm, ..Routed::default() };
    let cluster = cx.view.cluster(cx.worker, target.slot).ok_or(Reason::NoCluster)?;
    routed.cluster = Some(cluster.clone());
    Ok((cluster, route))
}

/// Upgrades and CONNECT are off unless the listener or the route says otherwise.
fn check_tunnel(cx: &RequestContext<'_>, exchange: &Exchange, options: &RouteOptions) -> Result<(), Reason> {
    let request = &exchange.request;
    let allowed = |protocol| cx.http().allows_upgrade(protocol, &options.upgrades);
    match (request.method, request.upgrade) {
        (Method::Connect, _) if !allowed(b"connect") => Err(Reason::ConnectRefused),
        (_, Some(protocol)) if !allowed(protocol.slice(&exchange.from_client)) => Err(Reason::UpgradeRefused),
        _ => Ok(()),
    }
}

/// Lines that speak about this hop, for the request, and for the response where it answers with them.
fn add_hop_headers(cx: &RequestContext<'_>, exchange: &mut Exchange) {
    let Exchange { request, from_client, added, answered, .. } = exchange;
    let http = cx.http();
    let mut given = None;
    let fresh_id = || {
        let mut rng = cx.worker.rng.borrow_mut();
        *given.insert(hop::request_id(rng.next_u64(), rng.next_u64()))
    };
    hop::apply(&http.hop, &cx.connection.peer.ip, from_client, request, fresh_id, added);
    answered.clear();
    if http.answers_request_id {
        let kept = request.headers.iter().find(|line| line.id == HeaderId::XRequestId && !line.dropped);
        let id = given.as_ref().map(|id| &id[..]).or_else(|| kept.map(|line| line.value.slice(from_client)));
        if let Some(id) = id {
            [b"x-request-id: ", id, b"\r\n"].into_iter().for_each(|part| answered.extend_from_slice(part));
        }
    }
    if !http.hop.via.is_empty() {
        let via = http.hop.via.as_bytes();
        [b"via: ", via, b"\r\n"].into_iter().for_each(|part| answered.extend_from_slice(part));
    }
}

/// How long the exchange may take from here on. Counted from the first byte, which saves a look at the clock.
fn set_deadlines(cx: &RequestContext<'_>, plan: &Plan<'_>, upload: &Upload) {
    let timeouts = &cx.http().timeouts;
    let exchange = match plan.options.exchange {
        None => timeouts.exchange,
        Some(time) => Some(time).filter(|time| !time.is_zero()),
    };
    if exchange.is_some() {
        cx.deadlines().set(Limit::Exchange, cx.started, exchange);
    }
    if upload.sent {
        cx.await_response(plan, cx.complete);
    } else {
        cx.deadlines().set(Limit::Request, cx.started, timeouts.request);
        // Until the body moves: a wait for a connection has an end as well.
        cx.deadlines().set(Limit::StreamIdle, cx.complete, plan.stream_idle);
    }
}

/// The request on its way up: what of its body is at hand, and what is still to come.
struct Upload {
    body: BodyReader,
    /// All of it was written to the upstream, or is part of the first write. (That the reader has seen its end says
    /// nothing: its last piece may still wait.)
    sent: bool,
    /// Bytes of `from_client` that belong to this request.
    used: usize,
}

impl Upload {
    /// Writes the outgoing head, and whatever of the body came with it, into `out`.
    fn prepare(cx: &RequestContext<'_>, exchange: &mut Exchange, pool: &Pool) -> Result<Self, Reason> {
        let Exchange { request, from_client, out, added, progress, .. } = exchange;
        let http = cx.http();
        let output = if http.forwards_trailers { Output::ChunksAndTrailers } else { Output::Chunks };
        let mut body = BodyReader::of_request(request.framing, output, http.chunks);
        let fallback_host = match &*http.default_host {
            "" => pool.endpoint.host().as_bytes(),
            host => host.as_bytes(),
        };
        out.clear();
        write_request(out, from_client, request, &RequestEdits { fallback_host, added });
        let mut used = request.len;
        if request.framing.has_body() {
            let at_hand = &mut from_client[request.len..];
            let relayed = body.relay(at_hand).map_err(|_| Reason::MalformedBody)?;
            out.extend_from_slice(&at_hand[..relayed.kept]);
            out.extend_from_slice(body.tail());
            used += relayed.taken;
        }
        progress.received = body.content_bytes();
        if body.is_done() {
            progress.request_end = Some(cx.complete);
        }
        Ok(Self { sent: body.is_done(), body, used })
    }
}

/// Sends the request and passes the response back.
async fn send(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    pool: &Rc<Pool>,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Finished, Reason> {
    let mut fresh = false;
    loop {
        let leased = acquire(cx, plan, pool, exchange, fresh).await?;
        let reused = leased.reused;
        let replayable = upload.sent;
        match send_on(cx, plan, pool, leased, client, exchange, upload).await {
            // The peer closed an idle connection just as we took it. Nothing came back, so a request that may be
            // repeated, or of which no byte left, goes out once more, on a fresh connection.
            Err(Broken { unanswered: true, untouched, .. })
                if reused && (untouched || (replayable && exchange.request.method.is_idempotent())) =>
            {
                fresh = true;
            }
            Err(broken) => return Err(broken.reason),
            Ok(finished) => return Ok(finished),
        }
    }
}

async fn acquire(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    pool: &Rc<Pool>,
    exchange: &mut Exchange,
    fresh: bool,
) -> Result<Leased, Reason> {
    let cluster = plan.cluster;
    let demand = Demand {
        cluster: &cluster.table,
        priority: plan.options.priority,
        method: exchange.request.method,
        // What goes through a tunnel cannot be sent again.
        fresh: fresh || plan.tunnel.is_some(),
        worker: &cx.worker.cells,
        cells: &cluster.cells,
    };
    exchange.progress.attempts += 1;
    pool.acquire(&demand).await
}

/// An upstream connection failed before the client got anything.
struct Broken {
    reason: Reason,
    /// No byte of a response came.
    unanswered: bool,
    /// No byte of the request left.
    untouched: bool,
}

impl From<Reason> for Broken {
    fn from(reason: Reason) -> Self {
        Self { reason, unanswered: false, untouched: false }
    }
}

async fn send_on(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    pool: &Rc<Pool>,
    leased: Leased,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Finished, Broken> {
    let mut upstream = leased.upstream;
    if let Err(untouched) = write_first(cx, plan, &mut upstream.socket, &exchange.out).await {
        return Err(Broken { reason: Reason::UpstreamReset, unanswered: true, untouched });
    }
    exchange.from_upstream.clear();
    let received = if upload.sent {
        relay::response(cx, plan, &mut upstream.socket, client, exchange, &UploadView::default()).await?
    } else {
        // Both directions at once: the response may come before the body's end. Boxed, as it is rare and large.
        Box::pin(upload::duplex(cx, plan, &mut upstream.socket, client, exchange, upload)).await?
    };
    if received.switched {
        return Ok(tunnel(cx, plan, &mut upstream.socket, client, exchange, upload.used).await);
    }
    let Received { failure, client_reusable, ends_with_close, .. } = received;
    if received.upstream_reusable && upload.sent {
        let now = cx.worker.recent_time();
        pool.put(upstream, received.bodiless, now, &plan.cluster.table, cx.worker.count());
    }
    Ok(Finished {
        status: exchange.response.status,
        failure,
        client_reusable,
        looks_whole: ends_with_close,
        used: upload.used,
    })
}

/// Writes all of `bytes`. The error says whether not even the first byte left.
async fn write_first(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    upstream: &mut Socket,
    bytes: &[u8],
) -> Result<(), bool> {
    let mut left = 0;
    let written = cx.upstream_stall(plan).write_counted(upstream, bytes, &mut left).await;
    written.map_err(|_| left == 0)
}

/// CONNECT that ends here: a connection to the endpoint, then our own 200, then bytes.
async fn terminate_connect(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    pool: &Rc<Pool>,
    client: &mut Socket,
    exchange: &mut Exchange,
    used: usize,
) -> Result<Finished, Reason> {
    let mut leased = acquire(cx, plan, pool, exchange, true).await?;
    exchange.progress.answering = true;
    let opened = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    exchange.progress.answered = opened.is_ok();
    exchange.response.status = 200;
    if opened.is_err() {
        return Err(Reason::ClientGone);
    }
    cx.deadlines().clear_all();
    Ok(tunnel(cx, plan, &mut leased.upstream.socket, client, exchange, used).await)
}

/// Bytes both ways. What the client sent behind its head goes first.
async fn tunnel(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    upstream: &mut Socket,
    client: &mut Socket,
    exchange: &mut Exchange,
    used: usize,
) -> Finished {
    let mut carried = Carried::default();
    let early = &exchange.from_client[used..];
    let begun = cx.upstream_stall(plan).write_all(upstream, early).await;
    carried.up += early.len() as u64;
    let mut limit = None;
    if begun.is_ok() {
        let idle = plan.tunnel_idle;
        // Boxed: rare, and large.
        let mut work =
            Box::pin(tunnel::carry(cx.worker, client, upstream, cx.deadlines(), idle, &mut carried));
        limit = cx.deadlines().guard(work.as_mut()).await.err();
    }
    exchange.progress.received += carried.up;
    exchange.progress.sent += carried.down;
    Finished {
        status: exchange.response.status,
        failure: Some(limit.map_or(Reason::ClientGone, Reason::from)).filter(|_| limit.is_some()),
        client_reusable: false,
        looks_whole: false,
        used,
    }
}

/// Counts and logs.
fn observe(
    cx: &RequestContext<'_>,
    routed: &Routed,
    exchange: &Exchange,
    status: u16,
    failure: Option<Reason>,
    local_body: &[u8],
    ended: Instant,
) {
    let duration = ended.saturating_duration_since(cx.started).as_micros() as u64;
    if let Some(failure) = failure {
        cx.worker.cells.failures[failure as usize].add(1);
        if let Some(cluster) = &routed.cluster {
            cluster.cells.timeouts.add(u64::from(failure == Reason::ResponseTimeout));
        }
    }
    cx.listener.cells.observe(status);
    if let Some(route) = &routed.route {
        route.cells[routed.arm].observe(status, duration);
    }
    if cx.listener.logs.is_empty() {
        return;
    }
    let record = record(cx, routed, exchange, status, failure, duration);
    let record = Record { local_body, ..record };
    cx.listener.logs.iter().for_each(|log| log.write(&record));
}

/// All that can be told of a request.
fn record<'a>(
    cx: &'a RequestContext<'_>,
    routed: &'a Routed,
    exchange: &'a Exchange,
    status: u16,
    failure: Option<Reason>,
    duration: u64,
) -> Record<'a> {
    let Progress { has_response, attempts, received, sent, request_end, response_begin, .. } =
        exchange.progress;
    let target = routed.route.as_ref().map(|route| &route.compiled().targets[routed.arm]);
    let since_start = |at: Instant| at.saturating_duration_since(cx.started).as_micros() as u64;
    let peer = &cx.connection.peer;
    let (head, buffer) = (&exchange.request, exchange.from_client.as_slice());
    Record {
        request: Some((head, buffer)),
        added: &exchange.added,
        response: has_response.then_some((&exchange.response, exchange.from_upstream.as_slice())),
        status,
        route: routed.route.as_ref().map(|route| &*route.compiled().label),
        arm: target.map_or("", |target| target.name.as_str()),
        cluster: target.map_or("", |target| target.cluster.as_str()),
        endpoint: routed.pool.as_ref().map_or("", |pool| &pool.endpoint.label),
        attempts,
        reason: failure.map_or("", Reason::words),
        details: failure.map_or("", Reason::label),
        flag: failure.map_or("", Reason::flag),
        local_body: b"",
        started: cx.worker.unix_micros(cx.started),
        duration,
        request_end: request_end.map(since_start),
        response_begin: response_begin.map(since_start),
        bytes_received: received,
        bytes_sent: sent,
        connection_id: cx.connection.id,
        peer: &peer.ip,
        peer_port: peer.port(),
        client: hop::client_address(&cx.http().hop, &peer.ip, buffer, head),
        local_address: &cx.connection.local,
    }
}

/// Sends a reply of our own. The connection goes on if the request had no body.
async fn answer(
    cx: &RequestContext<'_>,
    routed: &Routed,
    client: &mut Socket,
    exchange: &mut Exchange,
    reason: Reason,
    text: &str,
) -> Next {
    cx.deadlines().clear_all();
    let ended = Instant::now();
    if reason == Reason::ClientGone {
        observe(cx, routed, exchange, 0, Some(reason), b"", ended);
        return Next::Close;
    }
    let head = &exchange.request;
    let (used, method, version) = (head.len, head.method, head.version);
    let keep_alive = head.keep_alive
        && !head.framing.has_body()
        && !cx.connection_shall_end()
        // What follows a request for a tunnel may be meant for the tunnel.
        && head.method != Method::Connect
        && head.upgrade.is_none()
        && reason.leaves_client_in_step();
    let mut out = std::mem::take(&mut exchange.out);
    let date = cx.worker.date();
    let text = if text.is_empty() { reason.words() } else { text };
    // A client that stalled is not answered, only cut off.
    let status = if reason.status() == 0 { 408 } else { reason.status() };
    let (status, sent) = {
        let duration = ended.saturating_duration_since(cx.started).as_micros() as u64;
        let record = record(cx, routed, exchange, status, Some(reason), duration);
        let mut added = exchange.answered.clone();
        if reason == Reason::UnescapedPath {
            let location = head.path.slice(&exchange.from_client);
            [b"location: ", location, b"\r\n"].into_iter().for_each(|part| added.extend_from_slice(part));
        }
        let http = cx.http();
        let edits =
            ResponseEdits { client: version, keep_alive, server: &http.server, date: &date, added: &added };
        local_reply(http, &record, text, method, &edits, &mut out)
    };
    exchange.progress.sent = sent;
    let body = out.len() - (sent as usize).min(out.len());
    observe(cx, routed, exchange, status, Some(reason), &out[body..], ended);
    let stall = cx.client_stall(cx.http().timeouts.write);
    let written = {
        let mut write = pin!(stall.write_all(client, &out));
        cx.deadlines().guard(write.as_mut()).await
    };
    cx.deadlines().clear_all();
    exchange.out = out;
    match written {
        Ok(Ok(())) if keep_alive => Next::Request(used, ended),
        Ok(Ok(())) => Next::Linger,
        Ok(Err(_)) | Err(_) => Next::Close,
    }
}

/// Answers a head that breaks a rule, or did not come in time. Nobody knows where the next request would start, so the
/// connection ends.
pub(crate) async fn refuse(
    cx: &RequestContext<'_>,
    client: &mut Socket,
    exchange: &mut Exchange,
    error: Result<HeadError, Limit>,
) -> Next {
    cx.deadlines().clear_all();
    cx.listener.cells.requests.add(1);
    let (reason, status, text) = match error {
        Ok(error) => (Reason::MalformedHead, error.status(), error.to_string()),
        Err(limit) => {
            (Reason::from(limit), Reason::from(limit).status(), Reason::from(limit).words().to_owned())
        }
    };
    tracing::debug!(text, peer = %cx.connection.peer.ip, "a request was refused");
    cx.worker.cells.failures[reason as usize].add(1);
    cx.listener.cells.observe(status);
    let ended = Instant::now();
    let peer = &cx.connection.peer;
    let record = Record {
        status,
        reason: reason.words(),
        details: reason.label(),
        flag: reason.flag(),
        started: cx.worker.unix_micros(cx.started),
        duration: ended.saturating_duration_since(cx.started).as_micros() as u64,
        connection_id: cx.connection.id,
        peer: &peer.ip,
        peer_port: peer.port(),
        client: &peer.ip,
        local_address: &cx.connection.local,
        ..Record::default()
    };
    let date = cx.worker.date();
    let http = cx.http();
    let upgrade: &[u8] = if status == 426 { b"upgrade: HTTP/1.1\r\n" } else { b"" };
    let edits = ResponseEdits {
        client: Version::Http11,
        keep_alive: false,
        server: &http.server,
        date: &date,
        added: upgrade,
    };
    let (status, sent) = local_reply(http, &record, &text, Method::Get, &edits, &mut exchange.out);
    let body = &exchange.out[exchange.out.len() - sent as usize..];
    let record = Record { status, bytes_sent: sent, local_body: body, ..record };
    cx.listener.logs.iter().for_each(|log| log.write(&record));
    let stall = cx.client_stall(cx.http().timeouts.write);
    let mut write = pin!(stall.write_all(client, &exchange.out));
    match cx.deadlines().guard(write.as_mut()).await {
        Ok(Ok(())) => Next::Linger,
        Ok(Err(_)) | Err(_) => Next::Close,
    }
}

/// Whether the response's end can be told without closing the client's connection.
const fn is_delimited(request: &RequestHead, response: &ResponseHead) -> bool {
    match response.framing {
        ResponseFraming::None | ResponseFraming::Length(_) => true,
        ResponseFraming::Chunked | ResponseFraming::UntilClose => matches!(request.version, Version::Http11),
    }
}

//! The life of a request, top to bottom: match, admit, pick, send, observe.

mod reason;
mod relay;
mod reply;
mod upload;

use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_core::http1::{
    BodyReader, Output, RequestHead, ResponseEdits, ResponseHead, Version, write_request,
};
use proxy_core::route::{NoRoute, RequestView};
use tokio::io::AsyncWriteExt as _;

pub(crate) use reason::Reason;
pub(crate) use reply::local_reply;

use crate::exchange::Exchange;
use crate::socket::Socket;
use crate::telemetry::access_log::Entry;
use crate::upstream::{ConnectError, InFlight, Leased, Pool};
use crate::worker::Worker;
use crate::worker::view::{ClusterView, ListenerView, RouteView, View};

/// A parsed head over its buffer, as routes see it.
struct Request<'a> {
    head: &'a RequestHead,
    buffer: &'a [u8],
}

impl RequestView for Request<'_> {
    fn method(&self) -> &[u8] {
        self.head.method_token.slice(self.buffer)
    }

    fn authority(&self) -> &[u8] {
        self.head.authority.slice(self.buffer)
    }

    fn path(&self) -> &[u8] {
        self.head.path.slice(self.buffer)
    }

    fn header<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.head.headers.iter().filter(move |line| {
            line.name.len() == name.len() && line.name.slice(self.buffer).eq_ignore_ascii_case(name)
        });
        lines.map(|line| line.value.slice(self.buffer))
    }
}

/// What is known of a request once it was routed, for the log and the counters.
#[derive(Default)]
struct Routed {
    route: Option<Rc<RouteView>>,
    arm: usize,
    pool: Option<Rc<Pool>>,
}

/// How an exchange with the upstream ended.
pub(super) struct Finished {
    /// The final status; 0 where none reached the client.
    status: u16,
    /// Why it did not end well.
    failure: Option<Reason>,
    /// Whether the client's connection can serve another request.
    client_reusable: bool,
}

/// What the connection does next.
pub(crate) enum Next {
    /// Another request may follow; so many bytes of `from_client` were used.
    Request(usize),
    /// The connection ends. `gone`: the client has left; otherwise it may still be sending and is closed gently.
    Close { gone: bool },
}

/// Serves the request whose head was parsed into `exchange`.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    listener: usize,
    client: &mut Socket,
    exchange: &mut Exchange,
    started: Instant,
) -> Next {
    // One snapshot from here to the end.
    let view = worker.view();
    let Some(listener) = view.listener(worker, listener) else {
        worker.cells.failures[Reason::ListenerGone as usize].add(1);
        return answer(worker, client, exchange, Reason::ListenerGone).await;
    };
    let mut routed = Routed::default();
    match exchange_with_upstream(worker, &view, &listener, client, exchange, &mut routed).await {
        Ok((finished, used)) => {
            observe(worker, &listener, &routed, exchange, started, &finished);
            match finished {
                Finished { client_reusable: true, .. } => Next::Request(used),
                Finished { failure, .. } => Next::Close { gone: failure == Some(Reason::ClientGone) },
            }
        }
        Err(reason) => {
            let finished =
                Finished { status: reason.status(), failure: Some(reason), client_reusable: false };
            observe(worker, &listener, &routed, exchange, started, &finished);
            answer(worker, client, exchange, reason).await
        }
    }
}

/// Match, choose, pick, send. Returns how it ended and how many bytes of `from_client` it used; a failure means that
/// nothing was sent to the client yet.
async fn exchange_with_upstream(
    worker: &Rc<Worker>,
    view: &View,
    listener: &ListenerView,
    client: &mut Socket,
    exchange: &mut Exchange,
    routed: &mut Routed,
) -> Result<(Finished, usize), Reason> {
    let cluster = route(worker, view, listener, exchange, routed)?;
    let pool = cluster.pick(worker).ok_or(Reason::NoEndpoint)?;
    routed.pool = Some(pool.clone());
    let _in_flight = InFlight::start(&pool);
    let mut upload = Upload::prepare(exchange, &pool)?;
    let timeout = cluster.table.connect_timeout;
    let finished = send(worker, &pool, timeout, client, exchange, &mut upload).await?;
    Ok((finished, upload.used))
}

/// Match, then choose an arm and its cluster.
fn route(
    worker: &Worker,
    view: &View,
    listener: &ListenerView,
    exchange: &Exchange,
    routed: &mut Routed,
) -> Result<Rc<ClusterView>, Reason> {
    let request = Request { head: &exchange.request, buffer: &exchange.from_client };
    let (number, route) = listener.table.find(&request).map_err(|missing| match missing {
        NoRoute::NoVirtualHost => Reason::NoVirtualHost,
        NoRoute::NoMatch { .. } => Reason::NoRoute,
    })?;
    let route_view = listener.route(worker, number, route);
    let arm = route_view.choose(route, &request);
    let target = route.targets.get(arm).ok_or(Reason::NoRoute)?;
    *routed = Routed { route: Some(route_view), arm, pool: None };
    view.cluster(worker, target.slot).ok_or(Reason::NoCluster)
}

/// The request on its way up: what of its body is at hand, and what is still to come.
pub(super) struct Upload {
    body: BodyReader,
    /// All of it was written to the upstream, or is part of the first write. (That the reader has seen its end says
    /// nothing: its last piece may still wait.)
    sent: bool,
    /// Bytes of `from_client` that belong to this request.
    used: usize,
}

impl Upload {
    /// Writes the outgoing head, and whatever of the body came with it, into `out`.
    fn prepare(exchange: &mut Exchange, pool: &Pool) -> Result<Self, Reason> {
        let Exchange { request, from_client, out, .. } = exchange;
        let mut body = BodyReader::of_request(request.framing, Output::Chunks);
        out.clear();
        write_request(out, from_client, request, pool.endpoint.host().as_bytes());
        let mut used = request.len;
        if request.framing.has_body() {
            let at_hand = &mut from_client[request.len..];
            let relayed = body.relay(at_hand).map_err(|_| Reason::MalformedBody)?;
            out.extend_from_slice(&at_hand[..relayed.kept]);
            out.extend_from_slice(body.tail());
            used += relayed.taken;
        }
        Ok(Self { sent: body.is_done(), body, used })
    }
}

/// Sends the request and passes the response back.
async fn send(
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    connect_timeout: Duration,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Finished, Reason> {
    let mut retried = false;
    loop {
        let idle = if retried { None } else { pool.take_idle(exchange.request.method, &worker.cells) };
        let leased = match idle {
            Some(leased) => leased,
            None => pool.connect(connect_timeout, &worker.cells).await.map_err(|error| match error {
                ConnectError::Failed(_) => Reason::ConnectFailed,
                ConnectError::TimedOut => Reason::ConnectTimeout,
            })?,
        };
        let reused = leased.reused;
        let replayable = upload.sent;
        match send_on(worker, pool, leased, client, exchange, upload).await {
            // The peer closed an idle connection just as we took it. Nothing came back, so a request that may be
            // repeated, or of which no byte left, goes out once more, on a fresh connection.
            Err(Broken { unanswered: true, untouched, .. })
                if reused && (untouched || (replayable && exchange.request.method.is_idempotent())) =>
            {
                retried = true;
            }
            Err(broken) => return Err(broken.reason),
            Ok(finished) => return Ok(finished),
        }
    }
}

/// An upstream connection failed before the client got anything.
pub(super) struct Broken {
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
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    leased: Leased,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Finished, Broken> {
    let mut upstream = leased.socket;
    if let Err(untouched) = write_first(&mut upstream, &exchange.out).await {
        return Err(Broken { reason: Reason::UpstreamReset, unanswered: true, untouched });
    }
    exchange.from_upstream.clear();
    exchange.answering = false;
    let received = if upload.sent {
        relay::response(worker, &mut upstream, client, exchange).await?
    } else {
        // Both directions at once: the response may come before the body's end. Boxed, as it is rare and large.
        Box::pin(upload::duplex(worker, &mut upstream, client, exchange, upload)).await?
    };
    if received.upstream_reusable && upload.sent {
        pool.put(upstream, received.bodiless, worker.recent_time());
    }
    Ok(Finished {
        status: received.status,
        failure: received.failure,
        client_reusable: received.client_reusable && upload.sent,
    })
}

/// Writes all of `bytes`. The error says whether not even the first byte left.
async fn write_first(upstream: &mut Socket, bytes: &[u8]) -> Result<(), bool> {
    let first = upstream.write(bytes).await.map_err(|_| true)?;
    if first < bytes.len() {
        upstream.write_all(&bytes[first..]).await.map_err(|_| false)?;
    }
    Ok(())
}

/// Counts and logs.
fn observe(
    worker: &Worker,
    listener: &ListenerView,
    routed: &Routed,
    exchange: &Exchange,
    started: Instant,
    finished: &Finished,
) {
    let duration = started.elapsed();
    if let Some(failure) = finished.failure {
        worker.cells.failures[failure as usize].add(1);
    }
    if let Some(route) = &routed.route {
        route.cells[routed.arm].observe(finished.status, duration.as_micros() as u64);
    }
    let Some(log) = &listener.log else { return };
    let (buffer, head) = (&exchange.from_client, &exchange.request);
    let target = routed.route.as_ref().map(|route| &route.compiled().targets[routed.arm]);
    log.write(&Entry {
        method: head.method_token.slice(buffer),
        authority: head.authority.slice(buffer),
        path: head.path.slice(buffer),
        status: finished.status,
        route: routed.route.as_ref().map(|route| &*route.compiled().label),
        arm: target.map_or("", |t| t.name.as_str()),
        cluster: target.map_or("", |t| t.cluster.as_str()),
        endpoint: routed.pool.as_ref().map_or("", |pool| &pool.endpoint.label),
        reason: finished.failure.map_or("", Reason::words),
        flag: finished.failure.map_or("", Reason::flag),
        duration,
    });
}

/// Sends a reply of our own. The connection goes on if the request had no body.
async fn answer(worker: &Rc<Worker>, client: &mut Socket, exchange: &mut Exchange, reason: Reason) -> Next {
    if reason == Reason::ClientGone {
        return Next::Close { gone: true };
    }
    let head = &exchange.request;
    let has_body = head.framing.has_body();
    let keep_alive = head.keep_alive && !has_body && !worker.is_draining() && reason.leaves_client_in_step();
    let edits = ResponseEdits { client: head.version, keep_alive };
    let used = head.len;
    local_reply(client, &mut exchange.out, reason.status(), reason.words(), edits, head.method).await;
    if keep_alive { Next::Request(used) } else { Next::Close { gone: false } }
}

/// In which form a chunked response leaves.
const fn output_for(request: &RequestHead) -> Output {
    match (request.version, request.takes_trailers) {
        (Version::Http10, _) => Output::Content,
        (Version::Http11, true) => Output::ChunksAndTrailers,
        (Version::Http11, false) => Output::Chunks,
    }
}

/// Whether the response's end can be told without closing the client's connection.
const fn is_delimited(request: &RequestHead, response: &ResponseHead) -> bool {
    use proxy_core::http1::ResponseFraming;
    match response.framing {
        ResponseFraming::None | ResponseFraming::Length(_) => true,
        ResponseFraming::Chunked | ResponseFraming::UntilClose => matches!(request.version, Version::Http11),
    }
}

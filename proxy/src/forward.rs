//! The life of a request, top to bottom: normalise, sanitise, match, admit, pick, send, observe.

mod context;
mod observe;
mod plan;
mod reason;
mod relay;
mod reply;
mod send;
mod stall;
mod tunnel;
mod upload;

use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use proxy_core::config::RouteOptions;
use proxy_core::hop;
use proxy_core::http1::{HeaderId, Method};
use proxy_core::overload::Pressure;
use proxy_core::path::{self, Normalized};
use proxy_core::route::{HeadView, NoRoute};
use rand::Rng as _;

pub(crate) use context::RequestContext;
pub(crate) use reason::Reason;
pub(crate) use reply::refuse;

use crate::deadline::Limit;
use crate::exchange::{Exchange, Progress};
use crate::socket::Socket;
use crate::upstream::{InFlight, Pool};
use crate::worker::view::{ClusterView, RouteView};
use observe::observe;
use plan::{Plan, Tunnel};
use reply::answer;
use send::{Upload, send, terminate_connect};

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
        Ok(Err(reason)) => return answer(cx, &routed, client, exchange, reason).await,
        Err(limit) if !exchange.progress.answering => {
            return answer(cx, &routed, client, exchange, limit.into()).await;
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
    if cx.worker.pressure() == Pressure::Shed {
        return Err(Reason::Overloaded);
    }
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

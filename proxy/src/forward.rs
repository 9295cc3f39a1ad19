//! The life of a request, top to bottom: normalise, sanitise, match, admit, pick, send, observe.

mod connection;
mod context;
mod edits;
mod inject;
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
use std::time::{Duration, Instant};

use proxy_core::config::{Action, Arm, ClusterRef, Forward, RouteOptions};
use proxy_core::grpc;
use proxy_core::hop;
use proxy_core::http1::{HeaderId, Method, RequestHead};
use proxy_core::overload::Pressure;
use proxy_core::path::{self, TargetError};
use proxy_core::route::{Asked, Caller, HeadView, NoRoute, RequestView as _, set_cookie};
use rand::Rng as _;

pub(crate) use connection::carry_connection;
pub(crate) use context::RequestContext;
pub(crate) use reason::Reason;
pub(crate) use reply::refuse;

use crate::deadline::Limit;
use crate::exchange::{Exchange, Progress};
use crate::socket::Socket;
use crate::upstream::{InFlight, Passage, Pool};
use crate::worker::view::{ClusterView, Picked, RouteView};
use observe::observe;
use plan::{Plan, Tunnel};
use reply::{Answer, answer};
use send::{Upload, send, terminate_connect};

/// What is known of a request once it was routed, for the log and the counters.
#[derive(Default)]
struct Routed {
    route: Option<Rc<RouteView>>,
    arm: usize,
    /// The arm that should have taken it, and had no usable endpoint.
    spilled_from: Option<usize>,
    cluster: Option<Rc<ClusterView>>,
    pool: Option<Rc<Pool>>,
    /// What a breaker wants to know the outcome by.
    passage: Option<Passage>,
    /// It was held up on purpose, until then.
    held_until: Option<Instant>,
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
    cx.connection.requests.set(cx.connection.requests.get().saturating_add(1));
    cx.chain.cells.requests.add(1);
    for lines in [&mut exchange.answered, &mut exchange.target, &mut exchange.host] {
        lines.clear();
    }
    exchange.progress = Progress { is_timed: cx.chain.wants_phases, ..Progress::default() };
    let mut routed = Routed::default();
    let outcome = {
        let mut work = pin!(exchange_with_upstream(cx, client, exchange, &mut routed));
        cx.guard(work.as_mut()).await
    };
    let finished = match outcome {
        Ok(Ok(finished)) => finished,
        Ok(Err(local)) => return answer(cx, &routed, client, exchange, local).await,
        Err(limit) if !exchange.progress.answering => {
            return answer(cx, &routed, client, exchange, Reason::from(limit).into()).await;
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
        Some(Reason::ClientGone | Reason::TunnelIdleTimeout | Reason::LifetimeReached) => Next::Close,
        Some(_) if finished.looks_whole => Next::Abort,
        Some(_) => Next::Linger,
    }
}

/// Normalise, match, admit, pick, send. What is answered here means that nothing was sent to the client yet.
async fn exchange_with_upstream(
    cx: &RequestContext<'_>,
    client: &mut Socket,
    exchange: &mut Exchange,
    routed: &mut Routed,
) -> Result<Finished, Answer> {
    if cx.worker.pressure() == Pressure::Shed {
        return Err(Reason::Overloaded.into());
    }
    normalize(cx, exchange)?;
    // Before anything is decided: what a stranger may not say must not be matched either.
    add_hop_headers(cx, exchange);
    let route = find_route(cx, exchange, routed)?;
    let forward = match &route.config().action {
        Action::Forward(forward) => forward,
        Action::Redirect(_) | Action::Respond(_) => return Err(Answer::OfRoute),
    };
    let cluster = choose_arm(cx, exchange, routed, &route, forward)?;
    let options = &forward.options;
    check_tunnel(cx, exchange, options)?;
    if let Some(injection) = options.injection.as_deref().or(cx.http().injection.as_deref()) {
        // Rare, and large: in a box, so that the future of a request stays small.
        Box::pin(inject::inject(cx, injection, exchange, routed, &route, &cluster)).await?;
    }
    let plan = Plan::new(cx, &cluster, options, &exchange.request, &exchange.from_client);
    let labels = forward.split.arms[routed.arm].subset.as_deref();
    let Picked { endpoint, pool, link, passage } = cluster.pick(cx, labels)?;
    (routed.pool, routed.passage) = (Some(pool.clone()), passage);
    let admitted = InFlight::request(&pool, &cluster.table, options.priority);
    let _in_flight = admitted.inspect_err(|_| cluster.cells.request_overflows.add(1))?;
    edits::request(cx, routed, exchange);
    if route.table.host_config(route.compiled()).counts_attempts {
        edits::attempt_count(exchange);
    }
    let hostname = endpoint.map_or("", |endpoint| cluster.table.hostname(endpoint));
    edits::target(routed, forward, hostname, exchange);
    let mut upload = Upload::prepare(cx, &plan, exchange, &pool)?;
    let begun = routed.held_until.unwrap_or(cx.complete);
    set_deadlines(cx, &plan, &upload, &exchange.request, &exchange.from_client, begun);
    if plan.tunnel == Some(Tunnel::Terminated) {
        let tunnel = terminate_connect(cx, &plan, routed, (&pool, &link), client, exchange, upload.used);
        return Ok(Box::pin(tunnel).await?);
    }
    Ok(send(cx, &plan, routed, &pool, &link, client, exchange, &mut upload).await?)
}

/// What is matched is what is forwarded.
fn normalize(cx: &RequestContext<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
    let Exchange { request, from_client, .. } = exchange;
    path::normalize_target(from_client, request, &cx.http().paths).map_err(|error| match error {
        TargetError::Redirect => Reason::UnescapedPath,
        TargetError::Refused(_) => Reason::EscapedPath,
    })
}

/// The request as routes see it.
fn asked<'a>(cx: &'a RequestContext<'_>, exchange: &'a Exchange) -> Asked<'a> {
    let Exchange { request, from_client, added, .. } = exchange;
    let (http, table) = (cx.http(), &cx.chain.table);
    let peer = &cx.connection.peer().ip;
    Asked {
        head: HeadView { head: request, buffer: from_client, added, default_host: &http.default_host },
        caller: Caller {
            address: match table.asks_for_source {
                true => hop::client_address(&http.hop, peer, from_client, request).parse().ok(),
                false => None,
            },
            labels: &cx.view.snapshot.source_labels,
            draw: if table.draws { cx.worker.rng.borrow_mut().next_u64() } else { 0 },
        },
    }
}

fn find_route(
    cx: &RequestContext<'_>,
    exchange: &mut Exchange,
    routed: &mut Routed,
) -> Result<Rc<RouteView>, Answer> {
    let found = cx.chain.table.find(&asked(cx, exchange)).map_err(|missing| match missing {
        NoRoute::TlsRequired => Answer::TlsRequired,
        _ if exchange.request.method == Method::Connect => Reason::ConnectRefused.into(),
        NoRoute::NoVirtualHost => Reason::NoVirtualHost.into(),
        NoRoute::NoMatch { .. } => Reason::NoRoute.into(),
    });
    let (number, compiled) = found?;
    let route = cx.chain.route(cx.worker, number, compiled);
    routed.route = Some(route.clone());
    Ok(route)
}

/// The arm that takes the request, and its cluster.
fn choose_arm(
    cx: &RequestContext<'_>,
    exchange: &mut Exchange,
    routed: &mut Routed,
    route: &RouteView,
    forward: &Forward,
) -> Result<Rc<ClusterView>, Answer> {
    let split = &forward.split;
    let request = asked(cx, exchange);
    let compiled = route.compiled();
    let slot = |arm: usize, config: &Arm| match (&config.cluster, compiled.targets[arm].slot) {
        (_, Some(slot)) => Some(slot),
        (ClusterRef::Header(name), None) => {
            let named =
                request.header(name.as_bytes()).next().and_then(|name| std::str::from_utf8(name).ok());
            named.and_then(|name| cx.view.snapshot.cluster_slot(name))
        }
        (ClusterRef::Name(_), None) => None,
    };
    let usable = |arm: usize| {
        let config = &split.arms[arm];
        let cluster = slot(arm, config).and_then(|slot| cx.view.cluster(cx.worker, slot));
        cluster.is_some_and(|cluster| {
            let (choices, _) = cluster.table.choices.of(config.subset.as_deref());
            !choices.is_empty() && !cluster.breakers.are_shut(choices)
        })
    };
    let taken = route.choose(split, &request, usable);
    let config = &split.arms[taken.arm];
    let cluster = slot(taken.arm, config).and_then(|slot| cx.view.cluster(cx.worker, slot));
    routed.arm = taken.arm;
    routed.spilled_from = taken.spilled_from;
    if let Some(from) = taken.spilled_from {
        route.cells[from].spilled.add(1);
    }
    for user in &taken.cookies {
        // The user belongs to the arm that should have taken it, and comes back when that does.
        set_cookie(split, user, taken.spilled_from.unwrap_or(taken.arm), &mut exchange.answered);
    }
    let cluster = cluster.ok_or(Answer::NoCluster(forward.cluster_not_found))?;
    routed.cluster = Some(cluster.clone());
    Ok(cluster)
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
    hop::apply(&http.hop, cx.connection.as_hop(), from_client, request, fresh_id, added);
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

/// How long a call of gRPC may take, as its client says.
fn grpc_timeout(options: &RouteOptions, request: &RequestHead, buffer: &[u8]) -> Option<Duration> {
    let asked = grpc::parse_timeout(request.header(buffer, b"grpc-timeout")?)?;
    let most = options.grpc_timeout_max.filter(|most| !most.is_zero());
    let allowed = most.map_or(asked, |most| asked.min(most));
    // What the client gives up on is answered in time, where there is any.
    Some(allowed.checked_sub(options.grpc_timeout_offset).filter(|time| !time.is_zero()).unwrap_or(allowed))
}

/// How long the exchange may take from here on. Counted from the first byte, which saves a look at the clock.
fn set_deadlines(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    upload: &Upload,
    request: &RequestHead,
    buffer: &[u8],
    begun: Instant,
) {
    let timeouts = &cx.http().timeouts;
    let exchange = match plan.options.exchange {
        None => timeouts.exchange,
        Some(time) => Some(time).filter(|time| !time.is_zero()),
    };
    // Whichever ends first: what is configured, or what the client gives the call.
    let wanted = if request.is_grpc { grpc_timeout(plan.options, request, buffer) } else { None };
    let exchange = exchange.into_iter().chain(wanted).min();
    if exchange.is_some() {
        cx.deadlines().set(Limit::Exchange, cx.started, exchange);
    }
    if upload.sent {
        cx.await_response(plan, begun);
    } else {
        // Nobody reads from a client whose request is held up.
        let started = if begun > cx.complete { begun } else { cx.started };
        cx.deadlines().set(Limit::Request, started, timeouts.request);
        // Until the body moves: a wait for a connection has an end as well.
        cx.deadlines().set(Limit::StreamIdle, begun, plan.stream_idle);
    }
}

//! A connection as a whole, on its way to an endpoint: split, admitted and picked as a request is, then bytes both ways.

use std::pin::pin;
use std::time::Instant;

use proxy_core::access::Record;
use proxy_core::config::{Action, TcpOptions};
use proxy_core::http1::{Method, parse_request};

use super::observe::record;
use super::plan::{Plan, Tunnel};
use super::reason::Side;
use super::reply::Answer;
use super::tunnel::{self, Carried};
use super::{Reason, RequestContext, Routed, choose_arm, find_route};
use crate::exchange::Exchange;
use crate::socket::Socket;
use crate::telemetry::TcpCells;
use crate::upstream::{Demand, InFlight};

/// What stands for a request where there is none: the only route of a TCP proxy takes everything.
const ANYTHING: &[u8] = b"GET / HTTP/1.1\r\nhost: tcp\r\n\r\n";

/// Carries a connection to its end, and tells of it.
pub(crate) async fn carry_connection(
    cx: &RequestContext<'_>,
    options: TcpOptions,
    client: &mut Socket,
    exchange: &mut Exchange,
    early: &[u8],
) {
    exchange.from_client.clear();
    exchange.from_client.extend_from_slice(ANYTHING);
    if !matches!(parse_request(&exchange.from_client, &cx.http().requests, &mut exchange.request), Ok(true)) {
        return;
    }
    let (mut routed, mut carried) = (Routed::default(), Carried::default());
    let outcome = {
        let mut work = pin!(carry(cx, options, client, exchange, early, &mut routed, &mut carried));
        cx.guard(work.as_mut()).await
    };
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(Answer::Failure(reason))) => Some(reason),
        Ok(Err(Answer::NoCluster(_) | Answer::Aborted(_) | Answer::OfRoute | Answer::TlsRequired)) => {
            Some(Reason::NoCluster)
        }
        Err(limit) => Some(limit.into()),
    };
    cx.deadlines().clear_all();
    if let Some(failure) = failure {
        cx.worker.cells.failures[failure].add(1);
    }
    exchange.progress.received = carried.up;
    exchange.progress.sent = carried.down;
    let duration = Instant::now().saturating_duration_since(cx.started).as_micros() as u64;
    if let Some(route) = &routed.route {
        route.cells[routed.arm].connection(failure.is_none(), carried.up, carried.down);
    }
    count(&cx.chain.cells.tcp, failure, &carried);
    if !cx.chain.logs.is_empty() {
        let record = record(cx, &routed, exchange, 0, failure, duration);
        // There was no request.
        let record = Record { request: None, response: None, added: &[], rewritten: &[], ..record };
        cx.chain.logs.iter().for_each(|log| log.write(&record));
    }
}

fn count(cells: &TcpCells, failure: Option<Reason>, carried: &Carried) {
    cells.connections.add(1);
    cells.received.add(carried.up);
    cells.sent.add(carried.down);
    match failure {
        Some(Reason::NoCluster | Reason::NoRoute) => cells.no_route.add(1),
        Some(Reason::TunnelIdleTimeout) => cells.idle_timeouts.add(1),
        Some(Reason::LifetimeReached) => cells.lifetimes.add(1),
        _ => {}
    }
}

async fn carry(
    cx: &RequestContext<'_>,
    options: TcpOptions,
    client: &mut Socket,
    exchange: &mut Exchange,
    early: &[u8],
    routed: &mut Routed,
    carried: &mut Carried,
) -> Result<(), Answer> {
    cx.bound_lifetime(cx.http().timeouts.connection);
    let route = find_route(cx, exchange, routed)?;
    let Action::Forward(forward) = &route.config().action else { return Err(Reason::NoRoute.into()) };
    let cluster = choose_arm(cx, exchange, routed, &route, forward)?;
    let mut plan = Plan::new(cx, &cluster, &forward.options, &exchange.request, b"");
    plan.tunnel = Some(Tunnel::Terminated);
    let labels = forward.split.arms[routed.arm].subset.as_deref();
    let mut left = options.attempts;
    let (mut leased, _in_flight) = loop {
        left -= 1;
        let picked = cluster.pick(cx, labels)?;
        routed.pool = Some(picked.pool.clone());
        let in_flight = InFlight::connection(&picked.pool);
        let demand = Demand {
            cluster: &cluster.table,
            priority: plan.options.priority,
            method: Method::Connect,
            fresh: true,
            // As in Envoy: nobody reads from a client that waits, which would not be noticed to leave.
            waits: false,
            link: &picked.link,
            protocol: crate::upstream::Protocol::Http1,
            told: cx.connection.addresses(),
            now: cx.worker.recent_time(),
            percent: 0,
            worker: &cx.worker.cells,
            cells: &cluster.cells,
        };
        exchange.progress.attempts += 1;
        let acquired = picked.pool.acquire(&demand).await;
        if let Some(passage) = &picked.passage {
            let failed = match &acquired {
                Ok(_) => Some(false),
                Err(reason) => (reason.side() == Side::Upstream).then_some(true),
            };
            passage.note(failed, Instant::now());
        }
        match acquired {
            Ok(leased) => break (leased, in_flight),
            Err(reason) if left == 0 => return Err(reason.into()),
            Err(_) => {}
        }
    };
    let upstream = &mut leased.upstream.socket;
    let begun = cx.upstream_stall(&plan).write_all(upstream, early).await;
    carried.up += early.len() as u64;
    begun.map_err(|_| Reason::UpstreamReset)?;
    tunnel::carry(cx.worker, client, upstream, cx.deadlines(), plan.tunnel_idle, carried).await;
    Ok(())
}

//! What is counted and logged of a request.

use std::time::Instant;

use proxy_core::access::Record;
use proxy_core::grpc;
use proxy_core::hop;

use super::reason::Side;
use super::{Reason, RequestContext, Routed};
use crate::exchange::{Exchange, Progress};
use crate::telemetry::Lapse;

/// Counts and logs.
pub(super) fn observe(
    cx: &RequestContext<'_>,
    routed: &Routed,
    exchange: &Exchange,
    status: u16,
    failure: Option<Reason>,
    local_body: &[u8],
    ended: Instant,
) {
    let duration = ended.saturating_duration_since(cx.started).as_micros() as u64;
    let lapse = Lapse::of(duration);
    if let Some(failure) = failure {
        cx.worker.cells.failures[failure].add(1);
    }
    match (&routed.cluster, failure) {
        (Some(cluster), None) => cluster.cells.duration.record(lapse),
        (Some(cluster), Some(Reason::ResponseTimeout)) => cluster.cells.timeouts.add(1),
        _ => {}
    }
    if let Some(passage) = &routed.passage {
        passage.note(has_failed(exchange, status, failure), ended);
    }
    cx.chain.cells.observe(status, lapse);
    // Routes that do not forward have cells as well, of one arm without a name.
    if let Some(route) = &routed.route {
        route.cells[routed.arm].observe(status, lapse);
        if exchange.request.is_grpc {
            // A call without a word on how it went went as the failure says, or nobody knows how.
            let status = failure.map(|failure| grpc::status_of(failure.status()));
            let status = exchange.progress.grpc_status.or(status).unwrap_or(2);
            route.cells[routed.arm].grpc(status);
        }
    }
    if cx.chain.logs.is_empty() {
        return;
    }
    let record = record(cx, routed, exchange, status, failure, duration);
    let record = Record { local_body, ..record };
    cx.chain.logs.iter().for_each(|log| log.write(&record));
}

/// Whether a call failed at its endpoint; unset where its end says nothing of that.
fn has_failed(exchange: &Exchange, status: u16, failure: Option<Reason>) -> Option<bool> {
    match failure {
        Some(failure) => (failure.side() == Side::Upstream).then_some(true),
        // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS
        None => Some(status >= 500 || matches!(exchange.progress.grpc_status, Some(2 | 4 | 13 | 14 | 15))),
    }
}

/// All that can be told of a request.
pub(super) fn record<'a>(
    cx: &'a RequestContext<'_>,
    routed: &'a Routed,
    exchange: &'a Exchange,
    status: u16,
    failure: Option<Reason>,
    duration: u64,
) -> Record<'a> {
    let Progress { has_response, attempts, received, sent, request_end, response_begin, .. } =
        exchange.progress;
    let targets = routed.route.as_ref().map_or(&[][..], |route| &route.compiled().targets);
    let target = targets.get(routed.arm);
    let spilled_from = routed.spilled_from.and_then(|arm| targets.get(arm));
    let since_start = |at: Instant| at.saturating_duration_since(cx.started).as_micros() as u64;
    let peer = cx.connection.peer();
    let (head, buffer) = (&exchange.request, exchange.from_client.as_slice());
    Record {
        request: Some((head, buffer)),
        added: &exchange.added,
        rewritten: &exchange.target,
        response: has_response.then_some((&exchange.response, exchange.from_upstream.as_slice())),
        status,
        route: routed.route.as_ref().map(|route| &*route.compiled().label),
        arm: target.map_or("", |target| target.name.as_str()),
        spilled_from: spilled_from.map_or("", |target| target.name.as_str()),
        cluster: match &routed.cluster {
            // What a header named is known by now.
            Some(cluster) => cluster.table.name.as_str(),
            None => target.map_or("", |target| target.cluster.as_str()),
        },
        endpoint: routed.pool.as_ref().map_or("", |pool| &pool.endpoint.label),
        attempts,
        reason: failure.map_or("", Reason::words),
        details: failure.map_or("", Reason::label),
        flag: match failure {
            Some(failure) => failure.flag(),
            None if routed.held_until.is_some() => "DI",
            None => "",
        },
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
        is_http2: cx.stream.is_some(),
        tls: cx.connection.tls_facts(),
    }
}

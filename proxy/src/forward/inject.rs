//! Faults on purpose: requests that are held up, or refused, before anything of them is sent.

use std::time::Instant;

use proxy_core::fault::Injection;
use rand::RngExt as _;

use super::reply::Answer;
use super::{RequestContext, Routed, asked};
use crate::exchange::Exchange;
use crate::worker::view::{ClusterView, RouteView};

/// Holds the request up or refuses it, as chance has it.
pub(super) async fn inject(
    cx: &RequestContext<'_>,
    injection: &Injection,
    exchange: &Exchange,
    routed: &mut Routed,
    route: &RouteView,
    cluster: &ClusterView,
) -> Result<(), Answer> {
    if !injection.concerns(&asked(cx, exchange), &cluster.table.name) {
        return Ok(());
    }
    let draw = || cx.worker.rng.borrow_mut().random_range(0.0..1.0);
    let (was_held, was_refused) = route.faults.get();
    let is_held = injection.delay.is_some_and(|(_, chance)| chance.happens(draw(), was_held));
    let is_refused = injection.abort.is_some_and(|(_, chance)| chance.happens(draw(), was_refused));
    route.faults.set((Some(is_held), Some(is_refused)));
    if let Some((time, _)) = injection.delay.filter(|_| is_held) {
        cx.worker.cells.delays.add(1);
        tokio::time::sleep(time).await;
        routed.held_until = Some(Instant::now());
    }
    if let Some((status, _)) = injection.abort.filter(|_| is_refused) {
        cx.worker.cells.aborts.add(1);
        return Err(Answer::Aborted(status));
    }
    Ok(())
}

//! Connections to one endpoint that carry many streams.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use proxy_core::config::ConnectionOptions;

use super::gate::{Gate, Place};
use super::{Demand, Hold, Leased, Upstream};
use crate::http2::Trunk;

/// Those of one pool.
#[derive(Debug, Default)]
pub(super) struct Trunks(RefCell<Vec<Rc<Shared>>>);

#[derive(Debug)]
struct Shared {
    trunk: Trunk,
    /// Whom the endpoint was told to be served on it, where it was told.
    told: Option<(SocketAddr, SocketAddr)>,
    _place: Place,
}

/// A stream's place on its connection.
#[derive(Debug)]
pub(super) struct StreamPlace {
    shared: Rc<Shared>,
    gate: Rc<Gate>,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.shared.trunk.end_stream();
        self.gate.wake_one();
    }
}

impl Shared {
    /// Whether it takes no more streams; those that are open stay.
    fn is_over(&self, options: &ConnectionOptions, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.trunk.opened);
        self.trunk.is_leaving()
            || options.max_requests.is_some_and(|max| self.trunk.served() >= max)
            || options.max_duration.is_some_and(|max| age >= max)
    }
}

impl Trunks {
    /// A stream of a connection that is there and has room.
    pub(super) fn take(&self, gate: &Rc<Gate>, demand: &Demand<'_>) -> Option<Leased> {
        let options = &demand.cluster.connections;
        let told = demand.told_to_endpoint();
        // Closing gives places back, which wakes others: not while the list is borrowed.
        let mut leaving = Vec::new();
        let shared = {
            let mut trunks = self.0.borrow_mut();
            leaving.extend(trunks.extract_if(.., |shared| shared.is_over(options, demand.now)));
            trunks.iter().find(|shared| shared.told == told && shared.trunk.has_room()).cloned()
        };
        drop(leaving);
        demand.worker.upstream_reuses.add(u64::from(shared.is_some()));
        Some(lease(shared?, gate, true))
    }

    /// Takes a new connection among them. Returns its first stream.
    pub(super) fn add(&self, gate: &Rc<Gate>, demand: &Demand<'_>, trunk: Trunk, place: Place) -> Leased {
        let shared = Rc::new(Shared { trunk, told: demand.told_to_endpoint(), _place: place });
        self.0.borrow_mut().push(shared.clone());
        lease(shared, gate, false)
    }

    /// Lets those go that were idle for too long or take no more streams.
    pub(super) fn sweep(&self, now: Instant, options: &ConnectionOptions) {
        let too_long =
            |since| options.idle_timeout.is_some_and(|most| now.saturating_duration_since(since) >= most);
        let is_over =
            |shared: &Shared| shared.is_over(options, now) || shared.trunk.idle_since().is_some_and(too_long);
        let mut leaving = Vec::new();
        leaving.extend(self.0.borrow_mut().extract_if(.., |shared| is_over(shared)));
    }

    /// Lets all go; streams that are open stay.
    pub(super) fn clear(&self) {
        drop(self.0.take());
    }
}

fn lease(shared: Rc<Shared>, gate: &Rc<Gate>, reused: bool) -> Leased {
    let socket = shared.trunk.stream();
    let (opened, requests) = (shared.trunk.opened, shared.trunk.served());
    let hold = Hold::Stream { _stream: StreamPlace { shared, gate: gate.clone() } };
    Leased { upstream: Upstream { socket, opened, requests, hold }, reused }
}

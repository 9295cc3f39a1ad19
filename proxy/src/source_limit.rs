//! How many connections there may be: in all, and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proxy_core::config::SourceLimit;

use crate::connection::Peer;

/// Open connections of the process, by source. The lock is taken when a connection opens and closes, never by a request.
#[derive(Debug)]
pub(crate) struct Sources {
    limit: usize,
    total: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl Sources {
    /// At most `limit` connections in all.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, total: AtomicUsize::new(0), by_address: Mutex::default() }
    }

    /// A place for one more connection, if there may be one.
    pub(crate) fn admit(self: &Arc<Self>, peer: &Peer, limit: Option<SourceLimit>) -> Option<Admitted> {
        if self.total.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let admitted = Admitted { sources: self.clone(), address: None, counts: true };
        self.count_address(admitted, peer, limit)
    }

    /// A place for a connection that is counted already, under the limit of the client that was told of.
    pub(crate) fn admit_told(self: &Arc<Self>, peer: &Peer, limit: Option<SourceLimit>) -> Option<Admitted> {
        let admitted = Admitted { sources: self.clone(), address: None, counts: false };
        self.count_address(admitted, peer, limit)
    }

    fn count_address(
        &self,
        mut admitted: Admitted,
        peer: &Peer,
        limit: Option<SourceLimit>,
    ) -> Option<Admitted> {
        let (Some(address), Some(limit)) = (peer.ip_address(), limit) else { return Some(admitted) };
        if address.is_loopback() && !limit.includes_loopback {
            return Some(admitted);
        }
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_insert(0);
        if *count >= limit.connections {
            if *count == 0 {
                by_address.remove(&address);
            }
            return None;
        }
        *count += 1;
        drop(by_address);
        admitted.address = Some(address);
        Some(admitted)
    }
}

/// A connection's place, until it closes.
#[derive(Debug)]
pub(crate) struct Admitted {
    sources: Arc<Sources>,
    /// Where it counts against a limit by address.
    address: Option<IpAddr>,
    /// It counts against the limit of all.
    counts: bool,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.sources.total.fetch_sub(usize::from(self.counts), Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut by_address = self.sources.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::of(format!("{address}:1").parse().expect("an address"))
    }

    fn limit(connections: u32, includes_loopback: bool) -> Option<SourceLimit> {
        Some(SourceLimit { connections, includes_loopback })
    }

    #[test]
    fn one_source_has_so_many_connections_and_no_more() {
        let sources = Arc::new(Sources::new(100));
        let first = sources.admit(&peer("192.0.2.1"), limit(2, false)).expect("the first");
        let _second = sources.admit(&peer("192.0.2.1"), limit(2, false)).expect("the second");
        assert!(sources.admit(&peer("192.0.2.1"), limit(2, false)).is_none());
        assert!(sources.admit(&peer("192.0.2.2"), limit(2, false)).is_some(), "another source");
        drop(first);
        assert!(sources.admit(&peer("192.0.2.1"), limit(2, false)).is_some(), "one has closed");
    }

    #[test]
    fn loopback_counts_only_where_somebody_said_so() {
        let sources = Arc::new(Sources::new(100));
        let held: Vec<_> = (0..3).map(|_| sources.admit(&peer("127.0.0.1"), limit(1, false))).collect();
        assert!(held.iter().all(Option::is_some));
        let _one = sources.admit(&peer("127.0.0.1"), limit(1, true)).expect("the first that counts");
        assert!(sources.admit(&peer("127.0.0.1"), limit(1, true)).is_none());
    }

    #[test]
    fn there_are_so_many_in_all_and_refusals_do_not_count() {
        let sources = Arc::new(Sources::new(2));
        let first = sources.admit(&Peer::default(), None).expect("the first");
        let _second = sources.admit(&peer("192.0.2.1"), None).expect("the second");
        (0..5).for_each(|_| assert!(sources.admit(&Peer::default(), None).is_none()));
        drop(first);
        assert!(sources.admit(&Peer::default(), None).is_some());
        assert!(sources.by_address.lock().expect("unpoisoned").is_empty(), "nothing is kept of who left");
    }
}

//! Breakers over the outcomes of calls: one for a cluster or an endpoint, which all workers share and which outlives
//! snapshots. Only calls to clusters that have one meet its lock.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use proxy_core::breaker::{Pass, Window, WindowOptions, WindowState};
use proxy_core::config::{Address, ClusterName};
use proxy_core::lb::Choices;
use proxy_core::snapshot::ClusterTable;

/// Those that anybody holds.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<HashMap<Key, Weak<Breaker>>>);

/// The endpoint, where each has one of its own.
type Key = (ClusterName, Option<Address>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Breaker {
    cluster: ClusterName,
    options: WindowOptions,
    window: Mutex<Window>,
}

/// A call that was let through.
#[derive(Debug)]
pub(crate) struct Passage {
    breaker: Arc<Breaker>,
    /// None once its outcome was told.
    pass: Cell<Option<Pass>>,
}

/// Those of a cluster.
#[derive(Debug)]
pub(crate) enum ClusterBreakers {
    None,
    Whole(Arc<Breaker>),
    /// In the order of its endpoints.
    Each(Box<[Arc<Breaker>]>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Breakers {
    /// Those of a cluster: the ones that are there, unless they are meant otherwise by now.
    pub(crate) fn of(&self, table: &ClusterTable) -> ClusterBreakers {
        let Some(options) = table.cluster.window else { return ClusterBreakers::None };
        let mut all = lock(&self.0);
        all.retain(|_, breaker| breaker.strong_count() > 0);
        let mut of = |address: Option<&Address>| {
            let key = (table.name.clone(), address.cloned());
            let known = all.get(&key).and_then(Weak::upgrade).filter(|known| known.options == options);
            known.unwrap_or_else(|| {
                let breaker =
                    Arc::new(Breaker { cluster: table.name.clone(), options, window: Mutex::default() });
                all.insert(key, Arc::downgrade(&breaker));
                breaker
            })
        };
        match options.is_of_endpoint {
            true => ClusterBreakers::Each(table.endpoints.iter().map(|e| of(Some(&e.address))).collect()),
            false => ClusterBreakers::Whole(of(None)),
        }
    }

    /// How many of each cluster are closed, open and half-open.
    pub(crate) fn states(&self) -> BTreeMap<ClusterName, [u64; 3]> {
        let mut states: BTreeMap<ClusterName, [u64; 3]> = BTreeMap::new();
        for breaker in lock(&self.0).values().filter_map(Weak::upgrade) {
            let state = lock(&breaker.window).state();
            states.entry(breaker.cluster.clone()).or_default()[state as usize] += 1;
        }
        states
    }
}

impl Breaker {
    /// Lets a call through, or not.
    pub(crate) fn try_pass(self: &Arc<Self>, now: Instant) -> Option<Passage> {
        let mut window = lock(&self.window);
        let before = window.state();
        let pass = window.try_pass(&self.options, now)?;
        self.tell(before, window.state());
        Some(Passage { breaker: self.clone(), pass: Cell::new(Some(pass)) })
    }

    fn tell(&self, before: WindowState, after: WindowState) {
        if before != after {
            let cluster = &self.cluster;
            tracing::info!(%cluster, "a circuit breaker was {before:?} and is {after:?}");
        }
    }
}

impl Passage {
    /// An answer has begun. Whether it is one is enough to know of a tunnel, and of a call that decides whether the breaker
    /// closes: either may go on for hours.
    pub(crate) fn begin(&self, failed: bool, is_tunnel: bool, now: Instant) {
        if is_tunnel || lock(&self.breaker.window).state() == WindowState::HalfOpen {
            self.note(Some(failed), now);
        }
    }

    /// Tells what came of the call; nothing where it says nothing of the endpoint.
    pub(crate) fn note(&self, failed: Option<bool>, now: Instant) {
        let Some(pass) = self.pass.take() else { return };
        let mut window = lock(&self.breaker.window);
        let before = window.state();
        match failed {
            Some(failed) => window.note(&self.breaker.options, pass, failed, now),
            None => window.give_back(pass),
        }
        self.breaker.tell(before, window.state());
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            lock(&self.breaker.window).give_back(pass);
        }
    }
}

impl ClusterBreakers {
    /// Whether no call goes through to any of these endpoints.
    pub(crate) fn are_shut(&self, choices: &Choices) -> bool {
        let is_shut =
            |breaker: &Arc<Breaker>| lock(&breaker.window).is_shut(&breaker.options, Instant::now());
        match self {
            Self::None => false,
            Self::Whole(breaker) => is_shut(breaker),
            Self::Each(breakers) => choices.indices().all(|index| is_shut(&breakers[index])),
        }
    }
}

//! The only place that stores a snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proxy_core::snapshot::Snapshot;

use crate::telemetry::Registry;
use crate::worker::{Command, Handle};

/// Swaps snapshots and sees old ones to their end.
pub(crate) struct Publisher {
    snapshots: Arc<ArcSwap<Snapshot>>,
    workers: Vec<Handle>,
    registry: Arc<Registry>,
    /// Snapshots that a request may still hold. They are freed here, never by a worker.
    retired: Vec<Arc<Snapshot>>,
    /// When one was published last, until what it needed was given back.
    published: Option<Instant>,
}

/// After so long without another snapshot, what the last ones needed goes back to the system.
const QUIET: Duration = Duration::from_secs(5);

impl Publisher {
    pub(crate) const fn new(
        snapshots: Arc<ArcSwap<Snapshot>>,
        workers: Vec<Handle>,
        registry: Arc<Registry>,
    ) -> Self {
        Self { snapshots, workers, registry, retired: Vec::new(), published: None }
    }

    /// What is served.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.snapshots.load_full()
    }

    /// Serves `snapshot` from the next request on. Idle workers are woken, so that none holds on to the old one.
    pub(crate) fn publish(&mut self, snapshot: Snapshot) {
        self.registry.set_generation(snapshot.generation);
        self.retired.push(self.snapshots.swap(Arc::new(snapshot)));
        self.workers.iter().for_each(|worker| worker.tell(Command::Refresh));
        self.published = Some(Instant::now());
        self.free_retired();
    }

    /// Frees old snapshots that nobody holds any more.
    pub(crate) fn free_retired(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Whether it is time to give memory back: nothing was published for a while, and all that was retired is free. Once for
    /// each such while.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let is_quiet =
            self.retired.is_empty() && self.published.is_some_and(|published| published.elapsed() >= QUIET);
        if is_quiet {
            self.published = None;
        }
        is_quiet
    }
}

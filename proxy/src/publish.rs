//! The only place that stores a snapshot.

use std::sync::Arc;

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
}

impl Publisher {
    pub(crate) const fn new(
        snapshots: Arc<ArcSwap<Snapshot>>,
        workers: Vec<Handle>,
        registry: Arc<Registry>,
    ) -> Self {
        Self { snapshots, workers, registry, retired: Vec::new() }
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
        self.free_retired();
    }

    /// Frees old snapshots that nobody holds any more.
    pub(crate) fn free_retired(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

//! What all parts of the control plane share: the current version, the history, the fleet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use control_core::ads::Published;
use control_core::fleet::Fleet;
use control_core::ir::{self, Gateway};
use control_core::lower::{Dialect, ResourceSet, lower};
use control_core::model::Objects;
use control_core::version::{History, Version};
use tokio::sync::watch;

/// Shared by the source, the streams and the HTTP port. Locks are held for single updates, never across a wait.
#[derive(Debug)]
pub(crate) struct Hub {
    gateway: Gateway,
    published: watch::Sender<Arc<Published>>,
    history: Mutex<History>,
    fleet: Mutex<Fleet>,
    refusals: Mutex<Refusals>,
}

/// Sources that could not be taken.
#[derive(Debug, Default, Clone)]
pub(crate) struct Refusals {
    /// How many, since the start.
    pub(crate) count: u64,
    /// The last one, until a source was taken after it.
    pub(crate) current: Option<(SystemTime, String)>,
}

/// Resources that were not taken: what was served before is still served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RefusedSource(pub(crate) String);

impl Hub {
    pub(crate) fn new(gateway: Gateway) -> Self {
        Self {
            gateway,
            published: watch::Sender::default(),
            history: Mutex::default(),
            fleet: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// Takes the resources as the next version, or says why not. `None`: they say the same as before.
    pub(crate) fn take(
        &self,
        objects: &Objects,
        author: &str,
        reason: &str,
    ) -> Result<Option<Arc<Version>>, RefusedSource> {
        let refused = |reason: String| RefusedSource(reason);
        // Nothing at all is what a file looks like while it is being written, and what a wrong mount looks like.
        if objects.is_empty() {
            return Err(refused("the source holds no resources".to_owned()));
        }
        let ir = ir::build(objects, self.gateway.clone()).map_err(|e| refused(e.to_string()))?;
        let sets = Dialect::ALL.map(|dialect| lower(&ir, dialect));
        // What says the same in another dialect needs no second look.
        let mut checked: Vec<&ResourceSet> = Vec::new();
        for set in &sets {
            set.check_beside(&checked).map_err(|error| refused(error.to_string()))?;
            checked.push(set);
        }
        self.refusals(|r| r.current = None);
        let appended = self.history(|history| history.append(ir, author, reason, SystemTime::now()));
        if let Some(version) = &appended {
            self.published.send_modify(|published| {
                let mut before = published.sets.iter();
                let sets =
                    sets.map(|set| before.next().map_or_else(ResourceSet::default, |b| set.sharing(b)));
                *published = Arc::new(Published { version: version.number, sets });
            });
        }
        Ok(appended)
    }

    /// Records that a source was refused.
    pub(crate) fn refuse(&self, reason: &RefusedSource) {
        self.refusals(|refusals| {
            refusals.count += 1;
            refusals.current = Some((SystemTime::now(), reason.to_string()));
        });
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    pub(crate) fn fleet<R>(&self, with: impl FnOnce(&mut Fleet) -> R) -> R {
        with(&mut self.fleet.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn history<R>(&self, with: impl FnOnce(&mut History) -> R) -> R {
        with(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn refusals<R>(&self, with: impl FnOnce(&mut Refusals) -> R) -> R {
        with(&mut self.refusals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

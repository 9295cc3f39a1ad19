//! One of several controllers leads: whoever has the key of the election.

#[cfg(any(feature = "etcd", test))]
use super::{Commit, LeaseId, Store, StoreError, Write};
use super::{Compare, Revision};

/// The right to write. Every commit of a leader compares it, so that one that was paused and replaced writes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leadership {
    key: String,
    revision: Revision,
}

impl Leadership {
    /// Holds for as long as nobody else leads.
    pub(crate) fn compare(&self) -> Compare {
        Compare { key: self.key.clone(), modified: self.revision }
    }
}

/// Waits until this candidate leads. It does so for as long as its lease lives.
#[cfg(any(feature = "etcd", test))]
pub(crate) async fn campaign(
    store: &dyn Store,
    election: &str,
    candidate: &str,
    lease: LeaseId,
) -> Result<Leadership, StoreError> {
    let key = format!("leader/{election}");
    loop {
        let seen = store.read(&key).await?;
        if !seen.entries.contains_key(&key) {
            let write = Write::Put(key.clone(), candidate.as_bytes().to_vec(), Some(lease));
            let compares = vec![Compare { key: key.clone(), modified: 0 }];
            match store.commit(Commit { compares, writes: vec![write] }).await {
                Ok(revision) => return Ok(Leadership { key, revision }),
                Err(StoreError::Conflict(_)) => continue,
                Err(error) => return Err(error),
            }
        }
        let mut changes = store.watch(&key, seen.revision).await?;
        while let Some(change) = changes.recv().await {
            if change?.value.is_none() {
                break;
            }
        }
    }
}

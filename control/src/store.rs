//! Where the control plane keeps what must outlive it: a small ordered map with revisions, as etcd has it.
//!
//! ```text
//!   read(prefix) ─► entries at a revision          commit(compares, writes) ─► the next revision, all or nothing
//!   watch(prefix, from) ─► every change after it    grant(ttl) ─► a lease, whose keys go with it
//! ```
//! Three of them: [`Redb`] in a file of one process (or in memory), [`Directory`] over files that people write, which is
//! read-only, and `Etcd` for several controllers (feature `etcd`). One suite of tests runs over all of them.

mod directory;
#[cfg(feature = "etcd")]
mod etcd;
mod leader;
mod redb;
#[cfg(test)]
pub(crate) mod suite;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::async_trait;

pub(crate) use directory::{Directory, Follower};
#[cfg(feature = "etcd")]
pub(crate) use etcd::Etcd;
pub(crate) use leader::Leadership;
#[cfg(any(feature = "etcd", test))]
pub(crate) use leader::campaign;
pub(crate) use redb::Redb;

/// Counts the commits of a store, from 1.
pub(crate) type Revision = u64;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    /// The commit that last wrote it.
    pub(crate) modified: Revision,
}

/// All keys of a prefix at a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) entries: BTreeMap<String, Entry>,
}

/// What must be so, and what is written then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) compares: Vec<Compare>,
    pub(crate) writes: Vec<Write>,
}

/// A key was last written by this commit; 0: it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compare {
    pub(crate) key: String,
    pub(crate) modified: Revision,
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    /// It has this value, until the lease ends if there is one.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// It is not there.
    Delete(String),
}

/// A change that a watcher is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) key: String,
    /// None where it is gone.
    pub(crate) value: Option<Vec<u8>>,
}

/// A promise to come back; what was written with it is gone when nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(pub(crate) i64);

/// Why a store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// A compare does not hold: somebody else was first.
    #[error("{0} was changed by somebody else")]
    Conflict(String),
    /// The changes after that revision are no longer known: read, then watch from there.
    #[error("changes are known from revision {0} on")]
    Compacted(Revision),
    /// The lease has ended.
    #[error("the lease has ended")]
    NoLease,
    /// Nobody writes here.
    #[error("this store is read-only")]
    ReadOnly,
    /// It cannot be reached, or not be written to.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
}

/// Changes in their order; the stream ends with an error if some were lost.
pub(crate) type Changes = mpsc::Receiver<Result<Change, StoreError>>;

/// What is kept.
#[async_trait]
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// All keys of a prefix.
    async fn read(&self, prefix: &str) -> Result<Snapshot, StoreError>;

    /// Writes everything or nothing. What it says to have written outlives the process.
    async fn commit(&self, commit: Commit) -> Result<Revision, StoreError>;

    /// Every change of a prefix after a revision, without a gap.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError>;

    /// A lease of this length.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// The lease's time begins anew.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// The lease ends, and what was written with it is gone.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

/// Changes that may wait for one slow watcher; it is told that it lost some beyond that.
const WATCH_QUEUE: usize = 1_024;

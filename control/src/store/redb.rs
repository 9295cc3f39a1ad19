//! The store of one process: a redb file, or memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use tokio::sync::{mpsc, watch};
use tonic::async_trait;

use super::{
    Change, Changes, Commit, Compare, Entry, LeaseId, Revision, Snapshot, Store, StoreError, WATCH_QUEUE,
    Write,
};

/// A value, the commit that wrote it, and its lease (0: none).
type Row<'a> = (u64, i64, &'a [u8]);

const ENTRIES: TableDefinition<'_, &str, Row<'_>> = TableDefinition::new("entries");
/// A key and its value; none where it is gone.
type Event<'a> = (&'a str, Option<&'a [u8]>);
/// By revision and place in its commit.
const EVENTS: TableDefinition<'_, (u64, u64), Event<'_>> = TableDefinition::new("events");
/// Length in milliseconds.
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
/// Which keys were written with a lease.
const LEASED: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("leased");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Revisions whose changes are kept for watchers.
const KEPT: u64 = 4_096;
/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(100);

/// The store of one process. Cheap to copy.
#[derive(Debug, Clone)]
pub(crate) struct Redb {
    database: Arc<Database>,
    revision: watch::Sender<Revision>,
    leases: Arc<Mutex<BTreeMap<LeaseId, Lease>>>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

impl Redb {
    /// The store in a file, which is made if it is not there. One process has it at a time.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let place = |error: String| StoreError::Unavailable(format!("{}: {error}", path.display()));
        let database = Database::create(path).map_err(|error| place(error.to_string()))?;
        Self::over(database)
    }

    /// A store that ends with the process.
    pub(crate) fn in_memory() -> Result<Self, StoreError> {
        Self::over(Database::builder().create_with_backend(InMemoryBackend::new()).map_err(unavailable)?)
    }

    fn over(database: Database) -> Result<Self, StoreError> {
        let write = database.begin_write().map_err(unavailable)?;
        let now = Instant::now();
        let (revision, leases) = {
            write.open_table(ENTRIES).map_err(unavailable)?;
            write.open_table(EVENTS).map_err(unavailable)?;
            write.open_table(LEASED).map_err(unavailable)?;
            let meta = write.open_table(META).map_err(unavailable)?;
            let revision = meta.get("revision").map_err(unavailable)?.map_or(0, |value| value.value());
            let leases = write.open_table(LEASES).map_err(unavailable)?;
            let mut found = BTreeMap::new();
            // Nobody could come back while nobody was here: each begins anew.
            for row in leases.iter().map_err(unavailable)? {
                let (id, ttl) = row.map_err(unavailable)?;
                let ttl = Duration::from_millis(ttl.value());
                found.insert(LeaseId(id.value()), Lease { ttl, ends: now + ttl });
            }
            (revision, found)
        };
        write.commit().map_err(unavailable)?;
        let leases = Arc::new(Mutex::new(leases));
        Ok(Self { database: Arc::new(database), revision: watch::Sender::new(revision), leases })
    }

    /// Ends leases whose time is over, for as long as somebody has the store.
    pub(crate) async fn end_leases(self) {
        loop {
            tokio::time::sleep(TICK).await;
            let now = Instant::now();
            let over: Vec<_> = self.leases(|leases| {
                leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect()
            });
            for lease in over {
                if let Err(error) = self.revoke(lease).await {
                    tracing::warn!(%error, "a lease could not be ended");
                }
            }
        }
    }

    fn leases<R>(&self, with: impl FnOnce(&mut BTreeMap<LeaseId, Lease>) -> R) -> R {
        with(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Work that waits for a disk, on a thread where nobody else waits for it.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(unavailable)?
    }

    fn commit_now(&self, commit: &Commit) -> Result<Revision, StoreError> {
        let transaction = self.database.begin_write().map_err(unavailable)?;
        let revision = match write(&transaction, commit) {
            Ok(revision) => revision,
            Err(error) => {
                transaction.abort().map_err(unavailable)?;
                return Err(error);
            }
        };
        transaction.commit().map_err(unavailable)?;
        self.advance(revision);
        Ok(revision)
    }

    /// Tells watchers.
    fn advance(&self, revision: Revision) {
        self.revision.send_if_modified(|current| {
            let is_new = revision > *current;
            *current = revision.max(*current);
            is_new
        });
    }

    /// Changes after a revision, and the last one that was looked at.
    fn changes_after(&self, prefix: &str, from: Revision) -> Result<(Revision, Vec<Change>), StoreError> {
        let read = self.database.begin_read().map_err(unavailable)?;
        let events = read.open_table(EVENTS).map_err(unavailable)?;
        let oldest = events.first().map_err(unavailable)?.map(|(key, _)| key.value().0);
        if let Some(oldest) = oldest.filter(|oldest| *oldest > from + 1 && *oldest > 1) {
            return Err(StoreError::Compacted(oldest));
        }
        let (mut last, mut changes) = (from, Vec::new());
        for row in events.range((from + 1, 0)..).map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            let revision = key.value().0;
            let (key, value) = value.value();
            last = revision;
            if key.starts_with(prefix) {
                changes.push(Change { revision, key: key.to_owned(), value: value.map(<[u8]>::to_vec) });
            }
        }
        Ok((last, changes))
    }
}

/// Within one transaction.
fn write(transaction: &WriteTransaction, commit: &Commit) -> Result<Revision, StoreError> {
    let mut entries = transaction.open_table(ENTRIES).map_err(unavailable)?;
    let mut events = transaction.open_table(EVENTS).map_err(unavailable)?;
    let mut meta = transaction.open_table(META).map_err(unavailable)?;
    for Compare { key, modified } in &commit.compares {
        let found = entries.get(key.as_str()).map_err(unavailable)?.map_or(0, |row| row.value().0);
        if found != *modified {
            return Err(StoreError::Conflict(key.clone()));
        }
    }
    let revision = meta.get("revision").map_err(unavailable)?.map_or(0, |value| value.value()) + 1;
    let leases = transaction.open_table(LEASES).map_err(unavailable)?;
    for (place, change) in (0..).zip(&commit.writes) {
        match change {
            Write::Put(key, value, lease) => {
                if let Some(LeaseId(id)) = lease
                    && leases.get(id).map_err(unavailable)?.is_none()
                {
                    return Err(StoreError::NoLease);
                }
                if let Some(LeaseId(id)) = lease {
                    let mut leased = transaction.open_table(LEASED).map_err(unavailable)?;
                    leased.insert((*id, key.as_str()), ()).map_err(unavailable)?;
                }
                let row = (revision, lease.map_or(0, |LeaseId(id)| id), value.as_slice());
                entries.insert(key.as_str(), row).map_err(unavailable)?;
                events
                    .insert((revision, place), (key.as_str(), Some(value.as_slice())))
                    .map_err(unavailable)?;
            }
            Write::Delete(key) => {
                if entries.remove(key.as_str()).map_err(unavailable)?.is_some() {
                    events.insert((revision, place), (key.as_str(), None)).map_err(unavailable)?;
                }
            }
        }
    }
    if let Some(forgotten) = revision.checked_sub(KEPT) {
        events.retain_in(..(forgotten, 0), |_, _| false).map_err(unavailable)?;
    }
    meta.insert("revision", revision).map_err(unavailable)?;
    Ok(revision)
}

#[async_trait]
impl Store for Redb {
    async fn read(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |store| {
            let read = store.database.begin_read().map_err(unavailable)?;
            let meta = read.open_table(META).map_err(unavailable)?;
            let revision = meta.get("revision").map_err(unavailable)?.map_or(0, |value| value.value());
            let entries = read.open_table(ENTRIES).map_err(unavailable)?;
            let mut snapshot = Snapshot { revision, entries: BTreeMap::new() };
            for row in entries.range(prefix.as_str()..).map_err(unavailable)? {
                let (key, value) = row.map_err(unavailable)?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                let (modified, _, value) = value.value();
                snapshot.entries.insert(key.value().to_owned(), Entry { value: value.to_vec(), modified });
            }
            Ok(snapshot)
        })
        .await
    }

    async fn commit(&self, commit: Commit) -> Result<Revision, StoreError> {
        self.blocking(move |store| store.commit_now(&commit)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        let prefix = prefix.to_owned();
        let mut revisions = self.revision.subscribe();
        let (first, wanted) = (prefix.clone(), from);
        let (mut last, mut pending) = self.blocking(move |store| store.changes_after(&first, wanted)).await?;
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let store = self.clone();
        tokio::spawn(async move {
            loop {
                for change in pending.drain(..) {
                    if sender.send(Ok(change)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = revisions.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let (prefix, from) = (prefix.clone(), last);
                match store.blocking(move |store| store.changes_after(&prefix, from)).await {
                    Ok((seen, changes)) => (last, pending) = (seen, changes),
                    Err(error) => {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self
            .blocking(move |store| {
                let transaction = store.database.begin_write().map_err(unavailable)?;
                let id = {
                    let mut meta = transaction.open_table(META).map_err(unavailable)?;
                    let last = meta.get("lease").map_err(unavailable)?.map_or(0, |value| value.value());
                    meta.insert("lease", last + 1).map_err(unavailable)?;
                    let mut leases = transaction.open_table(LEASES).map_err(unavailable)?;
                    let id = i64::try_from(last + 1).map_err(unavailable)?;
                    let millis = u64::try_from(ttl.as_millis()).map_err(unavailable)?;
                    leases.insert(id, millis).map_err(unavailable)?;
                    LeaseId(id)
                };
                transaction.commit().map_err(unavailable)?;
                Ok(id)
            })
            .await?;
        self.leases(|leases| leases.insert(lease, Lease { ttl, ends: Instant::now() + ttl }));
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases(|leases| {
            let lease = leases.get_mut(&lease).filter(|lease| lease.ends > Instant::now());
            let lease = lease.ok_or(StoreError::NoLease)?;
            lease.ends = Instant::now() + lease.ttl;
            Ok(())
        })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases(|leases| leases.remove(&lease));
        self.blocking(move |store| {
            let transaction = store.database.begin_write().map_err(unavailable)?;
            let held: Vec<String> = {
                transaction.open_table(LEASES).map_err(unavailable)?.remove(lease.0).map_err(unavailable)?;
                let mut leased = transaction.open_table(LEASED).map_err(unavailable)?;
                let mine = leased.range((lease.0, "")..(lease.0 + 1, "")).map_err(unavailable)?;
                let mine: Vec<String> =
                    mine.filter_map(Result::ok).map(|(key, _)| key.value().1.to_owned()).collect();
                for key in &mine {
                    leased.remove((lease.0, key.as_str())).map_err(unavailable)?;
                }
                let entries = transaction.open_table(ENTRIES).map_err(unavailable)?;
                // What has another lease by now is that one's.
                let is_held = |key: &String| {
                    entries.get(key.as_str()).ok().flatten().is_some_and(|row| row.value().1 == lease.0)
                };
                mine.into_iter().filter(is_held).collect()
            };
            if held.is_empty() {
                return transaction.commit().map_err(unavailable);
            }
            let writes = held.into_iter().map(Write::Delete).collect();
            let revision = write(&transaction, &Commit { compares: Vec::new(), writes })?;
            transaction.commit().map_err(unavailable)?;
            store.advance(revision);
            Ok(())
        })
        .await
    }
}

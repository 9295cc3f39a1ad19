//! Who wanted what, and whether it was done: a chain of records, each with the hash of the one before.
//!
//! What changes something is recorded in the commit that changes it. What was refused is recorded off the request's path.
//! Whoever wants the records elsewhere gets them from here, and loses none while it is away.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::{Commit, Compare, Revision, Store, StoreError, Write};
use crate::tokens::hex;

pub(crate) const PREFIX: &str = "audit/";
const HEAD: &str = "audit-head";
const SENT: &str = "audit-sent";
/// Records are kept this long.
const KEPT: Duration = Duration::from_secs(180 * 24 * 3_600);
/// How often the sink is tried.
const TICK: Duration = Duration::from_millis(500);
/// Ticks after which old records are looked for.
const FORGET_EVERY: u64 = 7_200;

/// What somebody wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    /// The request's id, which its response carries as `x-request-id`.
    pub(crate) trace_id: String,
    /// Who.
    pub(crate) operator: String,
    /// What, such as `PUT HTTPRoute shop`.
    pub(crate) action: String,
    /// The namespace; empty where the whole is meant.
    pub(crate) target_env: String,
    /// What came of it, and why it was wanted.
    pub(crate) details: String,
}

/// An event in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Record {
    /// Counts up from 1.
    pub(crate) number: u64,
    /// RFC 3339.
    pub(crate) timestamp: String,
    #[serde(flatten)]
    pub(crate) event: Event,
    /// The hash of the record before; empty in the first one.
    pub(crate) previous: String,
    /// SHA-256 over the record without this field.
    pub(crate) hash: String,
}

impl Record {
    fn new(number: u64, previous: String, event: Event, now: SystemTime) -> Self {
        let timestamp = humantime::format_rfc3339_millis(now).to_string();
        let mut record = Self { number, timestamp, event, previous, hash: String::new() };
        record.hash = record.computed();
        record
    }

    fn computed(&self) -> String {
        let unsigned = Self { hash: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&unsigned).unwrap_or_default();
        hex(digest(&SHA256, &text).as_ref())
    }
}

/// Whether each record is what it was, and follows the one before. The first one follows what is no longer kept.
///
/// # Errors
/// The first that is not.
pub(crate) fn verify(records: &[Record]) -> Result<(), u64> {
    let mut previous: Option<&Record> = None;
    for record in records {
        let follows = previous.is_none_or(|p| record.number == p.number + 1 && record.previous == p.hash);
        if !follows || record.hash != record.computed() {
            return Err(record.number);
        }
        previous = Some(record);
    }
    Ok(())
}

/// The last record, where it is not the one that was last written.
pub(crate) async fn missing(
    store: &dyn Store,
    after: u64,
    records: &[Record],
) -> Result<Option<u64>, StoreError> {
    let chain = Chain::load(store).await?;
    let last = records.last().map_or((after, None), |record| (record.number, Some(&record.hash)));
    // What came since the records were read is no gap.
    let is_whole = chain.number > last.0 || last.1.is_none_or(|hash| *hash == chain.hash);
    let is_cut = chain.number > last.0 && records_after(store, last.0).await? == 0;
    Ok((!is_whole || is_cut).then_some(last.0 + 1))
}

async fn records_after(store: &dyn Store, number: u64) -> Result<usize, StoreError> {
    records(store, number).await.map(|records| records.len())
}

/// The end of the chain.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    number: u64,
    hash: String,
    /// The commit that last wrote it.
    head: Revision,
}

impl Chain {
    pub(crate) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let found = store.read(HEAD).await?;
        let Some(entry) = found.entries.get(HEAD) else { return Ok(Self::default()) };
        let (number, hash) = serde_json::from_slice(&entry.value)
            .map_err(|error| StoreError::Unavailable(format!("the audit's end cannot be read: {error}")))?;
        Ok(Self { number, hash, head: entry.modified })
    }

    /// What to write so that the events are the next records, and what must be so.
    pub(crate) fn next(&self, events: Vec<Event>, now: SystemTime) -> (Self, Compare, Vec<Write>) {
        let mut writes = Vec::with_capacity(events.len() + 1);
        let (mut number, mut hash) = (self.number, self.hash.clone());
        for event in events {
            number += 1;
            let record = Record::new(number, hash, event, now);
            hash = record.hash.clone();
            let value = serde_json::to_vec(&record).unwrap_or_default();
            writes.push(Write::Put(format!("{PREFIX}{number:020}"), value, None));
        }
        let head = serde_json::to_vec(&(number, &hash)).unwrap_or_default();
        writes.push(Write::Put(HEAD.to_owned(), head, None));
        let compare = Compare { key: HEAD.to_owned(), modified: self.head };
        (Self { number, hash, head: 0 }, compare, writes)
    }

    /// The commit was made.
    pub(crate) const fn written(&mut self, revision: Revision) {
        self.head = revision;
    }
}

/// The records after a number.
pub(crate) async fn records(store: &dyn Store, after: u64) -> Result<Vec<Record>, StoreError> {
    let found = store.read(PREFIX).await?;
    let first = format!("{PREFIX}{:020}", after + 1);
    let entries = found.entries.range(first..);
    Ok(entries.filter_map(|(_, entry)| serde_json::from_slice(&entry.value).ok()).collect())
}

/// Writes records to a file, a line of JSON each, and forgets those that are too old. What could not be written is written
/// later.
pub(crate) async fn deliver(store: std::sync::Arc<dyn Store>, file: Option<PathBuf>) {
    let mut was_refused = false;
    for tick in 0_u64.. {
        tokio::time::sleep(TICK).await;
        let done = async {
            if let Some(file) = &file {
                send(&*store, file).await?;
            }
            if tick.is_multiple_of(FORGET_EVERY) {
                forget(&*store, SystemTime::now()).await?;
            }
            Ok::<_, StoreError>(())
        };
        match done.await {
            Ok(()) => was_refused = false,
            Err(error) if !was_refused => {
                tracing::warn!(%error, "audit records wait to be delivered");
                was_refused = true;
            }
            Err(_) => {}
        }
    }
}

async fn send(store: &dyn Store, file: &PathBuf) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", file.display()));
    let sent = store.read(SENT).await?;
    let sent = sent.entries.get(SENT).and_then(|entry| String::from_utf8_lossy(&entry.value).parse().ok());
    if Chain::load(store).await?.number == sent.unwrap_or(0) {
        return Ok(());
    }
    let records = records(store, sent.unwrap_or(0)).await?;
    let Some(last) = records.last().map(|record| record.number) else { return Ok(()) };
    let mut lines = Vec::new();
    for record in &records {
        lines.extend(serde_json::to_vec(record).unwrap_or_default());
        lines.push(b'\n');
    }
    let mut open = std::fs::OpenOptions::new().create(true).append(true).open(file).map_err(failed)?;
    open.write_all(&lines).and_then(|()| open.sync_data()).map_err(failed)?;
    let writes = vec![Write::Put(SENT.to_owned(), last.to_string().into_bytes(), None)];
    store.commit(Commit { compares: Vec::new(), writes }).await.map(drop)
}

/// Records that are older than they must be are gone; the chain begins with what is kept.
async fn forget(store: &dyn Store, now: SystemTime) -> Result<(), StoreError> {
    let Some(limit) = now.checked_sub(KEPT) else { return Ok(()) };
    let limit = humantime::format_rfc3339_millis(limit).to_string();
    let old: Vec<Write> = records(store, 0)
        .await?
        .into_iter()
        .take_while(|record| record.timestamp < limit)
        .take(100)
        .map(|record| Write::Delete(format!("{PREFIX}{:020}", record.number)))
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    store.commit(Commit { compares: Vec::new(), writes: old }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str) -> Event {
        Event {
            trace_id: "1".to_owned(),
            operator: "ann".to_owned(),
            action: action.to_owned(),
            target_env: "default".to_owned(),
            details: String::new(),
        }
    }

    async fn append(store: &dyn Store, chain: &mut Chain, action: &str, now: SystemTime) {
        let (mut next, compare, writes) = chain.next(vec![event(action)], now);
        next.written(store.commit(Commit { compares: vec![compare], writes }).await.expect("written"));
        *chain = next;
    }

    #[tokio::test]
    async fn a_record_that_was_changed_or_left_out_is_found() {
        let store = crate::store::Redb::in_memory().expect("a store");
        let mut chain = Chain::default();
        for action in ["one", "two", "three"] {
            append(&store, &mut chain, action, SystemTime::now()).await;
        }
        let again = Chain::load(&store).await.expect("read");
        assert_eq!((again.number, &again.hash, again.head), (3, &chain.hash, chain.head));
        let whole = records(&store, 0).await.expect("read");
        assert_eq!(verify(&whole), Ok(()));
        assert_eq!(verify(&whole[1..]), Ok(()), "what is no longer kept is not missed");
        let mut changed = whole.clone();
        changed[1].event.operator = "bob".to_owned();
        assert_eq!(verify(&changed), Err(2));
        let without = [whole[0].clone(), whole[2].clone()];
        assert_eq!(verify(&without), Err(3));
    }

    #[tokio::test]
    async fn a_sink_that_was_away_gets_everything_once() {
        let store = crate::store::Redb::in_memory().expect("a store");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("away/audit.jsonl");
        let mut chain = Chain::default();
        append(&store, &mut chain, "one", SystemTime::now()).await;
        assert!(send(&store, &file).await.is_err());
        append(&store, &mut chain, "two", SystemTime::now()).await;
        std::fs::create_dir(folder.path().join("away")).expect("made");
        for _ in 0..2 {
            send(&store, &file).await.expect("it is back");
        }
        let lines = std::fs::read_to_string(&file).expect("written");
        let lines: Vec<Record> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.iter().map(|l| l.event.action.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[tokio::test]
    async fn records_are_kept_for_180_days() {
        let store = crate::store::Redb::in_memory().expect("a store");
        let mut chain = Chain::default();
        let now = SystemTime::now();
        let days = |days: u64| now - Duration::from_secs(days * 24 * 3_600);
        for (action, age) in [("old", 181), ("young", 179)] {
            append(&store, &mut chain, action, days(age)).await;
        }
        forget(&store, now).await.expect("forgotten");
        let kept = records(&store, 0).await.expect("read");
        assert_eq!(kept.iter().map(|r| r.event.action.as_str()).collect::<Vec<_>>(), ["young"]);
        assert_eq!(verify(&kept), Ok(()));
    }
}

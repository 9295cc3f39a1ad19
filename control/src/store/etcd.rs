//! The store of several controllers: etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{
    Client, Compare as Condition, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions,
    PutOptions, Txn, TxnOp, WatchOptions,
};
use tokio::sync::mpsc;
use tonic::async_trait;

use super::{
    Change, Changes, Commit, Entry, LeaseId, Revision, Snapshot, Store, StoreError, WATCH_QUEUE, Write,
};

/// Keys of several control planes lie in one etcd under different prefixes.
#[derive(Clone)]
pub(crate) struct Etcd {
    client: Client,
    prefix: String,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The largest answer that is read.
const MOST: usize = 1 << 30;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Revisions count from 1 in etcd as well; what it has as an `i64` is never below 0.
fn revision(number: i64) -> Revision {
    u64::try_from(number).unwrap_or(0)
}

fn wire(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

impl Etcd {
    pub(crate) async fn connect(endpoints: &[String], prefix: &str) -> Result<Self, StoreError> {
        let options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
        let client = Client::connect(endpoints, Some(options)).await.map_err(unavailable)?;
        Ok(Self { client, prefix: prefix.to_owned() })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn own(&self, key: &[u8]) -> Option<String> {
        std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix).map(str::to_owned)
    }
}

#[async_trait]
impl Store for Etcd {
    async fn read(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let mut client = self.client.kv_client().max_decoding_message_size(MOST);
        let options = GetOptions::new().with_prefix();
        let response = client.get(self.key(prefix), Some(options)).await.map_err(unavailable)?;
        let entry = |kv: &etcd_client::KeyValue| {
            let entry = Entry { value: kv.value().to_vec(), modified: revision(kv.mod_revision()) };
            Some((self.own(kv.key())?, entry))
        };
        let entries: BTreeMap<_, _> = response.kvs().iter().filter_map(entry).collect();
        Ok(Snapshot { revision: response.header().map_or(0, |header| revision(header.revision())), entries })
    }

    async fn commit(&self, commit: Commit) -> Result<Revision, StoreError> {
        let condition = |compare: &super::Compare| {
            Condition::mod_revision(self.key(&compare.key), CompareOp::Equal, wire(compare.modified))
        };
        let operation = |write: &Write| match write {
            Write::Put(key, value, lease) => {
                let options = lease.map(|LeaseId(id)| PutOptions::new().with_lease(id));
                TxnOp::put(self.key(key), value.clone(), options)
            }
            Write::Delete(key) => TxnOp::delete(self.key(key), None::<DeleteOptions>),
        };
        let transaction = Txn::new()
            .when(commit.compares.iter().map(condition).collect::<Vec<_>>())
            .and_then(commit.writes.iter().map(operation).collect::<Vec<_>>());
        let mut client = self.client.clone();
        let response = client.txn(transaction).await.map_err(|error| {
            let text = error.to_string();
            if text.contains("lease not found") { StoreError::NoLease } else { StoreError::Unavailable(text) }
        })?;
        if response.succeeded() {
            return Ok(response.header().map_or(0, |header| revision(header.revision())));
        }
        // Which of the compares it was, etcd does not say.
        for compare in &commit.compares {
            let found = client.get(self.key(&compare.key), None).await.map_err(unavailable)?;
            let modified = found.kvs().first().map_or(0, |kv| revision(kv.mod_revision()));
            if modified != compare.modified {
                return Err(StoreError::Conflict(compare.key.clone()));
            }
        }
        Err(StoreError::Conflict(commit.compares.first().map(|c| c.key.clone()).unwrap_or_default()))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        let mut client = self.client.clone();
        let options = WatchOptions::new().with_prefix().with_start_revision(wire(from + 1));
        let mut stream = client.watch(self.key(prefix), Some(options)).await.map_err(unavailable)?;
        // The first message says that the watch is there, or that its past is gone.
        let first = stream.message().await.map_err(unavailable)?;
        if let Some(first) = first.filter(|first| first.compact_revision() > 0 || first.canceled()) {
            return Err(StoreError::Compacted(revision(first.compact_revision())));
        }
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let store = self.clone();
        tokio::spawn(async move {
            // The client is kept: the stream ends with it.
            let _client = client;
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    () = sender.closed() => return,
                };
                let events = match message {
                    Ok(Some(message)) if message.canceled() => {
                        let lost = StoreError::Compacted(revision(message.compact_revision()));
                        let _ = sender.send(Err(lost)).await;
                        return;
                    }
                    Ok(Some(message)) => message,
                    Ok(None) => return,
                    Err(error) => {
                        let _ = sender.send(Err(unavailable(error))).await;
                        return;
                    }
                };
                for event in events.events() {
                    let Some(kv) = event.kv() else { continue };
                    let Some(key) = store.own(kv.key()) else { continue };
                    let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
                    let change = Change { revision: revision(kv.mod_revision()), key, value };
                    if sender.send(Ok(change)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // Whole seconds: a part of one counts as one.
        let seconds = i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(i64::MAX);
        let mut client = self.client.clone();
        let response = client.lease_grant(seconds, None).await.map_err(unavailable)?;
        Ok(LeaseId(response.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client.clone();
        let (mut keeper, mut answers) = client.lease_keep_alive(lease.0).await.map_err(|error| {
            let text = error.to_string();
            // What etcd's client says of a lease that has ended.
            if text.contains("not found") { StoreError::NoLease } else { StoreError::Unavailable(text) }
        })?;
        keeper.keep_alive().await.map_err(unavailable)?;
        match answers.message().await.map_err(unavailable)? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            _ => Err(StoreError::NoLease),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client.clone();
        match client.lease_revoke(lease.0).await {
            Ok(_) => Ok(()),
            Err(error) if error.to_string().contains("not found") => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}

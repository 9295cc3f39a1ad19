//! Instances that register themselves, and are gone when nobody hears of them.

use std::sync::Arc;
use std::time::Duration;

use control_core::registry::{Instance, Instances};
use serde::{Deserialize, Serialize};

use crate::hub::{Hub, Refused};
use crate::store::{Commit, LeaseId, Store, StoreError, Write};

const PREFIX: &str = "instances/";
/// What is waited before the store is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// An instance as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    instance: Instance,
    lease: i64,
}

fn key(namespace: &str, service: &str, id: &str) -> String {
    format!("{PREFIX}{namespace}/{service}/{id}")
}

fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Registers an instance, or says something else of it. It is there for as long as somebody says so within `ttl`.
pub(crate) async fn register(
    store: &dyn Store,
    namespace: &str,
    service: &str,
    instance: Instance,
    ttl: Duration,
) -> Result<(), StoreError> {
    let before = kept(store, namespace, service, &instance.id).await?;
    let lease = store.grant(ttl).await?;
    let key = key(namespace, service, &instance.id);
    let value = serde_json::to_vec(&Kept { instance, lease: lease.0 }).map_err(unreadable)?;
    let writes = vec![Write::Put(key, value, Some(lease))];
    store.commit(Commit { compares: Vec::new(), writes }).await?;
    // Its key has another lease now, so that this takes nothing away.
    if let Some(before) = before {
        store.revoke(LeaseId(before.lease)).await?;
    }
    Ok(())
}

/// An instance is still there. False: it was gone, and must register anew.
pub(crate) async fn heartbeat(
    store: &dyn Store,
    namespace: &str,
    service: &str,
    id: &str,
) -> Result<bool, StoreError> {
    let Some(kept) = kept(store, namespace, service, id).await? else { return Ok(false) };
    match store.keep_alive(LeaseId(kept.lease)).await {
        Ok(()) => Ok(true),
        Err(StoreError::NoLease) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An instance goes. False: it was not there.
pub(crate) async fn deregister(
    store: &dyn Store,
    namespace: &str,
    service: &str,
    id: &str,
) -> Result<bool, StoreError> {
    let Some(kept) = kept(store, namespace, service, id).await? else { return Ok(false) };
    store.revoke(LeaseId(kept.lease)).await.map(|()| true)
}

async fn kept(
    store: &dyn Store,
    namespace: &str,
    service: &str,
    id: &str,
) -> Result<Option<Kept>, StoreError> {
    let key = key(namespace, service, id);
    let found = store.read(&key).await?;
    found.entries.get(&key).map(|entry| serde_json::from_slice(&entry.value).map_err(unreadable)).transpose()
}

/// Everyone who is there, and the revision at which that is so.
pub(crate) async fn all(store: &dyn Store) -> Result<(u64, Instances), StoreError> {
    let snapshot = store.read(PREFIX).await?;
    let mut instances = Instances::new();
    for (key, entry) in snapshot.entries {
        let mut parts = key.strip_prefix(PREFIX).unwrap_or_default().splitn(3, '/');
        let (Some(namespace), Some(service)) = (parts.next(), parts.next()) else { continue };
        let Ok(kept) = serde_json::from_slice::<Kept>(&entry.value) else { continue };
        instances.entry((namespace.to_owned(), service.to_owned())).or_default().push(kept.instance);
    }
    Ok((snapshot.revision, instances))
}

/// Lets the hub know who is there, for as long as the process lives.
pub(crate) async fn follow(hub: Arc<Hub>) {
    loop {
        if let Err(error) = follow_once(&hub).await {
            tracing::warn!(%error, "instances are looked at again");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn follow_once(hub: &Hub) -> Result<(), Refused> {
    let (revision, instances) = all(&*hub.store).await?;
    let mut changes = hub.store.watch(PREFIX, revision).await?;
    hub.set_instances(instances).await?;
    let mut pending = Vec::new();
    // All that came together is one change.
    while changes.recv_many(&mut pending, 1_024).await > 0 {
        for change in pending.drain(..) {
            change?;
        }
        hub.set_instances(all(&*hub.store).await?.1).await?;
    }
    Ok(())
}

//! Several controllers over one etcd: one leads and takes changes, the others serve what it wrote.

use std::sync::Arc;
use std::time::Duration;

use crate::hub::{Hub, Refused};
use crate::journal::VERSIONS;
use crate::store::{LeaseId, StoreError, campaign};

/// How long a leader may be silent before another one takes its place.
const LEASE: Duration = Duration::from_secs(5);
const ELECTION: &str = "control";

/// Serves what other controllers write, for as long as the process lives.
pub(crate) async fn follow(hub: Arc<Hub>) {
    loop {
        if let Err(error) = follow_once(&hub).await {
            tracing::warn!(%error, "what others write is looked at again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn follow_once(hub: &Hub) -> Result<(), Refused> {
    let revision = hub.store.read(VERSIONS).await?.revision;
    let mut changes = hub.store.watch(VERSIONS, revision).await?;
    hub.catch_up().await?;
    let mut pending = Vec::new();
    while changes.recv_many(&mut pending, 64).await > 0 {
        for change in pending.drain(..) {
            change?;
        }
        hub.catch_up().await?;
    }
    Ok(())
}

/// Leads whenever nobody else does, for as long as the process lives.
pub(crate) async fn lead(hub: Arc<Hub>, name: String) {
    hub.lead(None).await;
    loop {
        if let Err(error) = lead_once(&hub, &name).await {
            tracing::warn!(%error, "leads no more");
        }
        hub.lead(None).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Leads until the lease has ended.
async fn lead_once(hub: &Hub, name: &str) -> Result<(), Refused> {
    let lease = hub.store.grant(LEASE).await?;
    let lead = async {
        let leadership = campaign(&*hub.store, ELECTION, name, lease).await?;
        // What the last leader wrote comes before what this one writes.
        hub.catch_up().await?;
        hub.lead(Some(leadership)).await;
        tracing::info!(name, "leads");
        std::future::pending::<Result<(), Refused>>().await
    };
    tokio::select! {
        ended = keep_alive(hub, lease) => Err(ended.into()),
        failed = lead => failed,
    }
}

/// Until the lease has ended.
async fn keep_alive(hub: &Hub, lease: LeaseId) -> StoreError {
    loop {
        tokio::time::sleep(LEASE / 4).await;
        if let Err(error) = hub.store.keep_alive(lease).await {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use control_core::ir::ImplicitGateway;
    use control_core::model::{Backend, BackendSpec, Kind, Metadata, Object};
    use control_core::version::Edit;
    use proxy_core::config::Address;

    use super::*;
    use crate::hub::{Done, Wanted};
    use crate::store::suite::etcd;

    struct Controller {
        hub: Arc<Hub>,
        tasks: Vec<tokio::task::JoinHandle<()>>,
    }

    impl Controller {
        async fn start(server: &etcd::Server, name: &str) -> Self {
            let store = etcd::connect(server, "weir/").await;
            let address = Address::Socket(([127, 0, 0, 1], 80).into());
            let gateway = ImplicitGateway { address, access_log: None };
            let (hub, _events) = Hub::open(gateway, Arc::new(store)).await.expect("opened");
            let tasks =
                vec![tokio::spawn(follow(hub.clone())), tokio::spawn(lead(hub.clone(), name.to_owned()))];
            Self { hub, tasks }
        }

        /// Its process is gone: its lease is no longer kept.
        fn kill(self) -> Arc<Hub> {
            self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
            self.hub
        }
    }

    async fn put(hub: &Arc<Hub>, name: &str) -> Result<Done, Refused> {
        let backend: Backend =
            Object::new(Kind::Backend, Metadata::named("default", name), BackendSpec::default());
        let wanted = Wanted {
            edits: vec![Edit::Put(Arc::new(backend.into()))],
            author: "a".to_owned(),
            reason: String::new(),
            expected: Vec::new(),
            event: None,
            beside: Vec::new(),
            is_dry_run: false,
        };
        hub.change(wanted).await
    }

    /// Until one of them takes the change.
    async fn put_at_leader(hubs: &[&Arc<Hub>], name: &str) -> usize {
        for _ in 0..600 {
            for (i, hub) in hubs.iter().enumerate() {
                if put(hub, name).await.is_ok() {
                    return i;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody leads");
    }

    fn number(hub: &Hub) -> u64 {
        hub.state().catalog.current().map_or(0, |version| version.number)
    }

    async fn until(hub: &Hub, expected: u64) {
        let mut states = hub.states();
        let is_so = states.wait_for(|state| state.catalog.current().is_some_and(|v| v.number >= expected));
        let waited = tokio::time::timeout(Duration::from_secs(20), is_so).await.is_ok();
        assert!(waited, "it has {}, not {expected}", number(hub));
    }

    #[tokio::test]
    async fn one_leads_all_serve_and_a_dead_leader_has_one_successor() {
        let Some(server) = etcd::start() else { return };
        let (one, other) =
            (Controller::start(&server, "one").await, Controller::start(&server, "other").await);
        let leader = put_at_leader(&[&one.hub, &other.hub], "v1").await;
        let (leading, following) = if leader == 0 { (one, other) } else { (other, one) };
        until(&following.hub, 1).await;
        assert!(following.hub.state().catalog.objects() == leading.hub.state().catalog.objects());
        let refused = put(&following.hub, "v2").await.map(drop);
        assert!(matches!(refused, Err(Refused::Store(StoreError::Unavailable(_)))), "{refused:?}");

        // The old leader is paused, and believes that it leads; the next one writes, and the old one cannot.
        let paused = leading.kill();
        put_at_leader(&[&following.hub], "v2").await;
        assert_eq!(number(&following.hub), 2);
        let late = put(&paused, "v3").await.map(drop);
        assert!(matches!(late, Err(Refused::Store(StoreError::Conflict(_)))), "{late:?}");
        assert_eq!(number(&following.hub), 2);
        following.kill();
    }
}

//! What all parts of the control plane share: the resources and their versions, what is published, the fleet.
//!
//! ```text
//!   change ─► propose ─► build ─► lower ─► check ─► commit ─► publish
//! ```
//! One change at a time goes this way; nobody who reads waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use control_core::ads::Published;
use control_core::fleet::{Fleet, Report};
use control_core::ir::{Built, ImplicitGateway, Inputs, ObjectStatus, build_after};
use control_core::lower::{Dialect, Lowering};
use control_core::model::{Kind, ObjectKey, Objects};
use control_core::preview::Preview;
use control_core::registry::Instances;
use control_core::version::{Catalog, Edit, Proposal, Version};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, watch};

use crate::audit::{self, Chain};
use crate::journal::{Contents, Journal};
use crate::registry;
use crate::store::{Commit, Leadership, Store, StoreError, Write};

/// Shared by everything. Locks are held for single updates, never across a wait.
#[derive(Debug)]
pub(crate) struct Hub {
    gateway: ImplicitGateway,
    pub(crate) store: Arc<dyn Store>,
    state: watch::Sender<Arc<State>>,
    published: watch::Sender<Arc<Published>>,
    writer: tokio::sync::Mutex<Writer>,
    fleet: Mutex<Fleet>,
    refusals: Mutex<Refusals>,
    flow: broadcast::Sender<FlowEvent>,
    /// Events that are recorded off the path of their request.
    audit: mpsc::UnboundedSender<audit::Event>,
}

/// What is so now.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) catalog: Catalog,
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) instances: Arc<Instances>,
    /// What the newest version wrote.
    pub(crate) contents: Arc<Contents>,
}

/// What resources mean, and how that is sent.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    built: Built,
    lowering: Lowering,
}

impl Compiled {
    /// What became of each resource.
    pub(crate) fn statuses(&self) -> &BTreeMap<ObjectKey, ObjectStatus> {
        &self.built.statuses
    }

    /// What is not as it should be with these, a sentence each.
    pub(crate) fn complaints(&self, of: &Contents) -> Vec<String> {
        let known = of.iter().filter_map(|(key, _)| Some((key, self.built.statuses.get(key)?)));
        known
            .flat_map(|(key, status)| status.complaints().map(move |text| format!("{key}: {text}")))
            .collect()
    }

    /// As one of Weir's proxies has it.
    ///
    /// # Errors
    /// It would refuse it.
    pub(crate) fn preview(&self, now: Instant) -> Result<Preview<'_>, String> {
        Preview::new(&self.built.ir, self.lowering.set(Dialect::Weir), now)
    }
}

/// What only one may do at a time.
#[derive(Debug)]
struct Writer {
    journal: Journal,
    chain: Chain,
    leadership: Option<Leadership>,
    /// Somebody else leads.
    is_follower: bool,
}

/// Sources that could not be taken.
#[derive(Debug, Default, Clone)]
pub(crate) struct Refusals {
    /// How many, since the start.
    pub(crate) count: u64,
    /// The last one, until a source was taken after it.
    pub(crate) current: Option<(SystemTime, String)>,
    /// Resources that say something else than the source does.
    pub(crate) drift: Vec<ObjectKey>,
}

/// Resources that were not taken: what was served before is still served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RefusedSource(pub(crate) String);

/// A change that somebody wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) edits: Vec<Edit>,
    pub(crate) author: String,
    pub(crate) reason: String,
    /// Versions that last changed these; 0: they are not there.
    pub(crate) expected: Vec<(ObjectKey, u64)>,
    /// What the audit is to say; nothing is recorded of what a source brings without one.
    pub(crate) event: Option<audit::Event>,
    /// What else is written with it.
    pub(crate) beside: Vec<Write>,
    /// Only look what it would be.
    pub(crate) is_dry_run: bool,
}

/// What came of a change.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// The version that it made, or would make; none where nothing is different.
    pub(crate) version: Option<Arc<Version>>,
    /// What is not as it should be with what it wrote, a sentence each.
    pub(crate) warnings: Vec<String>,
}

/// What a flow rule did at a proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FlowEvent {
    /// RFC 3339.
    pub(crate) time: String,
    pub(crate) namespace: String,
    pub(crate) rule: String,
    /// The proxy.
    pub(crate) node: String,
    /// Requests that the rule took since the proxy's last report.
    pub(crate) requests: u64,
}

/// Events that wait for one slow reader.
const FLOW_EVENTS: usize = 1_024;

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Somebody else was first.
    #[error("{key} was last changed by version {current}, not {expected}")]
    Stale { key: ObjectKey, expected: u64, current: u64 },
    /// A proxy would refuse it.
    #[error("{0}")]
    Invalid(String),
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Hub {
    /// With what the store knows. What is to be recorded comes out of the receiver.
    pub(crate) async fn open(
        gateway: ImplicitGateway,
        store: Arc<dyn Store>,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<audit::Event>), StoreError> {
        let (journal, catalog) = Journal::load(&*store).await?;
        let chain = Chain::load(&*store).await?;
        let (_, instances) = registry::all(&*store).await?;
        let compiled = compile(&gateway, catalog.objects(), &instances, &Compiled::default())
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let state = State {
            catalog,
            compiled: Arc::new(compiled),
            instances: Arc::new(instances),
            contents: Arc::default(),
        };
        let (audit, events) = mpsc::unbounded_channel();
        let hub = Self {
            gateway,
            store,
            published: watch::Sender::default(),
            writer: tokio::sync::Mutex::new(Writer { journal, chain, leadership: None, is_follower: false }),
            fleet: Mutex::default(),
            refusals: Mutex::default(),
            flow: broadcast::Sender::new(FLOW_EVENTS),
            audit,
            state: watch::Sender::new(Arc::new(state)),
        };
        hub.publish();
        Ok((Arc::new(hub), events))
    }

    /// What is so now.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// The state, now and from now on.
    pub(crate) fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Makes a change, or says why not. Whoever wanted it may have gone: what was begun is done.
    pub(crate) async fn change(self: &Arc<Self>, wanted: Wanted) -> Result<Done, Refused> {
        let hub = self.clone();
        let done = tokio::spawn(async move {
            let done = hub.change_now(wanted.clone()).await;
            match &done {
                // What is in the store is not what is here: somebody else wrote it, or an answer was lost.
                Err(Refused::Store(StoreError::Conflict(_) | StoreError::Unavailable(_))) => {
                    hub.catch_up().await?;
                    if matches!(done, Err(Refused::Store(StoreError::Conflict(_)))) {
                        return hub.change_now(wanted).await;
                    }
                    done
                }
                _ => done,
            }
        });
        done.await.map_err(|error| Refused::Store(StoreError::Unavailable(error.to_string())))?
    }

    async fn change_now(&self, wanted: Wanted) -> Result<Done, Refused> {
        let mut writer = self.writer.lock().await;
        if writer.is_follower {
            let reason = "another controller leads, and takes changes".to_owned();
            return Err(StoreError::Unavailable(reason).into());
        }
        let state = self.state();
        for (key, expected) in &wanted.expected {
            let current = state.catalog.modified(key).unwrap_or(0);
            if current != *expected {
                return Err(Refused::Stale { key: key.clone(), expected: *expected, current });
            }
        }
        let now = SystemTime::now();
        let proposal = state.catalog.propose(wanted.edits, &wanted.author, &wanted.reason, now);
        let Some(proposal) = proposal else {
            if let Some(event) = wanted.event.filter(|_| !wanted.is_dry_run) {
                self.record(event);
            }
            if !wanted.beside.is_empty() {
                self.store.commit(Commit { compares: Vec::new(), writes: wanted.beside }).await?;
            }
            return Ok(Done { version: None, warnings: Vec::new() });
        };
        let compiled = self.compile(&proposal.objects, &state.instances, &state)?;
        let warnings = compiled.complaints(&proposal.written);
        let done = Done { version: Some(proposal.version.clone()), warnings };
        if wanted.is_dry_run {
            return Ok(done);
        }
        self.commit(&mut writer, &proposal, wanted.event, wanted.beside, now).await?;
        let mut next = State {
            catalog: state.catalog.clone(),
            compiled: Arc::new(compiled),
            instances: state.instances.clone(),
            contents: Arc::new(proposal.written.clone()),
        };
        next.catalog.accept(proposal);
        self.state.send_replace(Arc::new(next));
        self.publish();
        Ok(done)
    }

    /// What would be served with these edits.
    ///
    /// # Errors
    /// A proxy would refuse it.
    pub(crate) fn would_be(&self, edits: Vec<Edit>) -> Result<(Contents, Compiled), Refused> {
        let state = self.state();
        let proposal = state.catalog.propose(edits, "", "", SystemTime::now());
        let (objects, written) = match proposal {
            Some(proposal) => (proposal.objects, proposal.written),
            None => (state.catalog.objects().clone(), Contents::new()),
        };
        let compiled = self.compile(&objects, &state.instances, &state)?;
        Ok((written, compiled))
    }

    async fn commit(
        &self,
        writer: &mut Writer,
        proposal: &Proposal,
        event: Option<audit::Event>,
        mut writes: Vec<Write>,
        now: SystemTime,
    ) -> Result<(), Refused> {
        let mut compares = Vec::new();
        compares.extend(writer.leadership.as_ref().map(Leadership::compare));
        let chain = event.map(|mut event| {
            event.details = format!("version {}; {}", proposal.version.number, event.details);
            let (chain, compare, records) = writer.chain.next(vec![event], now);
            compares.push(compare);
            writes.extend(records);
            chain
        });
        let revision = writer.journal.append(&*self.store, proposal, compares, writes).await?;
        if let Some(mut chain) = chain {
            chain.written(revision);
            writer.chain = chain;
        }
        Ok(())
    }

    /// Another set of instances, which is no version: nobody wrote it.
    pub(crate) async fn set_instances(&self, instances: Instances) -> Result<(), Refused> {
        let _one_at_a_time = self.writer.lock().await;
        let state = self.state();
        if *state.instances == instances {
            return Ok(());
        }
        let compiled = Arc::new(self.compile(state.catalog.objects(), &instances, &state)?);
        let next = State { compiled, instances: Arc::new(instances), ..(*state).clone() };
        self.state.send_replace(Arc::new(next));
        self.publish();
        Ok(())
    }

    /// Takes the versions that are in the store and not here: another controller's, or one whose answer was lost.
    pub(crate) async fn catch_up(&self) -> Result<(), Refused> {
        let mut writer = self.writer.lock().await;
        let state = self.state();
        let mut next = (*state).clone();
        writer.journal.catch_up(&*self.store, &mut next.catalog).await?;
        writer.chain = Chain::load(&*self.store).await?;
        let number = next.catalog.current().map_or(0, |version| version.number);
        if number == state.catalog.current().map_or(0, |version| version.number) {
            return Ok(());
        }
        next.compiled = Arc::new(self.compile(next.catalog.objects(), &next.instances, &state)?);
        if let Some((_, contents)) = Journal::version(&*self.store, number).await? {
            next.contents = Arc::new(contents);
        }
        self.state.send_replace(Arc::new(next));
        self.publish();
        Ok(())
    }

    /// Every commit compares it from now on. None: somebody else leads, and nothing is written here.
    #[cfg(feature = "etcd")]
    pub(crate) async fn lead(&self, leadership: Option<Leadership>) {
        let mut writer = self.writer.lock().await;
        writer.leadership = leadership;
        writer.is_follower = writer.leadership.is_none();
    }

    /// To be recorded, some time soon.
    pub(crate) fn record(&self, event: audit::Event) {
        let _ = self.audit.send(event);
    }

    /// Records what comes, for as long as the process lives. While the store cannot be written to, it waits.
    pub(crate) async fn keep_records(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<audit::Event>) {
        let mut waiting = Vec::new();
        // Etcd takes 128 operations in a commit.
        while events.recv_many(&mut waiting, 64).await > 0 {
            while let Err(error) = self.write_records(&waiting).await {
                tracing::warn!(%error, waiting = waiting.len(), "audit records wait for the store");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            waiting.clear();
        }
    }

    async fn write_records(&self, events: &[audit::Event]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let (mut chain, compare, writes) = writer.chain.next(events.to_vec(), SystemTime::now());
        match self.store.commit(Commit { compares: vec![compare], writes }).await {
            Ok(revision) => {
                chain.written(revision);
                writer.chain = chain;
                Ok(())
            }
            Err(error) => {
                // Another controller recorded something: the chain goes on from there.
                writer.chain = Chain::load(&*self.store).await?;
                Err(error)
            }
        }
    }

    /// Compiles resources, at the cost of what is different from what is so now.
    fn compile(&self, objects: &Objects, instances: &Instances, state: &State) -> Result<Compiled, Refused> {
        compile(&self.gateway, objects, instances, &state.compiled)
            .map_err(|error| Refused::Invalid(error.to_string()))
    }

    /// Sends what is so now, if anybody ever wrote anything.
    fn publish(&self) {
        let state = self.state();
        if let Some(version) = state.catalog.current() {
            let sets = state.compiled.lowering.sets().clone();
            self.published.send_replace(Arc::new(Published { version: version.number, sets }));
        }
    }

    /// What flow rules do from now on.
    pub(crate) fn flow_events(&self) -> broadcast::Receiver<FlowEvent> {
        self.flow.subscribe()
    }

    /// A proxy reports what came of requests.
    pub(crate) fn report(&self, node: &str, report: Report) {
        if self.flow.receiver_count() > 0 {
            let state = self.state();
            for (key, counts) in &report.arms {
                let Some(rule) = flow_rule(&key.route, state.catalog.objects()) else { continue };
                let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
                let ObjectKey { namespace, name: rule, .. } = rule;
                let node = node.to_owned();
                let _ = self.flow.send(FlowEvent { time, namespace, rule, node, requests: counts.requests });
            }
        }
        self.fleet(|fleet| fleet.reported(node, report));
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// Records that a source was refused.
    pub(crate) fn refuse(&self, reason: String) {
        self.refusals(|refusals| {
            refusals.count += 1;
            refusals.current = Some((SystemTime::now(), reason));
        });
    }

    pub(crate) fn fleet<R>(&self, with: impl FnOnce(&mut Fleet) -> R) -> R {
        with(&mut self.fleet.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn refusals<R>(&self, with: impl FnOnce(&mut Refusals) -> R) -> R {
        with(&mut self.refusals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The flow rule whose route has this label.
fn flow_rule(label: &str, objects: &Objects) -> Option<ObjectKey> {
    // Gateways and namespaces may be called `flow` as well.
    label.match_indices("/flow/").find_map(|(at, mark)| {
        let name = &label[at + mark.len()..];
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let key = ObjectKey::new(Kind::FlowRule, namespace, name);
        objects.get(&key).is_some().then_some(key)
    })
}

fn compile(
    gateway: &ImplicitGateway,
    objects: &Objects,
    instances: &Instances,
    before: &Compiled,
) -> Result<Compiled, proxy_core::xds::Rejection> {
    let built = build_after(Inputs { objects, instances, gateway }, &before.built.routes);
    let lowering = before.lowering.next(&built.ir)?;
    Ok(Compiled { built, lowering })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control_core::model::{Backend, BackendSpec, Kind, Metadata, Object};
    use proxy_core::config::Address;

    use super::*;
    use crate::store::Redb;

    async fn hub() -> Arc<Hub> {
        let address = Address::Socket(([127, 0, 0, 1], 80).into());
        let store = Arc::new(Redb::in_memory().expect("a store"));
        let gateway = ImplicitGateway { address, access_log: None };
        Hub::open(gateway, store).await.expect("opened").0
    }

    fn wanted(name: &str, label: &str) -> Wanted {
        let mut metadata = Metadata::named("default", name);
        metadata.labels.insert("is".to_owned(), label.to_owned());
        let backend: Backend = Object::new(Kind::Backend, metadata, BackendSpec::default());
        Wanted {
            edits: vec![Edit::Put(Arc::new(backend.into()))],
            author: "a".to_owned(),
            reason: String::new(),
            expected: Vec::new(),
            event: None,
            beside: Vec::new(),
            is_dry_run: false,
        }
    }

    fn number(hub: &Hub) -> u64 {
        hub.state().catalog.current().map_or(0, |version| version.number)
    }

    #[tokio::test]
    async fn a_change_whose_client_has_gone_is_done_and_in_nobodys_way() {
        let hub = hub().await;
        for i in 0..20 {
            let change = hub.change(wanted("b", &i.to_string()));
            // Whoever asked hangs up at some time on the way.
            let _ = tokio::time::timeout(Duration::from_micros(i * 40), change).await;
        }
        let done = hub.change(wanted("c", "last")).await.expect("taken");
        let mut states = hub.states();
        let is_whole = states.wait_for(|state| state.catalog.current().is_some_and(|v| v.number >= 21));
        tokio::time::timeout(Duration::from_secs(20), is_whole)
            .await
            .expect("all of them")
            .expect("it goes on");
        assert!(done.version.is_some());
        let (_, kept) = Journal::load(&*hub.store).await.expect("read");
        assert_eq!(kept.objects(), hub.state().catalog.objects(), "what is served is what is kept");
        assert_eq!(number(&hub), 21);
    }

    #[tokio::test]
    async fn what_another_wrote_is_taken_before_the_next_change() {
        let hub = hub().await;
        hub.change(wanted("a", "1")).await.expect("taken");
        let address = Address::Socket(([127, 0, 0, 1], 80).into());
        let gateway = ImplicitGateway { address, access_log: None };
        let (other, _) = Hub::open(gateway, hub.store.clone()).await.expect("opened");
        other.change(wanted("b", "1")).await.expect("taken");
        hub.change(wanted("c", "1")).await.expect("taken behind it");
        assert_eq!(number(&hub), 3);
        assert_eq!(hub.state().catalog.objects().len(), 3);
    }

    #[tokio::test]
    async fn a_version_is_found_again_however_many_came_since() {
        let hub = hub().await;
        hub.change(wanted("old", "first")).await.expect("taken");
        for i in 0..Catalog::LIMIT + 50 {
            hub.change(wanted("busy", &i.to_string())).await.expect("taken");
        }
        let before = number(&hub);
        hub.change(wanted("old", "second")).await.expect("taken");
        let edits = crate::api::as_it_was(&hub, before).await.expect("it is known");
        let [Edit::Put(resource)] = edits.as_slice() else { panic!("{edits:?}") };
        assert_eq!(resource.metadata().labels["is"], "first");
    }
}

//! The proxy's own control: takes configuration, opens what it needs, publishes it. Runs beside the workers, never on
//! one.

mod protection;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_core::access::AccessLogConfig;
use proxy_core::config::{Address, ClusterName, DnsTargets, Listener, ListenerName, LoadAssignment};
use proxy_core::snapshot::{CompileError, Departing, Snapshot};
use proxy_core::xds::{AdsClient, Conclusion, Rejection, Request, Review, Subscriptions, Update, Verdicts};
use tokio::sync::Notify;
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::DiscoveryResponse;
use xds_proto::type_url;

use crate::StartError;
use crate::bootstrap::Bootstrap;
use crate::cache;
use crate::files::Source;
use crate::fleet::{Counted, Origins};
use crate::ledger::Ledger;
use crate::listener::Sockets;
use crate::publish::Publisher;
use crate::telemetry::Registry;
use crate::telemetry::access_log::LogFiles;
use crate::tls::{ClientContext, Contexts, ServerContext};
use crate::worker::{Command, Handle, Shared};

/// The pause before the second refusal in a row; it doubles with each further one.
const FIRST_REFUSAL_DELAY: Duration = Duration::from_millis(100);
const LONGEST_REFUSAL_DELAY: Duration = Duration::from_secs(30);

/// Owns everything that changes with configuration.
pub(crate) struct Controller {
    pub(crate) client: AdsClient,
    pub(crate) registry: Arc<Registry>,
    publisher: Publisher,
    release_memory: Option<fn()>,
    workers: Vec<Handle>,
    sockets: Sockets,
    logs: Arc<LogFiles>,
    pub(crate) tls: Arc<Contexts>,
    /// Those that what is served needs.
    contexts: (Vec<Arc<ServerContext>>, Vec<Arc<ClientContext>>),
    /// The address that workers accept on, by the listener's slot.
    listening: HashMap<usize, Address>,
    subscriptions: Subscriptions,
    /// Listeners that were removed, and when those of their connections that are open still are let go.
    departing: HashMap<Departing, Instant>,
    /// What each snapshot was made of.
    pub(crate) origins: Origins,
    /// What the control plane was told of each arm.
    pub(crate) counted: Counted,
    /// Told when a worker serves another snapshot.
    pub(crate) adopted: Arc<Notify>,
    /// What became of each resource.
    pub(crate) ledger: Ledger,
    /// What has been said of `alt_stat_name` and the like need not be said again.
    said: std::collections::BTreeSet<xds_proto::gate::IgnoredField>,
    pub(crate) phase: Phase,
    /// Somebody wants no new traffic to come, whatever the phase.
    pub(crate) health_failed: bool,
    /// Somebody wants the process to end.
    pub(crate) quit: Arc<Notify>,
    changed: Arc<Notify>,
    wake: Arc<Notify>,
    pending: Vec<Request>,
    pub(crate) node: Node,
    started: Instant,
    /// Refusals without an acceptance in between.
    refusals_in_a_row: u32,
}

/// Where the process is in its life, as `/ready` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for the first configuration.
    Initializing,
    Live,
    Draining,
}

impl Controller {
    /// Takes the static resources and opens their listeners.
    pub(crate) fn new(
        bootstrap: Bootstrap,
        shared: &Shared,
        workers: Vec<Handle>,
    ) -> Result<Self, StartError> {
        let Bootstrap { node, subscriptions, resources, .. } = bootstrap;
        let registry = shared.registry.clone();
        let mut controller = Self {
            node: node.clone(),
            started: Instant::now(),
            health_failed: false,
            release_memory: shared.release_memory,
            quit: shared.quit.clone(),
            changed: Arc::default(),
            wake: Arc::default(),
            pending: Vec::new(),
            client: AdsClient::new(node, subscriptions.clone(), resources),
            publisher: Publisher::new(shared.snapshots.clone(), workers.clone(), registry.clone()),
            registry,
            workers,
            sockets: Sockets::default(),
            logs: shared.logs.clone(),
            tls: shared.tls.clone(),
            contexts: (Vec::new(), Vec::new()),
            listening: HashMap::new(),
            subscriptions,
            departing: HashMap::new(),
            origins: Origins::default(),
            counted: Counted::default(),
            adopted: shared.adopted.clone(),
            ledger: Ledger::default(),
            said: std::collections::BTreeSet::new(),
            phase: Phase::Initializing,
            refusals_in_a_row: 0,
        };
        for held in controller.client.resources().listeners() {
            let listener = &held.value;
            controller.sockets.open(&listener.address, controller.workers.len())?;
            for log in access_logs(listener) {
                controller
                    .logs
                    .open(&log.sink)
                    .map_err(|source| StartError::Log { sink: log.sink.to_string(), source })?;
            }
        }
        for held in controller.client.resources().listeners() {
            let name = held.value.name.to_string();
            controller.protect(&held.value).map_err(|reason| StartError::Tls {
                kind: "listener",
                name,
                reason,
            })?;
        }
        for held in controller.client.resources().clusters() {
            if let Some(reason) = controller.unusable(&held.value) {
                let name = held.value.name.to_string();
                return Err(StartError::Tls { kind: "cluster", name, reason });
            }
        }
        let snapshot = controller.compile(&controller.client.resources().config())?;
        controller.publish(snapshot);
        Ok(controller)
    }

    fn compile(&self, config: &proxy_core::config::Config) -> Result<Snapshot, CompileError> {
        let now = Instant::now();
        let stays = |departing: &Departing| self.departing.get(departing).is_none_or(|end| now < *end);
        self.publisher.current().next(config, stays)
    }

    /// A stream to the control plane is open: what to ask for.
    pub(crate) fn connected(&mut self) -> Vec<Request> {
        self.registry.xds_connected.store(true, Ordering::Relaxed);
        self.pending.clear();
        self.client.connected(Instant::now())
    }

    /// Serves what an earlier process was told, until a control plane speaks. What cannot be used is not used, and said.
    pub(crate) fn restore(&mut self, path: &Path) {
        let cached = match cache::read(path, &self.node.id) {
            Ok(Some(cached)) => cached,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the configuration that was kept is not used");
                return;
            }
        };
        self.registry.xds_stale.store(true, Ordering::Relaxed);
        for response in cached.responses {
            let update = Update::from(response);
            let names = update.names().collect();
            let review = self.client.review_kept(update, Instant::now());
            self.take(review, names, &Rejection::to_string);
        }
        let age = cached.written.and_then(|written| written.elapsed().ok());
        let age = humantime::format_duration(Duration::from_secs(age.unwrap_or_default().as_secs()));
        tracing::warn!(path = %path.display(), "serving what was kept {age} ago, until a control plane answers");
    }

    /// Whether no control plane has said anything yet to what an earlier process was told.
    pub(crate) fn is_stale(&self) -> bool {
        self.registry.xds_stale.load(Ordering::Relaxed)
    }

    /// The next stream leads to another server, which knows nothing of the last one's versions.
    pub(crate) fn another_server(&mut self) {
        self.client.forget_versions();
    }

    /// The stream is gone. Nothing else changes.
    pub(crate) fn disconnected(&mut self) {
        self.registry.xds_connected.store(false, Ordering::Relaxed);
        self.client.disconnected();
    }

    /// Takes a response: sockets first, then compilation, then one swap. Returns the answers.
    pub(crate) fn receive(&mut self, update: Update) -> Vec<Request> {
        if self.phase == Phase::Draining {
            // What is served until the end stays as it is, and no port is opened again.
            return Vec::new();
        }
        if self.registry.xds_stale.swap(false, Ordering::Relaxed) {
            tracing::info!("a control plane has answered: what was kept is replaced");
        }
        let names: Vec<_> = update.names().collect();
        let review = self.client.review(update, Instant::now());
        self.take(review, names, &Rejection::to_string).0
    }

    /// Takes what a file holds. Whether all of it was taken.
    pub(crate) fn receive_file(
        &mut self,
        path: &Arc<str>,
        response: DiscoveryResponse,
        source: &Source,
    ) -> bool {
        if self.phase == Phase::Draining {
            return true;
        }
        let update = Update::from(response);
        let names: Vec<_> = update.names().collect();
        let review = self.client.review_file(path, update, Instant::now());
        let (requests, is_whole) = self.take(review, names, &|rejection| source.describe(rejection));
        self.ask(requests);
        is_whole
    }

    /// Lets go of what has not come in time, or has come for a time.
    pub(crate) fn expire(&mut self) {
        let review = self.client.review_overdue(Instant::now());
        if self.phase != Phase::Draining {
            let (requests, _) = self.take(review, Vec::new(), &Rejection::to_string);
            self.ask(requests);
        }
    }

    fn ask(&mut self, requests: Vec<Request>) {
        self.pending.extend(requests);
        self.wake.notify_one();
    }

    /// A file cannot be read as what it should hold. What it held before stays.
    pub(crate) fn refuse_file(&mut self, type_url: &str, reason: &str) {
        tracing::warn!("refused: {reason}");
        let kind = type_url::short_name(type_url).to_owned();
        self.registry.xds(|counts| *counts.rejected.entry(kind).or_default() += 1);
    }

    /// Takes the endpoints that the names of a cluster have now.
    pub(crate) fn receive_resolved(
        &mut self,
        cluster: ClusterName,
        targets: Arc<DnsTargets>,
        endpoints: LoadAssignment,
    ) {
        if self.phase != Phase::Draining {
            let review = self.client.review_resolved(cluster, targets, endpoints);
            let (requests, _) = self.take(review, Vec::new(), &Rejection::to_string);
            self.ask(requests);
        }
    }

    /// Takes what active checks say of the endpoints of clusters. Whether it could be served: a cluster that becomes warm by it
    /// may turn out not to be usable.
    pub(crate) fn receive_checked(&mut self, found: Vec<(ClusterName, Arc<Verdicts>)>) -> bool {
        if self.phase == Phase::Draining {
            return true;
        }
        let review = self.client.review_checked(found);
        let (requests, is_whole) = self.take(review, Vec::new(), &Rejection::to_string);
        self.ask(requests);
        is_whole
    }

    /// Requests for the control plane that no response of it gave rise to.
    pub(crate) fn pending_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.pending)
    }

    /// The answers for the control plane, and whether all was accepted.
    fn take(
        &mut self,
        mut review: Review,
        names: Vec<String>,
        describe: &dyn Fn(&Rejection) -> String,
    ) -> (Vec<Request>, bool) {
        self.check_secrets(&mut review);
        self.open_listeners(&mut review);
        self.protect_clusters(&mut review);
        self.protect_with_secrets(&mut review);
        let snapshot = match self.compile(review.config()) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                review.refuse_whole(self.client.resources(), error.to_string());
                None
            }
        };
        let conclusion = self.client.conclude(review, Instant::now());
        match snapshot {
            Some(snapshot) if !snapshot.serves_same(&self.publisher.current()) => self.publish(snapshot),
            _ => self.settle(),
        }
        self.origins.note(self.publisher.current().generation, self.client.versions());
        self.refusals_in_a_row =
            if conclusion.rejections.is_empty() { 0 } else { self.refusals_in_a_row.saturating_add(1) };
        if conclusion.type_url == type_url::ROUTE_CONFIGURATION {
            self.count_routes(&names, &conclusion);
        }
        self.report(&conclusion, describe);
        self.ledger.note(&conclusion.type_url, &conclusion.version, names, &conclusion.rejections);
        let resources = self.client.resources();
        self.ledger.keep(resources.count(), |type_url, name| resources.has(type_url, name));
        self.changed.notify_waiters();
        (conclusion.requests, conclusion.rejections.is_empty())
    }

    /// Lets go of removed listeners whose time is over.
    pub(crate) fn let_go(&mut self) {
        let now = Instant::now();
        if !self.departing.values().any(|end| *end <= now) {
            return;
        }
        if let Ok(snapshot) = self.compile(&self.client.resources().config()) {
            self.publish(snapshot);
        }
        self.departing.retain(|_, end| *end > now);
    }

    /// How long to wait before the last refusal is sent. Some control planes answer a refusal with the same again, at once;
    /// without a pause both would do nothing else. The first one goes out at once.
    pub(crate) fn refusal_delay(&self) -> Duration {
        match self.refusals_in_a_row {
            0 | 1 => Duration::ZERO,
            n => FIRST_REFUSAL_DELAY.saturating_mul(1 << (n - 2).min(16)).min(LONGEST_REFUSAL_DELAY),
        }
    }

    /// Opens what the listeners need. One that cannot be opened, or whose address another one has, is put back as it was.
    fn open_listeners(&mut self, review: &mut Review) {
        // What is put back takes its old address again, and may be in another's way then: each round refuses one, and those
        // that stay as they are cannot be refused.
        while let Some((name, reason)) = self.refusable_listener(review) {
            review.refuse_listener(self.client.resources(), &name, reason);
        }
    }

    /// A listener that cannot be served as it is now, and why.
    fn refusable_listener(&mut self, review: &Review) -> Option<(String, String)> {
        let current: HashMap<_, _> = self
            .client
            .resources()
            .listeners()
            .map(|held| (held.value.name.clone(), held.value.address.clone()))
            .collect();
        let (kept, fresh): (Vec<_>, Vec<_>) = review
            .resources()
            .listeners()
            .map(|held| held.value.clone())
            .partition(|listener| current.get(&listener.name) == Some(&listener.address));
        // Port 0 is another port each time, but one socket would serve both.
        let mut owners: HashMap<Address, ListenerName> = HashMap::new();
        for listener in kept.iter().chain(&fresh) {
            if let Some(owner) = owners.get(&listener.address) {
                let reason = format!("listener \"{owner}\" already has {}", listener.address);
                return Some((listener.name.to_string(), reason));
            }
            owners.insert(listener.address.clone(), listener.name.clone());
        }
        for listener in kept.iter().chain(&fresh) {
            let opened = self.sockets.open(&listener.address, self.workers.len()).map_err(|e| e.to_string());
            let opened = opened.and_then(|()| {
                access_logs(listener).try_for_each(|log| {
                    self.logs.open(&log.sink).map_err(|e| format!("access log {}: {e}", log.sink))
                })
            });
            let opened = opened.and_then(|()| self.protect(listener));
            // What is the same as before cannot be put back.
            let is_same = self.client.resources().listeners().any(|held| Arc::ptr_eq(&held.value, listener));
            if let Err(reason) = opened
                && !is_same
            {
                return Some((listener.name.to_string(), reason));
            }
        }
        None
    }

    fn publish(&mut self, snapshot: Snapshot) {
        self.keep_contexts(&snapshot);
        let wanted: HashMap<usize, Address> =
            snapshot.live_listeners().map(|(slot, listener)| (slot, listener.address.clone())).collect();
        let departing: HashMap<_, _> = snapshot.departing().into_iter().collect();
        // What has come back may leave again.
        self.departing.retain(|left, _| departing.contains_key(left));
        for (left, time) in departing {
            self.departing.entry(left).or_insert_with(|| Instant::now() + time);
        }
        self.publisher.publish(snapshot);
        // One whose sockets could not be shared is not in the list, so that the next change tries again.
        let mut listening = HashMap::new();
        let gone: Vec<_> = self.listening.keys().filter(|slot| !wanted.contains_key(slot)).copied().collect();
        for slot in gone {
            self.workers.iter().for_each(|worker| worker.tell(Command::Unlisten(slot)));
        }
        for (slot, address) in &wanted {
            if self.listening.get(slot) == Some(address) || self.listen(*slot, address) {
                listening.insert(*slot, address.clone());
            }
        }
        self.listening = listening;
        self.settle();
    }

    /// Closes what nobody listens on, and sees whether the first configuration is complete.
    fn settle(&mut self) {
        let resources = self.client.resources();
        let addresses: HashSet<_> = resources
            .listeners()
            .map(|held| held.value.address.clone())
            .chain(self.listening.values().cloned())
            .collect();
        self.sockets.retain(|address| addresses.contains(address));
        if self.phase == Phase::Initializing && self.is_configured() {
            self.phase = Phase::Live;
        }
    }

    fn listen(&self, slot: usize, address: &Address) -> bool {
        match self.sockets.acceptors(address) {
            Ok(acceptors) => {
                for (worker, acceptor) in self.workers.iter().zip(acceptors) {
                    worker.tell(Command::Listen(slot, acceptor));
                }
                let bound = self.sockets.local_address(address);
                tracing::info!(address = %bound.as_ref().unwrap_or(address), "listening");
                true
            }
            Err(error) => {
                tracing::error!(%address, %error, "the listener's sockets could not be shared");
                false
            }
        }
    }

    /// Whether a first configuration is in use: every type that is followed was answered, every listener serves, and endpoints
    /// that are to be checked were.
    fn is_configured(&self) -> bool {
        let answered = |url| self.client.is_answered(url);
        let Subscriptions { listeners, clusters, variant: _ } = &self.subscriptions;
        (listeners.is_none() || answered(type_url::LISTENER))
            && (clusters.is_none() || answered(type_url::CLUSTER))
            && self.client.resources().listeners().count() == self.listening.len()
            && !self.client.resources().awaits_checks()
    }

    /// Counts the updates of each route configuration: one that is not named in a refusal was accepted, unless all were refused.
    fn count_routes(&self, names: &[String], conclusion: &Conclusion) {
        let refused = |name: &String| {
            let mut refusals = conclusion.rejections.iter();
            refusals.any(|rejection| rejection.resource.as_ref().is_none_or(|refused| refused == name))
        };
        self.registry.xds(|counts| {
            for name in names {
                let (accepted, rejected) = counts.routes.entry(name.clone()).or_default();
                *(if refused(name) { rejected } else { accepted }) += 1;
            }
        });
    }

    fn report(&mut self, conclusion: &Conclusion, describe: &dyn Fn(&Rejection) -> String) {
        let kind = type_url::short_name(&conclusion.type_url);
        let accepted = conclusion.rejections.is_empty();
        self.registry.xds(|counts| {
            let by_type = if accepted { &mut counts.accepted } else { &mut counts.rejected };
            *by_type.entry(kind.to_owned()).or_default() += 1;
            for ignored in &conclusion.ignored {
                *counts.ignored.entry((ignored.message.clone(), ignored.field.clone())).or_default() += 1;
            }
        });
        for ignored in &conclusion.ignored {
            if self.said.insert(ignored.clone()) {
                tracing::info!(
                    message = ignored.message,
                    field = ignored.field,
                    "accepted and not acted upon"
                );
            }
        }
        if accepted {
            let generation = self.publisher.current().generation;
            tracing::debug!(kind, version = conclusion.version, generation, "configuration taken");
        }
        for rejection in &conclusion.rejections {
            tracing::warn!(version = conclusion.version, "refused: {}", describe(rejection));
        }
    }

    /// The address that a listener is bound to.
    pub(crate) fn listener_address(&self, name: &str) -> Option<Address> {
        let snapshot = self.publisher.current();
        let (_, listener) = snapshot.live_listeners().find(|(_, l)| l.name.as_str() == name)?;
        self.sockets.local_address(&listener.address)
    }

    /// Where an address is really bound: port 0 in a configuration means any.
    pub(crate) fn bound_address(&self, address: &Address) -> Address {
        self.sockets.local_address(address).unwrap_or_else(|| address.clone())
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Fails `/ready`, so that whoever sends traffic here looks elsewhere. Everything is still served.
    pub(crate) fn announce_drain(&mut self) {
        self.phase = Phase::Draining;
    }

    /// No new connections, and every open one ends with its next response.
    pub(crate) fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.workers.iter().for_each(|worker| worker.tell(Command::Drain));
        self.sockets.retain(|_| false);
    }

    /// Whether every worker knows of the drain and has taken what waited to be accepted.
    pub(crate) fn is_drain_under_way(&self) -> bool {
        self.workers.iter().all(Handle::has_closed)
    }

    /// Connections that are still open.
    pub(crate) fn open_connections(&self) -> usize {
        self.workers.iter().map(Handle::load).sum()
    }

    /// Ends the workers.
    pub(crate) fn stop(&self) {
        self.workers.iter().for_each(|worker| worker.tell(Command::Stop));
    }

    /// Told when the configuration may want other files or names.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// Told when there are requests that no response gave rise to.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Frees snapshots that nobody holds, and what making them took.
    pub(crate) fn free_retired(&mut self) {
        self.publisher.free_retired();
        if self.publisher.is_quiet()
            && let Some(release) = self.release_memory
        {
            release();
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.publisher.current()
    }
}

/// The logs of all chains of a listener.
fn access_logs(listener: &Listener) -> impl Iterator<Item = &AccessLogConfig> {
    listener.chains.iter().flat_map(|chain| &chain.http.access_logs)
}

/// Drains without ending the process.
pub(crate) fn begin_drain(controller: &SharedController) {
    controller.borrow_mut().drain();
}

/// The controller as its tasks share it: all of them run on one thread.
pub(crate) type SharedController = Rc<std::cell::RefCell<Controller>>;

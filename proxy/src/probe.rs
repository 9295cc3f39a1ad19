//! Active health checks: beside the workers, one task for each endpoint of a cluster that has a check, for as long as it is
//! there. What is known of an endpoint outlives changes of everything but its address.

mod ask;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::{Address, Cluster, ClusterName, Endpoint, HealthCheck, Verdict};
use proxy_core::health::{Outcome, Tracker};
use proxy_core::xds::Verdicts;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::controller::{Phase, SharedController};
use ask::Asker;

/// How long what could not be served is left alone.
const RETRY: Duration = Duration::from_secs(5);
/// What is found within this time is served as one change: many endpoints often fail, or come back, together.
const GATHERING: Duration = Duration::from_millis(2);

/// Checks endpoints for as long as the process lives.
pub(crate) async fn follow(controller: SharedController) {
    let changed = controller.borrow().changed();
    let book = Rc::new(Book::default());
    tokio::task::spawn_local(tell(controller.clone(), book.clone()));
    let mut running: HashMap<Key, (Arc<Subject>, AbortHandle)> = HashMap::new();
    loop {
        let wanted = subjects(&controller);
        running.retain(|key, (subject, task)| {
            let wanted = wanted.get(key);
            let stays = wanted.is_some_and(|wanted| wanted.is_checked_like(subject));
            if !stays {
                task.abort();
            }
            if wanted.is_none() {
                book.forget(key);
            }
            stays
        });
        let mut forgotten = BTreeSet::new();
        for (key, subject) in wanted {
            let is_refused = book.refused.borrow().contains(&key.0);
            if !is_refused && !controller.borrow().client.resources().holds_verdicts(&key.0) {
                forgotten.insert(key.0.clone());
            }
            running.entry(key).or_insert_with(|| {
                let subject = Arc::new(subject);
                let work = keep_checked(controller.clone(), book.clone(), subject.clone());
                (subject, tokio::task::spawn_local(work).abort_handle())
            });
        }
        // A cluster that was gone for a moment.
        forgotten.into_iter().for_each(|cluster| book.tell_again(cluster));
        changed.notified().await;
    }
}

/// An endpoint of a cluster.
type Key = (ClusterName, Address);

/// What is checked, and how.
struct Subject {
    cluster: Arc<Cluster>,
    check: Arc<HealthCheck>,
    endpoint: Endpoint,
    /// It has come while we watched: it may not have started yet.
    is_newcomer: bool,
}

impl Subject {
    fn key(&self) -> Key {
        (self.cluster.name.clone(), self.endpoint.address.clone())
    }

    /// Whether the same is asked in the same way.
    fn is_checked_like(&self, other: &Self) -> bool {
        let is_spoken_to_alike = self.cluster.connections.protocol == other.cluster.connections.protocol
            && self.cluster.transport_to(&self.endpoint) == other.cluster.transport_to(&other.endpoint);
        self.check == other.check
            && self.endpoint.check == other.endpoint.check
            && self.endpoint.hostname == other.endpoint.hostname
            && is_spoken_to_alike
    }
}

/// Everything that is to be checked.
fn subjects(controller: &SharedController) -> HashMap<Key, Subject> {
    let controller = controller.borrow();
    let is_starting = controller.phase == Phase::Initializing;
    let snapshot = controller.snapshot();
    let mut subjects = HashMap::new();
    for (cluster, endpoints) in controller.client.resources().checked_clusters() {
        let Some(check) = cluster.health_check.clone() else { continue };
        let served = snapshot.cluster_slot(cluster.name.as_str()).and_then(|slot| snapshot.cluster(slot));
        // Those that serve without having been asked have been there for a while.
        let veterans: HashSet<&Address> = match served {
            Some(table) if !check.initial_delay.is_zero() => {
                let unchecked = table.endpoint_configs().filter(|e| e.verdict == Verdict::Unchecked);
                unchecked.map(|endpoint| &endpoint.address).collect()
            }
            Some(_) | None => HashSet::new(),
        };
        let checked = endpoints.endpoints().filter(|endpoint| endpoint.is_checked()).cloned();
        for mut endpoint in checked {
            if let Some(labels) = &check.transport_labels {
                endpoint.transport_labels = labels.clone();
            }
            let is_newcomer = !is_starting && !veterans.contains(&endpoint.address);
            let (cluster, check) = (cluster.clone(), check.clone());
            let subject = Subject { cluster, check, endpoint, is_newcomer };
            subjects.insert(subject.key(), subject);
        }
    }
    subjects
}

/// What is known of every endpoint that is checked.
#[derive(Default)]
struct Book {
    trackers: RefCell<HashMap<ClusterName, HashMap<Address, Tracker>>>,
    /// Clusters of which something new is known.
    news: RefCell<BTreeSet<ClusterName>>,
    /// Clusters of which what is known could not be served a moment ago.
    refused: RefCell<BTreeSet<ClusterName>>,
    has_news: Notify,
}

impl Book {
    fn tracker(&self, (cluster, address): &Key) -> Tracker {
        let trackers = self.trackers.borrow();
        trackers.get(cluster).and_then(|of| of.get(address)).cloned().unwrap_or_default()
    }

    fn note(&self, (cluster, address): Key, tracker: Tracker, has_changed: bool) {
        self.trackers.borrow_mut().entry(cluster.clone()).or_default().insert(address, tracker);
        if has_changed {
            self.tell_again(cluster);
        }
    }

    fn forget(&self, (cluster, address): &Key) {
        let mut trackers = self.trackers.borrow_mut();
        if let Some(of) = trackers.get_mut(cluster) {
            of.remove(address);
            if of.is_empty() {
                trackers.remove(cluster);
            }
        }
    }

    fn tell_again(&self, cluster: ClusterName) {
        self.news.borrow_mut().insert(cluster);
        self.has_news.notify_one();
    }

    /// What is known of the clusters of which something new is.
    fn take_news(&self) -> Vec<(ClusterName, Arc<Verdicts>)> {
        let trackers = self.trackers.borrow();
        let news = std::mem::take(&mut *self.news.borrow_mut()).into_iter().filter_map(|cluster| {
            let known = trackers.get(&cluster)?.iter().filter(|(_, t)| t.verdict() != Verdict::Pending);
            let verdicts: Verdicts = known.map(|(address, t)| (address.clone(), t.verdict())).collect();
            (!verdicts.is_empty()).then(|| (cluster, Arc::new(verdicts)))
        });
        news.collect()
    }
}

/// Has what is found served.
async fn tell(controller: SharedController, book: Rc<Book>) {
    loop {
        book.has_news.notified().await;
        tokio::time::sleep(GATHERING).await;
        let found = book.take_news();
        if found.is_empty() || controller.borrow_mut().receive_checked(found.clone()) {
            continue;
        }
        // One that cannot be used must not hold up what is known of the others.
        for (cluster, verdicts) in found {
            let is_taken = controller.borrow_mut().receive_checked(vec![(cluster.clone(), verdicts)]);
            if !is_taken {
                book.refused.borrow_mut().insert(cluster.clone());
                let book = book.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(RETRY).await;
                    book.refused.borrow_mut().remove(&cluster);
                    book.tell_again(cluster);
                });
            }
        }
    }
}

/// Checks one endpoint until it is aborted.
async fn keep_checked(controller: SharedController, book: Rc<Book>, subject: Arc<Subject>) {
    let check = &*subject.check;
    let mut tracker = book.tracker(&subject.key());
    if tracker.verdict() == Verdict::Pending {
        let delay = if subject.is_newcomer { check.initial_delay } else { Duration::ZERO };
        tokio::time::sleep(delay + check.pace.initial_jitter.mul_f64(draw())).await;
    }
    let registry = controller.borrow().registry.clone();
    let mut asker = Asker::new(&controller.borrow().tls, &subject.cluster, &subject.endpoint);
    loop {
        let late =
            || Outcome::failed(format!("no answer within {}", humantime::format_duration(check.timeout)));
        let outcome = tokio::time::timeout(check.timeout, asker.ask(check)).await.unwrap_or_else(|_| late());
        let passed = matches!(outcome, Outcome::Passed { .. });
        if !passed || !check.reuses_connection {
            asker.hang_up();
        }
        registry.health_check(&subject.cluster.name, passed);
        let has_changed = tracker.note(&outcome, check);
        report(&subject, &outcome, &tracker, has_changed);
        book.note(subject.key(), tracker.clone(), has_changed);
        let is_used = registry.has_connected(&subject.cluster.name);
        tokio::time::sleep(tracker.pause(&check.pace, is_used, draw)).await;
    }
}

fn draw() -> f64 {
    rand::rng().random_range(0.0..1.0)
}

fn report(subject: &Subject, outcome: &Outcome, tracker: &Tracker, has_changed: bool) {
    let (cluster, endpoint) = (&subject.cluster.name, &subject.endpoint.address);
    match outcome {
        Outcome::Passed { is_degraded: true } if has_changed => {
            tracing::info!(%cluster, %endpoint, "a health check passes, and the endpoint asks to be spared");
        }
        Outcome::Passed { .. } if has_changed => {
            tracing::info!(%cluster, %endpoint, "a health check passes: the endpoint takes requests");
        }
        Outcome::Passed { .. } if subject.check.logs_successes => {
            tracing::info!(%cluster, %endpoint, "a health check passes");
        }
        Outcome::Passed { .. } => {}
        Outcome::Failed { reason, .. } if has_changed => {
            tracing::warn!(%cluster, %endpoint, reason, "a health check fails: the endpoint takes no requests");
        }
        Outcome::Failed { reason, .. } if subject.check.logs_failures => {
            tracing::warn!(%cluster, %endpoint, reason, verdict = ?tracker.verdict(), "a health check fails");
        }
        Outcome::Failed { reason, .. } => {
            tracing::debug!(%cluster, %endpoint, reason, "a health check fails");
        }
    }
}

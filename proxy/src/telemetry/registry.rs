//! Where workers get their cells from, and where a scrape finds them all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use proxy_core::config::{ArmName, ClusterName, ListenerName};
use proxy_core::route::RouteLabel;
use xds_proto::weir::fleet::v1::ArmCounts;

use super::cells::{ArmCells, ClusterCells, ListenerCells, WorkerCells};
use crate::upstream::Breakers;

/// Series of arms that are kept; more share one that is labelled `overflow`.
const MAX_ARMS: usize = 20_000;

/// The labels of an arm's series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ArmKey {
    pub(crate) route: Arc<RouteLabel>,
    pub(crate) arm: ArmName,
    pub(crate) cluster: ClusterName,
}

impl ArmKey {
    fn overflow() -> Self {
        let word = || Arc::<str>::from("overflow");
        Self {
            route: Arc::new(RouteLabel { config: "overflow".into(), virtual_host: word(), route: word() }),
            arm: "overflow".into(),
            cluster: "overflow".into(),
        }
    }
}

/// The labels of a listener's series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListenerKey {
    pub(crate) listener: ListenerName,
    /// `stat_prefix` of its HTTP connection manager.
    pub(crate) stat_prefix: Box<str>,
}

/// Updates from the control plane, by type.
#[derive(Debug, Default)]
pub(crate) struct XdsCounts {
    pub(crate) accepted: BTreeMap<String, u64>,
    pub(crate) rejected: BTreeMap<String, u64>,
    /// Accepted and refused updates of route configurations, by their name.
    pub(crate) routes: BTreeMap<String, (u64, u64)>,
    /// By message and field.
    pub(crate) ignored: BTreeMap<(String, String), u64>,
}

/// Active checks of a cluster's endpoints.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CheckCounts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// All cells of the process.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) workers: Vec<Arc<WorkerCells>>,
    /// One cell a worker. The lock is taken when a worker first meets an arm, never by a request after that.
    arms: Mutex<BTreeMap<ArmKey, Vec<Arc<ArmCells>>>>,
    clusters: Mutex<BTreeMap<ClusterName, Vec<Arc<ClusterCells>>>>,
    listeners: Mutex<BTreeMap<ListenerKey, Vec<Arc<ListenerCells>>>>,
    xds: Mutex<XdsCounts>,
    health_checks: Mutex<BTreeMap<ClusterName, CheckCounts>>,
    /// Breakers over the outcomes of calls.
    pub(crate) breakers: Breakers,
    pub(crate) xds_connected: AtomicBool,
    /// What is served is what an earlier process was told.
    pub(crate) xds_stale: AtomicBool,
    /// Times that a worker did not come back to its event loop for a second.
    pub(crate) worker_stalls: AtomicU64,
    /// Certificates that are shown, and when they end, in seconds since the Unix epoch.
    certificates: Mutex<Vec<(String, i64)>>,
    /// Keys and certificates that were read again, and those that could not be used.
    pub(crate) tls_reloads: AtomicU64,
    pub(crate) tls_reload_failures: AtomicU64,
    /// Arms that share the series labelled `overflow`.
    pub(super) overflowed: AtomicU64,
    generation: AtomicU64,
}

impl Registry {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            arms: Mutex::default(),
            clusters: Mutex::default(),
            listeners: Mutex::default(),
            xds: Mutex::default(),
            health_checks: Mutex::default(),
            breakers: Breakers::default(),
            xds_connected: AtomicBool::new(false),
            xds_stale: AtomicBool::new(false),
            worker_stalls: AtomicU64::new(0),
            certificates: Mutex::default(),
            tls_reloads: AtomicU64::new(0),
            tls_reload_failures: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// Takes note of the certificates that are shown.
    pub(crate) fn set_certificates(&self, certificates: Vec<(String, i64)>) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// For how many days each certificate holds still.
    pub(crate) fn certificate_days(&self) -> Vec<(String, u64)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let days = |end: i64| u64::try_from((end - now) / 86_400).unwrap_or(0);
        certificates.iter().map(|(origin, end)| (origin.clone(), days(*end))).collect()
    }

    /// A worker's cells for an arm. Counts go on where an earlier snapshot's left off.
    pub(crate) fn arm(&self, key: ArmKey, worker: usize) -> Arc<ArmCells> {
        let mut arms = self.arms.lock().unwrap_or_else(PoisonError::into_inner);
        let full = arms.len() >= MAX_ARMS && !arms.contains_key(&key);
        let key = if full {
            // Each worker meets the arm for itself.
            self.overflowed.fetch_add(u64::from(worker == 0), Ordering::Relaxed);
            ArmKey::overflow()
        } else {
            key
        };
        let cells =
            arms.entry(key).or_insert_with(|| (0..self.workers.len()).map(|_| Arc::default()).collect());
        cells[worker].clone()
    }

    /// A worker's cells for a cluster.
    pub(crate) fn cluster(&self, name: &ClusterName, worker: usize) -> Arc<ClusterCells> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || (0..self.workers.len()).map(|_| Arc::default()).collect();
        clusters.entry(name.clone()).or_insert_with(fresh)[worker].clone()
    }

    /// A worker's cells for a listener.
    pub(crate) fn listener(&self, key: ListenerKey, worker: usize) -> Arc<ListenerCells> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || (0..self.workers.len()).map(|_| Arc::default()).collect();
        listeners.entry(key).or_insert_with(fresh)[worker].clone()
    }

    /// Whether a cluster has had a connection.
    pub(crate) fn has_connected(&self, name: &ClusterName) -> bool {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.get(name).into_iter().flatten().any(|cells| cells.connects.value() > 0)
    }

    /// Counts an active check.
    pub(crate) fn health_check(&self, cluster: &ClusterName, passed: bool) {
        let mut checks = self.health_checks.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = checks.entry(cluster.clone()).or_default();
        *(if passed { &mut counts.passed } else { &mut counts.failed }) += 1;
    }

    pub(super) fn health_checks(&self) -> BTreeMap<ClusterName, CheckCounts> {
        self.health_checks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn clusters(&self) -> BTreeMap<ClusterName, Vec<Arc<ClusterCells>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn listeners(&self) -> BTreeMap<ListenerKey, Vec<Arc<ListenerCells>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every arm with its cells. Copied, so that no worker waits for a page to be written.
    pub(super) fn arms(&self) -> BTreeMap<ArmKey, Vec<Arc<ArmCells>>> {
        self.arms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn xds<R>(&self, with: impl FnOnce(&mut XdsCounts) -> R) -> R {
        with(&mut self.xds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One figure added up over workers.
    pub(super) fn total(&self, figure: impl Fn(&WorkerCells) -> u64) -> u64 {
        self.workers.iter().map(|cells| figure(cells)).sum()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The newest snapshot that every worker serves, or one after it.
    pub(crate) fn served_generation(&self) -> u64 {
        self.workers.iter().map(|cells| cells.generation.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// What came of the requests of each arm since the start.
    pub(crate) fn arm_counts(&self) -> impl Iterator<Item = ArmCounts> {
        self.arms().into_iter().map(|(key, cells)| {
            let outcomes = cells.iter().map(|cells| cells.outcomes());
            let (requests, failures) = outcomes.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            ArmCounts {
                route: key.route.to_string(),
                arm: key.arm.to_string(),
                cluster: key.cluster.to_string(),
                requests,
                failures,
            }
        })
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }
}

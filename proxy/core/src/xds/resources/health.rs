//! What active checks have found, and what of a cluster serves with that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Resources;
use crate::config::{Address, Cluster, ClusterName, Endpoint, LoadAssignment, ServedCluster, Verdict};

/// What active checks say of a cluster's endpoints, by where they are. One that is not here has not been checked yet.
pub type Verdicts = HashMap<Address, Verdict>;

/// Verdicts by cluster, and what they make of its endpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct Checked {
    known: BTreeMap<ClusterName, OfCluster>,
    /// The endpoints that a cluster which serves nothing yet came with: it waits for these, not for all who come after.
    first: BTreeMap<ClusterName, HashSet<Address>>,
}

#[derive(Debug, Clone)]
struct OfCluster {
    verdicts: Arc<Verdicts>,
    /// Endpoints as they came, and with their verdicts.
    last: Option<(Arc<LoadAssignment>, Arc<LoadAssignment>)>,
}

impl Checked {
    /// The endpoints with what checks say of them. None while nothing can be said: a new cluster waits until each of its
    /// endpoints was checked once; one that serves already waits only while nobody is known to be well among those who come.
    pub(super) fn judge(
        &mut self,
        cluster: &Cluster,
        endpoints: Arc<LoadAssignment>,
        is_served: bool,
    ) -> Option<Arc<LoadAssignment>> {
        if cluster.health_check.is_none() || !endpoints.endpoints().any(Endpoint::is_checked) {
            return Some(endpoints);
        }
        let of = self.known.get_mut(&cluster.name);
        if let Some(OfCluster { last: Some((source, judged)), .. }) = &of
            && Arc::ptr_eq(source, &endpoints)
        {
            return Some(judged.clone());
        }
        let none = Verdicts::new();
        let judged = judged(&endpoints, of.as_ref().map_or(&none, |of| &of.verdicts));
        let pending = || judged.endpoints().filter(|endpoint| endpoint.verdict == Verdict::Pending);
        let is_well = |verdict| matches!(verdict, Verdict::Healthy | Verdict::Degraded | Verdict::Unchecked);
        let waits = match is_served {
            true => pending().next().is_some() && !judged.endpoints().any(|e| is_well(e.verdict)),
            false => {
                let all = || judged.endpoints().map(|endpoint| endpoint.address.clone()).collect();
                let first = self.first.entry(cluster.name.clone()).or_insert_with(all);
                pending().any(|endpoint| first.contains(&endpoint.address))
            }
        };
        if waits {
            return None;
        }
        self.first.remove(&cluster.name);
        let judged = Arc::new(judged);
        if let Some(of) = of {
            of.last = Some((endpoints, judged.clone()));
            // Whoever comes back later is a stranger.
            let here: HashSet<_> = judged.endpoints().map(|endpoint| &endpoint.address).collect();
            if of.verdicts.keys().any(|address| !here.contains(address)) {
                Arc::make_mut(&mut of.verdicts).retain(|address, _| here.contains(address));
            }
        }
        Some(judged)
    }

    /// What serves on in the place of what is not there yet, with what is known of it now.
    pub(super) fn judge_again(&self, before: &ServedCluster) -> ServedCluster {
        let Some(of) = self.known.get(&before.cluster.name) else { return before.clone() };
        let is_news = |endpoint: &Endpoint| {
            of.verdicts.get(&endpoint.address).is_some_and(|verdict| *verdict != endpoint.verdict)
        };
        if before.cluster.health_check.is_none() || !before.endpoints.endpoints().any(is_news) {
            return before.clone();
        }
        let mut endpoints = LoadAssignment::clone(&before.endpoints);
        for endpoint in endpoints.localities.iter_mut().flat_map(|locality| &mut locality.endpoints) {
            if let Some(verdict) = of.verdicts.get(&endpoint.address).filter(|_| endpoint.is_checked()) {
                endpoint.verdict = *verdict;
            }
        }
        ServedCluster { cluster: before.cluster.clone(), endpoints: Arc::new(endpoints) }
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(&ClusterName) -> bool) {
        self.known.retain(|cluster, _| keeps(cluster));
        self.first.retain(|cluster, _| keeps(cluster));
    }
}

fn judged(endpoints: &LoadAssignment, verdicts: &Verdicts) -> LoadAssignment {
    let mut judged = endpoints.clone();
    for endpoint in judged.localities.iter_mut().flat_map(|locality| &mut locality.endpoints) {
        endpoint.verdict = match endpoint.is_checked() {
            true => verdicts.get(&endpoint.address).copied().unwrap_or(Verdict::Pending),
            false => Verdict::Unchecked,
        };
    }
    judged
}

impl Resources {
    /// Takes what active checks say of the endpoints of a cluster. It holds for as long as the cluster has a check.
    pub(in crate::xds) fn check(&mut self, cluster: ClusterName, verdicts: Arc<Verdicts>) {
        self.touch();
        self.checked.known.insert(cluster, OfCluster { verdicts, last: None });
    }

    /// The clusters whose endpoints are to be checked, with the secrets that they name, and the endpoints that they have or
    /// are about to have. What serves until then is checked on.
    pub fn checked_clusters(&self) -> impl Iterator<Item = (Arc<Cluster>, Arc<LoadAssignment>)> {
        let clusters = self.named.has_checks.then(|| self.clusters()).into_iter().flatten();
        clusters.filter(|held| held.value.health_check.is_some()).flat_map(|held| {
            let before = self.served_clusters.get(&held.value.name);
            let next = self
                .protected_cluster(&held.value, before)
                .and_then(|cluster| Some((cluster, self.endpoints_of(&held.value, before.is_some())?)));
            let served = before.map(|before| (before.cluster.clone(), before.endpoints.clone()));
            served.into_iter().chain(next)
        })
    }

    /// Whether what active checks said of a cluster is held still.
    pub fn holds_verdicts(&self, cluster: &ClusterName) -> bool {
        self.checked.known.contains_key(cluster)
    }

    /// Whether a cluster waits for its first checks, or for the endpoints that are to be checked, and serves nothing until
    /// then.
    pub fn awaits_checks(&self) -> bool {
        let mut waiting = self.clusters().map(|held| &held.value).filter(|cluster| {
            cluster.health_check.is_some() && !self.served_clusters.contains_key(&cluster.name)
        });
        waiting.any(|cluster| self.protected_cluster(cluster, None).is_some())
    }
}

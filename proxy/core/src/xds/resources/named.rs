//! What listeners and clusters name, and what has changed since it was last settled what is served. Most updates change the
//! endpoints of a few clusters among many: they are settled at the cost of what they name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Held, Resources};
use crate::config::{Cluster, ClusterName, EndpointSource, Listener, ServedCluster};
use crate::xds::kind::Kind;

/// Resources of a type by name. Whoever changes them copies them, if others hold them too.
pub(in crate::xds) type HeldMap<T> = Arc<BTreeMap<String, Held<T>>>;

/// What is named. Made anew only where listeners or clusters are others.
#[derive(Debug, Clone, Default)]
pub(in crate::xds) struct Named {
    of: Option<(HeldMap<Listener>, HeldMap<Cluster>)>,
    pub(in crate::xds) routes: Arc<BTreeSet<String>>,
    pub(in crate::xds) endpoints: Arc<BTreeSet<String>>,
    pub(in crate::xds) secrets: Arc<BTreeSet<String>>,
    /// The clusters that name a load assignment of the stream.
    clusters_of: Arc<HashMap<String, Vec<ClusterName>>>,
    /// Whether a cluster's endpoints have names, are in a file, or are to be checked: mostly none is.
    pub(super) has_names: bool,
    pub(super) has_files: bool,
    pub(super) has_checks: bool,
}

/// What has changed since it was last settled what is served.
#[derive(Debug, Clone, Default)]
pub(in crate::xds) enum Touched {
    /// Nobody knows: everything is looked at.
    #[default]
    Anything,
    /// These load assignments of the stream.
    Endpoints(BTreeSet<String>),
}

impl Resources {
    /// What is named is known again, after listeners or clusters have changed.
    pub(in crate::xds) fn name_again(&mut self) {
        let is_same = self.named.of.as_ref().is_some_and(|(listeners, clusters)| {
            Arc::ptr_eq(listeners, &self.listeners) && Arc::ptr_eq(clusters, &self.clusters)
        });
        if is_same {
            return;
        }
        fn keep<T: Ord>(known: &Arc<BTreeSet<T>>, now: BTreeSet<T>) -> Arc<BTreeSet<T>> {
            if **known == now { known.clone() } else { Arc::new(now) }
        }
        let mut clusters_of: HashMap<String, Vec<ClusterName>> = HashMap::new();
        let (mut has_names, mut has_files, mut has_checks) = (false, false, false);
        for held in self.clusters() {
            has_checks |= held.value.health_check.is_some();
            match &held.value.endpoints {
                EndpointSource::Eds(name, _) => {
                    clusters_of.entry(name.to_string()).or_default().push(held.value.name.clone());
                }
                EndpointSource::EdsFile(..) => has_files = true,
                EndpointSource::Dns(_) => has_names = true,
                EndpointSource::Static(_) | EndpointSource::OriginalDst { .. } => {}
            }
        }
        self.named = Named {
            routes: keep(&self.named.routes, self.named_routes_now()),
            endpoints: keep(&self.named.endpoints, clusters_of.keys().cloned().collect()),
            secrets: keep(&self.named.secrets, self.named_secrets_now()),
            clusters_of: Arc::new(clusters_of),
            has_names,
            has_files,
            has_checks,
            of: Some((self.listeners.clone(), self.clusters.clone())),
        };
    }

    /// Something has changed.
    pub(in crate::xds) fn touch(&mut self) {
        self.touched = Touched::Anything;
    }

    /// These load assignments of the stream have changed.
    pub(in crate::xds) fn touch_endpoints(&mut self, names: impl IntoIterator<Item = String>) {
        if let Touched::Endpoints(touched) = &mut self.touched {
            touched.extend(names);
        }
    }

    /// Whether its clusters are the very same.
    pub fn has_clusters_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.clusters, &other.clusters)
            && Arc::ptr_eq(&self.static_clusters, &other.static_clusters)
    }

    /// Whether every name of a type that is wanted is held.
    pub(in crate::xds) fn holds_all(&self, kind: Kind) -> bool {
        match kind {
            Kind::Endpoints => self.endpoints.len() == self.named.endpoints.len(),
            Kind::Routes => self.routes.len() == self.named.routes.len(),
            Kind::Secret => self.secrets.len() == self.named.secrets.len(),
            Kind::Cluster | Kind::Listener => true,
        }
    }

    /// Settles what is served of the clusters that these load assignments are for.
    pub(super) fn settle_endpoints(&mut self, names: &BTreeSet<String>) {
        let clusters_of = self.named.clusters_of.clone();
        let mut checked = std::mem::take(&mut self.checked);
        for name in names {
            let Some(clusters) = clusters_of.get(name) else {
                // Nobody wants it.
                if self.endpoints.contains_key(name) {
                    Arc::make_mut(&mut self.endpoints).remove(name);
                }
                continue;
            };
            for cluster in clusters {
                let held = self
                    .static_clusters
                    .get(cluster.as_str())
                    .or_else(|| self.clusters.get(cluster.as_str()));
                let Some(value) = held.map(|held| held.value.clone()) else { continue };
                let before = self.served_clusters.get(cluster);
                let Some(served) = self.served(&value, before, &mut checked) else { continue };
                if before.is_some_and(|before| before.is_the_same(&served)) {
                    continue;
                }
                Arc::make_mut(&mut self.served_clusters).insert(cluster.clone(), served);
                if self.warming.contains(cluster) {
                    Arc::make_mut(&mut self.warming).remove(cluster);
                }
            }
        }
        self.checked = checked;
    }

    /// What is served of a cluster: itself where it is warm, else what was before it.
    pub(super) fn served(
        &self,
        value: &Arc<Cluster>,
        before: Option<&ServedCluster>,
        checked: &mut super::health::Checked,
    ) -> Option<ServedCluster> {
        let endpoints = self
            .endpoints_of(value, before.is_some())
            .and_then(|endpoints| checked.judge(value, endpoints, before.is_some()));
        match (self.protected_cluster(value, before), endpoints) {
            (Some(cluster), Some(endpoints)) => Some(ServedCluster { cluster, endpoints }),
            _ => before.map(|before| checked.judge_again(before)),
        }
    }
}

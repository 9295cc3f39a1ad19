//! What the control plane said and we accepted, and what of it can be served.
//!
//! A cluster is warm once its endpoints are known, and checked where it has a check; a listener once its routes are known. What is not warm yet leaves its
//! predecessor serving. Route configurations and load assignments are kept for as long as somebody names them.

mod health;
mod named;
mod secrets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use xds_proto::envoy::service::discovery::v3::Resource;
use xds_proto::prost_types::Any;
use xds_proto::type_url;

pub use health::Verdicts;
pub(super) use named::HeldMap;
use named::{Named, Touched};

use super::kind::Kind;
use crate::config::{
    Cluster, ClusterName, Config, DnsTargets, EndpointSource, Listener, ListenerName, LoadAssignment,
    NodeFacts, RouteConfigName, RouteConfiguration, RouteSource, Secret, ServedCluster, ServedListener,
};

/// An accepted resource.
#[derive(Debug)]
pub struct Held<T> {
    /// As it came.
    pub raw: Arc<Any>,
    /// The version of the response that brought it.
    pub version: String,
    /// What it means. The same `Arc` for as long as the bytes are the same.
    pub value: Arc<T>,
}

impl<T> Clone for Held<T> {
    /// Its value is shared.
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), version: self.version.clone(), value: self.value.clone() }
    }
}

/// Whether a resource holds a private key in PEM, the only form in which keys are read.
pub fn holds_private_key(resource: &Any) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    resource.value.windows(MARK.len()).any(|window| window == MARK)
}

/// Accepted resources by type and name. Cloning shares their values.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    pub(super) listeners: HeldMap<Listener>,
    pub(super) clusters: HeldMap<Cluster>,
    pub(super) routes: HeldMap<RouteConfiguration>,
    pub(super) endpoints: HeldMap<LoadAssignment>,
    pub(super) secrets: HeldMap<Secret>,
    /// What listeners and clusters name.
    pub(super) named: Named,
    /// What has changed since it was last settled what is served.
    touched: Touched,
    /// What is wanted by name and does not exist.
    absent: BTreeMap<(Kind, String), Absence>,
    /// What files hold, by path.
    pub(super) files: BTreeMap<Arc<str>, FileResources>,
    /// The addresses of clusters whose endpoints have names.
    resolved: BTreeMap<ClusterName, Resolved>,
    /// What active checks have found.
    checked: health::Checked,
    static_listeners: HeldMap<Listener>,
    static_clusters: HeldMap<Cluster>,
    /// What was last served, for those whose successor is not warm.
    served_listeners: BTreeMap<ListenerName, ServedListener>,
    served_clusters: Arc<BTreeMap<ClusterName, ServedCluster>>,
    /// Clusters that are not served yet.
    warming: Arc<BTreeSet<ClusterName>>,
    /// The stream is new and its routes have not come yet: clusters that the old routes lead to stay, even if the control
    /// plane, which cannot know of the old routes, has removed them meanwhile.
    pub(super) awaits_routes: bool,
    /// What is known of the proxy itself.
    pub(super) node: Arc<NodeFacts>,
}

/// Why something does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// It has not come in time: nobody waits for it any longer, and what it would have replaced stays.
    Overdue,
    /// Its time to live is over: what was served of it is not served any more.
    Expired,
}

/// What one file holds.
#[derive(Debug, Clone, Default)]
pub(super) struct FileResources {
    pub(super) routes: HeldMap<RouteConfiguration>,
    pub(super) endpoints: HeldMap<LoadAssignment>,
}

/// The last good answers to the lookups of a cluster.
#[derive(Debug, Clone)]
struct Resolved {
    targets: Arc<DnsTargets>,
    endpoints: Arc<LoadAssignment>,
}

/// Two static resources of one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("static_resources: two {kind}s are named {name:?}")]
pub struct StaticConflict {
    /// `listener` or `cluster`.
    pub kind: &'static str,
    /// Their name.
    pub name: String,
}

impl Resources {
    /// Starts from what the bootstrap states itself. Names given there cannot be taken by the control plane.
    ///
    /// # Errors
    /// If a name occurs twice.
    pub fn with_static(
        listeners: Vec<Held<Listener>>,
        clusters: Vec<Held<Cluster>>,
    ) -> Result<Self, StaticConflict> {
        let mut resources = Self::default();
        for held in listeners {
            let name = held.value.name.to_string();
            if Arc::make_mut(&mut resources.static_listeners).insert(name.clone(), held).is_some() {
                return Err(StaticConflict { kind: "listener", name });
            }
        }
        for held in clusters {
            let name = held.value.name.to_string();
            if Arc::make_mut(&mut resources.static_clusters).insert(name.clone(), held).is_some() {
                return Err(StaticConflict { kind: "cluster", name });
            }
        }
        resources.settle();
        Ok(resources)
    }

    /// Takes the endpoints that the names of a cluster have now. They hold for as long as the cluster has the same names.
    pub fn resolve(&mut self, cluster: ClusterName, targets: Arc<DnsTargets>, endpoints: LoadAssignment) {
        self.touch();
        self.resolved.insert(cluster, Resolved { targets, endpoints: Arc::new(endpoints) });
    }

    /// The clusters whose endpoints have names, and what is to be looked up for them.
    pub fn dns_targets(&self) -> impl Iterator<Item = (&ClusterName, &Arc<DnsTargets>)> {
        let clusters = self.named.has_names.then(|| self.clusters()).into_iter().flatten();
        clusters.filter_map(|held| match &held.value.endpoints {
            EndpointSource::Dns(targets) => Some((&held.value.name, targets)),
            EndpointSource::Static(_)
            | EndpointSource::Eds(..)
            | EndpointSource::EdsFile(..)
            | EndpointSource::OriginalDst { .. } => None,
        })
    }

    /// The files that listeners and clusters name, each with the type of what is wanted of it.
    pub fn wanted_files(&self) -> BTreeSet<(&'static str, Arc<str>)> {
        let routes = self.route_sources().filter_map(|source| match source {
            RouteSource::RdsFile(_, path) => Some((type_url::ROUTE_CONFIGURATION, path.clone())),
            RouteSource::Rds(..) | RouteSource::Inline(_) => None,
        });
        let clusters = self.named.has_files.then(|| self.clusters()).into_iter().flatten();
        let endpoints = clusters.filter_map(|held| match &held.value.endpoints {
            EndpointSource::EdsFile(_, path) => Some((type_url::CLUSTER_LOAD_ASSIGNMENT, path.clone())),
            EndpointSource::Static(_)
            | EndpointSource::Eds(..)
            | EndpointSource::Dns(_)
            | EndpointSource::OriginalDst { .. } => None,
        });
        routes.chain(endpoints).collect()
    }

    /// Whether what a file held is held still. Listeners and clusters of files are, for as long as nobody removes them.
    pub fn holds_file(&self, type_url: &str, path: &str) -> bool {
        let is_own = [type_url::LISTENER, type_url::CLUSTER].contains(&type_url);
        is_own || self.files.contains_key(path)
    }

    /// Whether a file holds a route configuration.
    pub fn holds_route_of_file(&self, name: &RouteConfigName, path: &str) -> bool {
        self.files.get(path).is_some_and(|file| file.routes.contains_key(name.as_str()))
    }

    /// Whether the addresses of a cluster are held still.
    pub fn holds_resolved(&self, cluster: &ClusterName) -> bool {
        self.resolved.contains_key(cluster)
    }

    /// The versions of what is held of the stream, by name.
    pub(super) fn versions(&self, kind: Kind) -> HashMap<String, String> {
        fn of<T>(held: &BTreeMap<String, Held<T>>) -> HashMap<String, String> {
            held.iter().map(|(name, held)| (name.clone(), held.version.clone())).collect()
        }
        match kind {
            Kind::Cluster => of(&self.clusters),
            Kind::Endpoints => of(&self.endpoints),
            Kind::Secret => of(&self.secrets),
            Kind::Listener => of(&self.listeners),
            Kind::Routes => of(&self.routes),
        }
    }

    /// What is held of the stream and holds no private key, with names and versions.
    pub(super) fn shareable(&self, kind: Kind) -> Vec<Resource> {
        fn of<T>(held: &BTreeMap<String, Held<T>>) -> Vec<Resource> {
            let resource = |(name, held): (&String, &Held<T>)| Resource {
                name: name.clone(),
                version: held.version.clone(),
                resource: Some((*held.raw).clone()),
                ..Resource::default()
            };
            held.iter().filter(|(_, held)| !holds_private_key(&held.raw)).map(resource).collect()
        }
        match kind {
            Kind::Cluster => of(&self.clusters),
            Kind::Endpoints => of(&self.endpoints),
            Kind::Secret => of(&self.secrets),
            Kind::Listener => of(&self.listeners),
            Kind::Routes => of(&self.routes),
        }
    }

    /// A resource of the stream, as it came.
    pub(super) fn raw(&self, kind: Kind, name: &str) -> Option<&Arc<Any>> {
        match kind {
            Kind::Cluster => self.clusters.get(name).map(|held| &held.raw),
            Kind::Endpoints => self.endpoints.get(name).map(|held| &held.raw),
            Kind::Secret => self.secrets.get(name).map(|held| &held.raw),
            Kind::Listener => self.listeners.get(name).map(|held| &held.raw),
            Kind::Routes => self.routes.get(name).map(|held| &held.raw),
        }
    }

    /// Whether a resource of the stream is held.
    pub(super) fn holds(&self, kind: Kind, name: &str) -> bool {
        self.raw(kind, name).is_some()
    }

    /// How many resources of the stream are held.
    pub fn count(&self) -> usize {
        self.listeners.len()
            + self.clusters.len()
            + self.routes.len()
            + self.endpoints.len()
            + self.secrets.len()
    }

    /// Whether a resource of the stream is held.
    pub fn has(&self, type_url: &str, name: &str) -> bool {
        Kind::of(type_url).is_some_and(|kind| self.holds(kind, name))
    }

    /// What is asked for by name, with its type.
    pub fn wanted(&self) -> impl Iterator<Item = (&'static str, String)> {
        let of = |kind: Kind, names: &Arc<BTreeSet<String>>| {
            let names: Vec<_> = names.iter().cloned().collect();
            names.into_iter().map(move |name| (kind.type_url(), name))
        };
        let Named { routes, endpoints, secrets, .. } = &self.named;
        of(Kind::Endpoints, endpoints).chain(of(Kind::Secret, secrets)).chain(of(Kind::Routes, routes))
    }

    /// Load assignments of the stream, by name.
    pub fn named_endpoints(&self) -> impl Iterator<Item = (&str, &Held<LoadAssignment>)> {
        self.endpoints.iter().map(|(name, held)| (name.as_str(), held))
    }

    /// Route configurations of the stream, by name.
    pub fn named_routes(&self) -> impl Iterator<Item = (&str, &Held<RouteConfiguration>)> {
        self.routes.iter().map(|(name, held)| (name.as_str(), held))
    }

    /// How long to wait for a resource that is wanted by name; unset where it is there, or known not to exist, or waited for
    /// without end.
    pub(super) fn patience(&self, kind: Kind, name: &str) -> Option<Duration> {
        if self.holds(kind, name) || self.absent.contains_key(&(kind, name.to_owned())) {
            return None;
        }
        match kind {
            Kind::Endpoints => {
                let of = |held: &Held<Cluster>| match &held.value.endpoints {
                    EndpointSource::Eds(wanted, patience) if wanted.as_str() == name => patience.0,
                    _ => None,
                };
                self.clusters().filter_map(of).min()
            }
            Kind::Routes => {
                let of = |source: &RouteSource| match source {
                    RouteSource::Rds(wanted, patience) if wanted.as_str() == name => patience.0,
                    _ => None,
                };
                self.route_sources().filter_map(of).min()
            }
            // Without its secrets a connection cannot be protected.
            Kind::Secret | Kind::Cluster | Kind::Listener => None,
        }
    }

    /// A resource does not exist.
    pub(super) fn lose(&mut self, kind: Kind, name: &str, absence: Absence) {
        self.touch();
        match kind {
            Kind::Cluster => drop(Arc::make_mut(&mut self.clusters).remove(name)),
            Kind::Endpoints => drop(Arc::make_mut(&mut self.endpoints).remove(name)),
            Kind::Secret => drop(Arc::make_mut(&mut self.secrets).remove(name)),
            Kind::Listener => drop(Arc::make_mut(&mut self.listeners).remove(name)),
            Kind::Routes => drop(Arc::make_mut(&mut self.routes).remove(name)),
        }
        if matches!(kind, Kind::Endpoints | Kind::Routes) {
            self.absent.insert((kind, name.to_owned()), absence);
        }
    }

    /// A resource exists.
    pub(super) fn find(&mut self, kind: Kind, name: &str) {
        if !self.absent.is_empty() && self.absent.remove(&(kind, name.to_owned())).is_some() {
            self.touch();
        }
    }

    /// Names that are wanted, and known not to exist, with their type.
    pub fn absent(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.absent.keys().map(|(kind, name)| (kind.type_url(), name.as_str()))
    }

    /// Says what is known of the proxy itself.
    pub fn set_node(&mut self, node: NodeFacts) {
        self.touch();
        self.node = Arc::new(node);
    }

    pub(super) fn is_static_listener(&self, name: &str) -> bool {
        self.static_listeners.contains_key(name)
    }

    pub(super) fn is_static_cluster(&self, name: &str) -> bool {
        self.static_clusters.contains_key(name)
    }

    /// All listeners, warm or not: their sockets are opened before they serve.
    pub fn listeners(&self) -> impl Iterator<Item = &Held<Listener>> {
        self.static_listeners.values().chain(self.listeners.values())
    }

    /// Where the chains of all listeners have their routes from.
    fn route_sources(&self) -> impl Iterator<Item = &RouteSource> {
        self.listeners().flat_map(|held| &held.value.chains).map(|chain| &chain.routes)
    }

    /// All clusters, warm or not.
    pub fn clusters(&self) -> impl Iterator<Item = &Held<Cluster>> {
        self.static_clusters.values().chain(self.clusters.values())
    }

    /// Route configurations from RDS.
    pub fn routes(&self) -> impl Iterator<Item = &Held<RouteConfiguration>> {
        self.routes.values().chain(self.files.values().flat_map(|file| file.routes.values()))
    }

    /// Load assignments from EDS, by the name they were asked for.
    pub fn endpoints(&self) -> impl Iterator<Item = &Held<LoadAssignment>> {
        self.endpoints.values().chain(self.files.values().flat_map(|file| file.endpoints.values()))
    }

    /// The route configurations that listeners name.
    fn named_routes_now(&self) -> BTreeSet<String> {
        let rds = self.route_sources().filter_map(|source| match source {
            RouteSource::Rds(name, _) => Some(name.to_string()),
            RouteSource::Inline(_) | RouteSource::RdsFile(..) => None,
        });
        rds.collect()
    }

    /// Puts a listener back as it is in `current`, with the routes that it serves.
    pub(super) fn restore_listener(&mut self, name: &str, current: &Self) {
        self.touch();
        let Some(held) = current.listeners.get(name) else {
            Arc::make_mut(&mut self.listeners).remove(name);
            self.served_listeners.remove(name);
            return;
        };
        for chain in &held.value.chains {
            if let RouteSource::RdsFile(_, path) = &chain.routes
                && let Some(file) = current.files.get(path)
            {
                self.files.entry(path.clone()).or_insert_with(|| file.clone());
            }
            if let RouteSource::Rds(routes, _) = &chain.routes
                && let Some(held) = current.routes.get(routes.as_str())
            {
                Arc::make_mut(&mut self.routes).entry(routes.to_string()).or_insert_with(|| held.clone());
            }
        }
        if let Some(served) = current.served_listeners.get(name) {
            self.served_listeners.insert(served.listener.name.clone(), served.clone());
        }
        Arc::make_mut(&mut self.listeners).insert(name.to_owned(), held.clone());
    }

    /// Puts a cluster back as it is in `current`, with the endpoints that it serves.
    pub(super) fn restore_cluster(&mut self, name: &str, current: &Self) {
        self.touch();
        let Some(held) = current.clusters.get(name) else {
            Arc::make_mut(&mut self.clusters).remove(name);
            Arc::make_mut(&mut self.served_clusters).remove(name);
            return;
        };
        match &held.value.endpoints {
            EndpointSource::EdsFile(_, path) => {
                if let Some(file) = current.files.get(path) {
                    self.files.entry(path.clone()).or_insert_with(|| file.clone());
                }
            }
            EndpointSource::Eds(endpoints, _) => {
                if let Some(held) = current.endpoints.get(endpoints.as_str()) {
                    Arc::make_mut(&mut self.endpoints)
                        .entry(endpoints.to_string())
                        .or_insert_with(|| held.clone());
                }
            }
            EndpointSource::Dns(_) => {
                if let Some(resolved) = current.resolved.get(name) {
                    self.resolved.entry(held.value.name.clone()).or_insert_with(|| resolved.clone());
                }
            }
            EndpointSource::Static(_) | EndpointSource::OriginalDst { .. } => {}
        }
        if let Some(served) = current.served_clusters.get(name) {
            Arc::make_mut(&mut self.served_clusters).insert(served.cluster.name.clone(), served.clone());
        }
        Arc::make_mut(&mut self.clusters).insert(name.to_owned(), held.clone());
    }

    /// Lets go of what nobody names any more, and says what is to be served now.
    pub(super) fn settle(&mut self) -> Config {
        self.name_again();
        let untouched = Touched::Endpoints(BTreeSet::new());
        match std::mem::replace(&mut self.touched, untouched) {
            Touched::Endpoints(names) => self.settle_endpoints(&names),
            Touched::Anything => self.settle_all(),
        }
        self.config()
    }

    fn settle_all(&mut self) {
        fn keep<T>(held: &mut HeldMap<T>, names: &BTreeSet<String>) {
            if held.keys().any(|name| !names.contains(name)) {
                Arc::make_mut(held).retain(|name, _| names.contains(name));
            }
        }
        let Named { routes, endpoints, secrets, .. } = self.named.clone();
        keep(&mut self.routes, &routes);
        keep(&mut self.endpoints, &endpoints);
        keep(&mut self.secrets, &secrets);
        self.absent.retain(|(kind, name), _| match kind {
            Kind::Routes => routes.contains(name),
            _ => endpoints.contains(name),
        });
        let files: BTreeSet<_> = self.wanted_files().into_iter().map(|(_, path)| path).collect();
        self.files.retain(|path, _| files.contains(path));
        let with_names: BTreeSet<_> = self.dns_targets().map(|(cluster, _)| cluster.clone()).collect();
        self.resolved.retain(|cluster, _| with_names.contains(cluster));

        let mut checked = std::mem::take(&mut self.checked);
        let with_check =
            |held: Option<&Held<Cluster>>| held.is_some_and(|held| held.value.health_check.is_some());
        checked.retain(|name| {
            with_check(self.clusters.get(name.as_str()))
                || with_check(self.static_clusters.get(name.as_str()))
        });

        let listeners: BTreeMap<_, _> = self
            .listeners()
            .filter_map(|held| {
                let name = held.value.name.clone();
                let before = self.served_listeners.get(&name);
                let routes = self.routes_of(&held.value, before.is_some());
                let listener = self.protected_listener(&held.value, before);
                let served = match (listener, routes) {
                    (Some(listener), Some(routes)) => ServedListener { listener, routes },
                    _ => before?.clone(),
                };
                Some((name, served))
            })
            .collect();
        let mut clusters: BTreeMap<_, _> = self
            .clusters()
            .filter_map(|held| {
                let name = held.value.name.clone();
                let before = self.served_clusters.get(&name);
                Some((name, self.served(&held.value, before, &mut checked)?))
            })
            .collect();
        if self.awaits_routes {
            let routed =
                listeners.values().flat_map(|l: &ServedListener| &l.routes).flat_map(|r| r.clusters());
            for name in routed {
                if let Some(served) = self.served_clusters.get(name) {
                    clusters.entry(name.clone()).or_insert_with(|| served.clone());
                }
            }
        }
        self.checked = checked;
        self.served_listeners = listeners;
        self.served_clusters = Arc::new(clusters);
        let all = self.clusters().map(|held| held.value.name.clone());
        self.warming = Arc::new(all.filter(|name| !self.served_clusters.contains_key(name)).collect());
    }

    /// The clusters that are served.
    pub fn served_clusters(&self) -> &BTreeMap<ClusterName, ServedCluster> {
        &self.served_clusters
    }

    /// The listeners that are served.
    pub fn served_listeners(&self) -> impl Iterator<Item = &ServedListener> {
        self.served_listeners.values()
    }

    /// What is served.
    pub fn config(&self) -> Config {
        Config {
            listeners: self.served_listeners.values().cloned().collect(),
            clusters: self.served_clusters.clone(),
            warming: self.warming.clone(),
            node: self.node.clone(),
        }
    }

    /// The routes of all of a listener's chains; it is not warm before all of them are known.
    fn routes_of(&self, listener: &Listener, is_served: bool) -> Option<Vec<Arc<RouteConfiguration>>> {
        let of_chain = |source: &RouteSource| match source {
            RouteSource::Inline(routes) => Some(routes.clone()),
            RouteSource::Rds(name, _) => self.route(name).or_else(|| {
                let none = || Arc::new(RouteConfiguration::new(name.clone(), Vec::new()));
                self.is_absent(Kind::Routes, name.as_str(), is_served).then(none)
            }),
            RouteSource::RdsFile(name, path) => {
                self.files.get(path)?.routes.get(name.as_str()).map(|held| held.value.clone())
            }
        };
        listener.chains.iter().map(|chain| of_chain(&chain.routes)).collect()
    }

    fn route(&self, name: &RouteConfigName) -> Option<Arc<RouteConfiguration>> {
        self.routes.get(name.as_str()).map(|held| held.value.clone())
    }

    /// Whether nothing stands for a name: it does not exist, and nothing that was served before stays in its place.
    fn is_absent(&self, kind: Kind, name: &str, is_served: bool) -> bool {
        match self.absent.get(&(kind, name.to_owned())) {
            Some(Absence::Expired) => true,
            Some(Absence::Overdue) => !is_served,
            None => false,
        }
    }

    fn endpoints_of(&self, cluster: &Cluster, is_served: bool) -> Option<Arc<LoadAssignment>> {
        match &cluster.endpoints {
            EndpointSource::Static(assignment) => Some(assignment.clone()),
            EndpointSource::Eds(name, _) => {
                let held = self.endpoints.get(name.as_str()).map(|held| held.value.clone());
                let absent = || self.is_absent(Kind::Endpoints, name.as_str(), is_served).then(Arc::default);
                held.or_else(absent)
            }
            EndpointSource::EdsFile(name, path) => {
                self.files.get(path)?.endpoints.get(name.as_str()).map(|held| held.value.clone())
            }
            // Nobody knows them before the clients do.
            EndpointSource::OriginalDst { .. } => Some(Arc::default()),
            EndpointSource::Dns(targets) => {
                let known = self.resolved.get(&cluster.name)?;
                // How often they are looked up changes nothing about what they are.
                let same = known.targets.names == targets.names && known.targets.template == targets.template;
                same.then(|| known.endpoints.clone())
            }
        }
    }
}

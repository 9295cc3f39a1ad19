//! A configuration as it would be served, as far as files tell: no port is opened, and nobody is asked.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::config::{
    ClusterName, Config, EndpointSource, ListenerName, LoadAssignment, RouteSource, ServedCluster,
};
use proxy_core::lint::{Finding, Spot, lint, lint_routes};
use proxy_core::snapshot::Snapshot;
use proxy_core::xds::{AdsClient, Rejection, translate};
use xds_proto::{gate, json, type_url};

use crate::bootstrap::{Bootstrap, BootstrapError, OWN_ROUTES, own_routes};
use crate::files::{self, Source};

/// A configuration that is not served.
#[derive(Debug)]
pub struct Offline {
    /// What would be served.
    pub snapshot: Snapshot,
    /// The same before it was compiled.
    pub config: Config,
    /// Clusters whose endpoints only a running proxy can learn, from its control plane or from DNS.
    pub unknown: BTreeSet<ClusterName>,
    /// Whether listeners or clusters come from a control plane as well.
    pub is_part: bool,
    /// The file that all of the bootstrap is from, and its text.
    document: Option<(String, String)>,
    /// The bootstrap's own listeners, in their order.
    listeners: Vec<String>,
    /// Places that may still be looked for: each costs a walk through the text.
    places: Cell<u32>,
    sources: Vec<(&'static str, Source)>,
}

/// The most places that are looked for in a bootstrap.
const MOST_PLACES: u32 = 100;

/// Something that is hardly meant, and where. As text: `file:line:column: warning: what; advice`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file, with line and column where they are known.
    pub place: String,
    /// The route configuration, and the path in it.
    pub spot: Spot,
    /// What will happen.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, what, advice, .. } = self;
        write!(f, "{place}: warning: {what}; {advice}")
    }
}

impl Offline {
    /// Looks for what can be used and is hardly meant.
    pub fn lint(&self) -> Vec<Warning> {
        let findings = lint(&self.config, self.is_part);
        findings.into_iter().map(|finding| self.located(finding)).collect()
    }

    /// The file that a listener has its routes from.
    fn source_of(&self, listener: &ListenerName) -> Option<&Arc<str>> {
        let served = self.config.listeners.iter().find(|served| served.listener.name == *listener)?;
        served.listener.chains.iter().find_map(|chain| match &chain.routes {
            RouteSource::RdsFile(_, path) => Some(path),
            RouteSource::Inline(_) | RouteSource::Rds(..) => None,
        })
    }

    /// The place of a listener among the bootstrap's own.
    fn position(&self, listener: &ListenerName) -> Option<usize> {
        self.listeners.iter().position(|name| name == listener.as_str())
    }

    fn located(&self, finding: Finding) -> Warning {
        let Finding { spot, what, advice } = finding;
        let in_files = |type_url: &str, name: &str, path: &str| {
            let of_type = self.sources.iter().filter(|(kind, _)| *kind == type_url);
            of_type.map(|(_, source)| source).find_map(|source| source.place_of(name, path))
        };
        let (origin, text) = self.document.as_ref().map_or(("", ""), |(origin, text)| (origin, text));
        let place = match &spot.listener {
            None => in_files(type_url::ROUTE_CONFIGURATION, spot.configuration.as_str(), &spot.path),
            Some(listener) => match (self.source_of(listener), self.position(listener)) {
                (Some(file), _) => self.sources.iter().map(|(_, source)| source).find_map(|source| {
                    let is_it = source.path() == &**file;
                    is_it.then(|| source.place_of(spot.configuration.as_str(), &spot.path)).flatten()
                }),
                (None, Some(index)) => {
                    let path = format!("{}.{}", own_routes(index), spot.path);
                    let left = self.places.get();
                    self.places.set(left.saturating_sub(1));
                    let place = if left > 0 { json::place_of(text, &path) } else { None };
                    place.map(|place| format!("{origin}:{place}"))
                }
                (None, None) => {
                    let path = format!("{OWN_ROUTES}.{}", spot.path);
                    in_files(type_url::LISTENER, listener.as_str(), &path)
                }
            },
        };
        Warning { place: place.unwrap_or_else(|| origin.to_owned()), spot, what, advice }
    }
}

/// Checks the text of a file of resources as a `path_config_source` names it.
///
/// # Errors
/// One sentence with file, line and column.
pub fn check_resources(path: &str, text: String) -> Result<Vec<Warning>, String> {
    let path: Arc<str> = path.into();
    let (response, source) = files::parse(&path, text, "")?;
    let mut warnings = Vec::new();
    let mut seen = BTreeSet::new();
    for resource in &response.resources {
        let name = gate::resource_name(&resource.value).unwrap_or_default();
        if !seen.insert((&resource.type_url, name.clone())) {
            return Err(format!("{path}: two resources of one type are named {name:?}"));
        }
        let refused = |rejection: Rejection| source.describe(&rejection);
        match type_url::message_name(&resource.type_url) {
            "envoy.config.cluster.v3.Cluster" => drop(translate::cluster(resource).map_err(refused)?),
            "envoy.config.endpoint.v3.ClusterLoadAssignment" => {
                drop(translate::load_assignment(resource).map_err(refused)?);
            }
            "envoy.config.listener.v3.Listener" => drop(translate::listener(resource).map_err(refused)?),
            _ => {
                let routes = translate::route_configuration(resource).map_err(refused)?.value;
                warnings.extend(lint_routes(&routes).into_iter().map(|Finding { spot, what, advice }| {
                    let place = source.place_of(routes.name.as_str(), &spot.path);
                    Warning { place: place.unwrap_or_else(|| path.to_string()), spot, what, advice }
                }));
            }
        }
    }
    Ok(warnings)
}

/// Whether a text is such a file rather than a bootstrap.
pub fn holds_resources(text: &str) -> bool {
    json::place_of(text, "resources").is_some()
}

impl Bootstrap {
    /// Reads the files that the configuration names and compiles all of it.
    ///
    /// # Errors
    /// A file that cannot be used, or parts that contradict one another.
    pub fn offline(self) -> Result<Offline, BootstrapError> {
        self.validate()?;
        let mut is_part = self.follows_control_plane();
        let document = self.document;
        let listeners = self.listener_names;
        let mut sources = Vec::new();
        let mut client = AdsClient::new(self.node, self.subscriptions, self.resources);
        let mut taken = BTreeSet::new();
        let now = Instant::now();
        // Listeners that a file brings may name other files.
        while let Some(file) = client.wanted_files().into_iter().find(|file| !taken.contains(file)) {
            let (type_url, path) = &file;
            let (response, source) = files::read(path, type_url).map_err(BootstrapError::File)?;
            let conclusion = client.conclude(client.review_file(path, response, now), now);
            if let Some(rejection) = conclusion.rejections.first() {
                return Err(BootstrapError::File(source.describe(rejection)));
            }
            sources.push((*type_url, source));
            taken.insert(file);
        }
        let resources = client.resources();
        let mut config = resources.config();
        let lacks = |path: &str, what: String| BootstrapError::File(format!("{path}: there is no {what}"));
        let is_served =
            |name: &ListenerName| config.listeners.iter().any(|served| served.listener.name == *name);
        for held in resources.listeners().filter(|held| !is_served(&held.value.name)) {
            for chain in &held.value.chains {
                match &chain.routes {
                    RouteSource::RdsFile(routes, path) if !resources.holds_route_of_file(routes, path) => {
                        let what = format!(
                            "route configuration {:?}, which listener {:?} wants",
                            routes.as_str(),
                            held.value.name.as_str()
                        );
                        return Err(lacks(path, what));
                    }
                    RouteSource::Rds(..) => is_part = true,
                    RouteSource::RdsFile(..) | RouteSource::Inline(_) => {}
                }
            }
        }
        let mut unknown = BTreeSet::new();
        for held in resources.clusters() {
            let cluster = held.value.clone();
            if !Arc::make_mut(&mut config.warming).remove(&cluster.name) {
                continue;
            }
            if let EndpointSource::EdsFile(name, path) = &cluster.endpoints {
                let what = format!(
                    "load assignment {:?}, which cluster {:?} wants",
                    name.as_str(),
                    cluster.name.as_str()
                );
                return Err(lacks(path, what));
            }
            unknown.insert(cluster.name.clone());
            let endpoints = Arc::new(LoadAssignment::default());
            Arc::make_mut(&mut config.clusters)
                .insert(cluster.name.clone(), ServedCluster { cluster, endpoints });
        }
        let snapshot = Snapshot::default().next(&config, |_| false)?;
        Ok(Offline {
            snapshot,
            config,
            unknown,
            is_part,
            document,
            listeners,
            places: Cell::new(MOST_PLACES),
            sources,
        })
    }
}

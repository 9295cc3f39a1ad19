//! A configuration as it would be served, as far as files tell: no port is opened, and nobody is asked.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use proxy_core::config::{ClusterName, Config, ListenerName, LoadAssignment, ServedCluster};
use proxy_core::lint::{Finding, Spot, lint, lint_routes};
use proxy_core::snapshot::Snapshot;
use proxy_core::xds::{AdsClient, Rejection, translate};
use xds_proto::{json, type_url};

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
    listeners: Vec<ListenerName>,
    sources: Vec<(&'static str, Source)>,
}

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

    fn located(&self, finding: Finding) -> Warning {
        let Finding { spot, what, advice } = finding;
        let in_files = |type_url: &str, name: &str, path: &str| {
            let of_type = self.sources.iter().filter(|(kind, _)| *kind == type_url);
            of_type.map(|(_, source)| source).find_map(|source| source.place_of(name, path))
        };
        let (origin, text) = self.document.as_ref().map_or(("", ""), |(origin, text)| (origin, text));
        let place = match &spot.listener {
            None => in_files(type_url::ROUTE_CONFIGURATION, spot.configuration.as_str(), &spot.path),
            Some(listener) => match self.listeners.iter().position(|name| name == listener) {
                Some(index) => {
                    let path = format!("{}.{}", own_routes(index), spot.path);
                    json::place_of(text, &path).map(|place| format!("{origin}:{place}"))
                }
                None => {
                    let path = format!("{OWN_ROUTES}.{}", spot.path);
                    in_files(type_url::LISTENER, listener.as_str(), &path)
                }
            },
        };
        Warning { place: place.unwrap_or_else(|| origin.to_owned()), spot, what, advice }
    }
}

/// Checks a file of resources as a `path_config_source` names it.
///
/// # Errors
/// One sentence with file, line and column.
pub fn check_resources(path: &str) -> Result<Vec<Warning>, String> {
    let path: Arc<str> = path.into();
    let (response, source) = files::read(&path, "")?;
    let mut warnings = Vec::new();
    for resource in &response.resources {
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
        let is_part = self.follows_control_plane();
        let document = self.document;
        let listeners = self.resources.listeners().map(|held| held.value.name.clone()).collect();
        let mut sources = Vec::new();
        let mut client = AdsClient::new(self.node, self.subscriptions, self.resources);
        let mut taken = BTreeSet::new();
        // Listeners that a file brings may name other files.
        while let Some(file) = client.wanted_files().into_iter().find(|file| !taken.contains(file)) {
            let (type_url, path) = &file;
            let (response, source) = files::read(path, type_url).map_err(BootstrapError::File)?;
            let conclusion = client.conclude(client.review_file(path, response));
            if let Some(rejection) = conclusion.rejections.first() {
                return Err(BootstrapError::File(source.describe(rejection)));
            }
            sources.push((*type_url, source));
            taken.insert(file);
        }
        let resources = client.resources();
        let mut config = resources.config();
        let mut unknown = BTreeSet::new();
        for held in resources.clusters() {
            let cluster = held.value.clone();
            if config.warming.remove(&cluster.name) {
                unknown.insert(cluster.name.clone());
                let endpoints = Arc::new(LoadAssignment::default());
                config.clusters.insert(cluster.name.clone(), ServedCluster { cluster, endpoints });
            }
        }
        let snapshot = Snapshot::default().next(&config, |_| false)?;
        Ok(Offline { snapshot, config, unknown, is_part, document, listeners, sources })
    }
}

//! A configuration as it would be served, as far as files tell: no port is opened, and nobody is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use proxy_core::config::{ClusterName, Config, LoadAssignment, ServedCluster};
use proxy_core::snapshot::Snapshot;
use proxy_core::xds::AdsClient;

use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::files;

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
}

impl Bootstrap {
    /// Reads the files that the configuration names and compiles all of it.
    ///
    /// # Errors
    /// A file that cannot be used, or parts that contradict one another.
    pub fn offline(self) -> Result<Offline, BootstrapError> {
        let is_part = self.follows_control_plane();
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
        Ok(Offline { snapshot, config, unknown, is_part })
    }
}

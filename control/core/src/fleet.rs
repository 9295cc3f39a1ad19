//! The fleet: who follows, what each has taken, and what each refused.

use std::collections::BTreeMap;
use std::time::SystemTime;

use xds_proto::type_url;

/// All nodes that ever connected, by id.
#[derive(Debug, Default)]
pub struct Fleet {
    nodes: BTreeMap<String, NodeStatus>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// `node.cluster`
    pub cluster: String,
    /// `node.user_agent_name`
    pub user_agent: String,
    /// Streams that are open; more than one while a node reconnects.
    pub streams: usize,
    /// By short type name.
    pub types: BTreeMap<String, TypeStatus>,
    /// The number of the snapshot that it serves, in its own counting; none where it does not report.
    pub generation: Option<u64>,
    /// What came of requests since it began to report.
    pub arms: BTreeMap<ArmKey, ArmCounts>,
}

/// An arm of a route of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArmKey {
    /// Route configuration, virtual host and route.
    pub route: String,
    /// The arm.
    pub arm: String,
    /// The cluster that it leads to.
    pub cluster: String,
}

/// What came of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArmCounts {
    /// All of them.
    pub requests: u64,
    /// Those that were answered with a status of the five hundreds, or not at all.
    pub failures: u64,
}

impl NodeStatus {
    /// The configuration of which the node has taken every type; none where it has not taken one of every type yet.
    pub fn acknowledged(&self) -> Option<u64> {
        self.types.values().map(|of_type| of_type.config_version).min().flatten()
    }

    /// The configuration that all of the node's workers serve; none of a node that does not report.
    pub fn served(&self) -> Option<u64> {
        self.types.values().map(|of_type| of_type.served_config_version).min().flatten()
    }
}

/// What a node has of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// The last acknowledged `version_info`.
    pub acknowledged: Option<String>,
    /// The number of the configuration version in which that was current.
    pub config_version: Option<u64>,
    /// The `version_info` that the node says it serves.
    pub served: Option<String>,
    /// The number of the configuration version in which that was current.
    pub served_config_version: Option<u64>,
    /// The last refusal, until something was acknowledged after it.
    pub refusal: Option<Refusal>,
}

/// A NACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The resources that the node's text names, of those that were sent.
    pub resources: Vec<String>,
    /// The node's text.
    pub reason: String,
    /// The number of the configuration version that was refused.
    pub config_version: u64,
    /// When.
    pub at: SystemTime,
}

/// What a node reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of the snapshot that all of its workers serve.
    pub generation: u64,
    /// What that was made of: type URLs and the versions of their last responses.
    pub types: Vec<(String, String)>,
    /// What came of requests since the last report.
    pub arms: Vec<(ArmKey, ArmCounts)>,
}

impl TypeStatus {
    /// What is served is what was acknowledged, or something before it.
    fn compare(&mut self) {
        if self.served.is_some() && self.served == self.acknowledged {
            self.served_config_version = self.config_version;
        }
    }
}

/// The most arms that are remembered of a node.
const MAX_ARMS: usize = 100_000;
/// The most nodes that are remembered; the disconnected ones go first.
const MAX_NODES: usize = 100_000;

impl Fleet {
    /// A node's first request came.
    pub fn connected(&mut self, id: &str, cluster: &str, user_agent: &str) {
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(id) {
            self.nodes.retain(|_, node| node.streams > 0);
        }
        let node = self.nodes.entry(id.to_owned()).or_default();
        cluster.clone_into(&mut node.cluster);
        user_agent.clone_into(&mut node.user_agent);
        node.streams += 1;
    }

    /// A node's stream ended. What is known of it stays.
    pub fn disconnected(&mut self, id: &str) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.streams = node.streams.saturating_sub(1);
        }
    }

    /// A node took a response.
    pub fn acknowledged(&mut self, id: &str, type_url: &str, version: &str, config_version: u64) {
        if let Some(status) = self.status(id, type_url) {
            status.acknowledged = Some(version.to_owned());
            status.config_version = Some(config_version);
            status.refusal = None;
            status.compare();
        }
    }

    /// A configuration says of a type what the node has taken already.
    pub fn current(&mut self, id: &str, type_url: &str, config_version: u64) {
        if let Some(status) = self.status(id, type_url) {
            status.config_version = Some(config_version);
            status.compare();
        }
    }

    /// A node told what it serves.
    pub fn reported(&mut self, id: &str, report: Report) {
        let Report { generation, types, arms } = report;
        for (type_url, version) in types {
            // What it does not have from here is no affair of the control plane.
            let node = self.nodes.get_mut(id);
            if let Some(status) = node.and_then(|node| node.types.get_mut(type_url::short_name(&type_url))) {
                status.served = Some(version);
                status.compare();
            }
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.generation = Some(generation);
            for (key, counts) in arms {
                if node.arms.len() < MAX_ARMS || node.arms.contains_key(&key) {
                    let sum = node.arms.entry(key).or_default();
                    sum.requests = sum.requests.saturating_add(counts.requests);
                    sum.failures = sum.failures.saturating_add(counts.failures);
                }
            }
        }
    }

    /// A node refused a response.
    pub fn refused(&mut self, id: &str, type_url: &str, refusal: Refusal) {
        if let Some(status) = self.status(id, type_url) {
            status.refusal = Some(refusal);
        }
    }

    fn status(&mut self, id: &str, type_url: &str) -> Option<&mut TypeStatus> {
        let node = self.nodes.get_mut(id)?;
        Some(node.types.entry(type_url::short_name(type_url).to_owned()).or_default())
    }

    /// All nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = (&String, &NodeStatus)> {
        self.nodes.iter()
    }
}

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
}

/// What a node has of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// The last acknowledged `version_info`.
    pub acknowledged: Option<String>,
    /// The number of the configuration version in which that was current.
    pub config_version: Option<u64>,
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

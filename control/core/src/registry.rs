//! The registry: instances that say of themselves that they are there.

use std::collections::BTreeMap;

use proxy_core::config::Address;
use serde::{Deserialize, Serialize};

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Unique in its service.
    pub id: String,
    /// `IP:port`.
    pub address: std::net::SocketAddr,
    /// What is said of it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its part among the instances, from 1.
    #[serde(default = "one")]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

impl Instance {
    /// Where it is, as the data plane has it.
    pub fn address(&self) -> Address {
        Address::Socket(self.address)
    }

    /// Whether every label of the selector is one of the instance, with the same value. An empty selector holds of all.
    pub fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// The instances of every service, by namespace and name.
pub type Instances = BTreeMap<(String, String), Vec<Instance>>;

//! What every resource says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Kind;

/// `metadata` of every resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Unique for its kind and namespace.
    pub name: String,
    /// `default` where unset; empty where the kind has none.
    #[serde(default = "default_namespace", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// For selection by people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes of people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// When it was made, RFC 3339 in UTC. Of two routes that want the same requests the older one has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    // What an API server adds. Read, so that exports of kubectl load, and dropped.
    #[serde(default, skip_serializing)]
    uid: Dropped,
    #[serde(default, skip_serializing)]
    resource_version: Dropped,
    #[serde(default, skip_serializing)]
    generation: Dropped,
    #[serde(default, skip_serializing)]
    managed_fields: Dropped,
    #[serde(default, skip_serializing)]
    owner_references: Dropped,
    #[serde(default, skip_serializing)]
    finalizers: Dropped,
}

impl Metadata {
    /// Of a resource that has nothing but a name.
    pub fn named(namespace: &str, name: &str) -> Self {
        Self { name: name.to_owned(), namespace: namespace.to_owned(), ..Self::default() }
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// A value that is read and dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped;

impl<'de> Deserialize<'de> for Dropped {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// A resource that is a specification under a name, as most are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Object<S> {
    /// Group and version.
    pub api_version: String,
    /// What it is.
    pub kind: Kind,
    /// Its name, and what is said of it.
    pub metadata: Metadata,
    /// What it does.
    pub spec: S,
    #[serde(default, skip_serializing)]
    pub(super) status: Dropped,
}

impl<S> Object<S> {
    /// A resource of a kind.
    pub fn new(kind: Kind, metadata: Metadata, spec: S) -> Self {
        Self { api_version: kind.api_version(), kind, metadata, spec, status: Dropped }
    }
}

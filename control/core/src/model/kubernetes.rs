//! Kubernetes' own kinds, as far as traffic needs them. What concerns the machinery of a cluster is read and dropped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metadata::Dropped;
use super::{Kind, Metadata, Object};

/// `Service`
pub type Service = Object<ServiceSpec>;

/// `Service.spec`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// What it offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Instances of the registry whose labels hold all of these are its endpoints, beside its `EndpointSlice`s. None where
    /// empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// `ExternalName` is not supported: references to the service are not resolved.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub of_type: Option<String>,
    /// Whether proxies prefer the endpoints near them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
    #[serde(default, skip_serializing)]
    external_name: Dropped,
    #[serde(default, skip_serializing, rename = "clusterIP")]
    cluster_ip: Dropped,
    #[serde(default, skip_serializing, rename = "clusterIPs")]
    cluster_ips: Dropped,
    #[serde(default, skip_serializing)]
    ip_families: Dropped,
    #[serde(default, skip_serializing)]
    ip_family_policy: Dropped,
    #[serde(default, skip_serializing)]
    internal_traffic_policy: Dropped,
    #[serde(default, skip_serializing)]
    external_traffic_policy: Dropped,
    #[serde(default, skip_serializing)]
    session_affinity: Dropped,
    #[serde(default, skip_serializing)]
    publish_not_ready_addresses: Dropped,
}

/// Which endpoints a proxy prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// Those of its zone, then those of its region, then all others: each once too few of the former are well.
    PreferSameZone,
    /// The older word for the same.
    PreferClose,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP` where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `kubernetes.io/h2c` is HTTP/2, `kubernetes.io/ws` WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// What routes call it by.
    pub port: u16,
    /// The endpoints' port; the same where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<PortName>,
    #[serde(default, skip_serializing)]
    node_port: Dropped,
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortName {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// `EndpointSlice`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// `discovery.k8s.io/v1`
    pub api_version: String,
    /// `EndpointSlice`
    pub kind: Kind,
    /// The label `kubernetes.io/service-name` says whose endpoints these are.
    pub metadata: Metadata,
    /// `IPv4` or `IPv6`. Endpoints of `FQDN` are left out.
    pub address_type: String,
    /// The endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SliceEndpoint>,
    /// Their ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<SlicePort>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// The first one is used.
    pub addresses: Vec<String>,
    /// Ready where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<EndpointConditions>,
    /// Becomes the label `zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing)]
    hostname: Dropped,
    #[serde(default, skip_serializing)]
    node_name: Dropped,
    #[serde(default, skip_serializing)]
    target_ref: Dropped,
    #[serde(default, skip_serializing)]
    hints: Dropped,
}

/// Whether an endpoint may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EndpointConditions {
    /// True where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    #[serde(default, skip_serializing)]
    serving: Dropped,
    #[serde(default, skip_serializing)]
    terminating: Dropped,
}

/// A port of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SlicePort {
    /// That of the service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP` where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// As of a service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// `Secret`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Secret {
    /// `v1`
    pub api_version: String,
    /// `Secret`
    pub kind: Kind,
    /// Its name.
    pub metadata: Metadata,
    /// `kubernetes.io/tls` for chains and keys.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub of_type: Option<String>,
    /// Values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Values as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub string_data: BTreeMap<String, String>,
    #[serde(default, skip_serializing)]
    immutable: Dropped,
}

/// `ConfigMap`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigMap {
    /// `v1`
    pub api_version: String,
    /// `ConfigMap`
    pub kind: Kind,
    /// Its name.
    pub metadata: Metadata,
    /// Values as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, String>,
    #[serde(default, skip_serializing)]
    immutable: Dropped,
}

/// `Namespace`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Namespace {
    /// `v1`
    pub api_version: String,
    /// `Namespace`
    pub kind: Kind,
    /// Its name, and the labels by which gateways select it.
    pub metadata: Metadata,
    #[serde(default, skip_serializing)]
    spec: Dropped,
    #[serde(default, skip_serializing)]
    status: Dropped,
}

impl Secret {
    /// A value as text, if it is there and is text.
    pub fn text(&self, key: &str) -> Option<String> {
        use base64::Engine as _;
        if let Some(text) = self.string_data.get(key) {
            return Some(text.clone());
        }
        let encoded: String = self.data.get(key)?.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        String::from_utf8(bytes).ok()
    }
}

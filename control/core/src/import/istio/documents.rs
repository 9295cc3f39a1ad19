//! The documents of Istio, as far as they can be taken: closed structs, so that a field without an equal is refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::import) struct VirtualService {
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    #[serde(default)]
    pub(super) gateways: Vec<String>,
    #[serde(default)]
    pub(super) http: Vec<HttpRule>,
    #[serde(default)]
    pub(super) export_to: Option<Vec<String>>,
    #[serde(default)]
    pub(super) tls: Option<Value>,
    #[serde(default)]
    pub(super) tcp: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HttpRule {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default, rename = "match")]
    pub(super) matches: Vec<Match>,
    #[serde(default)]
    pub(super) route: Vec<Destination>,
    #[serde(default)]
    pub(super) redirect: Option<Redirect>,
    #[serde(default)]
    pub(super) rewrite: Option<Rewrite>,
    #[serde(default)]
    pub(super) timeout: Option<String>,
    #[serde(default)]
    pub(super) headers: Option<Headers>,
    // Known, and not supported: refused by their names.
    #[serde(default)]
    pub(super) retries: Option<Value>,
    #[serde(default)]
    pub(super) fault: Option<Value>,
    #[serde(default)]
    pub(super) mirror: Option<Value>,
    #[serde(default)]
    pub(super) mirrors: Option<Value>,
    #[serde(default)]
    pub(super) mirror_percentage: Option<Value>,
    #[serde(default)]
    pub(super) cors_policy: Option<Value>,
    #[serde(default)]
    pub(super) delegate: Option<Value>,
    #[serde(default)]
    pub(super) direct_response: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Match {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) uri: Option<StringMatch>,
    #[serde(default)]
    pub(super) method: Option<StringMatch>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, StringMatch>,
    #[serde(default)]
    pub(super) query_params: BTreeMap<String, StringMatch>,
    #[serde(default)]
    pub(super) authority: Option<Value>,
    #[serde(default)]
    pub(super) scheme: Option<Value>,
    #[serde(default)]
    pub(super) port: Option<Value>,
    #[serde(default)]
    pub(super) source_labels: Option<Value>,
    #[serde(default)]
    pub(super) source_namespace: Option<Value>,
    #[serde(default)]
    pub(super) gateways: Option<Value>,
    #[serde(default)]
    pub(super) ignore_uri_case: Option<Value>,
    #[serde(default)]
    pub(super) without_headers: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StringMatch {
    #[serde(default)]
    pub(super) exact: Option<String>,
    #[serde(default)]
    pub(super) prefix: Option<String>,
    #[serde(default)]
    pub(super) regex: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Destination {
    pub(super) destination: Target,
    #[serde(default)]
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) headers: Option<Headers>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub(super) host: String,
    #[serde(default)]
    pub(super) subset: Option<String>,
    #[serde(default)]
    pub(super) port: Option<PortNumber>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortNumber {
    pub(super) number: u16,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Redirect {
    #[serde(default)]
    pub(super) uri: Option<String>,
    #[serde(default)]
    pub(super) authority: Option<String>,
    #[serde(default)]
    pub(super) scheme: Option<String>,
    #[serde(default)]
    pub(super) port: Option<u16>,
    #[serde(default)]
    pub(super) redirect_code: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewrite {
    #[serde(default)]
    pub(super) uri: Option<String>,
    #[serde(default)]
    pub(super) authority: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Headers {
    #[serde(default)]
    pub(super) request: Option<HeaderOperations>,
    #[serde(default)]
    pub(super) response: Option<HeaderOperations>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderOperations {
    #[serde(default)]
    pub(super) set: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) add: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) remove: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::import) struct DestinationRule {
    pub(super) host: String,
    #[serde(default)]
    pub(super) subsets: Vec<Subset>,
    #[serde(default)]
    pub(super) traffic_policy: Option<Policy>,
    #[serde(default)]
    pub(super) export_to: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Subset {
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) traffic_policy: Option<Policy>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Policy {
    #[serde(default)]
    pub(super) load_balancer: Option<LoadBalancer>,
    #[serde(default)]
    pub(super) connection_pool: Option<ConnectionPool>,
    #[serde(default)]
    pub(super) outlier_detection: Option<Value>,
    #[serde(default)]
    pub(super) tls: Option<Value>,
    #[serde(default)]
    pub(super) port_level_settings: Option<Value>,
    #[serde(default)]
    pub(super) tunnel: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LoadBalancer {
    #[serde(default)]
    pub(super) simple: Option<String>,
    #[serde(default)]
    pub(super) consistent_hash: Option<Value>,
    #[serde(default)]
    pub(super) locality_lb_setting: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionPool {
    #[serde(default)]
    pub(super) tcp: Option<TcpPool>,
    #[serde(default)]
    pub(super) http: Option<HttpPool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TcpPool {
    #[serde(default)]
    pub(super) max_connections: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HttpPool {
    #[serde(default)]
    pub(super) http1_max_pending_requests: Option<u32>,
    #[serde(default)]
    pub(super) http2_max_requests: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::import) struct Gateway {
    #[serde(default)]
    pub(super) selector: BTreeMap<String, String>,
    pub(super) servers: Vec<Server>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Server {
    pub(super) port: ServerPort,
    pub(super) hosts: Vec<String>,
    #[serde(default)]
    pub(super) tls: Option<ServerTls>,
    #[serde(default)]
    pub(super) name: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServerPort {
    pub(super) number: u16,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) protocol: String,
    #[serde(default)]
    pub(super) target_port: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ServerTls {
    #[serde(default)]
    pub(super) mode: Option<String>,
    #[serde(default)]
    pub(super) credential_name: Option<String>,
    #[serde(default)]
    pub(super) https_redirect: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::import) struct ServiceEntry {
    pub(super) hosts: Vec<String>,
    #[serde(default)]
    pub(super) ports: Vec<EntryPort>,
    #[serde(default)]
    pub(super) resolution: Option<String>,
    #[serde(default)]
    pub(super) endpoints: Vec<EntryEndpoint>,
    #[serde(default)]
    pub(super) location: Option<String>,
    #[serde(default)]
    pub(super) export_to: Option<Vec<String>>,
    #[serde(default)]
    pub(super) addresses: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct EntryPort {
    pub(super) number: u16,
    pub(super) name: String,
    #[serde(default)]
    pub(super) protocol: Option<String>,
    #[serde(default)]
    pub(super) target_port: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryEndpoint {
    pub(super) address: String,
    #[serde(default)]
    pub(super) ports: BTreeMap<String, u16>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

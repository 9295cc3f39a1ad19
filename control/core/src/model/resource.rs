//! The shape of each kind.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `metadata` of every resource.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Unique for its kind and namespace.
    pub name: String,
    /// `default` where unset.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// For selection by people and tools.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Notes of people and tools.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// `gateway.networking.k8s.io/v1` `HTTPRoute`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRoute {
    /// `gateway.networking.k8s.io/v1`
    pub api_version: String,
    /// `HTTPRoute`
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What it does.
    pub spec: HttpRouteSpec,
}

/// `HTTPRoute.spec`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// The gateways it attaches to; the implicit one where empty.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it serves, `*.example.com` included; all where empty.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Tried by precedence, not by order.
    #[serde(default)]
    pub rules: Vec<HttpRouteRule>,
}

/// A gateway by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ParentRef {
    /// `gateway.networking.k8s.io`
    #[serde(default)]
    pub group: Option<String>,
    /// `Gateway`
    #[serde(default)]
    pub kind: Option<String>,
    /// The gateway's name.
    pub name: String,
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Its name, for logs.
    #[serde(default)]
    pub name: Option<String>,
    /// Any of them lets a request in; every request where empty.
    #[serde(default)]
    pub matches: Vec<HttpRouteMatch>,
    /// Where requests go, by weight.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// On the path; `PathPrefix /` where unset.
    #[serde(default)]
    pub path: Option<PathMatch>,
    /// On headers.
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PathMatch {
    /// How `value` is meant.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// Starts with `/`.
    #[serde(default = "root_path")]
    pub value: String,
}

fn root_path() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// By elements: `/shop` matches `/shop/cart`, not `/shopping`.
    #[default]
    PathPrefix,
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderMatch {
    /// How `value` is meant.
    #[serde(default, rename = "type")]
    pub kind: HeaderMatchType,
    /// In any case.
    pub name: String,
    /// In this case.
    pub value: String,
}

/// How a header's value is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum HeaderMatchType {
    /// Byte for byte.
    #[default]
    Exact,
}

/// A weighted target.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendRef {
    /// `weir.dev`
    #[serde(default)]
    pub group: Option<String>,
    /// `Backend`
    #[serde(default)]
    pub kind: Option<String>,
    /// The backend's name.
    pub name: String,
    /// The route's own where unset.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Its part of the sum of weights, 0 to 1,000,000.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

const fn default_weight() -> u32 {
    1
}

/// `weir.dev/v1` `Backend`: endpoints that serve one version of something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Backend {
    /// `weir.dev/v1`
    pub api_version: String,
    /// `Backend`
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// Where it is.
    pub spec: BackendSpec,
}

/// `Backend.spec`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendSpec {
    /// Where requests go.
    #[serde(default)]
    pub endpoints: Vec<BackendEndpoint>,
    /// How one of them is picked.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum LoadBalancing {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Of two at random, the less busy.
    LeastRequest,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendEndpoint {
    /// `IP:port` or `unix:/path`.
    pub address: String,
    /// Sent to proxies as the endpoint's metadata.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `weir.dev/v1` `TrafficPolicy`: what an `HTTPRoute` cannot say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// `weir.dev/v1`
    pub api_version: String,
    /// `TrafficPolicy`
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What it says of which route.
    pub spec: TrafficPolicySpec,
}

/// `TrafficPolicy.spec`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The route, in the policy's namespace.
    pub target_ref: TargetRef,
    /// How its weighted targets are chosen.
    pub split: SplitSpec,
}

/// A route by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetRef {
    /// `gateway.networking.k8s.io`
    #[serde(default)]
    pub group: Option<String>,
    /// `HTTPRoute`
    pub kind: String,
    /// The route's name.
    pub name: String,
}

/// How arms are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SplitSpec {
    /// What keeps a user on one arm.
    pub key: SplitKey,
    /// Changes who is first.
    #[serde(default)]
    pub salt: String,
}

/// What a user is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SplitKey {
    /// A request header.
    pub header: String,
}

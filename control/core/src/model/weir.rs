//! `weir.dev/v1`: what Gateway API lacks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BackendRef, HealthCheckSpec, Object, TrafficDistribution};

/// `Backend`: endpoints that serve one version of something.
pub type Backend = Object<BackendSpec>;
/// `TrafficPolicy`: what a route cannot say.
pub type TrafficPolicy = Object<TrafficPolicySpec>;
/// `UserGroup`: who is meant by a name.
pub type UserGroup = Object<UserGroupSpec>;
/// `PeerAuthentication`: whether the inbound side of a service takes mutual TLS alone.
pub type PeerAuthentication = Object<PeerAuthenticationSpec>;
/// `FlowRule`: requests that go elsewhere, or nowhere, whatever their routes say.
pub type FlowRule = Object<FlowRuleSpec>;

/// `Backend.spec`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendSpec {
    /// Where requests go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<BackendEndpoint>,
    /// Instances of the registry, of the service of this name, whose labels hold all of these are endpoints as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstanceSelector>,
    /// How one of them is picked.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// What endpoints speak.
    #[serde(default)]
    pub protocol: BackendProtocol,
    /// Whether proxies prefer the endpoints near them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
    /// How they are asked whether they are well; they count as well where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<HealthCheckSpec>>,
}

/// Instances of the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InstanceSelector {
    /// The service.
    pub service: String,
    /// Every label here is one of the instance, with this value. All instances where empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancing {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Of two at random, the less busy.
    LeastRequest,
}

/// What endpoints speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/2 without TLS, gRPC among it.
    #[serde(rename = "H2C")]
    H2c,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendEndpoint {
    /// `IP:port`, `unix:/path`, or `name:port`, which proxies look up.
    pub address: String,
    /// Sent to proxies as the endpoint's metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// `TrafficPolicy.spec`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The route, or the backend, in the policy's namespace.
    pub target_ref: TargetRef,
    /// How a route's weighted targets are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitSpec>,
    /// Groups of users of a route with weights of their own; the first that a user is in counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupSplit>,
    /// Limits of a route's requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<PolicyTimeouts>,
    /// Requests of a route that are held up or refused on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Box<FaultSpec>>,
    /// What may go on at once at a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How an endpoint of a backend is picked; takes the place of what the backend says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// How the endpoints of a backend are asked whether they are well; takes the place of what the backend says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<HealthCheckSpec>>,
}

/// A route or a backend by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetRef {
    /// The kind's own where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `HTTPRoute`, `GRPCRoute`, `Backend` or `Service`
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// How arms are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SplitSpec {
    /// What keeps a user on one arm; by exact sequence where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SplitKey>,
    /// Changes who is first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub salt: String,
    /// A header that names a backend of the rule, whatever its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_header: Option<String>,
    /// What becomes of the requests of a backend without usable endpoints.
    #[serde(default)]
    pub when_unavailable: WhenUnavailable,
    /// Backends of weight 0 that keep the users they have. Only with a cookie as key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<String>,
}

/// What becomes of the requests of a backend without usable endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenUnavailable {
    /// They fail.
    #[default]
    Fail,
    /// The others take them, by their weights.
    Spill,
}

/// What a user is recognised by: one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SplitKey {
    /// A request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<SplitCookie>,
    /// A parameter of the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_param: Option<String>,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<bool>,
}

/// A cookie that recognises a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SplitCookie {
    /// Its name.
    pub name: String,
    /// How long a cookie lives that the proxy makes, such as `24h`; `0s` is a cookie of the session. None is made where
    /// unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Weights of a group of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GroupSplit {
    /// The `UserGroup`, in the policy's namespace.
    pub group: String,
    /// Where its users go, by weight.
    pub backend_refs: Vec<BackendRef>,
}

/// Limits of a route's requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyTimeouts {
    /// For the whole response, where the rule says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Without a byte in either direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
}

/// Requests that are held up or refused on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultSpec {
    /// Some wait before they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Some are answered by the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// `fault.delay`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultDelay {
    /// How long, such as `500ms`.
    pub fixed_delay: String,
    /// So many of a hundred; all where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<u32>,
    /// How much that depends on whether the request before waited, in percent; the share stays what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<u32>,
}

/// `fault.abort`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultAbort {
    /// 200 to 599.
    pub http_status: u16,
    /// So many of a hundred; all where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<u32>,
    /// As for a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<u32>,
}

/// What may go on at once, in each proxy. Unset limits are the proxy's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Opens where too many of the last calls have failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<BreakerWindow>,
}

/// A breaker over the outcomes of the last calls, in each proxy, in the words of Resilience4j.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BreakerWindow {
    /// What it looks back on.
    #[serde(default)]
    pub sliding_window_type: WindowType,
    /// How many calls; 1 to 1,000, and 100 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window_size: Option<u32>,
    /// With fewer it never opens; the size where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_number_of_calls: Option<u32>,
    /// It opens where so many of a hundred failed; 50 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate_threshold: Option<u32>,
    /// How long it stays open; `60s` where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_duration_in_open_state: Option<String>,
    /// How many calls decide then whether it closes; 10 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permitted_number_of_calls_in_half_open_state: Option<u32>,
    /// Whether each endpoint has one of its own.
    #[serde(default)]
    pub scope: BreakerScope,
}

impl BreakerWindow {
    /// Calls that are looked back on where nobody says.
    pub const SIZE: u32 = 100;
}

/// What a breaker looks back on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WindowType {
    /// A number of calls.
    #[default]
    #[serde(rename = "COUNT_BASED")]
    CountBased,
}

/// What has a breaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BreakerScope {
    /// The backend as a whole.
    #[default]
    Backend,
    /// Each endpoint: while it is open, others take its calls.
    Endpoint,
}

/// `UserGroup.spec`: exactly one of `members`, `modulo` and `attribute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UserGroupSpec {
    /// The header that says who asks, for `members` and `modulo`; `x-user-id` where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Those who are in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// Those whose number leaves one of these remainders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modulo: Option<Modulo>,
    /// Those of whom a header says this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<Attribute>,
}

/// `id % divisor`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Modulo {
    /// 2 to 100.
    pub divisor: u32,
    /// Each below the divisor.
    pub remainders: Vec<u32>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Attribute {
    /// The header.
    pub header: String,
    /// Its value.
    pub value: String,
}

/// `FlowRule.spec`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FlowRuleSpec {
    /// Header and exact value; `:path`, `:method` and `:authority` are meant as in HTTP/2. All must hold.
    #[serde(rename = "match")]
    pub conditions: BTreeMap<String, String>,
    /// What happens to such requests.
    pub action: FlowAction,
    /// Where `forward` leads, in the rule's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Higher ones are looked at first; of equal ones the first by name.
    #[serde(default)]
    pub priority: i32,
}

/// What a flow rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowAction {
    /// To the target.
    Forward,
    /// Answered with 403.
    Drop,
}

/// `PeerAuthentication.spec`, as Istio has it: about gateways of the class `weir-sidecar` in its namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// Those of the gateways that have these labels; all of them where unset. One with labels goes before one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// What holds of their ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// What holds of single ports instead. Only with a selector.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

/// Which gateways are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// They have all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// `mtls`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MutualTls {
    /// What is taken.
    #[serde(default)]
    pub mode: PeerMode,
}

/// What a port takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PeerMode {
    /// What the wider policy says; where there is none, what the listener itself does.
    #[default]
    Unset,
    /// Plaintext alone.
    Disable,
    /// Plaintext and mutual TLS.
    Permissive,
    /// Mutual TLS alone.
    Strict,
}

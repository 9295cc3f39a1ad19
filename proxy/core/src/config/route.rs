//! Route configurations: which request goes where.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::condition::Condition;
use super::edit::{HeaderEdits, HostRewrite, PathRewrite};
use super::{ArmName, ClusterName, RouteConfigName};
use crate::breaker::Priority;
use crate::fault::Injection;
use crate::local_reply::BodyFormat;
use crate::pattern::{Pattern, Substitution};
use crate::template::Template;

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfiguration {
    /// Unique among route configurations; may be empty where it is inline.
    pub name: RouteConfigName,
    /// Virtual hosts with domains that are unique in the configuration.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Whether `host:port` matches the domain `host`.
    pub ignore_port_in_host_matching: bool,
    /// Whether a route to a cluster that does not exist is refused (`validate_clusters`).
    pub validate_clusters: bool,
    /// Header lines of every request and response.
    pub edits: HeaderEdits,
    /// Whether what an arm or a route says of a header wins over what a virtual host or the configuration says
    /// (`most_specific_header_mutations_wins`).
    pub most_specific_wins: bool,
}

impl RouteConfiguration {
    /// One with nothing special about it.
    pub fn new(name: impl Into<RouteConfigName>, virtual_hosts: Vec<VirtualHost>) -> Self {
        Self {
            name: name.into(),
            virtual_hosts,
            ignore_port_in_host_matching: false,
            validate_clusters: false,
            edits: HeaderEdits::default(),
            most_specific_wins: false,
        }
    }

    /// The clusters that its routes lead to by name, repeated as often as they do.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes.flat_map(Route::arms).filter_map(|arm| match &arm.cluster {
            ClusterRef::Name(name) => Some(name),
            ClusterRef::Header(_) => None,
        })
    }
}

/// Routes for a set of hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualHost {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// At least one.
    pub domains: Vec<Domain>,
    /// In the order in which they are tried: the first match wins.
    pub routes: Vec<Route>,
    /// Whether requests that did not come over TLS are sent there (`require_tls`).
    pub requires_tls: bool,
    /// Header lines of its requests and responses.
    pub edits: HeaderEdits,
    /// Whether the endpoint is told how often the request was sent (`include_request_attempt_count`).
    pub counts_attempts: bool,
    /// Whether the client is told so (`include_attempt_count_in_response`).
    pub answers_attempts: bool,
}

impl VirtualHost {
    /// One with nothing special about it.
    pub fn new(name: impl Into<Arc<str>>, domains: Vec<Domain>, routes: Vec<Route>) -> Self {
        Self {
            name: name.into(),
            domains,
            routes,
            requires_tls: false,
            edits: HeaderEdits::default(),
            counts_attempts: false,
            answers_attempts: false,
        }
    }
}

/// A host pattern, in lower case. Exact beats suffix beats prefix beats any; longer beats shorter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// `shop.example.com`
    Exact(Box<str>),
    /// `*.example.com`: this, without the star, is the end of the host, and something stands before it.
    Suffix(Box<str>),
    /// `shop.*`: this is the start of the host, and something follows.
    Prefix(Box<str>),
    /// `*`
    Any,
}

impl Domain {
    /// Of several that cover a host the greatest takes it.
    pub const fn precedence(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (3, 0),
            Self::Suffix(text) => (2, text.len()),
            Self::Prefix(text) => (1, text.len()),
            Self::Any => (0, 0),
        }
    }

    /// Whether it covers a host in lower case.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(end) => host.len() > end.len() && host.ends_with(&**end),
            Self::Prefix(start) => host.len() > start.len() && host.starts_with(&**start),
            Self::Any => true,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(end) => write!(f, "*{end}"),
            Self::Prefix(start) => write!(f, "{start}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// One rule: what it matches and what becomes of the request.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name; empty where none was given.
    pub name: Arc<str>,
    /// On the path without query.
    pub path: PathMatch,
    /// Whether the case of the path plays no part (`case_sensitive: false`). Not for expressions.
    pub ignores_path_case: bool,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// What becomes of requests that match.
    pub action: Action,
    /// Header lines of its requests and responses.
    pub edits: HeaderEdits,
}

impl Route {
    /// One that forwards, with nothing special about it.
    pub fn forwarding(path: PathMatch, conditions: Vec<Condition>, arms: Vec<Arm>) -> Self {
        Self {
            name: "".into(),
            path,
            ignores_path_case: false,
            conditions,
            action: Action::Forward(Box::new(Forward {
                split: Split {
                    arms,
                    by: SplitBy::Turn,
                    override_header: None,
                    unavailable: Unavailable::Fail,
                },
                options: RouteOptions::default(),
                path: PathRewrite::Keep,
                host: HostRewrite::Keep,
                appends_forwarded_host: false,
                cluster_not_found: 503,
            })),
            edits: HeaderEdits::default(),
        }
    }

    /// The arms of a route that forwards; none of another one.
    pub fn arms(&self) -> &[Arm] {
        match &self.action {
            Action::Forward(forward) => &forward.split.arms,
            Action::Redirect(_) | Action::Respond(_) => &[],
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// It is sent to an endpoint.
    Forward(Box<Forward>),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The proxy answers itself.
    Respond(DirectResponse),
}

/// Where requests go and how they are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Where they go.
    pub split: Split,
    /// How they are sent.
    pub options: RouteOptions,
    /// What becomes of the path.
    pub path: PathRewrite,
    /// What becomes of the host.
    pub host: HostRewrite,
    /// Whether the host that was replaced goes on as `X-Forwarded-Host` (`append_x_forwarded_host`).
    pub appends_forwarded_host: bool,
    /// The status where the cluster does not exist (`cluster_not_found_response_code`).
    pub cluster_not_found: u16,
}

/// `envoy.config.route.v3.RedirectAction`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The scheme instead of the request's.
    pub scheme: Option<Box<str>>,
    /// The host instead of the request's.
    pub host: Option<Box<str>>,
    /// The port instead of the request's.
    pub port: Option<u16>,
    /// What becomes of the path.
    pub path: RedirectPath,
    /// Whether the query is left out.
    pub strips_query: bool,
}

/// What becomes of a redirect's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    /// It stays.
    Keep,
    /// It is this, with its own query if it has one, else with the request's.
    Replace(Box<str>),
    /// What was matched is replaced, or a part of it.
    Rewrite(PathRewrite),
}

/// `envoy.config.route.v3.DirectResponseAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    /// From 200 to 599.
    pub status: u16,
    /// All of its body.
    pub body: Box<str>,
    /// The form of the body, in which `%LOCAL_REPLY_BODY%` is the body above.
    pub format: Option<BodyFormat>,
}

/// How a route's requests are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// How long a response may take.
    pub timeout: RouteTimeout,
    /// Silence of the endpoint, or of the client within a body, instead of the listener's; zero is any time.
    pub idle_timeout: Option<Duration>,
    /// A whole exchange, instead of the listener's; zero is any time.
    pub exchange: Option<Duration>,
    /// The most that `grpc-timeout` may ask for; anything where unset or zero (`grpc_timeout_header_max`).
    pub grpc_timeout_max: Option<Duration>,
    /// What is taken off it, so that our answer comes before the client gives up (`grpc_timeout_header_offset`).
    pub grpc_timeout_offset: Duration,
    /// Which circuit breakers it counts against.
    pub priority: Priority,
    /// Protocols that may be switched to, or not, whatever the listener says.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// CONNECT ends here: the endpoint gets the tunnel's bytes as they are (`connect_config`).
    pub terminates_connect: bool,
    /// Bounds instead of the listener's (`weir.limits` in `typed_per_filter_config`).
    pub limits: Option<Box<RouteLimits>>,
    /// Faults on purpose, instead of the listener's.
    pub injection: Option<Box<Injection>>,
}

/// Bounds of `weir.limits.v1.HttpLimits` that a route may set. Zero is any time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// Silence of the client within a request body.
    pub body_idle: Option<Duration>,
    /// A peer that takes no byte.
    pub write: Option<Duration>,
    /// Silence of both sides of a tunnel.
    pub tunnel_idle: Option<Duration>,
}

/// How long a response may take, from the end of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouteTimeout {
    /// 15 s until the response's head, as nobody said anything; gRPC and upgrades may take any time.
    #[default]
    Default,
    /// This long until the response's end.
    Whole(Duration),
    /// Any time.
    Never,
}

/// A condition on the path without its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The path starts with this.
    Prefix(Box<str>),
    /// The path starts with this, and `/` or nothing follows: `/shop` matches `/shop/cart`, not `/shopping`.
    SeparatedPrefix(Box<str>),
    /// The path is this.
    Exact(Box<str>),
    /// All of the path matches this expression.
    Regex(Pattern),
    /// The path has the form of this template.
    Template(Template),
    /// There is none: the request is a CONNECT (`connect_matcher`).
    Connect,
}

impl fmt::Display for PathMatch {
    /// What is asked, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(text) => write!(f, "the path starts with {text:?}"),
            Self::SeparatedPrefix(text) => write!(f, "the path is {text:?} or below it"),
            Self::Exact(text) => write!(f, "the path is {text:?}"),
            Self::Regex(pattern) => write!(f, "the path matches {:?}", pattern.as_str()),
            Self::Template(template) => write!(f, "the path has the form {:?}", template.as_str()),
            Self::Connect => f.write_str("the request is a CONNECT"),
        }
    }
}

/// How requests of a route are divided over its arms.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// At least one, with names unique in the split; the sum of weights is from 1 to 2^32 - 1.
    pub arms: Vec<Arm>,
    /// What decides.
    pub by: SplitBy,
    /// A header, in lower case, whose value may name an arm, whatever its weight.
    pub override_header: Option<Box<str>>,
    /// What happens to the requests of an arm that has no usable endpoint.
    pub unavailable: Unavailable,
}

impl Split {
    /// Whether it makes cookies that name the user's arm.
    pub const fn makes_cookies(&self) -> bool {
        matches!(
            &self.by,
            SplitBy::User(SplitKey { source: KeySource::Cookie(KeyCookie { ttl: Some(_), .. }), .. })
        )
    }
}

/// What decides which arm takes a request.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitBy {
    /// The exact sequence.
    Turn,
    /// Who asks. Those who do not say go by the exact sequence.
    User(SplitKey),
    /// Envoy's hash of the request, over the running sum of weights (`use_hash_policy`).
    Hash(Vec<HashPolicy>),
    /// A header, in lower case, that brings a number, over the running sum of weights (`header_name`).
    Number(Box<str>),
}

impl fmt::Display for SplitBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn => f.write_str("exact sequence"),
            Self::User(key) => write!(f, "sticky by {}", key.source),
            Self::Hash(_) => f.write_str("hash policies"),
            Self::Number(header) => write!(f, "number in header {header}"),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(cookie) => write!(f, "cookie {}", cookie.name),
            Self::SourceIp => f.write_str("source address"),
            Self::Query(name) => write!(f, "query parameter {name}"),
        }
    }
}

/// What happens to the requests of an arm that has no usable endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unavailable {
    /// They fail.
    #[default]
    Fail,
    /// The other arms take them, by their weights.
    Spill,
}

/// One weighted target of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// The cluster's name; with `#2` and so on where a cluster occurs again.
    pub name: ArmName,
    /// Where its requests go.
    pub cluster: ClusterRef,
    /// Its part of the sum; 0 takes no new user.
    pub weight: Weight,
    /// Whether it keeps the users that it has while its weight is 0.
    pub drains: bool,
    /// The labels of the endpoints that it may use (`metadata_match`, `envoy.lb`).
    pub subset: Option<Arc<Labels>>,
    /// The host that its requests are for.
    pub host: Option<Box<str>>,
    /// Header lines of its requests and responses.
    pub edits: HeaderEdits,
}

impl Arm {
    /// An arm of a cluster by its name, with nothing special about it.
    pub fn new(name: impl Into<ArmName>, cluster: impl Into<ClusterName>, weight: u32) -> Self {
        Self {
            name: name.into(),
            cluster: ClusterRef::Name(cluster.into()),
            weight: Weight(weight),
            drains: false,
            subset: None,
            host: None,
            edits: HeaderEdits::default(),
        }
    }
}

/// Labels of an endpoint, as text.
pub type Labels = BTreeMap<Box<str>, Box<str>>;

/// Which cluster an arm leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterRef {
    /// The one of this name.
    Name(ClusterName),
    /// The one that a header names (in lower case).
    Header(Box<str>),
}

/// An arm's part of the sum of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(pub u32);

/// What a user is recognised by (`weir.split.v1.SplitPolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitKey {
    /// Where the user is named.
    pub source: KeySource,
    /// Changes who is first in a rollout.
    pub salt: Box<str>,
}

/// Where a user is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The first line of a header, in lower case.
    Header(Box<str>),
    /// A cookie.
    Cookie(KeyCookie),
    /// The client's address.
    SourceIp,
    /// The first query parameter of this name.
    Query(Box<str>),
}

/// A cookie that names the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCookie {
    /// Its name.
    pub name: Box<str>,
    /// How long one that the proxy makes lasts; zero is until the browser ends. The proxy makes none where unset.
    pub ttl: Option<Duration>,
    /// The path of one that the proxy makes; none where empty.
    pub path: Box<str>,
}

/// One source of Envoy's hash of a request (`envoy.config.route.v3.RouteAction.HashPolicy`).
#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Whether a hash from here makes those that follow needless.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq)]
pub enum HashSource {
    /// A header, in lower case, rewritten first where that is asked for.
    Header(Box<str>, Option<Substitution>),
    /// A cookie; the third are further attributes of one that the proxy makes.
    Cookie(KeyCookie, Vec<(Box<str>, Box<str>)>),
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(Box<str>),
}

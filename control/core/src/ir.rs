//! The intermediate representation: what the resources mean, together.
//!
//! Names are resolved, precedence is settled, defaults are filled in. Weights stay the integers that people wrote: their
//! ratio is exact, which parts per million would not be for thirds.

mod build;
mod place;
mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::Address;

pub use crate::model::{BackendProtocol, LoadBalancing};
pub(crate) use build::literal;
pub use build::{Built, Inputs, KnownRoutes, build, build_after};
pub use place::Place;
pub use status::{Condition, ListenerStatus, ObjectStatus, ParentStatus, Truth};

/// The listener that routes attach to when no `Gateway` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImplicitGateway {
    /// Where proxies listen.
    pub address: Address,
    /// The file in which each request gets a line, on every gateway; none where unset.
    pub access_log: Option<String>,
}

/// The name of the implicit gateway, its listener and its route configuration.
pub const GATEWAY: &str = "weir";

/// Everything that is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ir {
    /// By name.
    pub listeners: BTreeMap<String, Listener>,
    /// By name.
    pub tables: BTreeMap<String, Table>,
    /// By name.
    pub backends: BTreeMap<BackendName, Arc<Backend>>,
    /// Chains and keys, by name.
    pub certificates: BTreeMap<String, Certificate>,
    /// The file in which each request gets a line; none where unset.
    pub access_log: Option<String>,
}

/// A socket of the proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where they listen.
    pub address: Address,
    /// Only at proxies whose node has all of these labels.
    pub node_labels: BTreeMap<String, String>,
    /// Not at proxies whose node is of another namespace; unset for the implicit gateway, which is everybody's.
    pub namespace: Option<String>,
    /// Not at proxies of no namespace either: a gateway of another one has the address there.
    pub yields: bool,
    /// `namespace/name` of the gateway.
    pub gateway: String,
    /// What is spoken there.
    pub speaks: Speaks,
}

/// What a listener speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaks {
    /// Something in clear.
    Plain(Plain),
    /// Something in TLS, by the name that the client asks for; and in clear, where that is taken beside it.
    Tls(Vec<TlsChain>, Option<Plain>),
}

/// What is spoken in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plain {
    /// HTTP, by this table.
    Http(String),
    /// Bytes.
    Tcp(Vec<Arm>),
}

/// What becomes of connections that ask for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsChain {
    /// The listener, or the route, that it is.
    pub name: String,
    /// The names; every other one where empty.
    pub server_names: Vec<String>,
    /// What is done with the bytes.
    pub then: ChainAction,
}

/// What is done with the bytes of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainAction {
    /// TLS ends here, and HTTP comes out of it, which goes by this table.
    Http(Termination, String),
    /// TLS ends here, and the bytes go on.
    Tcp(Termination, Vec<Arm>),
    /// The backend ends it.
    Pass(Vec<Arm>),
}

/// How TLS ends here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    /// Names of certificates.
    pub certificates: Vec<String>,
    /// Whose certificates clients show.
    pub clients: Option<ClientValidation>,
}

/// What clients must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientValidation {
    /// PEM.
    pub roots: String,
    /// Whether clients without a valid one are served as well.
    pub is_optional: bool,
}

/// A chain and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The leaf first.
    pub chain: String,
    /// Never shown.
    pub key: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// The routes of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// By hostname; every route that a host can reach is in its list, in the order of precedence.
    pub hosts: Vec<Host>,
}

impl Table {
    /// Whether the other one has the very same routes in the same places. Routes that say the same may still be others.
    pub(crate) fn is_the_same(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&Host, &Host)| {
            let routes = || a.routes.iter().zip(&b.routes).all(|(a, b)| Arc::ptr_eq(a, b));
            a.hostname == b.hostname && a.routes.len() == b.routes.len() && routes()
        };
        self.hosts.len() == other.hosts.len() && self.hosts.iter().zip(&other.hosts).all(is_same)
    }
}

/// A backend's name; with its namespace unless that is `default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendName(String);

impl BackendName {
    /// From a namespace and a name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(if namespace == "default" { name.to_owned() } else { format!("{namespace}/{name}") })
    }

    /// A port of a service.
    pub fn of_service(namespace: &str, name: &str, port: u16) -> Self {
        Self::new(namespace, &format!("{name}:{port}"))
    }

    /// As text: the cluster's name in xDS.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The routes of one hostname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `*`, `*.example.com` or a name, in lower case.
    pub hostname: String,
    /// First match wins.
    pub routes: Vec<Arc<Route>>,
}

/// One match of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique in the host: route, rule, match.
    pub name: String,
    /// The resource that it is part of; with its namespace unless that is `default`.
    pub object: String,
    /// All must hold.
    pub conditions: Conditions,
    /// What happens then.
    pub action: Action,
    /// Changes of the request's header lines.
    pub request: HeaderEdits,
    /// Changes of the response's header lines.
    pub response: HeaderEdits,
}

/// What must hold of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// On the path.
    pub path: Path,
    /// The method.
    pub method: Option<String>,
    /// On headers.
    pub headers: Vec<ValueCondition>,
    /// On parameters of the query.
    pub query: Vec<ValueCondition>,
    /// Calls of gRPC alone.
    pub is_grpc: bool,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// The whole path.
    Exact(String),
    /// Every path that starts with these elements; empty for all.
    Prefix(String),
    /// An expression that matches the whole path.
    Regex(String),
}

/// A condition on a named value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueCondition {
    /// Of a header in lower case.
    pub name: String,
    /// Text or expression.
    pub value: String,
    /// Whether it is an expression, which matches the whole value.
    pub is_regex: bool,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It goes on.
    Forward(Forward),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// It is answered with this status.
    Respond(u16),
}

/// How a request goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// With a sum of weights above 0.
    pub arms: Vec<Arm>,
    /// How one of them is chosen, beyond the weights.
    pub split: Option<Split>,
    /// Another host.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<PathChange>,
    /// For the whole response; the proxy's default where unset, none where zero.
    pub timeout: Option<Duration>,
    /// Without a byte; the proxy's default where unset.
    pub idle_timeout: Option<Duration>,
    /// Requests that are held up or refused on purpose.
    pub fault: Option<Box<crate::model::FaultSpec>>,
}

/// Another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    /// The whole of it.
    Full(String),
    /// What the prefix matched.
    Prefix(String),
}

/// Where a client is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Another host.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<PathChange>,
    /// Another port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Changes of header lines: removals, then replacements, then additions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Takes the place of what is there.
    pub set: Vec<(String, String)>,
    /// Is added.
    pub add: Vec<(String, String)>,
    /// Is taken away.
    pub remove: Vec<String>,
}

/// A weighted target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// Where it leads; where it cannot be resolved, its requests are answered with 500.
    pub backend: Option<BackendName>,
    /// Its part of the sum.
    pub weight: u32,
    /// Changes of the request's header lines.
    pub request: HeaderEdits,
    /// Changes of the response's header lines.
    pub response: HeaderEdits,
    /// Another host.
    pub host: Option<String>,
}

/// How an arm is chosen, beyond the weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// What keeps a user on one arm.
    pub key: Option<SplitKey>,
    /// Changes who is first.
    pub salt: String,
    /// A header that names an arm.
    pub override_header: Option<String>,
    /// Whether others take what an arm without usable endpoints cannot.
    pub spills: bool,
    /// Arms of weight 0 that keep their users.
    pub draining: Vec<String>,
}

impl Split {
    /// The same, of a rule in which these arms can drain.
    fn of(mut self, can_drain: &[String]) -> Self {
        self.draining.retain(|arm| can_drain.contains(arm));
        self
    }
}

/// What a user is recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitKey {
    /// A request header.
    Header(String),
    /// A cookie; made where it has a time to live.
    Cookie {
        /// Its name.
        name: String,
        /// How long one lives that the proxy makes.
        ttl: Option<Duration>,
        /// Its path.
        path: String,
    },
    /// A parameter of the query.
    QueryParameter(String),
    /// The client's address.
    SourceIp,
}

/// A set of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backend {
    /// Where requests go.
    pub endpoints: Vec<Endpoint>,
    /// How one of them is picked.
    pub load_balancing: LoadBalancing,
    /// What they speak.
    pub protocol: BackendProtocol,
    /// TLS towards them.
    pub tls: Option<BackendTls>,
    /// What may go on at once.
    pub limits: crate::model::CircuitBreaker,
    /// Whether a proxy prefers the endpoints near it.
    pub prefers_near: bool,
    /// How endpoints are asked whether they are well.
    pub health_check: Option<Box<crate::model::HealthCheckSpec>>,
}

impl Backend {
    /// Whether an endpoint is a name that proxies look up.
    pub fn has_names(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint.address, BackendAddress::Name(..)))
    }
}

/// TLS towards endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTls {
    /// The name to ask for.
    pub server_name: String,
    /// Roots as PEM; those of the machine where unset.
    pub roots: Option<String>,
    /// Names of which the certificate must hold one.
    pub names: Vec<ExpectedName>,
    /// What the proxy shows of itself, where anything.
    pub shown: Option<CertificateFiles>,
}

/// A certificate and its key, as files on the machine of each proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, the leaf first.
    pub chain: String,
    /// PEM.
    pub key: String,
}

/// A name that a certificate must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedName {
    /// A DNS name.
    Dns(String),
    /// A URI.
    Uri(String),
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: BackendAddress,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
    /// Its part among the endpoints, from 1.
    pub weight: u32,
}

impl Endpoint {
    /// Where its labels say that it runs.
    pub fn place(&self) -> Place {
        let label = |names: [&str; 2]| names.into_iter().find_map(|name| self.labels.get(name)).cloned();
        Place {
            region: label(["topology.kubernetes.io/region", "region"]).unwrap_or_default(),
            zone: label(["topology.kubernetes.io/zone", "zone"]).unwrap_or_default(),
        }
    }
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendAddress {
    /// An address.
    Known(Address),
    /// A name that proxies look up, and a port.
    Name(String, u16),
}

impl BackendAddress {
    /// `IP:port`, `name:port` or `unix:/path`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.starts_with('/').then(|| Self::Known(Address::Pipe(PathBuf::from(path))));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Known(Address::Socket(address)));
        }
        let (name, port) = text.rsplit_once(':')?;
        let is_label =
            |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let is_name = name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err();
        // What looks like an address and is none is no name either.
        let is_number = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (is_name && !is_number).then(|| Self::Name(name.to_ascii_lowercase(), port))
    }
}

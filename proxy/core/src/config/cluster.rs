//! Clusters and their endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::health::{CheckTarget, HealthCheck, Standing, Verdict};
use super::{Address, ClusterName, Http2Options, Labels, UpstreamProtocol, UpstreamTransport};
use crate::breaker::{Priority, Thresholds, WindowOptions};

/// `envoy.config.cluster.v3.Cluster`: endpoints of one kind, and how they are reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Unique among clusters.
    pub name: ClusterName,
    /// Where its endpoints come from.
    pub endpoints: EndpointSource,
    /// How long a connection attempt may take; 5 s where unset, as in Envoy.
    pub connect_timeout: Duration,
    /// How an endpoint is picked.
    pub balancing: Balancing,
    /// Circuit breakers, by priority.
    pub thresholds: PriorityThresholds,
    /// The breaker over the outcomes of its last calls.
    pub window: Option<WindowOptions>,
    /// How its endpoints are asked whether they are well.
    pub health_check: Option<Arc<HealthCheck>>,
    /// How connections to its endpoints are kept.
    pub connections: ConnectionOptions,
    /// What carries them.
    pub transport: UpstreamTransport,
    /// What carries those to endpoints that have all of these labels; the first that fits.
    pub transport_matches: Vec<TransportMatch>,
}

/// `envoy.config.cluster.v3.Cluster.TransportSocketMatch`.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    /// Labels under `envoy.transport_socket_match` of an endpoint's metadata.
    pub labels: Labels,
    /// What carries connections to it.
    pub transport: UpstreamTransport,
}

impl Cluster {
    /// Whatever may carry connections to its endpoints.
    pub fn transports(&self) -> impl Iterator<Item = &UpstreamTransport> {
        std::iter::once(&self.transport)
            .chain(self.transport_matches.iter().map(|matching| &matching.transport))
    }

    pub(crate) fn transports_mut(&mut self) -> impl Iterator<Item = &mut UpstreamTransport> {
        let matches = self.transport_matches.iter_mut().map(|matching| &mut matching.transport);
        std::iter::once(&mut self.transport).chain(matches)
    }

    /// What carries connections to an endpoint.
    pub fn transport_to(&self, endpoint: &Endpoint) -> &UpstreamTransport {
        let fits = |wanted: &Labels| {
            wanted.iter().all(|(name, value)| endpoint.transport_labels.get(name) == Some(value))
        };
        let matching = self.transport_matches.iter().find(|matching| fits(&matching.labels));
        matching.map_or(&self.transport, |matching| &matching.transport)
    }

    /// Whether endpoints may be connected to in ways of their own: by their labels, or under their names.
    pub fn reaches_each_its_way(&self) -> bool {
        let asks_names =
            |transport: &UpstreamTransport| transport.tls.as_ref().is_some_and(|tls| tls.auto_host_sni);
        !self.transport_matches.is_empty() || asks_names(&self.transport)
    }

    /// How an endpoint is connected to: by what, and under which name where that is its own.
    pub fn reaches<'a>(&'a self, endpoint: &'a Endpoint) -> (&'a UpstreamTransport, Option<&'a str>) {
        let transport = self.transport_to(endpoint);
        let asks_name = transport.tls.as_ref().is_some_and(|tls| tls.auto_host_sni);
        (transport, asks_name.then_some(&*endpoint.hostname))
    }
}

/// The limits of both priorities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PriorityThresholds {
    /// Of most requests.
    pub default: Thresholds,
    /// Of those that a route calls high.
    pub high: Thresholds,
}

impl PriorityThresholds {
    /// The limits of one priority.
    pub const fn of(&self, priority: Priority) -> &Thresholds {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

/// How connections to endpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// What is spoken on them.
    pub protocol: UpstreamProtocol,
    /// How HTTP/2 is spoken.
    pub http2: Http2Options,
    /// How long one may be idle; any time where unset.
    pub idle_timeout: Option<Duration>,
    /// How old one may become; it ends when it is next idle.
    pub max_duration: Option<Duration>,
    /// Requests sent on one; any number where unset.
    pub max_requests: Option<u32>,
    /// Bytes held for one direction of one connection while a body streams; the listener's where unset.
    pub buffer_bytes: Option<usize>,
    /// Bytes of a response's head; the listener's limit where unset.
    pub response_head_bytes: Option<usize>,
    /// Lines of a response's head; the listener's limit where unset.
    pub response_headers: Option<usize>,
}

impl Default for ConnectionOptions {
    /// Idle for a minute: endpoints often close after that, and a request that crosses the close has to be sent again.
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::default(),
            http2: Http2Options::UPSTREAM,
            idle_timeout: Some(Duration::from_secs(60)),
            max_duration: None,
            max_requests: None,
            buffer_bytes: None,
            response_head_bytes: None,
            response_headers: None,
        }
    }
}

/// How long a resource that is named is waited for before it counts as not existing; for ever where unset
/// (`initial_fetch_timeout`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Patience(pub Option<Duration>);

impl Default for Patience {
    /// As in Envoy and gRPC (gRFC A57).
    fn default() -> Self {
        Self(Some(Duration::from_secs(15)))
    }
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointSource {
    /// Wherever each client wanted to go, on this port if one is given (`ORIGINAL_DST`).
    OriginalDst {
        /// The port instead of the one that the client wanted.
        port: Option<u16>,
    },
    /// They are part of the cluster.
    Static(Arc<LoadAssignment>),
    /// They are asked for over EDS under this name.
    Eds(ClusterName, Patience),
    /// They are read from a file that holds load assignments, under this name.
    EdsFile(ClusterName, Arc<str>),
    /// Their names are part of the cluster, and are looked up.
    Dns(Arc<DnsTargets>),
}

/// Endpoints whose addresses are looked up, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsTargets {
    /// The endpoints, with a port and no address yet.
    pub template: LoadAssignment,
    /// Their names, in the order of the template's endpoints.
    pub names: Vec<Box<str>>,
    /// How they are looked up.
    pub options: DnsOptions,
}

/// How names are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOptions {
    /// Each address is an endpoint (`STRICT_DNS`); else a name has one endpoint, the first address (`LOGICAL_DNS`).
    pub all_addresses: bool,
    /// Time between two successful lookups, unless the records' own time holds.
    pub refresh: Duration,
    /// Whether the records' own time holds.
    pub respects_ttl: bool,
    /// Time to the first lookup after one that failed, and the most that it grows to.
    pub failure_refresh: (Duration, Duration),
    /// Up to so much is added at random.
    pub jitter: Duration,
    /// Which addresses are looked for.
    pub family: LookupFamily,
    /// Who is asked; the system's name servers where empty.
    pub resolvers: Vec<SocketAddr>,
    /// Whether they are asked over TCP alone.
    pub tcp: bool,
    /// How long one of them may take.
    pub query_timeout: Duration,
    /// How often they are asked.
    pub query_tries: u32,
}

/// Which addresses are looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LookupFamily {
    /// IPv6, and IPv4 where there is none.
    #[default]
    V6Preferred,
    /// IPv4, and IPv6 where there is none.
    V4Preferred,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    All,
}

/// How an endpoint of a cluster is picked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Balancing {
    /// Among the endpoints of a locality, or of a priority where localities have no weight.
    pub policy: LbPolicy,
    /// Whether localities are chosen by their weights first.
    pub by_locality: bool,
    /// The percentage of healthy endpoints below which all of a priority are used. Where unset it is 50, and endpoints that
    /// EDS calls unhealthy are not used even then.
    pub panic_threshold: Option<f64>,
    /// Parts of the cluster by the labels of endpoints.
    pub subsets: Option<Arc<Subsets>>,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LbPolicy {
    /// One after the other, by weight.
    #[default]
    RoundRobin,
    /// Of some at random, by weight, the one with the fewest requests in flight for its weight.
    LeastRequest {
        /// How many are looked at.
        choices: u32,
    },
    /// Any, by weight.
    Random,
}

/// `envoy.config.cluster.v3.Cluster.LbSubsetConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subsets {
    /// Which keys make subsets.
    pub selectors: Vec<SubsetSelector>,
    /// Where a request goes that no subset fits.
    pub fallback: SubsetFallback,
    /// The labels of the default subset.
    pub default: Labels,
    /// Whether any endpoint is better than none where even the fallback has none.
    pub panic_mode_any: bool,
}

/// Keys whose values make subsets.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetSelector {
    /// Sorted.
    pub keys: Vec<Box<str>>,
    /// Instead of the cluster's.
    pub fallback: Option<SubsetFallback>,
}

/// Where a request goes that no subset fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubsetFallback {
    /// Nowhere.
    None,
    /// To any endpoint.
    Any,
    /// To the default subset.
    Default,
    /// To the subset of fewer keys.
    Keys(Vec<Box<str>>),
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadAssignment {
    /// In their order.
    pub localities: Vec<LocalityEndpoints>,
    /// The healthy part of a priority counts as this many percent of itself (`overprovisioning_factor`).
    pub overprovisioning: u32,
    /// Requests that are refused on purpose.
    pub drops: Vec<Drop>,
}

impl Default for LoadAssignment {
    fn default() -> Self {
        Self { localities: Vec::new(), overprovisioning: 140, drops: Vec::new() }
    }
}

impl LoadAssignment {
    /// Endpoints without locality, weight or priority.
    pub fn of(endpoints: Vec<Endpoint>) -> Self {
        Self {
            localities: vec![LocalityEndpoints { endpoints, ..LocalityEndpoints::default() }],
            ..Self::default()
        }
    }

    /// All endpoints, in their order.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}

/// A share of requests that is refused on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// What for.
    pub category: Box<str>,
    /// Of a million.
    pub millionths: u32,
}

/// The endpoints of one locality.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalityEndpoints {
    /// Where they are.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// The locality's weight, where localities are weighed; one without takes no requests then.
    pub weight: u32,
    /// In their order.
    pub endpoints: Vec<Endpoint>,
}

/// Where endpoints are.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// The largest part.
    pub region: Box<str>,
    /// A part of a region.
    pub zone: Box<str>,
    /// A part of a zone.
    pub sub_zone: Box<str>,
}

impl std::fmt::Display for Locality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [&self.region, &self.zone, &self.sub_zone];
        let known: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).map(|part| &**part).collect();
        f.write_str(&known.join("/"))
    }
}

/// One place that serves a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// Its host name; empty where it has none.
    pub hostname: Box<str>,
    /// How EDS finds it.
    pub health: Health,
    /// How active checks find it.
    pub verdict: Verdict,
    /// How it is checked, where that differs from how it is used.
    pub check: Option<Box<CheckTarget>>,
    /// At least 1.
    pub weight: u32,
    /// `envoy.lb` of its metadata.
    pub labels: Arc<Labels>,
    /// `envoy.transport_socket_match` of its metadata.
    pub transport_labels: Arc<Labels>,
}

impl Endpoint {
    /// A healthy one of weight 1 with nothing special about it.
    pub fn at(address: Address) -> Self {
        Self {
            address,
            hostname: "".into(),
            health: Health::Healthy,
            verdict: Verdict::Unchecked,
            check: None,
            weight: 1,
            labels: Arc::default(),
            transport_labels: Arc::default(),
        }
    }

    /// What EDS and active checks say together.
    pub const fn standing(&self) -> Standing {
        match (self.health, self.verdict) {
            (Health::Unhealthy, _) => Standing::Unhealthy,
            (_, Verdict::Failed | Verdict::Pending) => Standing::Failing,
            (Health::Degraded, _) | (_, Verdict::Degraded) => Standing::Degraded,
            (Health::Healthy, Verdict::Healthy | Verdict::Unchecked) => Standing::Healthy,
        }
    }

    /// Whether active checks ask it.
    pub fn is_checked(&self) -> bool {
        self.check.as_ref().is_none_or(|target| !target.is_disabled)
    }

    /// Where active checks ask it.
    pub fn check_address(&self) -> Address {
        let target = self.check.as_deref();
        let mut address = target.and_then(|target| target.address.as_ref()).unwrap_or(&self.address).clone();
        if let (Address::Socket(address), Some(port)) = (&mut address, target.and_then(|target| target.port))
        {
            address.set_port(port);
        }
        address
    }
}

/// How EDS finds an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    /// Well, or nothing is known.
    #[default]
    Healthy,
    /// To be used where too few others are left.
    Degraded,
    /// UNHEALTHY, DRAINING or TIMEOUT: it gets no new requests.
    Unhealthy,
}

//! Clients of others, modelled by what they are known to do, against the server: Envoy, which holds its ACK of clusters until
//! they are warm, and clients of gRPC, which ask for one name after the other. Streams end at any moment, and requests cross
//! responses; within a stream nothing is lost or reordered, as on TCP.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message as _;
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_proto::envoy::config::listener::v3::Listener;
use xds_proto::envoy::config::route::v3::RouteConfiguration;
use xds_proto::envoy::config::route::v3::route::Action;
use xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryResponse};

use super::*;

/// What a client has: bytes by type and name, and the last nonce of each type.
#[derive(Default)]
struct Held {
    resources: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>,
    versions: BTreeMap<&'static str, HashMap<String, String>>,
    nonces: BTreeMap<&'static str, String>,
    asked: BTreeMap<&'static str, BTreeSet<String>>,
}

const TYPES: [&str; 4] =
    [type_url::CLUSTER, type_url::CLUSTER_LOAD_ASSIGNMENT, type_url::LISTENER, type_url::ROUTE_CONFIGURATION];

fn known(url: &str) -> &'static str {
    TYPES.into_iter().find(|known| *known == url).expect("a type that was asked for")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// State of the world; the ACK of clusters waits for their endpoints.
    Envoy,
    /// The same with changes.
    EnvoyDelta,
    /// By name, from the listener on.
    Grpc,
}

struct Foreign {
    kind: Kind,
    held: Held,
    stream: Option<Stream>,
    up: VecDeque<Ask>,
    down: VecDeque<Response>,
    /// ACKs of clusters that wait until every cluster has endpoints.
    waiting: Vec<Ask>,
    /// The routes of this stream have come: those before it were nobody's that the server knows of.
    has_routes: bool,
    connected: Option<Instant>,
    /// What was sent on this stream in delta, by type and name, with its version.
    sent: HashMap<(String, String), String>,
    /// How often each name was asked for, less what came the same again.
    due: HashMap<(String, String), u32>,
}

impl Foreign {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            held: Held::default(),
            stream: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            waiting: Vec::new(),
            has_routes: false,
            connected: None,
            sent: HashMap::new(),
            due: HashMap::new(),
        }
    }

    fn node(&self) -> Node {
        let agent = if self.kind == Kind::Grpc { "gRPC Go" } else { "envoy" };
        Node { id: format!("{:?}", self.kind), user_agent_name: agent.into(), ..Node::default() }
    }

    fn connect(&mut self, config: &Arc<Published>, now: Instant) {
        self.disconnect();
        self.connected = Some(now);
        self.has_routes = false;
        self.stream = Some(Stream::new("sim".into(), config.clone()));
        match self.kind {
            Kind::Grpc => self.want(type_url::LISTENER, &BTreeSet::from(["shop".to_owned()])),
            _ => {
                self.want(type_url::CLUSTER, &BTreeSet::new());
                self.follow();
                self.want(type_url::LISTENER, &BTreeSet::new());
            }
        }
    }

    fn disconnect(&mut self) {
        self.stream = None;
        self.up.clear();
        self.down.clear();
        self.waiting.clear();
        self.sent.clear();
        self.due.clear();
        self.held.nonces.clear();
        self.held.asked.clear();
    }

    /// Asks for these names of a type from now on.
    fn want(&mut self, url: &'static str, names: &BTreeSet<String>) {
        let before = self.held.asked.insert(url, names.clone());
        if before.as_ref() == Some(names) {
            return;
        }
        // What is asked for anew is sent anew, once each time.
        for name in names.difference(before.as_ref().unwrap_or(&BTreeSet::new())) {
            *self.due.entry((url.to_owned(), name.clone())).or_default() += 1;
        }
        let nonce = self.held.nonces.get(url).cloned().unwrap_or_default();
        self.up.push_back(self.request(url, &nonce, before.as_ref(), true));
    }

    /// `is_change`: the names are told; an ACK in delta tells none.
    fn request(
        &self,
        url: &'static str,
        nonce: &str,
        before: Option<&BTreeSet<String>>,
        is_change: bool,
    ) -> Ask {
        let names = self.held.asked.get(url).cloned().unwrap_or_default();
        if self.kind != Kind::EnvoyDelta {
            return DiscoveryRequest {
                node: Some(self.node()),
                type_url: url.into(),
                resource_names: names.into_iter().collect(),
                response_nonce: nonce.into(),
                ..DiscoveryRequest::default()
            }
            .into();
        }
        let none = BTreeSet::new();
        let old = before.unwrap_or(&none);
        let tell = |a: &BTreeSet<String>, b: &BTreeSet<String>| match is_change {
            true => a.difference(b).cloned().collect(),
            false => Vec::new(),
        };
        DeltaDiscoveryRequest {
            node: Some(self.node()),
            type_url: url.into(),
            resource_names_subscribe: tell(&names, old),
            resource_names_unsubscribe: tell(old, &names),
            initial_resource_versions: match before.is_none() && is_change {
                true => self.held.versions.get(url).cloned().unwrap_or_default(),
                false => HashMap::new(),
            },
            response_nonce: if before.is_none() { String::new() } else { nonce.into() },
            ..DeltaDiscoveryRequest::default()
        }
        .into()
    }

    /// Asks for what is named by what is held.
    fn follow(&mut self) {
        let all = self.held.resources.clone();
        let held = |url: &str| all.get(url).cloned().unwrap_or_default();
        match self.kind {
            Kind::Grpc => {
                let routes: BTreeSet<String> = held(type_url::LISTENER).into_keys().collect();
                self.want(type_url::ROUTE_CONFIGURATION, &routes);
                let configs = held(type_url::ROUTE_CONFIGURATION).into_values();
                let clusters: BTreeSet<String> = configs.flat_map(|bytes| clusters_of(&bytes)).collect();
                self.want(type_url::CLUSTER, &clusters);
                let there = held(type_url::CLUSTER);
                let known = clusters.into_iter().filter(|name| there.contains_key(name)).collect();
                self.want(type_url::CLUSTER_LOAD_ASSIGNMENT, &known);
            }
            Kind::Envoy | Kind::EnvoyDelta => {
                let clusters: BTreeSet<String> = held(type_url::CLUSTER).into_keys().collect();
                if !clusters.is_empty() || self.held.asked.contains_key(type_url::CLUSTER_LOAD_ASSIGNMENT) {
                    self.want(type_url::CLUSTER_LOAD_ASSIGNMENT, &clusters);
                }
                if held(type_url::LISTENER).contains_key("weir") {
                    self.want(type_url::ROUTE_CONFIGURATION, &BTreeSet::from(["weir".to_owned()]));
                }
            }
        }
    }

    fn deliver_up(&mut self, now: Instant) {
        if let (Some(stream), Some(ask)) = (&mut self.stream, self.up.pop_front()) {
            self.down.extend(stream.on_request(ask, now).expect("it keeps the protocol").responses);
        }
    }

    fn deliver_down(&mut self, seed: u64, now: Instant) {
        let Some(response) = self.down.pop_front() else { return };
        let url = known(response.type_url());
        let nonce = response.nonce().to_owned();
        match response {
            Response::State(DiscoveryResponse { resources, .. }) => {
                let fresh = resources.into_iter().map(|any| (name_of(url, &any.value), any.value));
                let held = self.held.resources.entry(url).or_default();
                if matches!(url, type_url::CLUSTER | type_url::LISTENER) {
                    held.clear();
                }
                held.extend(fresh);
            }
            Response::Delta(response) => {
                let held = self.held.resources.entry(url).or_default();
                let versions = self.held.versions.entry(url).or_default();
                for name in response.removed_resources {
                    held.remove(&name);
                    versions.remove(&name);
                    self.sent.remove(&(url.to_owned(), name));
                }
                for resource in response.resources {
                    let key = (url.to_owned(), resource.name.clone());
                    let due = self.due.entry(key.clone()).or_default();
                    let before = self.sent.insert(key, resource.version.clone());
                    let is_same = before.as_ref() == Some(&resource.version);
                    assert!(!is_same || *due > 0, "seed {seed}: {} again of {url}", resource.name);
                    // (What came because of something else may cross what was asked for.)
                    *due -= u32::from(is_same);
                    held.insert(resource.name.clone(), resource.resource.expect("a body").value);
                    versions.insert(resource.name, resource.version);
                }
            }
        }
        self.has_routes |= url == type_url::ROUTE_CONFIGURATION;
        self.held.nonces.insert(url, nonce.clone());
        let names = self.held.asked.get(url).cloned();
        let ack = self.request(url, &nonce, names.as_ref(), false);
        if url == type_url::CLUSTER && self.kind != Kind::Grpc {
            // It asks for the endpoints first, and says nothing of the clusters before it has them.
            self.follow();
            self.waiting.push(ack);
        } else {
            self.up.push_back(ack);
            self.follow();
        }
        let empty = BTreeMap::new();
        let has = |url: &str| self.held.resources.get(url).unwrap_or(&empty);
        let warm = has(type_url::CLUSTER)
            .keys()
            .all(|name| has(type_url::CLUSTER_LOAD_ASSIGNMENT).contains_key(name));
        if warm {
            self.up.extend(self.waiting.drain(..));
        }
        let is_early = self.connected.is_some_and(|at| now.duration_since(at) < Duration::from_secs(2));
        if self.kind == Kind::Envoy && self.has_routes || self.kind == Kind::EnvoyDelta && is_early {
            self.check(seed);
        }
    }

    /// Every route leads to a cluster that is there and has endpoints.
    fn check(&self, seed: u64) {
        let empty = BTreeMap::new();
        let held = |url: &str| self.held.resources.get(url).unwrap_or(&empty);
        for cluster in held(type_url::ROUTE_CONFIGURATION).values().flat_map(|bytes| clusters_of(bytes)) {
            assert!(
                held(type_url::CLUSTER).contains_key(&cluster),
                "seed {seed}: a route before cluster {cluster}"
            );
            assert!(
                held(type_url::CLUSTER_LOAD_ASSIGNMENT).contains_key(&cluster),
                "seed {seed}: a route before the endpoints of {cluster}"
            );
        }
    }
}

fn clusters_of(bytes: &[u8]) -> Vec<String> {
    let routes = RouteConfiguration::decode(bytes).expect("routes");
    let actions =
        routes.virtual_hosts.into_iter().flat_map(|host| host.routes).filter_map(|route| route.action);
    actions
        .flat_map(|action| match action {
            Action::Route(action) => match action.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => vec![name],
                Some(ClusterSpecifier::WeightedClusters(arms)) => {
                    arms.clusters.into_iter().map(|arm| arm.name).collect()
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        })
        .collect()
}

fn name_of(url: &str, bytes: &[u8]) -> String {
    match url {
        type_url::CLUSTER => Cluster::decode(bytes).expect("a cluster").name,
        type_url::CLUSTER_LOAD_ASSIGNMENT => {
            ClusterLoadAssignment::decode(bytes).expect("endpoints").cluster_name
        }
        type_url::LISTENER => Listener::decode(bytes).expect("a listener").name,
        _ => RouteConfiguration::decode(bytes).expect("routes").name,
    }
}

#[test]
fn clients_of_all_kinds_converge_and_nothing_is_sent_twice() {
    for seed in 0..600 {
        let kind = [Kind::Envoy, Kind::EnvoyDelta, Kind::Grpc][seed as usize % 3];
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut config = published(1, &[(1, 1)]);
        let mut client = Foreign::new(kind);
        for version in 2..200 {
            now += Duration::from_millis(rng.random_range(0..50));
            match rng.random_range(0..20) {
                0 | 1 => {
                    let chosen: Vec<u16> = (0..6).filter(|_| rng.random_range(0..2) == 0).collect();
                    let mut arms: Vec<(u16, u32)> =
                        chosen.into_iter().map(|id| (id, rng.random_range(0..100))).collect();
                    arms.push((6, 1));
                    config = published(version, &arms);
                    if let Some(stream) = &mut client.stream {
                        client.down.extend(stream.on_config(config.clone(), now).responses);
                    }
                }
                2 => client.disconnect(),
                // It may lose all that it had.
                3 if rng.random_range(0..4) == 0 => client = Foreign::new(kind),
                3 if client.stream.is_none() => client.connect(&config, now),
                4..=11 => client.deliver_up(now),
                _ => client.deliver_down(seed, now),
            }
        }
        if client.stream.is_none() {
            client.connect(&config, now);
        }
        for _ in 0..1_000 {
            now += Duration::from_millis(100);
            if let Some(stream) = &mut client.stream
                && stream.deadline().is_some_and(|deadline| deadline <= now)
            {
                client.down.extend(stream.on_deadline(now).responses);
            }
            client.deliver_up(now);
            client.deliver_down(seed, now);
        }
        assert!(
            client.up.is_empty() && client.down.is_empty() && client.waiting.is_empty(),
            "seed {seed}: {kind:?}"
        );
        let dialect = if kind == Kind::Grpc { Dialect::Grpc } else { Dialect::Standard };
        for url in TYPES {
            let wanted: BTreeMap<String, Vec<u8>> = config
                .for_dialect(dialect)
                .of_type(url)
                .iter()
                .map(|(name, resource)| (name.to_string(), resource.any.value.clone()))
                .collect();
            let mut held = client.held.resources.get(url).cloned().unwrap_or_default();
            // What nobody asks for any more may lie about in the state of the world.
            held.retain(|name, _| {
                wanted.contains_key(name) || matches!(url, type_url::CLUSTER | type_url::LISTENER)
            });
            assert_eq!(held, wanted, "seed {seed}, {kind:?}: {url}");
        }
    }
}

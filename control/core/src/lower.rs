//! From the intermediate representation to xDS resources, in the form that a kind of node understands.

mod grpc;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use proxy_core::config::Address as CoreAddress;
use proxy_core::xds::{Rejection, translate};
use xds_proto::envoy::config::accesslog::v3::{AccessLog, access_log};
use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use xds_proto::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, Locality, Metadata, Pipe, SocketAddress,
    address,
};
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use xds_proto::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use xds_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use xds_proto::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster, route,
};
use xds_proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, UpgradeConfig,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use xds_proto::prost_types::{Any, Struct, Value, value};
use xds_proto::type_url::{self, pack};
use xds_proto::weir::split::v1::{SplitPolicy, split_policy};

use crate::ir::{self, GATEWAY, Ir, LoadBalancing};

/// What a node understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// Weir's own proxy: sticky splits travel as `weir.split`.
    Weir,
    /// Envoy and everything else: standard xDS only.
    Standard,
    /// Clients of gRPC: what they call is asked for by its name, and there is no address to listen on (gRFC A27, A28).
    Grpc,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Weir, Self::Standard, Self::Grpc];

    /// By the `user_agent_name` of a node.
    pub fn of(user_agent_name: &str) -> Self {
        let is_grpc = |name: &str| name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("grpc"));
        match user_agent_name {
            "weir" => Self::Weir,
            name if is_grpc(name) => Self::Grpc,
            _ => Self::Standard,
        }
    }
}

/// A resource as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// Its bytes.
    pub any: Arc<Any>,
    /// A hash of them.
    pub version: Arc<str>,
}

impl Lowered {
    fn new(any: Any) -> Self {
        let version = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&any.value));
        Self { any: Arc::new(any), version: version.into() }
    }
}

/// The resources of a type, by name.
pub type Resources = BTreeMap<Arc<str>, Lowered>;

/// All resources of a version, by type and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourceSet {
    types: BTreeMap<&'static str, Arc<Resources>>,
    /// Listeners that a proxy would refuse: they have no address.
    named: BTreeSet<Arc<str>>,
}

impl ResourceSet {
    /// The resources of a type, by name.
    pub fn of_type(&self, type_url: &str) -> &Arc<Resources> {
        static NONE: LazyLock<Arc<Resources>> = LazyLock::new(Arc::default);
        self.types.get(type_url).unwrap_or(&NONE)
    }

    fn insert(&mut self, type_url: &'static str, name: String, resource: Any) {
        let resources = Arc::make_mut(self.types.entry(type_url).or_default());
        resources.insert(name.into(), Lowered::new(resource));
    }

    /// Puts another resource in the place of one.
    #[cfg(test)]
    pub(crate) fn replace(&mut self, type_url: &'static str, name: &str, resource: Any) {
        self.insert(type_url, name.to_owned(), resource);
    }

    /// Shares with `before` what says the same: whoever has been told of it can see that at a glance.
    #[must_use]
    pub fn sharing(mut self, before: &Self) -> Self {
        for (type_url, resources) in &mut self.types {
            let before = before.of_type(type_url);
            if **resources == **before {
                resources.clone_from(before);
            }
        }
        self
    }

    /// Reads every resource as a proxy would. What we would refuse we do not send.
    ///
    /// # Errors
    /// The first resource that a proxy would refuse: a bug of the lowering, or a value that validation let through.
    pub fn check(&self) -> Result<(), Rejection> {
        self.check_beside(&[])
    }

    /// The same, but for what these sets hold as well, which were checked before.
    ///
    /// # Errors
    /// As [`ResourceSet::check`].
    pub fn check_beside(&self, checked: &[&Self]) -> Result<(), Rejection> {
        let is_new = |type_url, name: &str, resource: &Lowered| {
            !checked.iter().any(|set| set.of_type(type_url).get(name) == Some(resource))
        };
        let all = |type_url| {
            let resources = self.of_type(type_url).iter();
            let fresh = resources.filter(move |(name, resource)| is_new(type_url, name, resource));
            fresh.map(|(_, resource)| &*resource.any)
        };
        all(type_url::CLUSTER).try_for_each(|any| translate::cluster(any).map(drop))?;
        all(type_url::CLUSTER_LOAD_ASSIGNMENT)
            .try_for_each(|any| translate::load_assignment(any).map(drop))?;
        let listeners = self.of_type(type_url::LISTENER).iter();
        let listeners = listeners.filter(|(name, resource)| {
            !self.named.contains(*name) && is_new(type_url::LISTENER, name, resource)
        });
        listeners
            .map(|(_, resource)| &*resource.any)
            .try_for_each(|any| translate::listener(any).map(drop))?;
        all(type_url::ROUTE_CONFIGURATION).try_for_each(|any| translate::route_configuration(any).map(drop))
    }
}

/// Lowers everything for one dialect. The same input gives the same bytes.
pub fn lower(ir: &Ir, dialect: Dialect) -> ResourceSet {
    let mut set = ResourceSet::default();
    for (name, backend) in &ir.backends {
        set.insert(type_url::CLUSTER, name.to_string(), pack(&cluster(name.as_str(), backend, dialect)));
        let assignment = load_assignment(name.as_str(), backend, dialect);
        set.insert(type_url::CLUSTER_LOAD_ASSIGNMENT, name.to_string(), pack(&assignment));
    }
    if dialect == Dialect::Grpc {
        for (name, routes) in grpc::targets(ir) {
            set.insert(type_url::ROUTE_CONFIGURATION, name.clone(), pack(&grpc::routes(&name, &routes)));
            set.insert(type_url::LISTENER, name.clone(), pack(&grpc::listener(&name)));
            set.named.insert(name.into());
        }
        return set;
    }
    set.insert(type_url::LISTENER, GATEWAY.to_owned(), pack(&listener(&ir.gateway)));
    set.insert(type_url::ROUTE_CONFIGURATION, GATEWAY.to_owned(), pack(&routes(ir, dialect)));
    set
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn cluster(name: &str, backend: &ir::Backend, dialect: Dialect) -> Cluster {
    let policy = match backend.load_balancing {
        LoadBalancing::RoundRobin => LbPolicy::RoundRobin,
        // Clients of gRPC refuse it unless they are told otherwise (gRFC A48).
        LoadBalancing::LeastRequest if dialect == Dialect::Grpc => LbPolicy::RoundRobin,
        LoadBalancing::LeastRequest => LbPolicy::LeastRequest,
    };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() }),
        lb_policy: policy as i32,
        ..Cluster::default()
    }
}

fn load_assignment(name: &str, backend: &ir::Backend, dialect: Dialect) -> ClusterLoadAssignment {
    // Clients of gRPC leave out localities without a weight (gRFC A27).
    let is_grpc = dialect == Dialect::Grpc;
    let endpoint = |endpoint: &ir::Endpoint| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(&endpoint.address)),
            hostname: String::new(),
        })),
        metadata: metadata(&endpoint.labels),
        ..LbEndpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: backend.endpoints.iter().map(endpoint).collect(),
            locality: is_grpc.then(Locality::default),
            load_balancing_weight: is_grpc.then_some(1),
            ..LocalityLbEndpoints::default()
        }],
        policy: None,
    }
}

/// Labels where Envoy's subset balancing looks for them.
fn metadata(labels: &BTreeMap<String, String>) -> Option<Metadata> {
    let text = |text: &String| Value { kind: Some(value::Kind::StringValue(text.clone())) };
    let fields: BTreeMap<_, _> = labels.iter().map(|(k, v)| (k.clone(), text(v))).collect();
    (!fields.is_empty()).then(|| Metadata {
        filter_metadata: HashMap::from([("envoy.lb".to_owned(), Struct { fields })]),
        typed_filter_metadata: HashMap::new(),
    })
}

fn address(address: &CoreAddress) -> Address {
    let wire = match address {
        CoreAddress::Socket(socket) => address::Address::SocketAddress(SocketAddress {
            protocol: 0,
            address: socket.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(socket.port().into())),
        }),
        CoreAddress::Pipe(path) => address::Address::Pipe(Pipe { path: path.display().to_string() }),
    };
    Address { address: Some(wire) }
}

fn listener(gateway: &ir::Gateway) -> Listener {
    let log = |path: &String| AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack(&FileAccessLog {
            path: path.clone(),
            ..FileAccessLog::default()
        }))),
        filter: None,
    };
    let manager = HttpConnectionManager {
        stat_prefix: GATEWAY.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: GATEWAY.to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
            ..HttpFilter::default()
        }],
        access_log: gateway.access_log.iter().map(log).collect(),
        // A gateway's clients are strangers; backends learn who they are, and WebSockets pass.
        use_remote_address: Some(true),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), enabled: None }],
        ..HttpConnectionManager::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
    };
    Listener {
        name: GATEWAY.to_owned(),
        address: Some(address(&gateway.address)),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

fn routes(ir: &Ir, dialect: Dialect) -> RouteConfiguration {
    let virtual_host = |host: &ir::Host| VirtualHost {
        name: host.hostname.clone(),
        domains: vec![host.hostname.clone()],
        routes: host.routes.iter().map(|r| wire_route(r, dialect)).collect(),
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name: GATEWAY.to_owned(),
        virtual_hosts: ir.hosts.iter().map(virtual_host).collect(),
        // Gateway API: the port of the Host header plays no part.
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

fn wire_route(route: &ir::Route, dialect: Dialect) -> Route {
    let path = match &route.path {
        ir::Path::Exact(path) => PathSpecifier::Path(path.clone()),
        ir::Path::Prefix(path) if path.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        ir::Path::Prefix(path) => PathSpecifier::PathSeparatedPrefix(path.clone()),
    };
    let header = |(name, value): &(String, String)| HeaderMatcher {
        name: name.clone(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact(value.clone())),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    };
    let cluster = match route.arms.as_slice() {
        [only] => ClusterSpecifier::Cluster(only.backend.to_string()),
        arms => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: arms
                .iter()
                .map(|arm| ClusterWeight {
                    name: arm.backend.to_string(),
                    weight: Some(arm.weight),
                    ..ClusterWeight::default()
                })
                .collect(),
            ..WeightedCluster::default()
        }),
    };
    let split = route.key.as_ref().filter(|_| dialect == Dialect::Weir).map(|key| SplitPolicy {
        key: Some(split_policy::Key::Header(key.header.clone())),
        salt: key.salt.clone(),
        ..SplitPolicy::default()
    });
    Route {
        name: route.name.clone(),
        r#match: Some(RouteMatch {
            headers: route.headers.iter().map(header).collect(),
            path_specifier: Some(path),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(cluster),
            ..RouteAction::default()
        })),
        typed_per_filter_config: split.map(|s| ("weir.split".to_owned(), pack(&s))).into_iter().collect(),
        ..Route::default()
    }
}

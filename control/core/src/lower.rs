//! From the intermediate representation to xDS resources, in the form that a kind of node understands.

mod cluster;
mod grpc;
mod listener;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use proxy_core::config::Address as CoreAddress;
use proxy_core::xds::{Rejection, translate};
use xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use xds_proto::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, Pipe, SocketAddress,
    TransportSocket, address, data_source, transport_socket,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};
use xds_proto::prost_types::Any;
use xds_proto::type_url::{self, pack};

use crate::ir::Ir;

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
    /// Listeners that are for nodes with these labels alone.
    labels: BTreeMap<Arc<str>, BTreeMap<String, String>>,
}

impl ResourceSet {
    /// The resources of a type, by name.
    pub fn of_type(&self, type_url: &str) -> &Arc<Resources> {
        static NONE: LazyLock<Arc<Resources>> = LazyLock::new(Arc::default);
        self.types.get(type_url).unwrap_or(&NONE)
    }

    /// The listeners for a node with these labels, where they are not all of them.
    pub fn listeners_for(&self, labels: &BTreeMap<String, String>) -> Option<Arc<Resources>> {
        let is_for = |wanted: &BTreeMap<String, String>| wanted.iter().all(|(k, v)| labels.get(k) == Some(v));
        if self.labels.values().all(is_for) {
            return None;
        }
        let mut listeners = Resources::clone(self.of_type(type_url::LISTENER));
        listeners.retain(|name, _| self.labels.get(name).is_none_or(is_for));
        Some(Arc::new(listeners))
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

    /// Every resource in the form that people read, with its type.
    ///
    /// # Errors
    /// None that is known: what was lowered has a form.
    pub fn to_json(&self) -> Result<Vec<serde_json::Value>, xds_proto::json::ReadError> {
        let all = self.types.iter().flat_map(|(url, resources)| resources.values().map(move |r| (*url, r)));
        let shown = all.map(|(url, resource)| {
            let mut value = xds_proto::json::to_json(type_url::message_name(url), &resource.any.value)?;
            if let Some(fields) = value.as_object_mut() {
                fields.insert("@type".to_owned(), url.into());
            }
            Ok(value)
        });
        shown.collect()
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
        set.insert(
            type_url::CLUSTER,
            name.to_string(),
            pack(&cluster::cluster(name.as_str(), backend, dialect)),
        );
        if !backend.has_names() {
            let assignment = cluster::load_assignment(name.as_str(), backend, dialect);
            set.insert(type_url::CLUSTER_LOAD_ASSIGNMENT, name.to_string(), pack(&assignment));
        }
    }
    if dialect == Dialect::Grpc {
        for (name, routes) in grpc::targets(ir) {
            set.insert(type_url::ROUTE_CONFIGURATION, name.clone(), pack(&grpc::routes(&name, &routes)));
            set.insert(type_url::LISTENER, name.clone(), pack(&grpc::listener(&name)));
            set.named.insert(name.into());
        }
        return set;
    }
    for (name, listener) in &ir.listeners {
        let resource = listener::listener(name, listener, ir.access_log.as_deref());
        set.insert(type_url::LISTENER, name.clone(), pack(&resource));
        if !listener.node_labels.is_empty() {
            set.labels.insert(name.as_str().into(), listener.node_labels.clone());
        }
    }
    for (name, table) in &ir.tables {
        set.insert(
            type_url::ROUTE_CONFIGURATION,
            name.clone(),
            pack(&route::configuration(name, table, dialect)),
        );
    }
    for (name, certificate) in &ir.certificates {
        let secret = Secret {
            name: name.clone(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline(&certificate.chain)),
                private_key: Some(inline(&certificate.key)),
                watched_directory: None,
            })),
        };
        set.insert(type_url::SECRET, name.clone(), pack(&secret));
    }
    set
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        watched_directory: None,
    }
}

fn tls_socket(context: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

fn address(address: &CoreAddress) -> Address {
    let wire = match address {
        CoreAddress::Socket(socket) => named_address(&socket.ip().to_string(), socket.port()),
        CoreAddress::Pipe(path) => address::Address::Pipe(Pipe { path: path.display().to_string() }),
    };
    Address { address: Some(wire) }
}

fn named_address(host: &str, port: u16) -> address::Address {
    address::Address::SocketAddress(SocketAddress {
        protocol: 0,
        address: host.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
    })
}

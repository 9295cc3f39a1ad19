//! From the intermediate representation to xDS resources, in the form that a kind of node understands.

mod audience;
mod cluster;
mod fault;
mod grpc;
mod health;
mod listener;
mod route;
mod table;

use std::cmp::Ordering;
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

use crate::ir::{self, Ir};
pub use audience::Audience;
use audience::{Views, Wanted};
use table::Written;

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
    /// Listeners that are not for everybody.
    wanted: BTreeMap<Arc<str>, Wanted>,
    /// Load assignments, where some of them differ from place to place.
    views: Views,
}

impl ResourceSet {
    /// The resources of a type, by name.
    pub fn of_type(&self, type_url: &str) -> &Arc<Resources> {
        static NONE: LazyLock<Arc<Resources>> = LazyLock::new(Arc::default);
        self.types.get(type_url).unwrap_or(&NONE)
    }

    /// The listeners for a node, where they are not all of them.
    pub fn listeners_for(&self, audience: &Audience) -> Option<Arc<Resources>> {
        let is_for = |wanted: &Wanted| wanted.is(audience);
        if self.wanted.values().all(is_for) {
            return None;
        }
        let mut listeners = Resources::clone(self.of_type(type_url::LISTENER));
        listeners.retain(|name, _| self.wanted.get(name).is_none_or(is_for));
        Some(Arc::new(listeners))
    }

    /// The load assignments for a node, where they are not what nodes of unknown place get.
    pub fn endpoints_for(&self, audience: &Audience) -> Option<Arc<Resources>> {
        self.views.seen_from(&audience.place).cloned()
    }

    fn get(&self, type_url: &str, name: &str) -> Option<&Lowered> {
        self.of_type(type_url).get(name)
    }

    fn insert(&mut self, type_url: &'static str, name: &str, resource: Lowered) {
        if self.get(type_url, name) != Some(&resource) {
            Arc::make_mut(self.types.entry(type_url).or_default()).insert(name.into(), resource);
        }
    }

    fn remove(&mut self, type_url: &'static str, name: &str) {
        if self.get(type_url, name).is_some() {
            Arc::make_mut(self.types.entry(type_url).or_default()).remove(name);
        }
    }

    /// Puts another resource in the place of one.
    #[cfg(test)]
    pub(crate) fn replace(&mut self, type_url: &'static str, name: &str, resource: Any) {
        self.insert(type_url, name, Lowered::new(resource));
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
}

/// The resources of a version in every dialect. The next version's are made from them, at the cost of what is different.
///
/// What we would refuse we do not send: whatever is new is read as a proxy would read it. The same input gives the same bytes.
#[derive(Debug, Clone, Default)]
pub struct Lowering {
    ir: Arc<Ir>,
    /// The routes of each table.
    written: BTreeMap<String, Arc<Written>>,
    sets: [ResourceSet; Dialect::ALL.len()],
}

impl Lowering {
    /// Lowers a version.
    ///
    /// # Errors
    /// The first resource that a proxy would refuse: a bug of the lowering, or a value that validation let through.
    pub fn of(ir: &Arc<Ir>) -> Result<Self, Rejection> {
        Self::default().next(ir)
    }

    /// The resources, by dialect in the order of [`Dialect::ALL`].
    pub const fn sets(&self) -> &[ResourceSet; Dialect::ALL.len()] {
        &self.sets
    }

    /// The resources in a dialect.
    pub const fn set(&self, dialect: Dialect) -> &ResourceSet {
        &self.sets[dialect as usize]
    }

    /// Lowers another version. Whatever is the same is shared.
    ///
    /// # Errors
    /// As [`Lowering::of`].
    pub fn next(&self, ir: &Arc<Ir>) -> Result<Self, Rejection> {
        let mut next = Self { ir: ir.clone(), ..self.clone() };
        next.backends(&self.ir)?;
        next.listeners(&self.ir)?;
        next.tables(&self.ir)?;
        next.certificates(&self.ir);
        Ok(next)
    }

    fn backends(&mut self, before: &Ir) -> Result<(), Rejection> {
        let ir = self.ir.clone();
        let is_same = |a: &Arc<ir::Backend>, b: &Arc<ir::Backend>| Arc::ptr_eq(a, b) || a == b;
        let changed = changes(&before.backends, &ir.backends, is_same);
        for (name, backend) in &changed {
            let (name, backend) = (name.as_str(), backend.map(|backend| &**backend));
            for dialect in Dialect::ALL {
                let lowered = backend.map(|backend| pack(&cluster::cluster(name, backend, dialect)));
                self.put(dialect, type_url::CLUSTER, name, lowered, translate::cluster)?;
                let known = backend.filter(|backend| !backend.has_names());
                let lowered =
                    known.map(|backend| pack(&cluster::load_assignment(name, backend, dialect, None)));
                let read = translate::load_assignment;
                self.put(dialect, type_url::CLUSTER_LOAD_ASSIGNMENT, name, lowered, read)?;
            }
        }
        let changed: Vec<_> = changed.into_iter().map(|(name, _)| name).collect();
        self.views(&changed)
    }

    /// The load assignments from each place that endpoints of a backend are in whose near ones are preferred.
    fn views(&mut self, changed: &[&ir::BackendName]) -> Result<(), Rejection> {
        let ir = self.ir.clone();
        let prefers = |backend: &ir::Backend| backend.prefers_near && !backend.has_names();
        let near: Vec<_> = ir.backends.iter().filter(|(_, backend)| prefers(backend)).collect();
        let within = near.iter().flat_map(|(_, backend)| &backend.endpoints).map(ir::Endpoint::place);
        let (regions, places) = Views::places(&within.collect());
        let all: Vec<_> = near.into_iter().map(|(name, _)| name).collect();
        for dialect in Dialect::ALL {
            let set = &mut self.sets[dialect as usize];
            let before = std::mem::take(&mut set.views);
            set.views.regions.clone_from(&regions);
            for place in &places {
                let shared = set.of_type(type_url::CLUSTER_LOAD_ASSIGNMENT);
                let (mut view, names) = match before.from.get(place) {
                    Some(view) => (view.clone(), changed),
                    None => (shared.clone(), &*all),
                };
                for name in names {
                    let own = ir.backends.get(*name).filter(|backend| prefers(backend));
                    let lowered = match own {
                        Some(backend) => {
                            let from = Some(place);
                            let any = pack(&cluster::load_assignment(name.as_str(), backend, dialect, from));
                            translate::load_assignment(&any)?;
                            Some(Lowered::new(any))
                        }
                        None => shared.get(name.as_str()).cloned(),
                    };
                    if view.get(name.as_str()) == lowered.as_ref() {
                        continue;
                    }
                    match lowered {
                        Some(lowered) => drop(Arc::make_mut(&mut view).insert(name.as_str().into(), lowered)),
                        None => drop(Arc::make_mut(&mut view).remove(name.as_str())),
                    }
                }
                set.views.from.insert(place.clone(), view);
            }
        }
        Ok(())
    }

    fn listeners(&mut self, before: &Ir) -> Result<(), Rejection> {
        let ir = self.ir.clone();
        let logs_elsewhere = before.access_log != ir.access_log;
        for (name, listener) in changes(&before.listeners, &ir.listeners, |a, b| !logs_elsewhere && a == b) {
            for dialect in [Dialect::Weir, Dialect::Standard] {
                let listener = listener
                    .map(|listener| listener::listener(name, listener, ir.access_log.as_deref(), dialect));
                let lowered = listener.map(|listener| pack(&listener));
                self.put(dialect, type_url::LISTENER, name, lowered, translate::listener)?;
                let wanted = &mut self.sets[dialect as usize].wanted;
                let of = ir.listeners.get(name).map(|listener| Wanted {
                    labels: listener.node_labels.clone(),
                    namespace: listener.namespace.clone(),
                    yields: listener.yields,
                });
                match of.filter(|of| *of != Wanted::default()) {
                    Some(of) => drop(wanted.insert(name.as_str().into(), of)),
                    None => drop(wanted.remove(name.as_str())),
                }
            }
        }
        Ok(())
    }

    fn tables(&mut self, before: &Ir) -> Result<(), Rejection> {
        let ir = self.ir.clone();
        let mut called = BTreeSet::new();
        for (name, table) in changes(&before.tables, &ir.tables, ir::Table::is_the_same) {
            let old = self.written.remove(name).unwrap_or_default();
            let new = match table {
                Some(table) => Arc::new(Written::of(table, Some(&old))?),
                None => Arc::default(),
            };
            for dialect in [Dialect::Weir, Dialect::Standard] {
                let lowered = table.map(|table| new.configuration(name, table, dialect));
                // Its routes were read when they were written.
                self.put(dialect, type_url::ROUTE_CONFIGURATION, name, lowered, |_| {
                    table.map_or(Ok(()), |table| table::check_hosts(name, table))
                })?;
            }
            let different = changes(&old.targets, &new.targets, |a, b| are_the_same(a, b));
            called.extend(different.into_iter().map(|(name, _)| name.clone()));
            if table.is_some() {
                self.written.insert(name.clone(), new);
            }
        }
        for name in called {
            self.call_target(&name);
        }
        Ok(())
    }

    /// What clients of gRPC get who call a name.
    fn call_target(&mut self, name: &str) {
        let routes = self.written.values().filter_map(|written| written.targets.get(name)).flatten();
        let mut routes = routes.peekable();
        let set = &mut self.sets[Dialect::Grpc as usize];
        if routes.peek().is_none() {
            set.remove(type_url::ROUTE_CONFIGURATION, name);
            set.remove(type_url::LISTENER, name);
            return;
        }
        set.insert(type_url::ROUTE_CONFIGURATION, name, Lowered::new(table::target(name, routes)));
        // A proxy would refuse it: it has no address.
        set.insert(type_url::LISTENER, name, Lowered::new(pack(&grpc::listener(name))));
    }

    fn certificates(&mut self, before: &Ir) {
        let ir = self.ir.clone();
        for (name, certificate) in changes(&before.certificates, &ir.certificates, PartialEq::eq) {
            for dialect in [Dialect::Weir, Dialect::Standard] {
                let set = &mut self.sets[dialect as usize];
                match certificate {
                    Some(certificate) => {
                        set.insert(type_url::SECRET, name, Lowered::new(pack(&secret(name, certificate))));
                    }
                    None => set.remove(type_url::SECRET, name),
                }
            }
        }
    }

    /// Puts a resource in its place, or takes it away. What is new is read; what an earlier dialect says as well is shared.
    fn put<T>(
        &mut self,
        dialect: Dialect,
        type_url: &'static str,
        name: &str,
        resource: Option<Any>,
        read: impl Fn(&Any) -> Result<T, Rejection>,
    ) -> Result<(), Rejection> {
        let Some(resource) = resource else {
            self.sets[dialect as usize].remove(type_url, name);
            return Ok(());
        };
        let earlier = self.sets[..dialect as usize].iter().filter_map(|set| set.get(type_url, name));
        let lowered = match earlier.into_iter().find(|lowered| *lowered.any == resource) {
            Some(shared) => shared.clone(),
            None => {
                read(&resource)?;
                Lowered::new(resource)
            }
        };
        self.sets[dialect as usize].insert(type_url, name, lowered);
        Ok(())
    }
}

/// What is new or different, with what it is now, and what is gone.
fn changes<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
    is_same: impl Fn(&V, &V) -> bool,
) -> Vec<(&'a K, Option<&'a V>)> {
    let mut found = Vec::new();
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return found,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let (gone, here) = match order {
            Ordering::Less => (old.next(), None),
            Ordering::Greater => (None, new.next()),
            Ordering::Equal => (old.next(), new.next()),
        };
        match (gone, here) {
            (Some((_, old)), Some((_, new))) if is_same(old, new) => {}
            (_, Some((key, value))) => found.push((key, Some(value))),
            (Some((key, _)), None) => found.push((key, None)),
            (None, None) => return found,
        }
    }
}

/// Whether these are the very same routes in the same order.
fn are_the_same(a: &[Arc<[u8]>], b: &[Arc<[u8]>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn secret(name: &str, certificate: &ir::Certificate) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(&certificate.chain)),
            private_key: Some(inline(&certificate.key)),
            watched_directory: None,
        })),
    }
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

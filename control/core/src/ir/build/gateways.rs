//! `Gateway` and `ListenerSet`: which ports there are, and what attached to them.

mod conflicts;
mod peers;
mod protection;
mod status;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proxy_core::config::Address;

use peers::{Peers, SIDECAR};
use status::refuse_set;
use tables::{certificates_of, speaks};

use super::connections::Connections;
use super::flow::FlowRoutes;
use super::grants::{From, Grants};
use super::hosts::{Hosts, covering};
use super::{CONTROLLER, by_age};
use crate::ir::{
    Certificate, Condition, GATEWAY, ImplicitGateway, Listener, ObjectStatus, Table, Termination, Truth,
};
use crate::model::{
    self, AllowedRoutes, FromNamespaces, GatewaySpec, Kind, LabelOperator, LabelSelector, Metadata,
    ObjectKey, Objects, PeerMode, Protocol, Resource, RouteNamespaces, TlsMode,
};

/// A listener, and what attached to it.
pub(super) struct Port<'a> {
    /// The `Gateway` or `ListenerSet` that declares it.
    pub(super) parent: ObjectKey,
    gateway: usize,
    pub(super) name: &'a str,
    pub(super) number: u16,
    pub(super) protocol: Protocol,
    /// In lower case; empty for every host.
    pub(super) hostname: String,
    /// Kinds of routes that may attach.
    pub(super) kinds: Vec<Kind>,
    allowed: Option<&'a RouteNamespaces>,
    /// Routes attach even where nothing is served: the status says how many wait.
    pub(super) attached: usize,
    pub(super) hosts: Hosts,
    pub(super) connections: Connections,
    termination: Option<Termination>,
    /// What a `PeerAuthentication` says of it.
    pub(super) mode: PeerMode,
    conflict: Option<(&'static str, String)>,
    /// At proxies of no namespace a gateway of another one has the port.
    yields: bool,
    lost_to_sibling: bool,
    accepted: Condition,
    resolved: Condition,
    /// Whether any of the kinds is left, and any certificate where one is wanted.
    is_usable: bool,
}

impl Port<'_> {
    fn lose(&mut self, conflict: &(&'static str, String), to_sibling: bool) {
        if self.conflict.is_none() {
            self.conflict = Some(conflict.clone());
            self.lost_to_sibling = to_sibling;
        }
    }

    fn yields_to(&mut self, message: &str) {
        self.yields = true;
        self.accepted.message = format!("at proxies that are of no namespace, {message}");
    }

    fn is_served(&self) -> bool {
        self.conflict.is_none() && self.is_usable && self.accepted.status == Truth::True
    }

    /// Whether it takes connections in TLS.
    const fn is_tls(&self) -> bool {
        let is_off = matches!(self.mode, PeerMode::Disable) && self.termination.is_some();
        matches!(self.protocol, Protocol::Https | Protocol::Tls) && !is_off
    }

    /// Whether it takes connections in clear that would come in TLS without a `PeerAuthentication`.
    const fn takes_plaintext(&self) -> bool {
        matches!(self.mode, PeerMode::Disable | PeerMode::Permissive) && self.termination.is_some()
    }
}

/// A gateway.
struct Owner<'a> {
    key: ObjectKey,
    /// Whether it is the implicit one.
    is_implicit: bool,
    addresses: Vec<Address>,
    node_labels: &'a BTreeMap<String, String>,
    /// Of a sidecar: what `PeerAuthentication`s go by.
    sidecar: Option<&'a Metadata>,
    refused: Option<Condition>,
}

/// All ports.
pub(super) struct Ports<'a> {
    objects: &'a Objects,
    peers: Peers<'a>,
    owners: Vec<Owner<'a>>,
    pub(super) ports: Vec<Port<'a>>,
    certificates: BTreeMap<String, Certificate>,
    /// `ListenerSet`s by the gateway that took them.
    sets: Vec<ObjectKey>,
    /// The ports that each declares.
    by_parent: BTreeMap<ObjectKey, Vec<usize>>,
    /// The hostnames of the ports that share a socket.
    by_socket: BTreeMap<(usize, u16), BTreeSet<String>>,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
static FROM_ALL: RouteNamespaces = RouteNamespaces { from: Some(FromNamespaces::All), selector: None };

impl<'a> Ports<'a> {
    pub(super) fn of(
        objects: &'a Objects,
        implicit: &ImplicitGateway,
        grants: &Grants<'_>,
        statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
    ) -> Self {
        let mut ports = Self {
            objects,
            peers: Peers::of(objects, statuses),
            owners: Vec::new(),
            ports: Vec::new(),
            certificates: BTreeMap::new(),
            sets: Vec::new(),
            by_parent: BTreeMap::new(),
            by_socket: BTreeMap::new(),
        };
        let classes = classes(objects, statuses);
        for gateway in by_age(objects.gateways()) {
            ports.gateway(gateway, &classes, implicit, grants, statuses);
        }
        for set in by_age(objects.listener_sets()) {
            ports.listener_set(set, grants, statuses);
        }
        ports.implicit(implicit);
        ports.find_conflicts();
        for (i, port) in ports.ports.iter().enumerate() {
            ports.by_parent.entry(port.parent.clone()).or_default().push(i);
            if port.is_served() {
                let names = ports.by_socket.entry((port.gateway, port.number)).or_default();
                names.insert(port.hostname.clone());
            }
        }
        for port in ports.ports.iter_mut().filter(|port| !port.hostname.is_empty()) {
            port.hosts.claim(&port.hostname.clone());
        }
        ports
    }

    fn implicit(&mut self, gateway: &ImplicitGateway) {
        let key = ObjectKey::new(Kind::Gateway, "default", GATEWAY);
        if self.objects.get(&key).is_some() {
            return;
        }
        let number = match &gateway.address {
            Address::Socket(address) => address.port(),
            Address::Pipe(_) => 0,
        };
        self.owners.push(Owner {
            key: key.clone(),
            is_implicit: true,
            addresses: vec![gateway.address.clone()],
            node_labels: &NO_LABELS,
            sidecar: None,
            refused: None,
        });
        self.ports.push(Port {
            parent: key,
            gateway: self.owners.len() - 1,
            name: "http",
            number,
            protocol: Protocol::Http,
            hostname: String::new(),
            kinds: vec![Kind::HttpRoute, Kind::GrpcRoute],
            allowed: Some(&FROM_ALL),
            attached: 0,
            hosts: Hosts::default(),
            connections: Connections::default(),
            termination: None,
            mode: PeerMode::Unset,
            conflict: None,
            yields: false,
            lost_to_sibling: false,
            accepted: Condition::holds("Accepted", "Accepted"),
            resolved: Condition::holds("ResolvedRefs", "ResolvedRefs"),
            is_usable: true,
        });
    }

    fn gateway(
        &mut self,
        gateway: &'a model::Gateway,
        classes: &BTreeMap<&str, bool>,
        implicit: &ImplicitGateway,
        grants: &Grants<'_>,
        statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
    ) {
        let key = ObjectKey::new(Kind::Gateway, &gateway.metadata.namespace, &gateway.metadata.name);
        let class = gateway.spec.gateway_class_name.as_str();
        match classes.get(class) {
            Some(true) => {}
            None if class == GATEWAY || class == SIDECAR => {}
            _ => {
                let message = format!("no GatewayClass {class:?} is served by {CONTROLLER}");
                let condition =
                    Condition { status: Truth::Unknown, ..Condition::fails("Accepted", "Pending", message) };
                statuses.entry(key).or_default().conditions.push(condition);
                return;
            }
        }
        let (addresses, refused) = addresses(&gateway.spec, implicit);
        let labels = gateway.spec.infrastructure.as_ref().map_or(&NO_LABELS, |i| &i.labels);
        self.owners.push(Owner {
            key: key.clone(),
            is_implicit: false,
            addresses,
            node_labels: labels,
            sidecar: (class == SIDECAR).then_some(&gateway.metadata),
            refused,
        });
        let owner = self.owners.len() - 1;
        for listener in &gateway.spec.listeners {
            let port = self.port(owner, &key, &gateway.metadata, &gateway.spec, listener, grants);
            self.ports.push(port);
        }
    }

    fn listener_set(
        &mut self,
        set: &'a model::ListenerSet,
        grants: &Grants<'_>,
        statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
    ) {
        let namespace = &set.metadata.namespace;
        let key = ObjectKey::new(Kind::ListenerSet, namespace, &set.metadata.name);
        let parent = &set.spec.parent_ref;
        let of =
            ObjectKey::new(Kind::Gateway, parent.namespace.as_deref().unwrap_or(namespace), &parent.name);
        let owner = self.owners.iter().position(|owner| owner.key == of);
        let gateway = self.objects.get(&of).and_then(|resource| match &**resource {
            Resource::Gateway(gateway) => Some(gateway),
            _ => None,
        });
        let owner = owner.filter(|owner| self.owners[*owner].refused.is_none());
        let (Some(owner), Some(gateway)) = (owner, gateway) else {
            let message = format!("there is no {of} of this control plane");
            refuse_set(key, "ParentNotAccepted", &message, statuses);
            return;
        };
        let allowed = gateway.spec.allowed_listeners.as_ref().map(|allowed| &allowed.namespaces);
        let none = RouteNamespaces { from: Some(FromNamespaces::None), selector: None };
        if !lets_in(self.objects, allowed.unwrap_or(&none), FromNamespaces::None, &of.namespace, namespace) {
            let message = format!("{of} takes no listeners of the namespace {namespace}");
            refuse_set(key, "NotAllowed", &message, statuses);
            return;
        }
        for listener in &set.spec.listeners {
            let port = self.port(owner, &key, &set.metadata, &gateway.spec, listener, grants);
            self.ports.push(port);
        }
        self.sets.push(key);
    }

    fn port(
        &mut self,
        owner: usize,
        parent: &ObjectKey,
        metadata: &Metadata,
        gateway: &'a GatewaySpec,
        listener: &'a model::Listener,
        grants: &Grants<'_>,
    ) -> Port<'a> {
        let passes_tls = listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
        let mut accepted = Condition::holds("Accepted", "Accepted");
        let mut resolved = Condition::holds("ResolvedRefs", "ResolvedRefs");
        let (kinds, unsupported) = kinds(listener.protocol, passes_tls, listener.allowed_routes.as_ref());
        if let Some(kind) = unsupported {
            let message = format!("routes of the kind {kind} cannot attach to a listener of this protocol");
            resolved = Condition::fails("ResolvedRefs", "InvalidRouteKinds", message);
        }
        if listener.protocol == Protocol::Udp {
            accepted = Condition::fails("Accepted", "UnsupportedProtocol", "UDP is not supported");
        }
        let mut is_usable = !kinds.is_empty();
        let from = From { kind: parent.kind, namespace: &metadata.namespace };
        let mut termination = None;
        if let Some(tls) = listener.tls.as_ref().filter(|tls| tls.mode == TlsMode::Terminate) {
            let mut conditions = (&mut accepted, &mut resolved);
            let ended = self.termination(owner, gateway, (listener, tls), from, grants, &mut conditions);
            is_usable &= !ended.certificates.is_empty();
            termination = Some(ended);
        }
        let mode = self.peer_mode(owner, listener, termination.as_ref(), &mut accepted);
        Port {
            parent: parent.clone(),
            gateway: owner,
            name: &listener.name,
            number: listener.port,
            protocol: listener.protocol,
            hostname: listener.hostname.as_deref().unwrap_or_default().to_ascii_lowercase(),
            kinds,
            allowed: listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref()),
            attached: 0,
            hosts: Hosts::default(),
            connections: Connections::default(),
            termination,
            mode,
            conflict: None,
            yields: false,
            lost_to_sibling: false,
            accepted,
            resolved,
            is_usable,
        }
    }

    /// Whether a port is the implicit gateway's.
    pub(super) fn is_implicit(&self, port: &Port<'_>) -> bool {
        self.owners[port.gateway].is_implicit
    }

    /// Whether a route of a kind and a namespace may attach to a port.
    pub(super) fn admits(&self, port: &Port<'_>, kind: Kind, namespace: &str) -> bool {
        let same = RouteNamespaces::default();
        let allowed = port.allowed.unwrap_or(&same);
        port.kinds.contains(&kind)
            && lets_in(self.objects, allowed, FromNamespaces::Same, &port.parent.namespace, namespace)
    }

    /// Whether requests for a name that come to the port are the port's: no listener beside it says more of that name.
    pub(super) fn has_name(&self, port: usize, name: &str) -> bool {
        let port = &self.ports[port];
        let beside = self.by_socket.get(&(port.gateway, port.number));
        let taker = covering(name).into_iter().find(|name| beside.is_some_and(|names| names.contains(name)));
        taker.is_none_or(|name| name == port.hostname)
    }

    /// The ports that a `Gateway` or `ListenerSet` declares.
    pub(super) fn of_parent(&self, parent: &ObjectKey) -> &[usize] {
        self.by_parent.get(parent).map_or(&[], Vec::as_slice)
    }

    /// The sockets, what is served there, and what became of each gateway.
    pub(super) fn finish(
        self,
        implicit: &ImplicitGateway,
        flow: &FlowRoutes,
        statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
    ) -> (BTreeMap<String, Listener>, BTreeMap<String, Table>, BTreeMap<String, Certificate>) {
        self.report(statuses);
        let (mut listeners, mut tables) = (BTreeMap::new(), BTreeMap::new());
        let others = self.owners.len() > 1;
        let mut sockets: BTreeMap<(usize, u16), Vec<&Port<'_>>> = BTreeMap::new();
        for port in self.ports.iter().filter(|port| port.is_served()) {
            sockets.entry((port.gateway, port.number)).or_default().push(port);
        }
        for ((owner, number), ports) in sockets {
            let owner = &self.owners[owner];
            // Where there are gateways of people's own, the implicit one is there for routes that name none.
            if owner.refused.is_some() || (owner.is_implicit && others && ports[0].attached == 0) {
                continue;
            }
            let name = match owner.is_implicit {
                true => GATEWAY.to_owned(),
                false => format!("{}/{}/{number}", owner.key.namespace, owner.key.name),
            };
            let Some(speaks) = speaks(&name, &ports, flow, &mut tables) else { continue };
            let usable =
                owner.addresses.iter().filter(|address| !ip(address).is_some_and(|ip| ip.is_multicast()));
            for (i, address) in usable.enumerate() {
                let address = match (address, owner.is_implicit) {
                    (_, true) => implicit.address.clone(),
                    (Address::Socket(ip), false) => Address::Socket(SocketAddr::new(ip.ip(), number)),
                    (pipe @ Address::Pipe(_), false) => pipe.clone(),
                };
                let name = if i == 0 { name.clone() } else { format!("{name}/{i}") };
                let gateway = format!("{}/{}", owner.key.namespace, owner.key.name);
                let node_labels = owner.node_labels.clone();
                let namespace = (!owner.is_implicit).then(|| owner.key.namespace.clone());
                let yields = ports.iter().any(|port| port.yields);
                let speaks = speaks.clone();
                let listener = Listener { address, node_labels, namespace, yields, gateway, speaks };
                listeners.insert(name, listener);
            }
        }
        let used = certificates_of(&listeners);
        let mut certificates = self.certificates;
        certificates.retain(|name, _| used.contains(name));
        (listeners, tables, certificates)
    }
}

/// Whether a class is ours and accepted, by name.
fn classes<'a>(
    objects: &'a Objects,
    statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
) -> BTreeMap<&'a str, bool> {
    let mut classes = BTreeMap::new();
    for class in objects.gateway_classes() {
        let is_ours = class.spec.controller_name == CONTROLLER;
        let has_parameters = class.spec.parameters_ref.is_some();
        classes.insert(class.metadata.name.as_str(), is_ours && !has_parameters);
        if is_ours {
            let condition = match has_parameters {
                true => Condition::fails("Accepted", "InvalidParameters", "parametersRef is not supported"),
                false => Condition::holds("Accepted", "Accepted"),
            };
            let key = ObjectKey::new(Kind::GatewayClass, "", &class.metadata.name);
            statuses.entry(key).or_default().conditions.push(condition);
        }
    }
    classes
}

fn addresses(spec: &GatewaySpec, implicit: &ImplicitGateway) -> (Vec<Address>, Option<Condition>) {
    let mut addresses = Vec::new();
    let mut refused = None;
    for address in &spec.addresses {
        let is_ip = address.kind.as_deref().is_none_or(|kind| kind == "IPAddress");
        // One that is to be assigned.
        if is_ip && address.value.as_deref().unwrap_or_default().is_empty() {
            continue;
        }
        match address.value.as_deref().unwrap_or_default().parse::<IpAddr>() {
            Ok(ip) if is_ip => addresses.push(Address::Socket(SocketAddr::new(ip, 0))),
            _ => {
                let kind = address.kind.as_deref().unwrap_or("IPAddress");
                let message = format!("an address of the type {kind} cannot be used");
                refused = Some(Condition::fails("Accepted", "UnsupportedAddress", message));
            }
        }
    }
    if addresses.is_empty() {
        addresses.push(implicit.address.clone());
    }
    let unsupported = [
        (
            spec.infrastructure.as_ref().is_some_and(|i| i.parameters_ref.is_some()),
            ("InvalidParameters", "infrastructure.parametersRef is not supported"),
        ),
        (
            spec.tls.as_ref().is_some_and(|tls| tls.backend.is_some()),
            ("UnsupportedValue", "tls.backend is not supported"),
        ),
    ];
    for (is_set, (reason, message)) in unsupported {
        if is_set {
            refused = Some(Condition::fails("Accepted", reason, message));
        }
    }
    (addresses, refused)
}

const fn ip(address: &Address) -> Option<IpAddr> {
    match address {
        Address::Socket(address) => Some(address.ip()),
        Address::Pipe(_) => None,
    }
}

/// The kinds that may attach, and one that may not although it is named.
fn kinds(
    protocol: Protocol,
    passes_tls: bool,
    allowed: Option<&AllowedRoutes>,
) -> (Vec<Kind>, Option<String>) {
    let supported: &[Kind] = match (protocol, passes_tls) {
        (Protocol::Http | Protocol::Https, _) => &[Kind::HttpRoute, Kind::GrpcRoute],
        (Protocol::Tls, true) => &[Kind::TlsRoute],
        (Protocol::Tls, false) => &[Kind::TlsRoute, Kind::TcpRoute],
        (Protocol::Tcp, _) => &[Kind::TcpRoute],
        (Protocol::Udp, _) => &[],
    };
    let Some(named) = allowed.map(|allowed| &allowed.kinds).filter(|kinds| !kinds.is_empty()) else {
        return (supported.to_vec(), None);
    };
    let (mut kinds, mut unsupported) = (Vec::new(), None);
    for kind in named {
        let is_group = kind.group.as_deref().is_none_or(|group| group == Kind::HttpRoute.group());
        match Kind::by_name(&kind.kind).filter(|kind| is_group && supported.contains(kind)) {
            Some(kind) => kinds.push(kind),
            None => unsupported = Some(kind.kind.clone()),
        }
    }
    (kinds, unsupported)
}

/// Whether a namespace is among those that are let in.
fn lets_in(
    objects: &Objects,
    allowed: &RouteNamespaces,
    default: FromNamespaces,
    own: &str,
    namespace: &str,
) -> bool {
    match allowed.from.unwrap_or(default) {
        FromNamespaces::All => true,
        FromNamespaces::Same => own == namespace,
        FromNamespaces::None => false,
        FromNamespaces::Selector => {
            let key = ObjectKey::new(Kind::Namespace, "", namespace);
            let mut labels = objects.get(&key).map(|n| n.metadata().labels.clone()).unwrap_or_default();
            labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
            allowed.selector.as_ref().is_some_and(|selector| selects(selector, &labels))
        }
    }
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let expression = |e: &model::LabelExpression| {
        let value = labels.get(&e.key);
        match e.operator {
            LabelOperator::In => value.is_some_and(|value| e.values.contains(value)),
            LabelOperator::NotIn => value.is_none_or(|value| !e.values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    };
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(expression)
}

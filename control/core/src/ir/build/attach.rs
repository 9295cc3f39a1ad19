//! Routes find their parents.

use std::collections::{BTreeMap, BTreeSet};

use super::backends::Backends;
use super::gateways::Ports;
use super::hosts::intersection;
use super::http::{Entry, Outcome, Scope};
use super::memory::Memory;
use super::policies::Policies;
use super::{CONTROLLER, grpc, http};
use super::{all_by_age, by_age};
use crate::ir::{Arm, BackendName, Condition, GATEWAY, ObjectStatus, ParentStatus};
use crate::model::{
    BackendRef, ConnectionRule, HttpRoute, HttpRouteRule, HttpRouteSpec, Kind, Metadata, Object, ObjectKey,
    Objects, ParentRef, Resource,
};

/// What routes attach to.
pub(super) struct Attachments<'x, 'a> {
    pub(super) objects: &'a Objects,
    pub(super) ports: &'x mut Ports<'a>,
    pub(super) statuses: &'x mut BTreeMap<ObjectKey, ObjectStatus>,
    pub(super) memory: &'x mut Memory<'a>,
}

/// A route on the way to its parents.
struct Attaching<'r> {
    kind: Kind,
    metadata: &'r Metadata,
    parents: &'r [ParentRef],
    hostnames: Vec<String>,
}

impl Attachments<'_, '_> {
    pub(super) fn http(&mut self, backends: &mut Backends<'_>, policies: &Policies<'_>) {
        for (key, resource) in all_by_age(self.objects, Kind::HttpRoute) {
            let Resource::HttpRoute(route) = &**resource else { continue };
            let outcome = self.memory.outcome(key, resource, backends, policies, |backends| {
                http::entries(route, backends, policies)
            });
            let spec = &route.spec;
            self.requests(Kind::HttpRoute, &route.metadata, &spec.parent_refs, &spec.hostnames, &outcome);
        }
    }

    pub(super) fn grpc(&mut self, backends: &mut Backends<'_>, policies: &Policies<'_>) {
        for (key, resource) in all_by_age(self.objects, Kind::GrpcRoute) {
            let Resource::GrpcRoute(route) = &**resource else { continue };
            let outcome = self.memory.outcome(key, resource, backends, policies, |backends| {
                grpc::entries(route, backends, policies)
            });
            let spec = &route.spec;
            self.requests(Kind::GrpcRoute, &route.metadata, &spec.parent_refs, &spec.hostnames, &outcome);
        }
    }

    pub(super) fn tls(&mut self, backends: &mut Backends<'_>) {
        for route in by_age(self.objects.tls_routes()) {
            let outcome = connection(Kind::TlsRoute, &route.metadata, &route.spec.rules, backends);
            let (parents, hostnames) = (&route.spec.parent_refs, &route.spec.hostnames);
            self.connections(Kind::TlsRoute, &route.metadata, parents, hostnames, &outcome);
        }
    }

    pub(super) fn tcp(&mut self, backends: &mut Backends<'_>) {
        for route in by_age(self.objects.tcp_routes()) {
            let outcome = connection(Kind::TcpRoute, &route.metadata, &route.spec.rules, backends);
            self.connections(Kind::TcpRoute, &route.metadata, &route.spec.parent_refs, &[], &outcome);
        }
    }

    fn requests(
        &mut self,
        kind: Kind,
        metadata: &Metadata,
        parents: &[ParentRef],
        hostnames: &[String],
        outcome: &Outcome<Entry>,
    ) {
        let route = Attaching { kind, metadata, parents, hostnames: lower(hostnames) };
        self.attach(&route, outcome, |ports, port, names| {
            for name in names {
                if ports.has_name(port, name) {
                    ports.ports[port].hosts.add(name, &outcome.entries);
                }
            }
        });
    }

    fn connections(
        &mut self,
        kind: Kind,
        metadata: &Metadata,
        parents: &[ParentRef],
        hostnames: &[String],
        outcome: &Outcome<Arm>,
    ) {
        let route = Attaching { kind, metadata, parents, hostnames: lower(hostnames) };
        let name = BackendName::new(&metadata.namespace, &metadata.name).to_string();
        self.attach(&route, outcome, |ports, port, names| {
            let own = names.iter().filter(|name| ports.has_name(port, name));
            let own: Vec<String> = own.cloned().collect();
            // Every one of its names is another listener's.
            if own.is_empty() {
                return;
            }
            let names = own.into_iter().filter(|name| !name.is_empty()).collect();
            ports.ports[port].connections.add(name.clone(), names, outcome.entries.clone());
        });
    }

    /// Lets a route take part wherever it may, and says so in its status.
    fn attach<E>(
        &mut self,
        route: &Attaching<'_>,
        outcome: &Outcome<E>,
        mut take_part: impl FnMut(&mut Ports<'_>, usize, &[String]),
    ) {
        let implicit = [ParentRef { name: GATEWAY.to_owned(), ..ParentRef::default() }];
        let parents = if route.parents.is_empty() { &implicit[..] } else { route.parents };
        let key = ObjectKey::new(route.kind, &route.metadata.namespace, &route.metadata.name);
        for parent in parents {
            let accepted = match (&outcome.refused, self.find(route, parent)) {
                (Some(refused), _) => refused.clone(),
                (None, Err(condition)) => condition,
                (None, Ok(attached)) => {
                    for (port, names) in attached {
                        self.ports.ports[port].attached += 1;
                        take_part(self.ports, port, &names);
                    }
                    Condition::holds("Accepted", "Accepted")
                }
            };
            let mut conditions = vec![accepted, outcome.resolved.clone()];
            conditions.extend(outcome.partially_invalid.clone());
            let status = ParentStatus { parent_ref: parent.clone(), controller_name: CONTROLLER, conditions };
            self.statuses.entry(key.clone()).or_default().parents.push(status);
        }
    }

    /// The ports of a parent to which a route may attach, with the hostnames that both let through; or why there are none.
    fn find(
        &self,
        route: &Attaching<'_>,
        parent: &ParentRef,
    ) -> Result<Vec<(usize, Vec<String>)>, Condition> {
        let no_parent = |message: String| Condition::fails("Accepted", "NoMatchingParent", message);
        let kind = match (parent.group.as_deref(), parent.kind.as_deref().unwrap_or("Gateway")) {
            (Some("" | "core"), "Service") => return self.find_service(route, parent),
            (None | Some("gateway.networking.k8s.io"), "Gateway") => Kind::Gateway,
            (None | Some("gateway.networking.k8s.io"), "ListenerSet") => Kind::ListenerSet,
            (_, kind) => return Err(no_parent(format!("a {kind} is no parent that is supported"))),
        };
        let own = &route.metadata.namespace;
        let is_implicit = kind == Kind::Gateway && parent.name == GATEWAY && parent.namespace.is_none();
        let key = ObjectKey::new(kind, parent.namespace.as_deref().unwrap_or(own), &parent.name);
        let implicit = ObjectKey::new(Kind::Gateway, "default", GATEWAY);
        let key = if is_implicit && self.objects.get(&key).is_none() { implicit } else { key };
        let all = self.ports.of_parent(&key).to_vec();
        if all.is_empty() {
            return Err(no_parent(format!("there is no {key} of this control plane")));
        }
        let of_section = |i: &usize| {
            let port = &self.ports.ports[*i];
            parent.section_name.as_deref().is_none_or(|section| section == port.name)
                && parent.port.is_none_or(|number| number == port.number)
        };
        let sections: Vec<usize> = all.into_iter().filter(of_section).collect();
        if sections.is_empty() {
            return Err(no_parent(format!("{key} has no listener of that name and port")));
        }
        let admitted: Vec<usize> = sections
            .into_iter()
            .filter(|i| self.ports.admits(&self.ports.ports[*i], route.kind, own))
            .collect();
        if admitted.is_empty() {
            let message = format!("no listener of {key} lets in a {} of the namespace {own}", route.kind);
            return Err(Condition::fails("Accepted", "NotAllowedByListeners", message));
        }
        let with_names = |i: usize| {
            let listener = &self.ports.ports[i].hostname;
            let every = [String::new()];
            let wanted = if route.hostnames.is_empty() { &every[..] } else { &route.hostnames };
            let names: Vec<String> =
                wanted.iter().filter_map(|wanted| intersection(listener, wanted)).collect();
            (i, names)
        };
        let attached: Vec<_> =
            admitted.into_iter().map(with_names).filter(|(_, names)| !names.is_empty()).collect();
        if attached.is_empty() {
            let message = format!("no listener of {key} is for any of its hostnames");
            return Err(Condition::fails("Accepted", "NoMatchingListenerHostname", message));
        }
        Ok(attached)
    }

    /// Service as parent (GEP-1324): the route is that of calls to the service, by its names, at the implicit gateway.
    fn find_service(
        &self,
        route: &Attaching<'_>,
        parent: &ParentRef,
    ) -> Result<Vec<(usize, Vec<String>)>, Condition> {
        let fails = |reason, message: String| Err(Condition::fails("Accepted", reason, message));
        let own = &route.metadata.namespace;
        let namespace = parent.namespace.as_deref().unwrap_or(own);
        let key = ObjectKey::new(Kind::Service, namespace, &parent.name);
        let Some(Resource::Service(service)) = self.objects.get(&key).map(|resource| &**resource) else {
            return fails("NoMatchingParent", format!("there is no {key}"));
        };
        if let Some(port) = parent.port.filter(|port| !service.spec.ports.iter().any(|p| p.port == *port)) {
            return fails("NoMatchingParent", format!("{key} has no port {port}"));
        }
        if namespace != own {
            let message = format!("{key} is in another namespace: routes of callers are not supported");
            return fails("NotAllowedByListeners", message);
        }
        let is_implicit = |i: &usize| self.ports.is_implicit(&self.ports.ports[*i]);
        let ports = (0..self.ports.ports.len()).find(is_implicit);
        match ports.filter(|port| self.ports.ports[*port].kinds.contains(&route.kind)) {
            Some(port) => Ok(vec![(port, service_names(namespace, &parent.name))]),
            None => fails("NotAllowedByListeners", "calls to services go by the implicit gateway".to_owned()),
        }
    }

    /// Services that no route is about are called as they are, where any route is about one: the rest of the mesh.
    pub(super) fn other_services(&mut self, backends: &mut Backends<'_>) {
        let is_of_service = |parent: &ParentRef| parent.kind.as_deref() == Some("Service");
        let of = |key: &ObjectKey, parents: &[ParentRef]| {
            let services = parents.iter().filter(|parent| is_of_service(parent));
            let name = |parent: &ParentRef| {
                (parent.namespace.clone().unwrap_or_else(|| key.namespace.clone()), parent.name.clone())
            };
            services.map(name).collect::<Vec<_>>()
        };
        let mut routed = BTreeSet::new();
        for (key, resource) in self.objects.iter() {
            match &**resource {
                Resource::HttpRoute(route) => routed.extend(of(key, &route.spec.parent_refs)),
                Resource::GrpcRoute(route) => routed.extend(of(key, &route.spec.parent_refs)),
                _ => {}
            }
        }
        let Some(port) = (0..self.ports.ports.len()).find(|i| self.ports.is_implicit(&self.ports.ports[*i]))
        else {
            return;
        };
        if routed.is_empty() {
            return;
        }
        for service in self.objects.services() {
            let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
            let first = service.spec.ports.first().map(|port| port.port);
            if routed.contains(&(namespace.clone(), name.clone())) || first.is_none() {
                continue;
            }
            let reference = BackendRef {
                kind: Some("Service".to_owned()),
                name: name.clone(),
                port: first,
                weight: 1,
                ..BackendRef::default()
            };
            let rule = HttpRouteRule { backend_refs: vec![reference], ..HttpRouteRule::default() };
            let spec = HttpRouteSpec { rules: vec![rule], ..HttpRouteSpec::default() };
            let route: HttpRoute = Object::new(Kind::HttpRoute, Metadata::named(namespace, name), spec);
            let entries = http::entries(&route, backends, &Policies::none(self.objects)).entries;
            for name in service_names(namespace, name) {
                self.ports.ports[port].hosts.add(&name, &entries);
            }
            self.ports.ports[port].attached += 1;
        }
    }
}

/// The names under which a service is called.
pub(super) fn service_names(namespace: &str, name: &str) -> Vec<String> {
    let mut names: Vec<String> =
        ["", ".svc", ".svc.cluster.local"].iter().map(|end| format!("{name}.{namespace}{end}")).collect();
    if namespace == "default" {
        names.push(name.to_owned());
    }
    names
}

fn lower(hostnames: &[String]) -> Vec<String> {
    hostnames.iter().map(|name| name.to_ascii_lowercase()).collect()
}

fn connection(
    kind: Kind,
    metadata: &Metadata,
    rules: &[ConnectionRule],
    backends: &mut Backends<'_>,
) -> Outcome<Arm> {
    let mut scope = Scope::new(kind, &metadata.namespace, backends);
    let arms = rules.first().map(|rule| scope.arms(0, &rule.backend_refs)).unwrap_or_default();
    let arms: Vec<Arm> = arms.into_iter().filter(|arm| arm.weight > 0).collect();
    scope.outcome(arms, rules.len())
}

//! What references to backends lead to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy_core::config::Address;

use super::by_age;
use super::grants::{From, Grants};
use super::memory::Target;
use super::policies::Policies;
use crate::ir::{
    Backend, BackendAddress, BackendName, BackendProtocol, BackendTls, CertificateFiles, Condition, Endpoint,
    ExpectedName, ObjectStatus,
};
use crate::model::{
    self, BackendTlsPolicy, Kind, LoadBalancing, ObjectKey, Objects, PortName, Resource, Service,
    ServicePort, SubjectAltNameType,
};
use crate::registry::{Instance, Instances};

/// Why a reference leads nowhere: a reason of `ResolvedRefs`, and a sentence.
pub(super) type Unresolved = (&'static str, String);

/// All backends, and those services that something refers to.
pub(super) struct Backends<'a> {
    objects: &'a Objects,
    instances: &'a Instances,
    grants: &'a Grants<'a>,
    policies: &'a Policies<'a>,
    slices: BTreeMap<(&'a str, &'a str), Vec<&'a model::EndpointSlice>>,
    /// By what it is about: kind, namespace, name and port.
    tls: BTreeMap<(ObjectKey, Option<&'a str>), Result<BackendTls, ()>>,
    found: BTreeMap<BackendName, Arc<Backend>>,
}

impl<'a> Backends<'a> {
    pub(super) fn of(
        objects: &'a Objects,
        instances: &'a Instances,
        grants: &'a Grants<'a>,
        policies: &'a Policies<'a>,
        statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
    ) -> Self {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for slice in objects.endpoint_slices() {
            if let Some(service) = slice.metadata.labels.get("kubernetes.io/service-name") {
                slices.entry((slice.metadata.namespace.as_str(), service.as_str())).or_default().push(slice);
            }
        }
        let tls = tls_policies(objects, statuses);
        let mut backends = Self { objects, instances, grants, policies, slices, tls, found: BTreeMap::new() };
        for backend in objects.backends() {
            let name = BackendName::new(&backend.metadata.namespace, &backend.metadata.name);
            let backend = Arc::new(backends.backend(backend));
            backends.found.insert(name, backend);
        }
        backends
    }

    pub(super) fn finish(self) -> BTreeMap<BackendName, Arc<Backend>> {
        self.found
    }

    /// Where a reference leads.
    pub(super) fn resolve(&mut self, from: From<'_>, to: &Target) -> Result<BackendName, Unresolved> {
        let namespace = to.namespace.as_deref().unwrap_or(from.namespace);
        let kind = self.kind(namespace, to)?;
        let key = ObjectKey::new(kind, namespace, &to.name);
        if !self.grants.allow(from, kind, namespace, &to.name) {
            let message = format!("{key} is in another namespace, and no ReferenceGrant there allows it");
            return Err(("RefNotPermitted", message));
        }
        match self.objects.get(&key).map(|resource| &**resource) {
            Some(Resource::Backend(_)) if self.tls.get(&(key.clone(), None)).is_some_and(Result::is_err) => {
                Err(("InvalidBackendTLSPolicy", format!("the BackendTLSPolicy of {key} is not valid")))
            }
            Some(Resource::Backend(_)) => Ok(BackendName::new(namespace, &to.name)),
            Some(Resource::Service(service)) => self.service(&key, service, to),
            _ => Err(("BackendNotFound", format!("there is no {key}"))),
        }
    }

    /// What is meant where no kind is given: the `Backend` of that name if there is one.
    fn kind(&self, namespace: &str, to: &Target) -> Result<Kind, Unresolved> {
        let unsupported =
            |what: String| Err(("InvalidKind", format!("{what} is neither Service nor Backend")));
        match (to.group.as_deref(), to.kind.as_deref()) {
            (None, None) => {
                let backend = ObjectKey::new(Kind::Backend, namespace, &to.name);
                let is_service = to.port.is_some() && self.objects.get(&backend).is_none();
                let service = ObjectKey::new(Kind::Service, namespace, &to.name);
                let is_service = is_service
                    || (self.objects.get(&service).is_some() && self.objects.get(&backend).is_none());
                Ok(if is_service { Kind::Service } else { Kind::Backend })
            }
            (None | Some("" | "core"), Some("Service")) => Ok(Kind::Service),
            (Some("weir.dev") | None, Some("Backend") | None) => Ok(Kind::Backend),
            (Some("" | "core"), None) => Ok(Kind::Service),
            (group, kind) => {
                let group = group.filter(|group| !group.is_empty()).map(|group| format!("{group}/"));
                unsupported(format!("{}{}", group.unwrap_or_default(), kind.unwrap_or_default()))
            }
        }
    }

    fn service(
        &mut self,
        key: &ObjectKey,
        service: &'a Service,
        to: &Target,
    ) -> Result<BackendName, Unresolved> {
        let Some(number) = to.port else {
            return Err(("UnsupportedValue", format!("a reference to {key} needs a port")));
        };
        if service.spec.of_type.as_deref() == Some("ExternalName") {
            return Err(("InvalidKind", format!("{key} is of the type ExternalName")));
        }
        let Some(port) = service.spec.ports.iter().find(|port| port.port == number) else {
            return Err(("BackendNotFound", format!("{key} has no port {number}")));
        };
        let app_protocol = port.app_protocol.as_deref().map(str::to_ascii_lowercase);
        let protocol = match app_protocol.as_deref() {
            None | Some("http" | "kubernetes.io/ws" | "tcp" | "https" | "tls" | "kubernetes.io/wss") => {
                BackendProtocol::Http
            }
            Some("kubernetes.io/h2c" | "grpc" | "h2c" | "http2") => BackendProtocol::H2c,
            Some(other) => {
                return Err(("UnsupportedProtocol", format!("{key} speaks {other} at port {number}")));
            }
        };
        let port_name = port.name.as_deref();
        let of_port = self.tls.get(&(key.clone(), port_name.filter(|name| !name.is_empty())));
        let tls = match of_port.or_else(|| self.tls.get(&(key.clone(), None))) {
            Some(Ok(tls)) => Some(tls.clone()),
            Some(Err(())) => {
                return Err((
                    "InvalidBackendTLSPolicy",
                    format!("the BackendTLSPolicy of {key} is not valid"),
                ));
            }
            None => None,
        };
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        let backend_name = BackendName::of_service(namespace, name, number);
        if !self.found.contains_key(&backend_name) {
            let mut backend = Backend {
                endpoints: self.service_endpoints(namespace, name, service, port),
                load_balancing: LoadBalancing::RoundRobin,
                protocol,
                tls,
                limits: model::CircuitBreaker::default(),
                prefers_near: service.spec.traffic_distribution.is_some(),
                health_check: None,
            };
            self.apply_policy(Kind::Service, namespace, name, &mut backend);
            self.found.insert(backend_name.clone(), Arc::new(backend));
        }
        Ok(backend_name)
    }

    fn service_endpoints(
        &self,
        namespace: &str,
        name: &str,
        service: &Service,
        port: &ServicePort,
    ) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for slice in self.slices.get(&(namespace, name)).into_iter().flatten() {
            let wanted = |p: &&model::SlicePort| {
                p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
            };
            // A slice with one port without a name serves a service with one port.
            let only =
                || slice.ports.first().filter(|_| slice.ports.len() == 1 && service.spec.ports.len() == 1);
            let Some(number) = slice.ports.iter().find(wanted).or_else(only).and_then(|p| p.port) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let is_ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                let address = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok());
                let (true, Some(ip)) = (is_ready, address) else { continue };
                endpoints.push(Endpoint {
                    address: BackendAddress::Known(Address::Socket(SocketAddr::new(ip, number))),
                    labels: endpoint.zone.iter().map(|zone| ("zone".to_owned(), zone.clone())).collect(),
                    weight: 1,
                });
            }
        }
        if !service.spec.selector.is_empty() {
            let number = match &port.target_port {
                Some(PortName::Number(number)) => Some(*number),
                Some(PortName::Name(_)) => None,
                None => Some(port.port),
            };
            let of_namespace = self.instances.iter().filter(|((of, _), _)| of == namespace);
            let selected = of_namespace.flat_map(|(_, instances)| instances).filter(|instance| {
                instance.matches(&service.spec.selector)
                    && number.is_none_or(|number| number == instance.address.port())
            });
            endpoints.extend(selected.map(endpoint_of));
        }
        endpoints
    }

    fn backend(&self, backend: &model::Backend) -> Backend {
        let (namespace, name) = (&backend.metadata.namespace, &backend.metadata.name);
        let written = backend.spec.endpoints.iter().filter_map(|endpoint| {
            let address = BackendAddress::parse(&endpoint.address)?;
            Some(Endpoint { address, labels: endpoint.labels.clone(), weight: 1 })
        });
        let mut endpoints: Vec<_> = written.collect();
        if let Some(selector) = &backend.spec.instances {
            let of_service = self.instances.get(&(namespace.clone(), selector.service.clone()));
            let selected = of_service.into_iter().flatten().filter(|i| i.matches(&selector.labels));
            endpoints.extend(selected.map(endpoint_of));
        }
        let tls = self.tls.get(&(ObjectKey::new(Kind::Backend, namespace, name), None));
        let mut compiled = Backend {
            endpoints,
            load_balancing: backend.spec.load_balancing,
            protocol: backend.spec.protocol,
            tls: tls.and_then(|tls| tls.as_ref().ok()).cloned(),
            limits: model::CircuitBreaker::default(),
            prefers_near: backend.spec.traffic_distribution.is_some(),
            health_check: backend.spec.health_check.clone(),
        };
        self.apply_policy(Kind::Backend, namespace, name, &mut compiled);
        compiled
    }

    fn apply_policy(&self, kind: Kind, namespace: &str, name: &str, backend: &mut Backend) {
        let Some(policy) = self.policies.about(kind, namespace, name) else { return };
        if let Some(load_balancing) = policy.load_balancing {
            backend.load_balancing = load_balancing;
        }
        if let Some(limits) = &policy.circuit_breaker {
            backend.limits = limits.clone();
        }
        if policy.health_check.is_some() {
            backend.health_check.clone_from(&policy.health_check);
        }
    }
}

fn endpoint_of(instance: &Instance) -> Endpoint {
    Endpoint {
        address: BackendAddress::Known(instance.address()),
        labels: instance.labels.clone(),
        weight: instance.weight.max(1),
    }
}

/// `BackendTLSPolicy`s by what they are about; of several the oldest one counts, and one of a port before one of all.
fn tls_policies<'a>(
    objects: &'a Objects,
    statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
) -> BTreeMap<(ObjectKey, Option<&'a str>), Result<BackendTls, ()>> {
    let mut by_target = BTreeMap::new();
    for policy in by_age(objects.backend_tls_policies()) {
        let namespace = &policy.metadata.namespace;
        let (tls, resolved) = backend_tls(objects, policy);
        let mut accepted = match &tls {
            Ok(_) => Condition::holds("Accepted", "Accepted"),
            Err(refused) => refused.clone(),
        };
        for target in &policy.spec.target_refs {
            let kind = match (target.group.as_str(), target.kind.as_str()) {
                ("" | "core", "Service") => Kind::Service,
                ("weir.dev", "Backend") => Kind::Backend,
                (_, kind) => {
                    accepted = Condition::fails("Accepted", "Invalid", format!("{kind} cannot be a target"));
                    continue;
                }
            };
            let key = ObjectKey::new(kind, namespace, &target.name);
            let target = (key.clone(), target.section_name.as_deref().filter(|name| !name.is_empty()));
            if objects.get(&key).is_none() {
                accepted = Condition::fails("Accepted", "TargetNotFound", format!("there is no {key}"));
                continue;
            }
            match by_target.entry(target) {
                Entry::Vacant(place) => drop(place.insert(tls.clone().map_err(drop))),
                Entry::Occupied(_) => {
                    accepted = Condition::fails(
                        "Accepted",
                        "Conflicted",
                        format!("an older BackendTLSPolicy is about {key}"),
                    );
                }
            }
        }
        let key = ObjectKey::new(Kind::BackendTlsPolicy, namespace, &policy.metadata.name);
        statuses.entry(key).or_default().conditions.extend([accepted, resolved]);
    }
    by_target
}

/// What a policy asks for, or why it is not accepted; and whether its references lead anywhere.
fn backend_tls(objects: &Objects, policy: &BackendTlsPolicy) -> (Result<BackendTls, Condition>, Condition) {
    let validation = &policy.spec.validation;
    let mut resolved = Condition::holds("ResolvedRefs", "ResolvedRefs");
    let mut roots = String::new();
    for reference in &validation.ca_certificate_refs {
        // Only of its own namespace: there is nothing to grant (Gateway API, LocalObjectReference).
        let own = model::ObjectReference { namespace: None, ..reference.clone() };
        match bundle(objects, &policy.metadata.namespace, &own) {
            Ok(bundle) => roots.push_str(&bundle),
            Err((reason, message)) => resolved = Condition::fails("ResolvedRefs", reason, message),
        }
    }
    let shown = match client_certificate(&policy.spec.options) {
        Ok(shown) => shown,
        Err(message) => return (Err(Condition::fails("Accepted", "Invalid", message)), resolved),
    };
    let is_system = validation.well_known_ca_certificates.is_some();
    if roots.is_empty() && !is_system {
        let message = "no reference leads to a certificate";
        return (Err(Condition::fails("Accepted", "NoValidCACertificate", message)), resolved);
    }
    let names = validation.subject_alt_names.iter().map(|name| match name.kind {
        SubjectAltNameType::Hostname => ExpectedName::Dns(name.hostname.clone().unwrap_or_default()),
        SubjectAltNameType::Uri => ExpectedName::Uri(name.uri.clone().unwrap_or_default()),
    });
    let mut names: Vec<_> = names.collect();
    if names.is_empty() {
        names.push(ExpectedName::Dns(validation.hostname.clone()));
    }
    let roots = (!is_system).then_some(roots);
    (Ok(BackendTls { server_name: validation.hostname.clone(), roots, names, shown }), resolved)
}

/// The certificate that the options of a policy name, if they do.
fn client_certificate(options: &BTreeMap<String, String>) -> Result<Option<CertificateFiles>, String> {
    const CHAIN: &str = "weir.dev/client-certificate";
    const KEY: &str = "weir.dev/private-key";
    if let Some(unknown) = options.keys().find(|key| ![CHAIN, KEY].contains(&key.as_str())) {
        return Err(format!("spec.options: {unknown:?} is not known"));
    }
    match (options.get(CHAIN), options.get(KEY)) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) if chain.starts_with('/') && key.starts_with('/') => {
            Ok(Some(CertificateFiles { chain: chain.clone(), key: key.clone() }))
        }
        (Some(_), Some(_)) => Err(format!("spec.options: {CHAIN} and {KEY} are whole paths")),
        _ => Err(format!("spec.options: {CHAIN} and {KEY} go together")),
    }
}

/// The reason of a bundle of another kind, for policies; listeners have a word of their own.
pub(super) const BUNDLE_KIND: &str = "InvalidKind";

/// `ca.crt` of a `ConfigMap` or a `Secret`.
pub(super) fn bundle(
    objects: &Objects,
    namespace: &str,
    reference: &model::ObjectReference,
) -> Result<String, Unresolved> {
    let kind = match (reference.group.as_deref().unwrap_or(""), reference.kind.as_deref()) {
        ("" | "core", Some("ConfigMap") | None) => Kind::ConfigMap,
        ("" | "core", Some("Secret")) => Kind::Secret,
        (_, kind) => {
            let kind = kind.unwrap_or_default();
            return Err((
                BUNDLE_KIND,
                format!("{kind} holds no certificates: ConfigMap or Secret is wanted"),
            ));
        }
    };
    let key = ObjectKey::new(kind, reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
    let text = objects.get(&key).and_then(|resource| match &**resource {
        Resource::ConfigMap(map) => map.data.get("ca.crt").cloned(),
        Resource::Secret(secret) => secret.text("ca.crt"),
        _ => None,
    });
    match text {
        Some(text) if text.contains("-----BEGIN CERTIFICATE-----") => Ok(text),
        Some(_) => Err(("InvalidCACertificateRef", format!("ca.crt of {key} is no certificate"))),
        None => Err(("InvalidCACertificateRef", format!("there is no {key} with ca.crt"))),
    }
}

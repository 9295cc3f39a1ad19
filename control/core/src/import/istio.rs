//! Istio: `VirtualService`, `DestinationRule`, `Gateway`, `ServiceEntry`, `PeerAuthentication`.
//!
//! A subset of a host becomes a `Backend` of the instances with its labels; a host with a `ServiceEntry` has the endpoints of
//! that.

mod documents;
mod matches;

use std::collections::BTreeMap;

use documents::{
    DestinationRule, Gateway, HeaderOperations, Headers, HttpRule, Policy, PortNumber, ServiceEntry, Target,
    VirtualService,
};
use matches::{one_match, shadows};

use super::{Foreign, Given, Imported, NotImported, refuse};
use crate::model::{
    self, Backend, BackendEndpoint, BackendRef, BackendSpec, CircuitBreaker, FilterType, GatewaySpec,
    HeaderModifier, HeaderValue, HttpRoute, HttpRouteFilter, HttpRouteMatch, HttpRouteRule, HttpRouteSpec,
    InstanceSelector, Kind, Listener, ListenerTls, LoadBalancing, Metadata, Object, ObjectReference,
    ParentRef, PathMatchType, PathModifier, PathModifierType, PeerAuthentication, PeerAuthenticationSpec,
    Protocol, RequestRedirect, Resource, RouteTimeouts, TlsMode, TrafficPolicy, TrafficPolicySpec,
    UrlRewrite,
};

/// All documents of Istio, which refer to one another.
#[derive(Default)]
pub(super) struct Mesh {
    pub(super) virtual_services: Vec<Foreign<VirtualService>>,
    pub(super) destination_rules: Vec<Foreign<DestinationRule>>,
    pub(super) gateways: Vec<Foreign<Gateway>>,
    pub(super) service_entries: Vec<Foreign<ServiceEntry>>,
}

/// Says the same of gateways of the class `weir-sidecar` as there of workloads.
pub(super) fn peer_authentication(
    policy: Foreign<PeerAuthenticationSpec>,
    given: &Given,
    warnings: &mut Vec<String>,
) -> Result<Resource, NotImported> {
    let namespace = policy.metadata.namespace().to_owned();
    if namespace == "istio-system" && policy.spec.selector.is_none() {
        warnings.push(
            "PeerAuthentication of istio-system: is about the whole mesh there; here it is about gateways of that namespace"
                .to_owned(),
        );
    }
    let Some(name) = policy.metadata.name.or_else(|| given.name.clone()) else {
        return Err(NotImported::new("PeerAuthentication: metadata.name is missing (--name)"));
    };
    let mut metadata = Metadata::named(&namespace, &name);
    metadata.labels = policy.metadata.labels;
    let policy: PeerAuthentication = Object::new(Kind::PeerAuthentication, metadata, policy.spec);
    Ok(policy.into())
}

/// `reviews.prod.svc.cluster.local` and `reviews` are one service.
fn service_of(host: &str) -> (&str, Option<&str>) {
    match host.split_once(".svc") {
        Some((name, _)) => {
            name.split_once('.').map_or((name, None), |(name, namespace)| (name, Some(namespace)))
        }
        None => (host, None),
    }
}

/// A name from a host: what a name may not hold becomes `-`.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '-' }).collect()
}

impl Mesh {
    pub(super) fn import(&self, given: &Given, imported: &mut Imported) -> Result<(), NotImported> {
        let mut backends = BTreeMap::new();
        let mut routes = Vec::new();
        for gateway in &self.gateways {
            routes.push(gateway_of(gateway, given, &mut imported.warnings)?);
        }
        for service in &self.virtual_services {
            routes.push(self.route(service, given, &mut backends, &mut imported.warnings)?);
        }
        // What nobody routes to is still there to be routed to.
        for rule in &self.destination_rules {
            for subset in &rule.spec.subsets {
                let target =
                    Target { host: rule.spec.host.clone(), subset: Some(subset.name.clone()), port: None };
                self.backend(rule.metadata.namespace(), &target, &mut backends, &mut imported.warnings)?;
            }
        }
        for entry in &self.service_entries {
            for host in &entry.spec.hosts {
                let target = Target { host: host.clone(), subset: None, port: None };
                self.backend(entry.metadata.namespace(), &target, &mut backends, &mut imported.warnings)?;
            }
        }
        imported.resources.extend(backends.into_values().flatten());
        imported.resources.extend(routes);
        Ok(())
    }

    fn route(
        &self,
        service: &Foreign<VirtualService>,
        given: &Given,
        backends: &mut BTreeMap<(String, String), Vec<Resource>>,
        warnings: &mut Vec<String>,
    ) -> Result<Resource, NotImported> {
        let spec = &service.spec;
        let name = service.metadata.name.clone().or_else(|| given.name.clone());
        let hosts = match (spec.hosts.is_empty(), &given.host) {
            (true, Some(host)) => vec![host.clone()],
            _ => spec.hosts.clone(),
        };
        let (Some(name), false) = (name.clone(), hosts.is_empty()) else {
            let missing = match (name.is_none(), hosts.is_empty()) {
                (true, true) => "metadata.name and spec.hosts are missing (--name, --host)",
                (true, false) => "metadata.name is missing (--name)",
                _ => "spec.hosts is missing (--host)",
            };
            return Err(NotImported::new(format!("VirtualService: {missing}")));
        };
        let about = format!("VirtualService {name}: spec");
        refuse(&about, &[("tls", spec.tls.is_some()), ("tcp", spec.tcp.is_some())])?;
        if spec.export_to.as_ref().is_some_and(|to| to.iter().any(|to| to != "*")) {
            return Err(NotImported::new(format!("{about}.exportTo: has no equal in this version")));
        }
        let namespace = service.metadata.namespace().to_owned();
        let mut rules = Vec::new();
        let mut ranks: Vec<Vec<HttpRouteMatch>> = Vec::new();
        for (i, rule) in spec.http.iter().enumerate() {
            let at = format!("{about}.http[{i}]");
            let imported = self.rule(&at, &namespace, rule, backends, warnings)?;
            // There the first rule that holds wins; here the one that asks for more.
            if let Some(j) = ranks.iter().position(|earlier| shadows(earlier, &imported.matches)) {
                let what = format!("{at}: spec.http[{j}] comes first there and would come behind it here");
                return Err(NotImported::new(what));
            }
            ranks.push(imported.matches.clone());
            rules.push(imported);
        }
        let parent = |gateway: &String| {
            let (namespace, name) =
                gateway.split_once('/').map_or((None, gateway.as_str()), |(n, g)| (Some(n), g));
            ParentRef {
                name: name.to_owned(),
                namespace: namespace.map(str::to_owned),
                ..ParentRef::default()
            }
        };
        let parents = spec.gateways.iter().filter(|gateway| *gateway != "mesh").map(parent).collect();
        let hostnames = hosts.into_iter().filter(|host| host != "*").collect();
        let spec = HttpRouteSpec { parent_refs: parents, hostnames, rules };
        let mut metadata = Metadata::named(&namespace, &name);
        metadata.labels.clone_from(&service.metadata.labels);
        let route: HttpRoute = Object::new(Kind::HttpRoute, metadata, spec);
        Ok(route.into())
    }

    fn rule(
        &self,
        at: &str,
        namespace: &str,
        rule: &HttpRule,
        backends: &mut BTreeMap<(String, String), Vec<Resource>>,
        warnings: &mut Vec<String>,
    ) -> Result<HttpRouteRule, NotImported> {
        refuse(
            at,
            &[
                ("retries", rule.retries.is_some()),
                ("fault", rule.fault.is_some()),
                ("mirror", rule.mirror.is_some()),
                ("mirrors", rule.mirrors.is_some()),
                ("mirrorPercentage", rule.mirror_percentage.is_some()),
                ("corsPolicy", rule.cors_policy.is_some()),
                ("delegate", rule.delegate.is_some()),
                ("directResponse", rule.direct_response.is_some()),
            ],
        )?;
        let matches = rule.matches.iter().enumerate().map(|(j, m)| one_match(&format!("{at}.match[{j}]"), m));
        let matches = matches.collect::<Result<Vec<_>, _>>()?;
        let mut filters = Vec::new();
        filters.extend(modifiers(rule.headers.as_ref()));
        if let Some(redirect) = &rule.redirect {
            filters.push(HttpRouteFilter {
                request_redirect: Some(RequestRedirect {
                    scheme: redirect.scheme.clone(),
                    hostname: redirect.authority.clone(),
                    path: redirect.uri.as_ref().map(|uri| full_path(uri)),
                    port: redirect.port,
                    status_code: redirect.redirect_code.unwrap_or(301),
                }),
                ..filter(FilterType::RequestRedirect)
            });
        }
        if let Some(rewrite) = &rule.rewrite {
            let prefixes = matches
                .iter()
                .all(|m| m.path.as_ref().is_none_or(|path| path.kind == PathMatchType::PathPrefix));
            let path = rewrite.uri.as_ref().map(|uri| match prefixes {
                // What a prefix matched is replaced; an exact path as a whole.
                true => PathModifier {
                    kind: PathModifierType::ReplacePrefixMatch,
                    replace_full_path: None,
                    replace_prefix_match: Some(uri.clone()),
                },
                false => full_path(uri),
            });
            filters.push(HttpRouteFilter {
                url_rewrite: Some(UrlRewrite { hostname: rewrite.authority.clone(), path }),
                ..filter(FilterType::UrlRewrite)
            });
        }
        let mut backend_refs = Vec::new();
        for (j, destination) in rule.route.iter().enumerate() {
            let name = self.backend(namespace, &destination.destination, backends, warnings)?;
            let only = rule.route.len() == 1;
            let weight = destination.weight.unwrap_or(if only { 100 } else { 0 });
            if destination.weight.is_none() && !only {
                return Err(NotImported::new(format!("{at}.route[{j}].weight: is missing")));
            }
            let filters = modifiers(destination.headers.as_ref()).collect();
            backend_refs.push(BackendRef { name, weight, filters, ..BackendRef::default() });
        }
        let timeouts = rule.timeout.clone();
        let timeouts =
            timeouts.map(|request| RouteTimeouts { request: Some(request), backend_request: None });
        Ok(HttpRouteRule { name: rule.name.clone(), matches, filters, backend_refs, timeouts })
    }

    /// The backend of a target; its name.
    fn backend(
        &self,
        namespace: &str,
        target: &Target,
        backends: &mut BTreeMap<(String, String), Vec<Resource>>,
        warnings: &mut Vec<String>,
    ) -> Result<String, NotImported> {
        let (service, of_namespace) = service_of(&target.host);
        if of_namespace.is_some_and(|of| of != namespace) {
            let what = format!("destination {}: is in another namespace: write the route there", target.host);
            return Err(NotImported::new(what));
        }
        let mut name = plain(service);
        if let Some(subset) = &target.subset {
            name = format!("{name}-{}", plain(subset));
        }
        if let Some(PortNumber { number }) = target.port {
            name = format!("{name}-{number}");
        }
        let key = (namespace.to_owned(), name.clone());
        if backends.contains_key(&key) {
            return Ok(name);
        }
        let rule = self.destination_rules.iter().find(|rule| service_of(&rule.spec.host).0 == service);
        let subset = target.subset.as_ref().map(|subset| {
            let found = rule.and_then(|rule| rule.spec.subsets.iter().find(|s| s.name == *subset));
            (subset, found)
        });
        let labels = match subset {
            None => BTreeMap::new(),
            Some((_, Some(found))) => found.labels.clone(),
            Some((subset, None)) => {
                warnings.push(format!(
                    "{service}: no DestinationRule says what its subset {subset} is; taken for instances with the label version={subset}"
                ));
                BTreeMap::from([("version".to_owned(), subset.clone())])
            }
        };
        let policies = [
            rule.and_then(|rule| rule.spec.traffic_policy.as_ref()),
            subset.and_then(|(_, found)| found).and_then(|found| found.traffic_policy.as_ref()),
        ];
        if let Some(rule) = rule
            && rule.spec.export_to.as_ref().is_some_and(|to| to.iter().any(|to| to != "*"))
        {
            return Err(NotImported::new(format!(
                "DestinationRule {}: spec.exportTo: has no equal in this version",
                rule.spec.host
            )));
        }
        let mut spec = BackendSpec {
            endpoints: self.endpoints(service, &labels, target.port.as_ref())?,
            ..BackendSpec::default()
        };
        if !self
            .service_entries
            .iter()
            .any(|entry| entry.spec.hosts.iter().any(|host| service_of(host).0 == service))
        {
            spec.instances = Some(InstanceSelector { service: service.to_owned(), labels });
        }
        let mut limits = CircuitBreaker::default();
        for policy in policies.into_iter().flatten() {
            apply(&format!("DestinationRule {service}: trafficPolicy"), policy, &mut spec, &mut limits)?;
        }
        let backend: Backend = Object::new(Kind::Backend, Metadata::named(namespace, &name), spec);
        let mut resources = vec![backend.into()];
        if limits != CircuitBreaker::default() {
            let target_ref = model::TargetRef { group: None, kind: "Backend".to_owned(), name: name.clone() };
            let spec = TrafficPolicySpec {
                target_ref,
                split: None,
                groups: Vec::new(),
                timeouts: None,
                fault: None,
                circuit_breaker: Some(limits),
                load_balancing: None,
                health_check: None,
            };
            let policy: TrafficPolicy =
                Object::new(Kind::TrafficPolicy, Metadata::named(namespace, &name), spec);
            resources.push(policy.into());
        }
        backends.insert(key, resources);
        Ok(name)
    }

    /// The endpoints that a `ServiceEntry` gives a host, of these labels.
    fn endpoints(
        &self,
        service: &str,
        labels: &BTreeMap<String, String>,
        port: Option<&PortNumber>,
    ) -> Result<Vec<BackendEndpoint>, NotImported> {
        let mut endpoints = Vec::new();
        for entry in &self.service_entries {
            let spec = &entry.spec;
            if !spec.hosts.iter().any(|host| service_of(host).0 == service) {
                continue;
            }
            let about = format!("ServiceEntry {service}: spec");
            let is_known = |resolution: &str| ["STATIC", "DNS"].contains(&resolution);
            if let Some(resolution) = spec.resolution.as_deref().filter(|r| !is_known(r)) {
                return Err(NotImported::new(format!(
                    "{about}.resolution: {resolution} has no equal in this version"
                )));
            }
            let addresses = spec.addresses.as_ref().is_some_and(|addresses| !addresses.is_empty());
            refuse(&about, &[("addresses", addresses)])?;
            let _ = (&spec.location, &spec.export_to);
            let wanted = spec.ports.iter().find(|p| port.is_none_or(|port| port.number == p.number));
            let Some(wanted) = wanted else {
                return Err(NotImported::new(format!(
                    "{about}.ports: the port of the destination is missing"
                )));
            };
            let _ = &wanted.protocol;
            let default = wanted.target_port.unwrap_or(wanted.number);
            if spec.endpoints.is_empty() {
                endpoints.push(BackendEndpoint {
                    address: format!("{service}:{default}"),
                    labels: BTreeMap::new(),
                });
            }
            let of_subset = spec
                .endpoints
                .iter()
                .filter(|endpoint| labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)));
            for endpoint in of_subset {
                let number = endpoint.ports.get(&wanted.name).copied().unwrap_or(default);
                let address = match endpoint.address.parse::<std::net::Ipv6Addr>() {
                    Ok(ip) => format!("[{ip}]:{number}"),
                    Err(_) => format!("{}:{number}", endpoint.address),
                };
                endpoints.push(BackendEndpoint { address, labels: endpoint.labels.clone() });
            }
        }
        Ok(endpoints)
    }
}

fn filter(kind: FilterType) -> HttpRouteFilter {
    HttpRouteFilter {
        kind,
        request_header_modifier: None,
        response_header_modifier: None,
        request_redirect: None,
        url_rewrite: None,
        request_mirror: None,
        cors: None,
        external_auth: None,
        extension_ref: None,
    }
}

fn full_path(uri: &str) -> PathModifier {
    PathModifier {
        kind: PathModifierType::ReplaceFullPath,
        replace_full_path: Some(uri.to_owned()),
        replace_prefix_match: None,
    }
}

fn modifiers(headers: Option<&Headers>) -> impl Iterator<Item = HttpRouteFilter> {
    let lines = |of: &BTreeMap<String, String>| {
        of.iter().map(|(name, value)| HeaderValue { name: name.clone(), value: value.clone() }).collect()
    };
    let modifier = move |o: &HeaderOperations| HeaderModifier {
        set: lines(&o.set),
        add: lines(&o.add),
        remove: o.remove.clone(),
    };
    let request = headers.and_then(|headers| headers.request.as_ref()).map(|of| HttpRouteFilter {
        request_header_modifier: Some(modifier(of)),
        ..filter(FilterType::RequestHeaderModifier)
    });
    let response = headers.and_then(|headers| headers.response.as_ref()).map(|of| HttpRouteFilter {
        response_header_modifier: Some(modifier(of)),
        ..filter(FilterType::ResponseHeaderModifier)
    });
    request.into_iter().chain(response)
}

fn apply(
    at: &str,
    policy: &Policy,
    spec: &mut BackendSpec,
    limits: &mut CircuitBreaker,
) -> Result<(), NotImported> {
    refuse(
        at,
        &[
            ("outlierDetection", policy.outlier_detection.is_some()),
            ("tls", policy.tls.is_some()),
            ("portLevelSettings", policy.port_level_settings.is_some()),
            ("tunnel", policy.tunnel.is_some()),
        ],
    )?;
    if let Some(balancer) = &policy.load_balancer {
        refuse(
            &format!("{at}.loadBalancer"),
            &[
                ("consistentHash", balancer.consistent_hash.is_some()),
                ("localityLbSetting", balancer.locality_lb_setting.is_some()),
            ],
        )?;
        spec.load_balancing = match balancer.simple.as_deref() {
            None | Some("ROUND_ROBIN" | "UNSPECIFIED") => LoadBalancing::RoundRobin,
            Some("LEAST_REQUEST" | "LEAST_CONN") => LoadBalancing::LeastRequest,
            Some(other) => {
                let what = format!("{at}.loadBalancer.simple: {other} has no equal in this version");
                return Err(NotImported::new(what));
            }
        };
    }
    if let Some(pool) = &policy.connection_pool {
        limits.max_connections = pool.tcp.as_ref().and_then(|tcp| tcp.max_connections);
        limits.max_pending_requests = pool.http.as_ref().and_then(|http| http.http1_max_pending_requests);
        limits.max_requests = pool.http.as_ref().and_then(|http| http.http2_max_requests);
    }
    Ok(())
}

fn gateway_of(
    gateway: &Foreign<Gateway>,
    given: &Given,
    warnings: &mut Vec<String>,
) -> Result<Resource, NotImported> {
    let name = gateway.metadata.name.clone().or_else(|| given.name.clone());
    let name = name.ok_or_else(|| NotImported::new("Gateway: metadata.name is missing (--name)"))?;
    let about = format!("Gateway {name}: spec");
    if !gateway.spec.selector.is_empty() {
        warnings.push(format!(
            "{name}: spec.selector chooses no proxies here: every one gets the gateway; infrastructure.labels would choose"
        ));
    }
    let mut listeners = Vec::new();
    for (i, server) in gateway.spec.servers.iter().enumerate() {
        let at = format!("{about}.servers[{i}]");
        refuse(&at, &[("port.targetPort", server.port.target_port.is_some())])?;
        let tls = server.tls.as_ref();
        if tls.is_some_and(|tls| tls.https_redirect == Some(true)) {
            return Err(NotImported::new(format!(
                "{at}.tls.httpsRedirect: write a route with a redirect instead"
            )));
        }
        let protocol =
            match (server.port.protocol.to_ascii_uppercase().as_str(), tls.and_then(|t| t.mode.as_deref())) {
                ("HTTP" | "HTTP2" | "GRPC", None) => Protocol::Http,
                ("HTTPS", Some("SIMPLE")) => Protocol::Https,
                ("HTTPS" | "TLS", Some("PASSTHROUGH")) => Protocol::Tls,
                ("TLS", Some("SIMPLE")) => Protocol::Tls,
                ("TCP", None) => Protocol::Tcp,
                (protocol, mode) => {
                    let mode = mode.map(|mode| format!(" with tls.mode {mode}")).unwrap_or_default();
                    return Err(NotImported::new(format!(
                        "{at}: {protocol}{mode} has no equal in this version"
                    )));
                }
            };
        let listener_tls = tls.map(|tls| {
            let passes = tls.mode.as_deref() == Some("PASSTHROUGH");
            let secret = tls.credential_name.as_ref().map(|name| ObjectReference {
                group: None,
                kind: None,
                name: name.clone(),
                namespace: None,
            });
            ListenerTls {
                mode: if passes { TlsMode::Passthrough } else { TlsMode::Terminate },
                certificate_refs: secret.into_iter().collect(),
                options: BTreeMap::new(),
            }
        });
        let port_name = server.name.clone().or_else(|| server.port.name.clone());
        let port_name = port_name.unwrap_or_else(|| format!("port-{}", server.port.number));
        for (j, host) in server.hosts.iter().enumerate() {
            let host = host.split_once('/').map_or(host.as_str(), |(_, host)| host);
            let hostname = (host != "*" && protocol != Protocol::Tcp).then(|| host.to_owned());
            let name = if server.hosts.len() == 1 { port_name.clone() } else { format!("{port_name}-{j}") };
            listeners.push(Listener {
                name,
                hostname,
                port: server.port.number,
                protocol,
                tls: listener_tls.clone(),
                allowed_routes: Some(model::AllowedRoutes {
                    namespaces: Some(model::RouteNamespaces {
                        from: Some(model::FromNamespaces::All),
                        selector: None,
                    }),
                    kinds: Vec::new(),
                }),
            });
        }
    }
    let spec = GatewaySpec {
        gateway_class_name: crate::ir::GATEWAY.to_owned(),
        listeners,
        addresses: Vec::new(),
        infrastructure: None,
        allowed_listeners: None,
        tls: None,
    };
    let metadata = Metadata::named(gateway.metadata.namespace(), &name);
    let gateway: model::Gateway = Object::new(Kind::Gateway, metadata, spec);
    Ok(gateway.into())
}

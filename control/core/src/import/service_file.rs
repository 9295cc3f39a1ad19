//! The service file of Consul's agents: `service {name, address, port, tags, check}`, one or several.
//!
//! Each service becomes a `Backend` with one endpoint for each file, labelled by its tags, and its check a health check.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Given, NotImported};
use crate::model::{
    Backend, BackendEndpoint, BackendSpec, GrpcCheck, HealthCheckSpec, HttpGet, Kind, Metadata, Object,
    PortName, ProbeHeader, ProbeScheme, Resource, TcpSocket, duration,
};

/// How long an answer may take where a check says nothing.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The namespace of what names none.
const NAMESPACE: &str = "default";

/// A document with one of these keys and nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceFile {
    #[serde(default)]
    service: Option<ServiceDefinition>,
    #[serde(default)]
    services: Vec<ServiceDefinition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceDefinition {
    #[serde(default)]
    id: Option<String>,
    name: String,
    #[serde(default)]
    address: Option<String>,
    port: u16,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    meta: BTreeMap<String, String>,
    #[serde(default)]
    check: Option<Check>,
    #[serde(default)]
    checks: Vec<Check>,
    #[serde(default)]
    weights: Option<Value>,
    #[serde(default)]
    connect: Option<Value>,
    #[serde(default)]
    proxy: Option<Value>,
    #[serde(default)]
    token: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    #[serde(default)]
    http: Option<String>,
    #[serde(default)]
    tcp: Option<String>,
    #[serde(default)]
    grpc: Option<String>,
    interval: String,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default)]
    header: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    success_before_passing: Option<u32>,
    #[serde(default)]
    failures_before_critical: Option<u32>,
    // For people.
    #[serde(default)]
    #[expect(dead_code, reason = "says nothing of the check")]
    id: Option<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "says nothing of the check")]
    name: Option<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "says nothing of the check")]
    notes: Option<String>,
    // Without an equal.
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    args: Option<Value>,
    #[serde(default)]
    script: Option<Value>,
    #[serde(default)]
    ttl: Option<Value>,
    #[serde(default)]
    deregister_critical_service_after: Option<Value>,
    #[serde(default)]
    tls_skip_verify: Option<bool>,
    #[serde(default)]
    grpc_use_tls: Option<bool>,
}

/// Whether a document is such a file: it says of no kind what it is.
pub(super) fn is_one(document: &Value) -> bool {
    let has = |key: &str| document.get(key).is_some();
    (has("service") || has("services")) && !has("kind") && !has("apiVersion")
}

/// Backends by name; files of one service add endpoints to it.
#[derive(Default)]
pub(super) struct Services(BTreeMap<String, BackendSpec>);

impl Services {
    pub(super) fn add(&mut self, file: ServiceFile, warnings: &mut Vec<String>) -> Result<(), NotImported> {
        let ServiceFile { service, services } = file;
        service.into_iter().chain(services).try_for_each(|service| self.add_one(service, warnings))
    }

    fn add_one(&mut self, service: ServiceDefinition, warnings: &mut Vec<String>) -> Result<(), NotImported> {
        let at = format!("service {}", service.name);
        let unset = [
            ("weights", service.weights.is_some()),
            ("connect", service.connect.is_some()),
            ("proxy", service.proxy.is_some()),
            ("token", service.token.is_some()),
        ];
        super::refuse(&at, &unset)?;
        let host = service.address.as_deref().filter(|address| !address.is_empty());
        let Some(host) = host else {
            return Err(NotImported::new(format!(
                "{at}.address: is missing: there is no agent whose it could be"
            )));
        };
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, service.port).to_string(),
            Err(_) => format!("{host}:{}", service.port),
        };
        let checks: Vec<_> = service.check.iter().chain(&service.checks).collect();
        let check = match checks.as_slice() {
            [] => None,
            [check] => Some(Box::new(health_check(&format!("{at}.check"), check, host, service.port)?)),
            _ => return Err(NotImported::new(format!("{at}.checks: one check is the most"))),
        };
        let is_https = |check: &Check| check.http.as_ref().is_some_and(|url| url.starts_with("https:"));
        if checks.iter().any(|check| is_https(check)) {
            warnings.push(format!("{at}.check: whose certificate it is does not matter here"));
        }
        let mut labels = service.meta;
        labels.extend(service.tags.iter().map(|tag| label(tag)));
        labels.extend(service.id.map(|id| ("id".to_owned(), id)));
        let backend = self.0.entry(service.name).or_default();
        if !backend.endpoints.is_empty() && backend.health_check != check {
            return Err(NotImported::new(format!(
                "{at}.check: another file of this service has another one"
            )));
        }
        backend.health_check = check;
        backend.endpoints.push(BackendEndpoint { address, labels });
        Ok(())
    }

    pub(super) fn into_resources(self, given: &Given) -> impl Iterator<Item = Resource> {
        let only = if self.0.len() == 1 { given.name.clone() } else { None };
        self.0.into_iter().map(move |(name, spec)| {
            let metadata = Metadata::named(NAMESPACE, only.as_ref().unwrap_or(&name));
            let backend: Backend = Object::new(Kind::Backend, metadata, spec);
            backend.into()
        })
    }
}

/// `version=v2` and `version:v2` are labels; any other tag is one whose value is `true`.
fn label(tag: &str) -> (String, String) {
    let (name, value) = tag.split_once(['=', ':']).unwrap_or((tag, "true"));
    (name.to_owned(), value.to_owned())
}

fn health_check(at: &str, check: &Check, host: &str, port: u16) -> Result<HealthCheckSpec, NotImported> {
    let wants_method = check.method.as_deref().is_some_and(|method| !method.eq_ignore_ascii_case("GET"));
    let unset = [
        ("method", wants_method),
        ("body", check.body.as_deref().is_some_and(|body| !body.is_empty())),
        ("args", check.args.is_some()),
        ("script", check.script.is_some()),
        ("ttl", check.ttl.is_some()),
        ("deregister_critical_service_after", check.deregister_critical_service_after.is_some()),
        ("grpc_use_tls", check.grpc_use_tls == Some(true)),
    ];
    super::refuse(at, &unset)?;
    // Who the endpoint is does not matter to a probe; a file that wants it to says so by this.
    let verifies = check.tls_skip_verify == Some(false);
    let mut spec = HealthCheckSpec {
        period_seconds: Some(seconds(&format!("{at}.interval"), &check.interval)?),
        timeout_seconds: Some(match &check.timeout {
            Some(timeout) => seconds(&format!("{at}.timeout"), timeout)?,
            None => TIMEOUT.as_secs() as u32,
        }),
        success_threshold: check.success_before_passing.map(|more| more.max(1)),
        failure_threshold: Some(check.failures_before_critical.map_or(1, |more| more.max(1))),
        ..HealthCheckSpec::default()
    };
    let place = |at: &str, text: &str| place(at, text, host, port);
    match (&check.http, &check.tcp, &check.grpc) {
        (Some(url), None, None) => {
            let at = format!("{at}.http");
            let (scheme, rest) = match url.split_once("://") {
                Some(("http", rest)) => (ProbeScheme::Http, rest),
                Some(("https", _)) if verifies => {
                    return Err(NotImported::new(format!("{at}: the certificate would not be verified")));
                }
                Some(("https", rest)) => (ProbeScheme::Https, rest),
                _ => return Err(NotImported::new(format!("{at}: {url:?} is no URL of HTTP"))),
            };
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let default = if scheme == ProbeScheme::Http { ":80" } else { ":443" };
            let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
            let place =
                place(&at, &if has_port { authority.to_owned() } else { format!("{authority}{default}") })?;
            let mut lines = Vec::new();
            for (name, values) in &check.header {
                for value in values {
                    lines.push(ProbeHeader { name: name.clone(), value: value.clone() });
                }
            }
            if let Some(name) = &place.name
                && !lines.iter().any(|line| line.name.eq_ignore_ascii_case("host"))
            {
                lines.push(ProbeHeader { name: "Host".to_owned(), value: name.clone() });
            }
            spec.http_get = Some(HttpGet {
                path: Some(if path.is_empty() { "/".to_owned() } else { path.to_owned() }),
                port: place.port.map(PortName::Number),
                host: place.host,
                scheme: Some(scheme),
                http_headers: lines,
            });
        }
        (None, Some(text), None) => {
            let place = place(&format!("{at}.tcp"), text)?;
            spec.tcp_socket = Some(TcpSocket { port: place.port.map(PortName::Number), host: place.host });
        }
        (None, None, Some(text)) => {
            let (authority, service) = text.split_once('/').unwrap_or((text, ""));
            let place = place(&format!("{at}.grpc"), authority)?;
            if place.host.is_some() {
                return Err(NotImported::new(format!("{at}.grpc: is at another host than the service")));
            }
            let service = Some(service.to_owned()).filter(|service| !service.is_empty());
            spec.grpc = Some(GrpcCheck { port: place.port, service });
        }
        _ => return Err(NotImported::new(format!("{at}: one of http, tcp and grpc is wanted"))),
    }
    Ok(spec)
}

/// Where a check goes, where that is not the service itself.
struct Place {
    host: Option<String>,
    port: Option<u16>,
    /// The name by which it goes there.
    name: Option<String>,
}

fn place(at: &str, text: &str, own_host: &str, own_port: u16) -> Result<Place, NotImported> {
    let wrong = || NotImported::new(format!("{at}: {text:?} is neither a host and its port nor an address"));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // An agent asks its own machine, where the service is.
    let is_own = host == own_host || host == "localhost" || host == "127.0.0.1" || host == "::1";
    let ip = host.parse::<IpAddr>();
    if !is_own && ip.is_err() {
        return Err(NotImported::new(format!(
            "{at}: {host} is another host than the service, and no address"
        )));
    }
    Ok(Place {
        host: (!is_own).then(|| host.to_owned()),
        port: (port != own_port).then_some(port),
        name: ip.is_err().then(|| text.to_owned()),
    })
}

/// Whole seconds, at least one.
fn seconds(at: &str, text: &str) -> Result<u32, NotImported> {
    let time =
        duration(text).ok_or_else(|| NotImported::new(format!("{at}: {text:?} is no time such as 10s")))?;
    match u32::try_from(time.as_secs()) {
        Ok(seconds) if seconds > 0 && time.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(NotImported::new(format!("{at}: {text} is no whole number of seconds"))),
    }
}

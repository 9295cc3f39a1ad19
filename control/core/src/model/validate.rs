//! What must hold of a resource by itself, whatever others there are. What depends on others is a condition of its status
//! (see [`crate::ir`]).

mod gateway;
mod health;
mod route;
mod weir;

use std::fmt;
use std::time::Duration;

use proxy_core::pattern::Pattern;

use super::Resource;

/// The largest weight.
const MAX_WEIGHT: u32 = 1_000_000;

/// Something that cannot be meant. As text: `spec.rules[0].backendRefs[1].weight: 2000000 is more than 1000000`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Flaw {
    /// The field.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
}

impl Flaw {
    fn new(path: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { path: path.to_string(), reason: reason.into() }
    }
}

type Checked = Result<(), Flaw>;

/// Says whether a resource makes sense by itself.
///
/// # Errors
/// The first field that does not.
pub fn validate(resource: &Resource) -> Checked {
    let metadata = resource.metadata();
    object_name("metadata.name", &metadata.name)?;
    if resource.kind().is_namespaced() {
        object_name("metadata.namespace", &metadata.namespace)?;
    }
    if let Some(created) = &metadata.creation_timestamp
        && humantime::parse_rfc3339_weak(created).is_err()
    {
        return Err(Flaw::new(
            "metadata.creationTimestamp",
            format!("{created:?} is no time such as 2026-01-31T08:00:00Z"),
        ));
    }
    match resource {
        Resource::Gateway(value) => gateway::gateway(&value.spec),
        Resource::ListenerSet(value) => gateway::listeners(&value.spec.listeners),
        Resource::BackendTlsPolicy(value) => gateway::backend_tls_policy(&value.spec),
        Resource::HttpRoute(value) => route::http(&value.spec),
        Resource::GrpcRoute(value) => route::grpc(&value.spec),
        Resource::TlsRoute(value) => {
            hostnames(&value.spec.hostnames)?;
            route::connections(&value.spec.rules)
        }
        Resource::TcpRoute(value) => route::connections(&value.spec.rules),
        Resource::EndpointSlice(value) => gateway::endpoint_slice(value),
        Resource::Backend(value) => weir::backend(&value.spec),
        Resource::TrafficPolicy(value) => weir::traffic_policy(&value.spec),
        Resource::UserGroup(value) => weir::user_group(&value.spec),
        Resource::FlowRule(value) => weir::flow_rule(&value.spec),
        Resource::PeerAuthentication(value) => weir::peer_authentication(&value.spec),
        Resource::GatewayClass(_)
        | Resource::ReferenceGrant(_)
        | Resource::Namespace(_)
        | Resource::Service(_)
        | Resource::Secret(_)
        | Resource::ConfigMap(_) => Ok(()),
    }
}

fn object_name(path: &str, name: &str) -> Checked {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    match name {
        "" => Err(Flaw::new(path, "a name is missing")),
        _ if plain && name.len() <= 253 => Ok(()),
        _ => Err(Flaw::new(path, format!("{name:?} is not a name: letters, digits, `-` and `.`"))),
    }
}

/// Host names without a port, with or without a wildcard as their first label.
fn hostnames(names: &[String]) -> Checked {
    names.iter().enumerate().try_for_each(|(i, name)| hostname(format!("spec.hostnames[{i}]"), name))
}

fn hostname(path: impl fmt::Display, name: &str) -> Checked {
    let labels = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    // An address is no host name (Gateway API, Hostname).
    let is_address = labels.parse::<std::net::IpAddr>().is_ok();
    if labels.len() <= 253 && labels.split('.').all(is_label) && !is_address {
        Ok(())
    } else {
        Err(Flaw::new(path, format!("{name:?} is not a host name without port")))
    }
}

/// RFC 9110 §5.6.2.
fn header_name(path: impl fmt::Display, name: &str) -> Checked {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    match plain && !name.is_empty() {
        true => Ok(()),
        false => Err(Flaw::new(path, format!("{name:?} is not a header name"))),
    }
}

fn expression(path: impl fmt::Display, text: &str) -> Checked {
    Pattern::new(text).map(drop).map_err(|error| Flaw::new(path, error.to_string()))
}

/// GEP-2257: `1h30m`, `500ms`; at most four parts of at most five digits.
pub fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let (mut rest, mut parts) = (text, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value: u64 = rest.get(..digits).filter(|_| (1..=5).contains(&digits))?.parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        total += match &rest[..unit] {
            "h" => Duration::from_secs(value * 3_600),
            "m" => Duration::from_secs(value * 60),
            "s" => Duration::from_secs(value),
            "ms" => Duration::from_millis(value),
            _ => return None,
        };
        rest = &rest[unit..];
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

fn optional_duration(path: &str, text: Option<&String>) -> Result<Option<Duration>, Flaw> {
    let Some(text) = text else { return Ok(None) };
    let read = duration(text);
    read.map(Some)
        .ok_or_else(|| Flaw::new(path, format!("{text:?} is not a duration such as 1m30s or 500ms")))
}

#[cfg(test)]
mod tests;

//! Load assignments, endpoints, addresses.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::{HealthStatus, Metadata, Pipe, SocketAddress};
use xds_proto::envoy::config::endpoint::v3 as endpoint_proto;
use xds_proto::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use xds_proto::envoy::config::endpoint::v3::cluster_load_assignment::policy::DropOverload;
use xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds_proto::prost_types::{Struct, value::Kind};

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::matching::fraction;
use crate::config::{
    Address, Drop, Endpoint, Health, Labels, LoadAssignment, Locality, LocalityEndpoints, Verdict,
};

/// Where Envoy's balancers look for the labels of endpoints, and what is wanted of them.
const LB: &str = "envoy.lb";
/// The key of labels by which what carries a connection is chosen.
const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// A message's address, read by the caller: the wire's form differs where names are looked up.
pub(super) type ReadAddress<'a> = &'a mut dyn FnMut(core_proto::Address) -> Translated<Address>;

pub(super) fn load_assignment(message: endpoint_proto::ClusterLoadAssignment) -> Translated<LoadAssignment> {
    assignment(message, &mut |wire| address(wire).map_err(Fault::new))
}

pub(super) fn assignment(
    message: endpoint_proto::ClusterLoadAssignment,
    address: ReadAddress<'_>,
) -> Translated<LoadAssignment> {
    let endpoint_proto::ClusterLoadAssignment { cluster_name, endpoints, policy } = message;
    if cluster_name.is_empty() {
        return Err(Fault::new("is required").under("cluster_name"));
    }
    // endpoint_stale_after: a time after which what EDS said is forgotten; what was said last holds here.
    let Policy { drop_overloads, overprovisioning_factor, endpoint_stale_after } = policy.unwrap_or_default();
    if endpoint_stale_after.is_some() {
        return Err(Fault::new("endpoints never become stale here").under("policy.endpoint_stale_after"));
    }
    let overprovisioning = match overprovisioning_factor {
        None => 140,
        Some(0) => return Err(Fault::new("must be greater than 0").under("policy.overprovisioning_factor")),
        Some(percent) => percent,
    };
    Ok(LoadAssignment {
        localities: each("endpoints", endpoints, |message| locality(message, address))?,
        overprovisioning,
        drops: each("drop_overloads", drop_overloads, drop_overload).at("policy")?,
    })
}

fn drop_overload(message: DropOverload) -> Translated<Drop> {
    let DropOverload { category, drop_percentage } = message;
    if category.is_empty() {
        return Err(Fault::new("is required").under("category"));
    }
    let share = drop_percentage.map(fraction).transpose().at("drop_percentage")?;
    Ok(Drop { category: category.into(), millionths: share.unwrap_or(0) })
}

fn locality(
    message: endpoint_proto::LocalityLbEndpoints,
    address: ReadAddress<'_>,
) -> Translated<LocalityEndpoints> {
    let endpoint_proto::LocalityLbEndpoints {
        locality,
        lb_endpoints,
        load_balancing_weight,
        priority,
        metadata: _, // ignorable
    } = message;
    if priority > 128 {
        return Err(Fault::new(format!("{priority} is not from 0 to 128")).under("priority"));
    }
    let core_proto::Locality { region, zone, sub_zone } = locality.unwrap_or_default();
    Ok(LocalityEndpoints {
        locality: Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() },
        priority,
        weight: load_balancing_weight.unwrap_or(0),
        endpoints: each("lb_endpoints", lb_endpoints, |message| endpoint(message, address))?,
    })
}

fn endpoint(message: endpoint_proto::LbEndpoint, address: ReadAddress<'_>) -> Translated<Endpoint> {
    let endpoint_proto::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } =
        message;
    let HostIdentifier::Endpoint(endpoint) = required("endpoint", host_identifier)?;
    let endpoint_proto::Endpoint { address: wire, health_check_config, hostname } = endpoint;
    let health = match enum_value(health_status).at("health_status")? {
        HealthStatus::Unknown | HealthStatus::Healthy => Health::Healthy,
        HealthStatus::Degraded => Health::Degraded,
        HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => Health::Unhealthy,
    };
    let weight = match load_balancing_weight {
        None => 1,
        Some(0) => return Err(Fault::new("must be greater than 0").under("load_balancing_weight")),
        Some(weight) => weight,
    };
    let (labels, transport_labels) = match metadata {
        None => (Labels::new(), Labels::new()),
        Some(metadata) => (
            labels_under(&metadata, LB).at("metadata")?,
            labels_under(&metadata, TRANSPORT_SOCKET_MATCH).at("metadata")?,
        ),
    };
    let address = required("address", wire).and_then(|wire| address(wire).at("address"));
    Ok(Endpoint {
        address: address.at("endpoint")?,
        hostname: hostname.into(),
        health,
        verdict: Verdict::Unchecked,
        check: health_check_config
            .map(super::health::target)
            .transpose()
            .at("health_check_config")
            .at("endpoint")?
            .map(Box::new),
        weight,
        labels: Arc::new(labels),
        transport_labels: Arc::new(transport_labels),
    })
}

/// The labels in a message's metadata. Only texts, numbers and truth values can be compared.
pub(super) fn lb_labels(metadata: &Metadata) -> Translated<Labels> {
    labels_under(metadata, LB)
}

fn labels_under(metadata: &Metadata, key: &str) -> Translated<Labels> {
    let Metadata { filter_metadata, typed_filter_metadata: _ } = metadata; // no balancer looks at typed ones
    let document = filter_metadata.get(key).cloned();
    document.map_or(Ok(Labels::new()), |labels| self::labels(labels).at(format!("filter_metadata[{key:?}]")))
}

/// Labels of a document.
pub(super) fn labels(document: Struct) -> Translated<Labels> {
    let label = |(name, value): (String, xds_proto::prost_types::Value)| {
        let text = match value.kind {
            Some(Kind::StringValue(text)) => text,
            Some(Kind::NumberValue(number)) => number.to_string(),
            Some(Kind::BoolValue(value)) => value.to_string(),
            Some(Kind::NullValue(_) | Kind::ListValue(_) | Kind::StructValue(_)) | None => {
                return Err(Fault::new("a label is a text, a number or a truth value").under(name));
            }
        };
        Ok((name.into(), text.into()))
    };
    document.fields.into_iter().map(label).collect()
}

/// An address to listen on or to connect to.
///
/// # Errors
/// A sentence that says what is not an address.
pub fn address(message: core_proto::Address) -> Result<Address, String> {
    use core_proto::address::Address as Wire;

    let core_proto::Address { address } = message;
    match address {
        Some(Wire::SocketAddress(address)) => {
            let (host, port) = host_and_port(address)?;
            let ip: IpAddr = host.parse().map_err(|_| format!("{host:?} is not an IP address"))?;
            Ok(Address::Socket(SocketAddr::new(ip, port)))
        }
        Some(Wire::Pipe(Pipe { path })) if path.starts_with('@') => {
            Err(format!("{path:?}: abstract sockets are not supported"))
        }
        Some(Wire::Pipe(Pipe { path })) if !path.is_empty() => Ok(Address::Pipe(PathBuf::from(path))),
        Some(Wire::Pipe(_)) => Err("path is required".to_owned()),
        None => Err("is required".to_owned()),
    }
}

/// The parts of a TCP address; the host may be a name.
pub(super) fn host_and_port(address: SocketAddress) -> Result<(String, u16), String> {
    use core_proto::socket_address::{PortSpecifier, Protocol};

    let SocketAddress { protocol, address, port_specifier } = address;
    if protocol != Protocol::Tcp as i32 {
        return Err("only TCP is supported".to_owned());
    }
    let Some(PortSpecifier::PortValue(port)) = port_specifier else {
        return Err("port_value is required".to_owned());
    };
    let port = u16::try_from(port).map_err(|_| format!("{port} is not a port"))?;
    Ok((address, port))
}

//! From wire messages to typed configuration. Every message is taken apart field by field, without `..`, so that a field
//! added to the subset does not compile until something reads it.

mod access;
mod action;
mod balancing;
mod cluster;
mod dns;
mod edit;
mod endpoint;
mod fault;
mod health;
mod http;
mod http2;
mod injection;
mod listener;
mod matching;
mod overrides;
mod route;
mod split;
mod tcp;
mod tls;

use prost::{Message, Name};
use xds_proto::gate::{Gate, IgnoredField};
use xds_proto::prost_types::Any;
use xds_proto::type_url;

use super::Rejection;
use crate::config::{Cluster, ClusterName, Listener, LoadAssignment, RouteConfiguration, Secret};
use fault::{Fault, Translated};

pub use endpoint::address;
pub use overrides::flattened;

/// Where a configuration source has resources come from.
///
/// # Errors
/// A sentence that says what is not supported, with the field.
pub fn origin(source: xds_proto::envoy::config::core::v3::ConfigSource) -> Result<super::Origin, String> {
    match cluster::config_source(Some(source)) {
        Ok((origin, _)) => Ok(origin),
        Err(Fault { path, reason }) if path.is_empty() => Err(reason),
        Err(Fault { path, reason }) => Err(format!("{path}: {reason}")),
    }
}

/// A resource that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted<T> {
    /// Its name on the wire.
    pub name: String,
    /// Its meaning.
    pub value: T,
    /// What it sets and this version does not act upon.
    pub ignored: Vec<IgnoredField>,
}

/// A Listener from LDS or the bootstrap.
///
/// # Errors
/// What is not supported or makes no sense, and where.
pub fn listener(resource: &Any) -> Result<Accepted<Listener>, Rejection> {
    admitted(resource, |m: xds_proto::envoy::config::listener::v3::Listener| {
        (m.name.clone(), listener::listener(m))
    })
}

/// A RouteConfiguration from RDS.
///
/// # Errors
/// As [`listener`].
pub fn route_configuration(resource: &Any) -> Result<Accepted<RouteConfiguration>, Rejection> {
    admitted(resource, |m: xds_proto::envoy::config::route::v3::RouteConfiguration| {
        (m.name.clone(), route::route_configuration(m))
    })
}

/// A Cluster from CDS or the bootstrap.
///
/// # Errors
/// As [`listener`].
pub fn cluster(resource: &Any) -> Result<Accepted<Cluster>, Rejection> {
    admitted(resource, |m: xds_proto::envoy::config::cluster::v3::Cluster| {
        (m.name.clone(), cluster::cluster(m))
    })
}

/// A ClusterLoadAssignment from EDS.
///
/// # Errors
/// As [`listener`].
pub fn load_assignment(resource: &Any) -> Result<Accepted<LoadAssignment>, Rejection> {
    admitted(resource, |m: xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment| {
        (m.cluster_name.clone(), endpoint::load_assignment(m))
    })
}

/// A Secret, from SDS or a file that holds secrets.
///
/// # Errors
/// As [`listener`].
pub fn secret(resource: &Any) -> Result<Accepted<Secret>, Rejection> {
    admitted(resource, |m: xds_proto::envoy::extensions::transport_sockets::tls::v3::Secret| {
        (m.name.clone(), tls::secret(m))
    })
}

/// Gate, decode, translate.
fn admitted<M: Message + Default + Name, T>(
    resource: &Any,
    translate: impl FnOnce(M) -> (String, Translated<T>),
) -> Result<Accepted<T>, Rejection> {
    let reject = |resource: Option<String>, fault: Fault| Rejection {
        type_name: M::full_name(),
        resource,
        path: fault.path,
        reason: fault.reason,
    };
    if type_url::message_name(&resource.type_url) != M::full_name() {
        return Err(reject(None, Fault::new(format!("the resource is a {}", resource.type_url))));
    }
    let ignored = Gate::standard().admit(resource)?.ignored;
    let message =
        M::decode(resource.value.as_slice()).map_err(|error| reject(None, Fault::new(error.to_string())))?;
    let (name, translated) = translate(message);
    let value = translated.map_err(|fault| reject(Some(name.clone()), fault))?;
    Ok(Accepted { name, value, ignored })
}

/// Opens an `Any` that must hold an `M`.
fn unpack<M: Message + Default + Name>(any: &Any) -> Translated<M> {
    if type_url::message_name(&any.type_url) != M::full_name() {
        return Err(Fault::new(format!("{} is not supported here", type_url::message_name(&any.type_url))));
    }
    M::decode(any.value.as_slice()).map_err(|error| Fault::new(error.to_string()))
}

/// A name that must be given.
fn named(name: &str) -> Translated<()> {
    if name.is_empty() { Err(Fault::new("is required").under("name")) } else { Ok(()) }
}

/// The name under which EDS is asked: the cluster's own unless it says otherwise.
fn eds_name(service_name: String, cluster: &str) -> ClusterName {
    if service_name.is_empty() { cluster.into() } else { service_name.into() }
}

#[cfg(test)]
mod tests;

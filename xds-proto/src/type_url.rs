//! Type URLs: the names under which resources travel in an `Any`.

use prost::{Message, Name};
use prost_types::Any;

/// What stands before the full message name in every type URL of xDS.
pub const PREFIX: &str = "type.googleapis.com/";

/// `envoy.config.listener.v3.Listener`, asked for over LDS.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// `envoy.config.route.v3.RouteConfiguration`, asked for over RDS.
pub const ROUTE_CONFIGURATION: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// `envoy.config.cluster.v3.Cluster`, asked for over CDS.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// `envoy.config.endpoint.v3.ClusterLoadAssignment`, asked for over EDS.
pub const CLUSTER_LOAD_ASSIGNMENT: &str =
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// `envoy.extensions.transport_sockets.tls.v3.Secret`, asked for over SDS.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The types that travel over a stream, what is referred to first.
pub const ALL: [&str; 5] = [CLUSTER, CLUSTER_LOAD_ASSIGNMENT, SECRET, LISTENER, ROUTE_CONFIGURATION];

/// The full message name in a type URL: what follows the last slash.
pub fn message_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// Packs a message as an `Any` under its own type URL.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{PREFIX}{}", M::full_name()), value: message.encode_to_vec() }
}

/// The URL of the last path element, for people: `Listener`, `Cluster`.
pub fn short_name(type_url: &str) -> &str {
    let name = message_name(type_url);
    name.rsplit('.').next().unwrap_or(name)
}

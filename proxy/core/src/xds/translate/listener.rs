//! Listeners: where they listen, and their one HTTP filter chain.

use std::sync::Arc;

use xds_proto::envoy::config::core::v3::TrafficDirection;
use xds_proto::envoy::config::listener::v3 as listener_proto;
use xds_proto::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use xds_proto::prost_types::Any;

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, required};
use super::{http, named, unpack};
use crate::config::{HttpOptions, Listener};

pub(super) fn listener(message: listener_proto::Listener) -> Translated<Listener> {
    let listener_proto::Listener {
        name,
        address,
        mut filter_chains,
        per_connection_buffer_limit_bytes,
        traffic_direction,
        default_filter_chain,
        stat_prefix: _, // ignorable
    } = message;
    named(&name)?;
    let address =
        required("address", address).and_then(|a| super::address(a).map_err(Fault::new).at("address"))?;
    let (at, chain) = match (filter_chains.len(), default_filter_chain) {
        (0, Some(chain)) => ("default_filter_chain", chain),
        (1, None) => ("filter_chains[0]", filter_chains.remove(0)),
        (0, None) => return Err(Fault::new("a filter chain is required").under("filter_chains")),
        (1, Some(_)) => {
            let reason = "is never used beside a filter chain that matches every connection";
            return Err(Fault::new(reason).under("default_filter_chain"));
        }
        (_, _) => {
            return Err(Fault::new("more than one filter chain is not supported").under("filter_chains"));
        }
    };
    let mut options = match enum_value(traffic_direction).at("traffic_direction")? {
        TrafficDirection::Unspecified => HttpOptions::ingress(),
        TrafficDirection::Inbound | TrafficDirection::Outbound => HttpOptions::sidecar(),
    };
    if let Some(limit) = per_connection_buffer_limit_bytes {
        options.buffer_bytes = http::buffer_bytes(limit).at("per_connection_buffer_limit_bytes")?;
    }
    let manager = filter_chain(chain).at(at)?;
    let within = |result: Translated<_>| result.at("filters[0].typed_config").at(at);
    let (routes, options) = within(unpack(&manager).and_then(|m| http::connection_manager(m, options)))?;
    Ok(Listener { name: name.into(), address, routes, http: Arc::new(options) })
}

fn filter_chain(chain: listener_proto::FilterChain) -> Translated<Any> {
    let listener_proto::FilterChain { mut filters, name: _ } = chain; // name: ignorable
    if filters.len() != 1 {
        return Err(
            Fault::new("exactly one filter, the HTTP connection manager, is supported").under("filters")
        );
    }
    let listener_proto::Filter { name: _, config_type } = filters.remove(0); // the name only labels the type
    let FilterConfig::TypedConfig(any) = required("typed_config", config_type).at("filters[0]")?;
    Ok(any)
}

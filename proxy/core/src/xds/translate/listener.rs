//! Listeners: where they listen, what they look at first, and their filter chains.

use std::collections::HashSet;
use std::sync::Arc;

use prost::Name as _;
use xds_proto::envoy::config::core::v3::TrafficDirection;
use xds_proto::envoy::config::core::v3::proxy_protocol_config::Version as ProxyVersion;
use xds_proto::envoy::config::listener::v3 as listener_proto;
use xds_proto::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use xds_proto::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;
use xds_proto::envoy::config::listener::v3::listener_filter::ConfigType as ListenerFilterConfig;
use xds_proto::envoy::extensions::filters::listener as filter_proto;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_proto::prost_types::Any;
use xds_proto::type_url;

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::http::set_time;
use super::overrides::range;
use super::{http, named, tcp, tls, unpack};
use crate::chain;
use crate::config::{
    ChainMatch, FilterChain, HttpOptions, Inspection, Listener, ProxyProtocol, ServerName, Serves,
    SourceKind, TransportProtocol,
};

/// The largest ClientHello that Envoy takes.
const MAX_CLIENT_HELLO: u32 = 16 << 10;

pub(super) fn listener(message: listener_proto::Listener) -> Translated<Listener> {
    let listener_proto::Listener {
        name,
        address,
        filter_chains,
        per_connection_buffer_limit_bytes,
        listener_filters,
        listener_filters_timeout,
        traffic_direction,
        continue_on_listener_filters_timeout,
        default_filter_chain,
        api_listener,
        stat_prefix: _, // ignorable
    } = message;
    named(&name)?;
    if api_listener.is_some() {
        return Err(Fault::new("is for clients of gRPC, which listen on no address").under("api_listener"));
    }
    let address =
        required("address", address).and_then(|a| super::address(a).map_err(Fault::new).at("address"))?;
    let mut options = match enum_value(traffic_direction).at("traffic_direction")? {
        TrafficDirection::Unspecified => HttpOptions::ingress(),
        TrafficDirection::Inbound | TrafficDirection::Outbound => HttpOptions::sidecar(),
    };
    if let Some(limit) = per_connection_buffer_limit_bytes {
        options.buffer_bytes = http::buffer_bytes(limit).at("per_connection_buffer_limit_bytes")?;
    }
    let mut inspection =
        Inspection { continues_on_timeout: continue_on_listener_filters_timeout, ..Inspection::default() };
    set_time(&mut inspection.timeout, listener_filters_timeout).at("listener_filters_timeout")?;
    for (number, filter) in listener_filters.into_iter().enumerate() {
        listener_filter(filter, &mut inspection).at(format_args!("listener_filters[{number}]"))?;
    }
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        return Err(Fault::new("a filter chain is required").under("filter_chains"));
    }
    let mut chains = each("filter_chains", filter_chains, |chain| filter_chain(chain, &options, true))?;
    if let Some((first, second)) = chain::overlap(chains.iter().filter_map(|chain| chain.matching.as_ref())) {
        let reason = format!("some connections are for filter_chains[{first}] just as well");
        return Err(Fault::new(reason)
            .under("filter_chain_match")
            .under(format_args!("filter_chains[{second}]")));
    }
    if let Some(chain) = default_filter_chain {
        if chain.filter_chain_match.is_some() {
            let reason = "the default chain is for whatever no other chain is for";
            return Err(Fault::new(reason).under("filter_chain_match").under("default_filter_chain"));
        }
        chains.push(filter_chain(chain, &options, false).at("default_filter_chain")?);
    }
    let mut names = HashSet::new();
    if let Some(twice) =
        chains.iter().map(|chain| &chain.name).find(|name| !name.is_empty() && !names.insert(*name))
    {
        return Err(Fault::new(format!("two filter chains are named {twice:?}")).under("filter_chains"));
    }
    // What chains are told apart by is looked at, whether or not a filter says so.
    for matching in chains.iter().filter_map(|chain| chain.matching.as_ref()) {
        inspection.tls |= !matching.server_names.is_empty()
            || matching.transport.is_some()
            || !matching.application_protocols.is_empty();
    }
    Ok(Listener { name: name.into(), address, inspection, chains })
}

fn listener_filter(message: listener_proto::ListenerFilter, inspection: &mut Inspection) -> Translated<()> {
    let listener_proto::ListenerFilter { name: _, config_type } = message; // the name only labels the type
    let ListenerFilterConfig::TypedConfig(any) = required("typed_config", config_type)?;
    let within = |fault: Fault| fault.under("typed_config");
    match type_url::message_name(&any.type_url) {
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
            let filter_proto::tls_inspector::v3::TlsInspector {
                initial_read_buffer_size: _, // ignorable
                max_client_hello_size,
            } = unpack(&any).map_err(within)?;
            inspection.tls = true;
            if let Some(size) = max_client_hello_size {
                if !(256..=MAX_CLIENT_HELLO).contains(&size) {
                    let reason = format!("{size} is not from 256 to {MAX_CLIENT_HELLO}");
                    return Err(within(Fault::new(reason).under("max_client_hello_size")));
                }
                inspection.max_client_hello = size as usize;
            }
        }
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
            let filter_proto::http_inspector::v3::HttpInspector {} = unpack(&any).map_err(within)?;
            inspection.http = true;
        }
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {
            let filter_proto::original_dst::v3::OriginalDst {} = unpack(&any).map_err(within)?;
            inspection.original_dst = true;
        }
        _ => {
            let filter_proto::proxy_protocol::v3::ProxyProtocol {
                allow_requests_without_proxy_protocol: is_optional,
                disallowed_versions,
                stat_prefix: _, // ignorable
            } = unpack(&any).map_err(within)?;
            let takes = |version: ProxyVersion| !disallowed_versions.contains(&(version as i32));
            let rules =
                ProxyProtocol { is_optional, v1: takes(ProxyVersion::V1), v2: takes(ProxyVersion::V2) };
            if !rules.v1 && !rules.v2 {
                return Err(within(Fault::new("no version is left").under("disallowed_versions")));
            }
            inspection.proxy_protocol = Some(rules);
        }
    }
    Ok(())
}

fn filter_chain(
    message: listener_proto::FilterChain,
    options: &HttpOptions,
    may_match: bool,
) -> Translated<FilterChain> {
    let listener_proto::FilterChain {
        filter_chain_match,
        mut filters,
        transport_socket,
        name,
        transport_socket_connect_timeout,
    } = message;
    let matching = match filter_chain_match {
        Some(matching) if may_match => Some(chain_match(matching).at("filter_chain_match")?),
        None if may_match => Some(ChainMatch::default()),
        Some(_) | None => None,
    };
    let tls = transport_socket.map(tls::downstream).transpose().at("transport_socket")?.flatten();
    let mut handshake_timeout = Some(options.handshake_timeout);
    set_time(&mut handshake_timeout, transport_socket_connect_timeout)
        .at("transport_socket_connect_timeout")?;
    if filters.len() != 1 {
        let reason = "exactly one filter, the HTTP connection manager or the TCP proxy, is supported";
        return Err(Fault::new(reason).under("filters"));
    }
    let listener_proto::Filter { name: _, config_type } = filters.remove(0); // the name only labels the type
    let FilterConfig::TypedConfig(any) = required("typed_config", config_type).at("filters[0]")?;
    let (routes, http, serves) = service(&any, options.clone()).at("filters[0].typed_config")?;
    Ok(FilterChain {
        name: name.into(),
        matching,
        tls: tls.map(Arc::new),
        handshake_timeout,
        routes,
        http: Arc::new(http),
        serves,
    })
}

fn service(any: &Any, options: HttpOptions) -> Translated<(crate::config::RouteSource, HttpOptions, Serves)> {
    if type_url::message_name(&any.type_url) == TcpProxy::full_name() {
        let (routes, options, tcp) = tcp::proxy(unpack(any)?, options)?;
        return Ok((routes, options, Serves::Tcp(tcp)));
    }
    let manager: HttpConnectionManager = unpack(any)?;
    let (routes, options) = http::connection_manager(manager, options)?;
    Ok((routes, options, Serves::Http))
}

fn chain_match(message: listener_proto::FilterChainMatch) -> Translated<ChainMatch> {
    let listener_proto::FilterChainMatch {
        prefix_ranges,
        source_prefix_ranges,
        source_ports,
        destination_port,
        transport_protocol,
        application_protocols,
        server_names,
        source_type,
        direct_source_prefix_ranges,
    } = message;
    let port = |port: u32| match u16::try_from(port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Fault::new(format!("{port} is not a port"))),
    };
    Ok(ChainMatch {
        destination_port: destination_port.map(port).transpose().at("destination_port")?,
        destinations: each("prefix_ranges", prefix_ranges, range)?,
        server_names: each("server_names", server_names, |name| server_name(&name))?,
        transport: match transport_protocol.as_str() {
            "" => None,
            "tls" => Some(TransportProtocol::Tls),
            "raw_buffer" => Some(TransportProtocol::RawBuffer),
            other => {
                let reason = format!("{other:?} is neither \"tls\" nor \"raw_buffer\"");
                return Err(Fault::new(reason).under("transport_protocol"));
            }
        },
        application_protocols: application_protocols.into_iter().map(Into::into).collect(),
        direct_sources: each("direct_source_prefix_ranges", direct_source_prefix_ranges, range)?,
        source_kind: match enum_value(source_type).at("source_type")? {
            ConnectionSourceType::Any => SourceKind::Any,
            ConnectionSourceType::SameIpOrLoopback => SourceKind::Local,
            ConnectionSourceType::External => SourceKind::External,
        },
        sources: each("source_prefix_ranges", source_prefix_ranges, range)?,
        source_ports: each("source_ports", source_ports, port)?,
    })
}

fn server_name(name: &str) -> Translated<ServerName> {
    let name = name.to_ascii_lowercase();
    let suffix = name.strip_prefix('*');
    if name.is_empty()
        || suffix.unwrap_or(&name).contains('*')
        || suffix.is_some_and(|rest| !rest.starts_with('.'))
    {
        let reason = format!("{name:?} is neither a name nor a wildcard such as \"*.example.com\"");
        return Err(Fault::new(reason));
    }
    Ok(match suffix {
        Some(suffix) => ServerName::Suffix(suffix.into()),
        None => ServerName::Exact(name.into()),
    })
}

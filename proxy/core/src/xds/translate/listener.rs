//! Listeners with their HTTP connection manager.

use std::path::PathBuf;
use std::sync::Arc;

use xds_proto::envoy::config::accesslog::v3::{AccessLog, access_log};
use xds_proto::envoy::config::listener::v3 as listener_proto;
use xds_proto::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use xds_proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm_proto;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;

use super::cluster::{ads, enum_value};
use super::fault::{At, Fault, Translated, each, required};
use super::{named, route, unpack};
use crate::config::{Listener, RouteSource};

pub(super) fn listener(message: listener_proto::Listener) -> Translated<Listener> {
    let listener_proto::Listener {
        name,
        address,
        mut filter_chains,
        traffic_direction: _, // ignorable: no default depends on it yet
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
    let (routes, access_logs) = filter_chain(chain).at(at)?;
    Ok(Listener { name: name.into(), address, routes, access_logs })
}

fn filter_chain(chain: listener_proto::FilterChain) -> Translated<(RouteSource, Vec<PathBuf>)> {
    let listener_proto::FilterChain { mut filters, name: _ } = chain; // name: ignorable
    if filters.len() != 1 {
        return Err(
            Fault::new("exactly one filter, the HTTP connection manager, is supported").under("filters")
        );
    }
    let listener_proto::Filter { name: _, config_type } = filters.remove(0); // the name only labels the type
    let FilterConfig::TypedConfig(any) = required("typed_config", config_type).at("filters[0]")?;
    unpack(&any).and_then(connection_manager).at("filters[0].typed_config")
}

fn connection_manager(manager: hcm_proto::HttpConnectionManager) -> Translated<(RouteSource, Vec<PathBuf>)> {
    let hcm_proto::HttpConnectionManager {
        codec_type,
        stat_prefix: _, // ignorable
        route_specifier,
        http_filters,
        access_log,
    } = manager;
    match enum_value(codec_type).at("codec_type")? {
        CodecType::Auto | CodecType::Http1 => {}
        other @ (CodecType::Http2 | CodecType::Http3) => {
            let reason = format!("{} is not supported by this version", other.as_str_name());
            return Err(Fault::new(reason).under("codec_type"));
        }
    }
    router(http_filters)?;
    let routes = match required("rds or route_config", route_specifier)? {
        RouteSpecifier::RouteConfig(config) => {
            RouteSource::Inline(Arc::new(route::routes(config).at("route_config")?))
        }
        RouteSpecifier::Rds(hcm_proto::Rds { config_source, route_config_name }) => {
            ads(config_source).at("config_source").at("rds")?;
            if route_config_name.is_empty() {
                return Err(Fault::new("is required").under("rds.route_config_name"));
            }
            RouteSource::Rds(route_config_name.into())
        }
    };
    Ok((routes, each("access_log", access_log, access_log_path)?))
}

/// The filter chain of requests: this version has the router only, and a chain must end in it.
fn router(filters: Vec<hcm_proto::HttpFilter>) -> Translated<()> {
    if filters.len() != 1 {
        return Err(Fault::new("exactly one filter, the router, is supported").under("http_filters"));
    }
    each("http_filters", filters, |filter| {
        // An optional filter may be skipped if it is unknown; the router is known.
        let hcm_proto::HttpFilter { name: _, is_optional: _, disabled, config_type } = filter;
        if disabled {
            return Err(Fault::new("the router cannot be disabled").under("disabled"));
        }
        let ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
        let Router { dynamic_stats: _, start_child_span: _, suppress_envoy_headers: _ } =
            unpack(&any).at("typed_config")?; // all ignorable
        Ok(())
    })?;
    Ok(())
}

fn access_log_path(log: AccessLog) -> Translated<PathBuf> {
    let AccessLog { name: _, config_type } = log;
    let access_log::ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
    let FileAccessLog { path } = unpack(&any).at("typed_config")?;
    if path.is_empty() {
        return Err(Fault::new("is required").under("path").under("typed_config"));
    }
    Ok(path.into())
}

//! Listeners.

use xds_proto::envoy::config::accesslog::v3::{AccessLog, access_log};
use xds_proto::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use xds_proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use xds_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, UpgradeConfig,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use xds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};
use xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
};
use xds_proto::type_url::pack;

use super::route::UNRESOLVED;
use super::{Dialect, address, ads, fault, inline, tls_socket};
use crate::ir::{self, Arm, ChainAction, Plain, Speaks, Termination};

pub(super) fn listener(
    name: &str,
    listener: &ir::Listener,
    access_log: Option<&str>,
    dialect: Dialect,
) -> Listener {
    let plain = |plain: &Plain| match plain {
        Plain::Http(table) => {
            FilterChain { filters: vec![http(table, access_log, dialect)], ..FilterChain::default() }
        }
        Plain::Tcp(arms) => {
            FilterChain { filters: vec![tcp(name, arms, access_log)], ..FilterChain::default() }
        }
    };
    let chains = match &listener.speaks {
        Speaks::Plain(only) => vec![plain(only)],
        Speaks::Tls(chains, in_clear) => {
            let chains = chains.iter().map(|chain| tls_chain(name, chain, access_log, dialect));
            let in_clear = in_clear.as_ref().map(|in_clear| FilterChain {
                filter_chain_match: Some(FilterChainMatch {
                    transport_protocol: "raw_buffer".to_owned(),
                    ..FilterChainMatch::default()
                }),
                ..plain(in_clear)
            });
            chains.chain(in_clear).collect()
        }
    };
    Listener {
        name: name.to_owned(),
        address: Some(address(&listener.address)),
        filter_chains: chains,
        listener_filters: matches!(listener.speaks, Speaks::Tls(..))
            .then(tls_inspector)
            .into_iter()
            .collect(),
        ..Listener::default()
    }
}

/// Learns which name a client asks for.
fn tls_inspector() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack(&TlsInspector::default()))),
    }
}

fn tls_chain(
    listener: &str,
    chain: &ir::TlsChain,
    access_log: Option<&str>,
    dialect: Dialect,
) -> FilterChain {
    let stat_prefix = format!("{listener}/{}", chain.name);
    let (filter, termination) = match &chain.then {
        ChainAction::Http(termination, table) => {
            (http(table, access_log, dialect), Some((termination, true)))
        }
        ChainAction::Tcp(termination, arms) => {
            (tcp(&stat_prefix, arms, access_log), Some((termination, false)))
        }
        ChainAction::Pass(arms) => (tcp(&stat_prefix, arms, access_log), None),
    };
    FilterChain {
        name: chain.name.clone(),
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: "tls".to_owned(),
            server_names: chain.server_names.clone(),
            ..FilterChainMatch::default()
        }),
        filters: vec![filter],
        transport_socket: termination
            .map(|(termination, is_http)| tls_socket(pack(&tls(termination, is_http)))),
        ..FilterChain::default()
    }
}

fn tls(termination: &Termination, is_http: bool) -> DownstreamTlsContext {
    let secret = |name: &String| SdsSecretConfig { name: name.clone(), sds_config: Some(ads()) };
    let clients = termination.clients.as_ref().map(|clients| {
        ValidationContextType::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(&clients.roots)),
            ..CertificateValidationContext::default()
        })
    });
    let protocols: &[&str] = if is_http { &["h2", "http/1.1"] } else { &[] };
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: termination.certificates.iter().map(secret).collect(),
            validation_context_type: clients,
            alpn_protocols: protocols.iter().map(ToString::to_string).collect(),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: termination.clients.as_ref().map(|clients| !clients.is_optional),
        ..DownstreamTlsContext::default()
    }
}

fn log(path: &str) -> AccessLog {
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack(&FileAccessLog {
            path: path.to_owned(),
            ..FileAccessLog::default()
        }))),
        filter: None,
    }
}

fn http(table: &str, access_log: Option<&str>, dialect: Dialect) -> Filter {
    // Routes may have faults of their own; Envoy hears them only where the filter is.
    let faults = (dialect == Dialect::Standard).then(|| HttpFilter {
        name: fault::FILTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&HttpFault::default()))),
        ..HttpFilter::default()
    });
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: table.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: table.to_owned(),
        })),
        http_filters: faults.into_iter().chain([router]).collect(),
        access_log: access_log.map(log).into_iter().collect(),
        // A gateway's clients are strangers; backends learn who they are, and WebSockets pass.
        use_remote_address: Some(true),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), enabled: None }],
        ..HttpConnectionManager::default()
    };
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
    }
}

fn tcp(stat_prefix: &str, arms: &[Arm], access_log: Option<&str>) -> Filter {
    // What leads nowhere leads to a cluster that there is not: its connections end.
    let name = |arm: &Arm| arm.backend.as_ref().map_or(UNRESOLVED.to_owned(), ToString::to_string);
    let weight = |arm: &Arm| ClusterWeight { name: name(arm), weight: arm.weight, metadata_match: None };
    let cluster = match arms {
        [] => ClusterSpecifier::Cluster(UNRESOLVED.to_owned()),
        [only] => ClusterSpecifier::Cluster(name(only)),
        arms => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: arms.iter().map(weight).collect(),
        }),
    };
    let proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(cluster),
        access_log: access_log.map(log).into_iter().collect(),
        ..TcpProxy::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&proxy))),
    }
}

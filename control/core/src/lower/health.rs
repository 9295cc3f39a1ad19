//! Health checks of clusters.

use proxy_core::config::Address;
use xds_proto::envoy::config::cluster::v3::cluster::{CommonLbConfig, TransportSocketMatch};
use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_proto::envoy::config::core::v3::health_check::{
    CustomHealthCheck, GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck, custom_health_check,
};
use xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, HealthCheck};
use xds_proto::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use xds_proto::envoy::r#type::v3::{CodecClientType, Int64Range, Percent};
use xds_proto::prost_types::{Duration, Struct, Value, value};
use xds_proto::type_url::pack;
use xds_proto::weir::health::v1 as weir;

use super::{Dialect, named_address, tls_socket};
use crate::ir::{self, BackendAddress, BackendProtocol};
use crate::model::{HealthCheckSpec, ProbeScheme};

/// What Kubernetes means where a probe says nothing.
const PERIOD: u32 = 10;
const TIMEOUT: u32 = 1;
const SUCCESSES: u32 = 1;
const FAILURES: u32 = 3;
/// Statuses of an endpoint that is well.
const WELL: Int64Range = Int64Range { start: 200, end: 400 };
/// No other takes an endpoint out at once: the threshold counts.
const OTHERS: [Int64Range; 2] = [Int64Range { start: 100, end: 200 }, Int64Range { start: 400, end: 600 }];
/// The label by which a check finds what carries its connections, where that is not what carries the requests.
const CARRIER: &str = "weir.health";

/// The check. Clients of gRPC have none.
pub(super) fn checks(backend: &ir::Backend, dialect: Dialect) -> Vec<HealthCheck> {
    let check = backend.health_check.as_ref().filter(|_| dialect != Dialect::Grpc);
    check.map(|check| health_check(check, backend, dialect)).into_iter().collect()
}

fn health_check(check: &HealthCheckSpec, backend: &ir::Backend, dialect: Dialect) -> HealthCheck {
    let seconds = |count: u32| Some(Duration { seconds: count.into(), nanos: 0 });
    let period = seconds(check.period_seconds.unwrap_or(PERIOD));
    HealthCheck {
        timeout: seconds(check.timeout_seconds.unwrap_or(TIMEOUT)),
        interval: period,
        no_traffic_interval: period,
        unhealthy_threshold: Some(check.failure_threshold.unwrap_or(FAILURES)),
        healthy_threshold: Some(check.success_threshold.unwrap_or(SUCCESSES)),
        transport_socket_match_criteria: carrier(backend).map(|_| labels()),
        health_checker: Some(checker(check, backend, dialect)),
        ..HealthCheck::default()
    }
}

fn checker(check: &HealthCheckSpec, backend: &ir::Backend, dialect: Dialect) -> HealthChecker {
    // Envoy asks over gRPC only where the cluster speaks HTTP/2; elsewhere it sees whether the port is open.
    let speaks_grpc = dialect == Dialect::Weir || backend.protocol == BackendProtocol::H2c;
    let asked = if let Some(http) = &check.http_get {
        let header = |header: &crate::model::ProbeHeader| HeaderValueOption {
            header: Some(HeaderValue { key: header.name.clone(), value: header.value.clone() }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
            ..HeaderValueOption::default()
        };
        // A host is no line of its own in HTTP/2.
        let (hosts, lines): (Vec<_>, Vec<_>) =
            http.http_headers.iter().partition(|header| header.name.eq_ignore_ascii_case("host"));
        let codec = match backend.protocol {
            BackendProtocol::Http => CodecClientType::Http1,
            BackendProtocol::H2c => CodecClientType::Http2,
        };
        weir::probe::Check::Http(HttpHealthCheck {
            host: hosts.first().map(|header| header.value.clone()).unwrap_or_default(),
            path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
            request_headers_to_add: lines.into_iter().map(header).collect(),
            expected_statuses: vec![WELL],
            retriable_statuses: OTHERS.to_vec(),
            codec_client_type: codec as i32,
            ..HttpHealthCheck::default()
        })
    } else if let Some(grpc) = check.grpc.as_ref().filter(|_| speaks_grpc) {
        let service_name = grpc.service.clone().unwrap_or_default();
        weir::probe::Check::Grpc(GrpcHealthCheck { service_name, ..GrpcHealthCheck::default() })
    } else {
        weir::probe::Check::Tcp(TcpHealthCheck::default())
    };
    let delay = check.initial_delay_seconds.unwrap_or(0);
    if dialect == Dialect::Weir && (delay > 0 || !check.json.is_empty()) {
        let probe = weir::Probe {
            initial_delay: Some(Duration { seconds: delay.into(), nanos: 0 }),
            json: check.json.clone().into_iter().collect(),
            check: Some(asked),
        };
        let config = custom_health_check::ConfigType::TypedConfig(pack(&probe));
        let name = "weir.health".to_owned();
        return HealthChecker::CustomHealthCheck(CustomHealthCheck { name, config_type: Some(config) });
    }
    match asked {
        weir::probe::Check::Http(http) => HealthChecker::HttpHealthCheck(http),
        weir::probe::Check::Tcp(tcp) => HealthChecker::TcpHealthCheck(tcp),
        weir::probe::Check::Grpc(grpc) => HealthChecker::GrpcHealthCheck(grpc),
    }
}

/// Whoever is not well takes nothing, however few are left: an arm without anybody fails or spills.
pub(super) fn no_panic(backend: &ir::Backend, dialect: Dialect) -> Option<CommonLbConfig> {
    let has_check = backend.health_check.is_some() && dialect != Dialect::Grpc;
    has_check.then(|| CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        ..CommonLbConfig::default()
    })
}

/// What carries connections of checks, where that is not what carries the requests.
pub(super) fn transports(backend: &ir::Backend, dialect: Dialect) -> Vec<TransportSocketMatch> {
    let socket = carrier(backend).filter(|_| dialect != Dialect::Grpc).map(|scheme| TransportSocketMatch {
        name: CARRIER.to_owned(),
        r#match: Some(labels()),
        transport_socket: Some(match scheme {
            ProbeScheme::Https => tls_socket(pack(&UpstreamTlsContext::default())),
            ProbeScheme::Http => core_proto::TransportSocket {
                name: "envoy.transport_sockets.raw_buffer".to_owned(),
                config_type: Some(core_proto::transport_socket::ConfigType::TypedConfig(pack(&RawBuffer {}))),
            },
        }),
    });
    socket.into_iter().collect()
}

/// The scheme of checks, where it is not that of requests.
fn carrier(backend: &ir::Backend) -> Option<ProbeScheme> {
    let scheme = backend.health_check.as_ref()?.http_get.as_ref()?.scheme?;
    (backend.tls.is_some() != (scheme == ProbeScheme::Https)).then_some(scheme)
}

fn labels() -> Struct {
    let is_set = Value { kind: Some(value::Kind::BoolValue(true)) };
    Struct { fields: [(CARRIER.to_owned(), is_set)].into() }
}

/// Where an endpoint is asked, where that is not where it serves.
pub(super) fn config(
    endpoint: &ir::Endpoint,
    backend: &ir::Backend,
    dialect: Dialect,
) -> Option<HealthCheckConfig> {
    let check = backend.health_check.as_ref().filter(|_| dialect != Dialect::Grpc)?;
    let (host, port) = check.place();
    let own = match &endpoint.address {
        BackendAddress::Known(Address::Socket(address)) => Some(address.port()),
        BackendAddress::Name(_, port) => Some(*port),
        BackendAddress::Known(Address::Pipe(_)) => None,
    };
    // A Unix socket has no port, and nothing beside it.
    own?;
    // An address of its own is whole.
    let elsewhere = host.and_then(|host| {
        let address = Some(named_address(host, port.or(own)?));
        Some(core_proto::Address { address })
    });
    (elsewhere.is_some() || port.is_some()).then(|| HealthCheckConfig {
        port_value: u32::from(port.unwrap_or(0)),
        address: elsewhere,
        ..HealthCheckConfig::default()
    })
}

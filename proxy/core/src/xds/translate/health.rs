//! Active health checks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::RequestMethod;
use xds_proto::envoy::config::core::v3::health_check::{
    CustomHealthCheck, GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
    custom_health_check, payload,
};
use xds_proto::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use xds_proto::envoy::r#type::v3::{CodecClientType, Int64Range};
use xds_proto::prost_types;
use xds_proto::weir::health::v1 as weir;

use super::cluster::enum_value;
use super::endpoint;
use super::fault::{At, Fault, Translated, each, required};
use super::http::{duration, field_value};
use super::matching::is_token;
use super::unpack;
use crate::config::{CheckTarget, GrpcProbe, HealthCheck, HttpProbe, Pace, Probe, TcpProbe};

/// How much of a body is looked at where nobody says, as in Envoy; and at the most.
const BODY_BYTES: u64 = 1_024;
const MAX_BODY_BYTES: u64 = 1 << 20;
/// What a pause in a cluster without connections is where nobody says, as in Envoy.
const IDLE: Duration = Duration::from_secs(60);
/// What is expected where nobody says.
const OK: Range<u16> = 200..201;
/// Checks do not come more often than this.
const LEAST: Duration = Duration::from_millis(1);

/// The check of a cluster's endpoints: none or one, as in Envoy.
pub(super) fn check(messages: Vec<core_proto::HealthCheck>) -> Translated<Option<Arc<HealthCheck>>> {
    if messages.len() > 1 {
        return Err(Fault::new("a cluster has one health check at most").under("health_checks"));
    }
    let mut checks = each("health_checks", messages, one)?;
    Ok(checks.pop().map(Arc::new))
}

fn one(message: core_proto::HealthCheck) -> Translated<HealthCheck> {
    let core_proto::HealthCheck {
        timeout,
        interval,
        interval_jitter,
        unhealthy_threshold,
        healthy_threshold,
        reuse_connection,
        no_traffic_interval,
        unhealthy_interval,
        unhealthy_edge_interval,
        healthy_edge_interval,
        interval_jitter_percent,
        always_log_health_check_failures,
        initial_jitter,
        transport_socket_match_criteria,
        no_traffic_healthy_interval,
        always_log_health_check_success,
        health_checker,
    } = message;
    let time = |field: &'static str, wire: Option<prost_types::Duration>| {
        wire.map(|wire| match duration(wire)? {
            time if time >= LEAST => Ok(time),
            _ => Err(Fault::new("must be at least 1 ms")),
        })
        .transpose()
        .at(field)
    };
    let jitter = |wire: Option<prost_types::Duration>| wire.map_or(Ok(Duration::ZERO), duration);
    let threshold = |field: &'static str, count: Option<u32>| match required(field, count)? {
        0 => Err(Fault::new("must be greater than 0").under(field)),
        count => Ok(count),
    };
    let timeout = required("timeout", time("timeout", timeout)?)?;
    let healthy = required("interval", time("interval", interval)?)?;
    let unhealthy = time("unhealthy_interval", unhealthy_interval)?.unwrap_or(healthy);
    let idle = time("no_traffic_interval", no_traffic_interval)?.unwrap_or(IDLE);
    let pace = Pace {
        healthy,
        unhealthy,
        unhealthy_edge: time("unhealthy_edge_interval", unhealthy_edge_interval)?.unwrap_or(unhealthy),
        healthy_edge: time("healthy_edge_interval", healthy_edge_interval)?.unwrap_or(healthy),
        idle,
        idle_healthy: time("no_traffic_healthy_interval", no_traffic_healthy_interval)?.unwrap_or(idle),
        initial_jitter: jitter(initial_jitter).at("initial_jitter")?,
        jitter: jitter(interval_jitter).at("interval_jitter")?,
        jitter_percent: interval_jitter_percent,
    };
    let Asked { probe, initial_delay } = asked(required("http_health_check", health_checker)?)?;
    Ok(HealthCheck {
        probe,
        timeout,
        pace,
        unhealthy_threshold: threshold("unhealthy_threshold", unhealthy_threshold)?,
        healthy_threshold: threshold("healthy_threshold", healthy_threshold)?,
        transport_labels: transport_socket_match_criteria
            .map(endpoint::labels)
            .transpose()
            .at("transport_socket_match_criteria")?
            .map(Arc::new),
        reuses_connection: reuse_connection.unwrap_or(true),
        initial_delay,
        logs_failures: always_log_health_check_failures,
        logs_successes: always_log_health_check_success,
    })
}

/// What is asked, and when first.
struct Asked {
    probe: Probe,
    initial_delay: Duration,
}

fn asked(checker: HealthChecker) -> Translated<Asked> {
    let at_once = |probe| Asked { probe, initial_delay: Duration::ZERO };
    match checker {
        HealthChecker::HttpHealthCheck(message) => {
            http(message, Vec::new()).map(Probe::Http).map(at_once).at("http_health_check")
        }
        HealthChecker::TcpHealthCheck(message) => {
            tcp(message).map(Probe::Tcp).map(at_once).at("tcp_health_check")
        }
        HealthChecker::GrpcHealthCheck(message) => {
            grpc(message).map(Probe::Grpc).map(at_once).at("grpc_health_check")
        }
        HealthChecker::CustomHealthCheck(CustomHealthCheck { name: _, config_type }) => {
            let config = required("typed_config", config_type).and_then(|config| {
                let custom_health_check::ConfigType::TypedConfig(any) = config;
                unpack(&any).and_then(own).at("typed_config")
            });
            config.at("custom_health_check")
        }
    }
}

/// What standard xDS has no field for.
fn own(message: weir::Probe) -> Translated<Asked> {
    let weir::Probe { initial_delay, json, check } = message;
    if !json.is_empty() && !matches!(check, Some(weir::probe::Check::Http(_))) {
        return Err(Fault::new("is for http").under("json"));
    }
    let mut members: Vec<(Box<str>, Box<str>)> =
        json.into_iter().map(|(path, value)| (path.into(), value.into())).collect();
    members.sort();
    let probe = match required("http", check)? {
        weir::probe::Check::Http(message) => Probe::Http(http(message, members).at("http")?),
        weir::probe::Check::Tcp(message) => Probe::Tcp(tcp(message).at("tcp")?),
        weir::probe::Check::Grpc(message) => Probe::Grpc(grpc(message).at("grpc")?),
    };
    let initial_delay = initial_delay.map_or(Ok(Duration::ZERO), duration).at("initial_delay")?;
    Ok(Asked { probe, initial_delay })
}

fn http(message: HttpHealthCheck, json: Vec<(Box<str>, Box<str>)>) -> Translated<HttpProbe> {
    let HttpHealthCheck {
        host,
        path,
        receive,
        request_headers_to_add,
        request_headers_to_remove,
        expected_statuses,
        codec_client_type,
        retriable_statuses,
        method,
        response_buffer_size,
    } = message;
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::new(format!("{path:?} is not a path")).under("path"));
    }
    let method = match enum_value(method).at("method")? {
        RequestMethod::MethodUnspecified => "GET",
        RequestMethod::Connect => return Err(Fault::new("CONNECT opens no tunnel here").under("method")),
        method => method.as_str_name(),
    };
    let removed_headers = each("request_headers_to_remove", request_headers_to_remove, |name| {
        header_name(&name).map(Box::from)
    })?;
    let expected = each("expected_statuses", expected_statuses, statuses)?;
    let body_bytes = match response_buffer_size {
        // What is cut is no JSON.
        None if !json.is_empty() => MAX_BODY_BYTES,
        None => BODY_BYTES,
        Some(0) => MAX_BODY_BYTES,
        Some(bytes) if bytes <= MAX_BODY_BYTES => bytes,
        Some(bytes) => {
            let reason = format!("{bytes} is more than {MAX_BODY_BYTES}");
            return Err(Fault::new(reason).under("response_buffer_size"));
        }
    };
    let is_http2 = match enum_value(codec_client_type).at("codec_client_type")? {
        CodecClientType::Http1 => false,
        CodecClientType::Http2 => true,
        CodecClientType::Http3 => {
            return Err(Fault::new("HTTP3 is not supported").under("codec_client_type"));
        }
    };
    Ok(HttpProbe {
        host: field_value(host).at("host")?.into(),
        path: path.into(),
        method: method.into(),
        headers: each("request_headers_to_add", request_headers_to_add, header)?,
        removed_headers,
        expected: if expected.is_empty() { vec![OK] } else { expected },
        retriable: each("retriable_statuses", retriable_statuses, statuses)?,
        receive: each("receive", receive, bytes)?,
        body_bytes: usize::try_from(body_bytes).unwrap_or(usize::MAX),
        json,
        is_http2,
    })
}

fn tcp(message: TcpHealthCheck) -> Translated<TcpProbe> {
    let TcpHealthCheck { send, receive } = message;
    Ok(TcpProbe {
        send: send.map(bytes).transpose().at("send")?.unwrap_or_default(),
        receive: each("receive", receive, bytes)?,
    })
}

fn grpc(message: GrpcHealthCheck) -> Translated<GrpcProbe> {
    let GrpcHealthCheck { service_name, authority, initial_metadata } = message;
    Ok(GrpcProbe {
        service: service_name.into(),
        authority: field_value(authority).at("authority")?.into(),
        metadata: each("initial_metadata", initial_metadata, header)?,
    })
}

/// A line that says the same in every check.
fn header(option: core_proto::HeaderValueOption) -> Translated<(Box<str>, Box<str>)> {
    let core_proto::HeaderValueOption { header, append, append_action, keep_empty_value } = option;
    let core_proto::HeaderValue { key, value } = required("header", header)?;
    let name = header_name(&key).at("header.key")?;
    if value.contains('%') {
        return Err(Fault::new("nothing is filled in here").under("header.value"));
    }
    if value.is_empty() && !keep_empty_value {
        return Err(Fault::new("is required, unless keep_empty_value is set").under("header.value"));
    }
    // The usual lines are few, and a line of the same name takes the place of one: each action comes to that.
    let _ = (append, append_action);
    Ok((name.into(), field_value(value).at("header.value")?.into()))
}

fn header_name(name: &str) -> Translated<String> {
    let lower = name.to_ascii_lowercase();
    const FRAMING: [&str; 5] = ["connection", "content-length", "te", "transfer-encoding", "upgrade"];
    if FRAMING.contains(&lower.as_str()) {
        return Err(Fault::new(format!("{name:?} is written by the proxy itself")));
    }
    if is_token(&lower) { Ok(lower) } else { Err(Fault::new(format!("{name:?} is not a header name"))) }
}

/// Statuses from 100 to 599; the end does not belong to them.
fn statuses(message: Int64Range) -> Translated<Range<u16>> {
    let Int64Range { start, end } = message;
    if start < 100 || end > 600 || start >= end {
        return Err(Fault::new(format!("[{start}, {end}) is not a range of statuses from 100 to 599")));
    }
    Ok(start as u16..end as u16)
}

fn bytes(message: Payload) -> Translated<Box<[u8]>> {
    let bytes = match required("text", message.payload)? {
        payload::Payload::Binary(bytes) => bytes,
        payload::Payload::Text(digits) => hex(&digits)
            .ok_or_else(|| Fault::new(format!("{digits:?} is not hexadecimal digits")).under("text"))?,
    };
    if bytes.is_empty() { Err(Fault::new("is empty")) } else { Ok(bytes.into()) }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(value(*high)? << 4 | value(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

/// How an endpoint is checked.
pub(super) fn target(message: HealthCheckConfig) -> Translated<CheckTarget> {
    let HealthCheckConfig { port_value, hostname, address, disable_active_health_check } = message;
    let port = match port_value {
        0 => None,
        port => Some(
            u16::try_from(port)
                .map_err(|_| Fault::new(format!("{port} is not a port")).under("port_value"))?,
        ),
    };
    Ok(CheckTarget {
        port,
        address: address.map(endpoint::address).transpose().map_err(Fault::new).at("address")?,
        hostname: field_value(hostname).at("hostname")?.into(),
        is_disabled: disable_active_health_check,
    })
}

#[cfg(test)]
mod tests;

//! The HTTP connection manager: limits, times, headers, paths and upgrades.

use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use xds_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use xds_proto::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm_proto;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    ServerHeaderTransformation, UpgradeConfig,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use xds_proto::prost_types::{self, Any};
use xds_proto::type_url;
use xds_proto::weir::limits::v1::HttpLimits;

use super::cluster::{config_source, enum_value};
use super::fault::{At, Fault, Translated, each, required};
use super::{access, http2, injection, route, unpack};
use crate::config::{BodyRate, Codec, HttpOptions, RouteSource, SourceLimit};
use crate::hop::{CertificateDetails, ClientCertificate, ForwardedCertificate};
use crate::http1::{Limits, ServerHeader, Underscores};
use crate::path::EscapedSlashes;
use crate::xds::Origin;

/// The most that a head may take, whatever a configuration asks for: Envoy's bound (`max_request_headers_kb`).
const MAX_HEAD_KB: u32 = 8_192;
const MIN_BUFFER: u32 = 1 << 10;
const MAX_BUFFER: u32 = 4 << 20;

/// The manager's routes and settings, starting from the defaults of the listener's traffic direction.
pub(super) fn connection_manager(
    manager: hcm_proto::HttpConnectionManager,
    mut options: HttpOptions,
) -> Translated<(RouteSource, HttpOptions)> {
    let hcm_proto::HttpConnectionManager {
        codec_type,
        stat_prefix,
        route_specifier,
        http_filters,
        http_protocol_options,
        http2_protocol_options,
        server_name,
        drain_timeout,
        access_log,
        use_remote_address,
        generate_request_id,
        xff_num_trusted_hops,
        skip_xff_append,
        forward_client_cert_details,
        set_current_client_cert_details,
        via,
        upgrade_configs,
        stream_idle_timeout,
        delayed_close_timeout,
        request_timeout,
        max_request_headers_kb,
        normalize_path,
        preserve_external_request_id,
        merge_slashes,
        server_header_transformation,
        common_http_protocol_options,
        always_set_request_id_in_response,
        local_reply_config,
        stream_error_on_invalid_http_message,
        request_headers_timeout,
        path_with_escaped_slashes_action,
    } = manager;
    options.codec = match enum_value(codec_type).at("codec_type")? {
        CodecType::Auto => Codec::Auto,
        CodecType::Http1 => Codec::Http1,
        CodecType::Http2 => Codec::Http2,
        CodecType::Http3 => {
            return Err(Fault::new("HTTP3 is not supported by this version").under("codec_type"));
        }
    };
    if stream_error_on_invalid_http_message.unwrap_or(false) {
        let reason = "a connection on which something malformed came is always closed";
        return Err(Fault::new(reason).under("stream_error_on_invalid_http_message"));
    }
    if let Some(kb) = max_request_headers_kb {
        options.requests.limits.head_bytes = head_bytes(kb).at("max_request_headers_kb")?;
        let head_bytes = options.requests.limits.head_bytes;
        let lines = &mut options.requests.limits.line_bytes;
        *lines = (*lines).max(head_bytes);
    }
    let timeouts = &mut options.timeouts;
    set_time(&mut timeouts.header, request_headers_timeout).at("request_headers_timeout")?;
    set_time(&mut timeouts.request, request_timeout).at("request_timeout")?;
    if stream_idle_timeout.is_some() {
        set_time(&mut timeouts.stream_idle, stream_idle_timeout).at("stream_idle_timeout")?;
        let idle = timeouts.stream_idle;
        (timeouts.body_idle, timeouts.write, timeouts.tunnel_idle) = (idle, idle, idle);
        timeouts.body_idle_includes_grpc = true;
    }
    if let Some(time) = drain_timeout {
        timeouts.drain = duration(time).at("drain_timeout")?;
    }
    if let Some(time) = delayed_close_timeout {
        timeouts.delayed_close = duration(time).at("delayed_close_timeout")?;
    }
    if let Some(common) = common_http_protocol_options {
        self::common(common, &mut options).at("common_http_protocol_options")?;
    }
    if let Some(http1) = http_protocol_options {
        self::http1(http1, &mut options).at("http_protocol_options")?;
    }
    if let Some(http2) = http2_protocol_options {
        http2::options(http2, &mut options.http2).at("http2_protocol_options")?;
    }
    options.stat_prefix = stat_prefix.into();
    options.hop.is_edge = use_remote_address.unwrap_or(false);
    options.hop.trusted_hops = xff_num_trusted_hops;
    options.hop.appends_forwarded_for = !skip_xff_append;
    options.hop.generates_request_id = generate_request_id.unwrap_or(true);
    options.hop.keeps_external_request_id = preserve_external_request_id;
    options.hop.via = field_value(via).at("via")?.into();
    options.hop.client_certificate = ClientCertificate {
        rule: match enum_value(forward_client_cert_details).at("forward_client_cert_details")? {
            ForwardClientCertDetails::Sanitize => ForwardedCertificate::Sanitize,
            ForwardClientCertDetails::ForwardOnly => ForwardedCertificate::ForwardOnly,
            ForwardClientCertDetails::AppendForward => ForwardedCertificate::Append,
            ForwardClientCertDetails::SanitizeSet => ForwardedCertificate::Set,
            ForwardClientCertDetails::AlwaysForwardOnly => ForwardedCertificate::AlwaysForward,
        },
        details: certificate_details(set_current_client_cert_details.unwrap_or_default()),
    };
    options.answers_request_id = always_set_request_id_in_response;
    options.server = server_header(server_name, server_header_transformation)?;
    options.paths.normalize = normalize_path.unwrap_or(true);
    options.paths.merge_slashes = merge_slashes;
    options.paths.escaped_slashes = escaped_slashes(path_with_escaped_slashes_action)?;
    options.upgrades = each("upgrade_configs", upgrade_configs, upgrade)?;
    filters(http_filters, &mut options)?;
    options.access_logs = each("access_log", access_log, access::access_log)?;
    if let Some(config) = local_reply_config {
        options.local_replies = access::local_replies(config).at("local_reply_config")?;
    }
    let routes = match required("rds or route_config", route_specifier)? {
        RouteSpecifier::RouteConfig(config) => {
            RouteSource::Inline(Arc::new(route::routes(config, true).at("route_config")?))
        }
        RouteSpecifier::Rds(hcm_proto::Rds { config_source: source, route_config_name }) => {
            let (origin, patience) = config_source(source).at("config_source").at("rds")?;
            if route_config_name.is_empty() {
                return Err(Fault::new("is required").under("rds.route_config_name"));
            }
            match origin {
                Origin::Ads => RouteSource::Rds(route_config_name.into(), patience),
                Origin::File(path) => RouteSource::RdsFile(route_config_name.into(), path),
            }
        }
    };
    Ok((routes, options))
}

fn certificate_details(
    message: hcm_proto::http_connection_manager::SetCurrentClientCertDetails,
) -> CertificateDetails {
    let hcm_proto::http_connection_manager::SetCurrentClientCertDetails { subject, cert, dns, uri, chain } =
        message;
    CertificateDetails { subject: subject.unwrap_or(false), certificate: cert, chain, dns, uri }
}

fn common(message: core_proto::HttpProtocolOptions, options: &mut HttpOptions) -> Translated<()> {
    let core_proto::HttpProtocolOptions {
        idle_timeout,
        max_headers_count,
        max_connection_duration,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
        max_response_headers_kb,
    } = message;
    let timeouts = &mut options.timeouts;
    set_time(&mut timeouts.keep_alive, idle_timeout).at("idle_timeout")?;
    set_time(&mut timeouts.connection, max_connection_duration).at("max_connection_duration")?;
    set_time(&mut timeouts.exchange, max_stream_duration).at("max_stream_duration")?;
    let limits = &mut options.requests.limits;
    if let Some(count) = max_headers_count {
        limits.headers = header_count(count).at("max_headers_count")?;
    }
    limits.underscores =
        match enum_value(headers_with_underscores_action).at("headers_with_underscores_action")? {
            HeadersWithUnderscoresAction::Allow => Underscores::Allow,
            HeadersWithUnderscoresAction::RejectRequest => Underscores::Reject,
            HeadersWithUnderscoresAction::DropHeader => Underscores::Drop,
        };
    if let Some(count) = max_requests_per_connection {
        // 0 is no limit, as in Envoy.
        options.requests_per_connection = (count > 0).then_some(count);
        options.http2.requests = options.requests_per_connection;
    }
    if let Some(kb) = max_response_headers_kb {
        options.responses.head_bytes = head_bytes(kb).at("max_response_headers_kb")?;
        options.responses.line_bytes = options.responses.line_bytes.max(options.responses.head_bytes);
    }
    Ok(())
}

fn http1(message: core_proto::Http1ProtocolOptions, options: &mut HttpOptions) -> Translated<()> {
    let core_proto::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        enable_trailers,
        allow_chunked_length,
    } = message;
    if allow_chunked_length {
        let reason = "a message with both Content-Length and Transfer-Encoding is always refused";
        return Err(Fault::new(reason).under("allow_chunked_length"));
    }
    options.requests.absolute_form = allow_absolute_url.unwrap_or(true);
    options.requests.http10 = accept_http_10;
    options.default_host = field_value(default_host_for_http_10).at("default_host_for_http_10")?.into();
    options.forwards_trailers = enable_trailers;
    Ok(())
}

/// Bounds of the extension that stands among the filters; the router must end the chain.
fn filters(mut filters: Vec<hcm_proto::HttpFilter>, options: &mut HttpOptions) -> Translated<()> {
    let router = filters.pop();
    let at = format!("http_filters[{}]", filters.len());
    each("http_filters", filters, |filter| {
        let hcm_proto::HttpFilter { name: _, is_optional: _, disabled, config_type } = filter;
        let ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
        if type_url::message_name(&any.type_url) == "envoy.extensions.filters.http.router.v3.Router" {
            return Err(Fault::new("the router must be the last filter"));
        }
        if type_url::message_name(&any.type_url) == GrpcWeb::full_name() {
            let GrpcWeb {} = unpack(&any).at("typed_config")?;
            options.bridges_grpc_web = !disabled;
            return Ok(());
        }
        if type_url::message_name(&any.type_url) == HttpFault::full_name() {
            let injection = unpack(&any).and_then(injection::injection).at("typed_config")?;
            options.injection = (!disabled).then(|| Arc::new(injection));
            return Ok(());
        }
        let limits = unpack(&any).at("typed_config")?;
        if disabled { Ok(()) } else { self::limits(limits, options).at("typed_config") }
    })?;
    let reason = "the chain must end in the router";
    let hcm_proto::HttpFilter { name: _, is_optional: _, disabled, config_type } =
        router.ok_or_else(|| Fault::new(reason).under("http_filters"))?;
    let ConfigType::TypedConfig(any) = required("typed_config", config_type).at(&at)?;
    if disabled {
        return Err(Fault::new("the router cannot be disabled").under("disabled").under(&at));
    }
    let Router { dynamic_stats: _, start_child_span: _, suppress_envoy_headers: _ } =
        router_of(&any).at("typed_config").at(&at)?; // all ignorable
    Ok(())
}

fn router_of(any: &Any) -> Translated<Router> {
    unpack(any).map_err(|fault| Fault::new(format!("the chain must end in the router: {}", fault.reason)))
}

fn limits(message: HttpLimits, options: &mut HttpOptions) -> Translated<()> {
    let HttpLimits {
        max_uri_bytes,
        max_header_line_bytes,
        max_trailer_bytes,
        max_chunk_extension_bytes,
        body_idle_timeout,
        write_timeout,
        min_body_rate,
        min_body_rate_grace,
        tunnel_idle_timeout,
        max_connections_per_source,
    } = message;
    let requests = &mut options.requests.limits;
    requests.target_bytes = max_uri_bytes.map_or(requests.target_bytes, |n| n as usize);
    requests.line_bytes = max_header_line_bytes.map_or(requests.line_bytes, |n| n as usize);
    options.chunks.trailer_bytes = max_trailer_bytes.unwrap_or(options.chunks.trailer_bytes);
    options.chunks.extension_bytes = max_chunk_extension_bytes.unwrap_or(options.chunks.extension_bytes);
    let timeouts = &mut options.timeouts;
    set_time(&mut timeouts.body_idle, body_idle_timeout).at("body_idle_timeout")?;
    set_time(&mut timeouts.write, write_timeout).at("write_timeout")?;
    set_time(&mut timeouts.tunnel_idle, tunnel_idle_timeout).at("tunnel_idle_timeout")?;
    if min_body_rate.is_some() || min_body_rate_grace.is_some() {
        let default =
            timeouts.body_rate.unwrap_or(BodyRate { bytes_per_second: 240, grace: Duration::from_secs(10) });
        let bytes_per_second = min_body_rate.unwrap_or(default.bytes_per_second);
        let grace = min_body_rate_grace.map_or(Ok(default.grace), duration).at("min_body_rate_grace")?;
        timeouts.body_rate = (bytes_per_second > 0).then_some(BodyRate { bytes_per_second, grace });
    }
    if let Some(connections) = max_connections_per_source {
        let limit = SourceLimit { connections, includes_loopback: true };
        options.connections_per_source = (connections > 0).then_some(limit);
    }
    Ok(())
}

fn server_header(name: String, transformation: i32) -> Translated<ServerHeader> {
    let name: Box<str> = match field_value(name).at("server_name")?.as_str() {
        "" => "weir".into(),
        name => name.into(),
    };
    Ok(match enum_value(transformation).at("server_header_transformation")? {
        ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite(name),
        ServerHeaderTransformation::AppendIfAbsent => ServerHeader::IfAbsent(name),
        ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
    })
}

fn escaped_slashes(action: i32) -> Translated<EscapedSlashes> {
    Ok(match enum_value(action).at("path_with_escaped_slashes_action")? {
        PathWithEscapedSlashesAction::ImplementationSpecificDefault
        | PathWithEscapedSlashesAction::KeepUnchanged => EscapedSlashes::Keep,
        PathWithEscapedSlashesAction::RejectRequest => EscapedSlashes::Reject,
        PathWithEscapedSlashesAction::UnescapeAndRedirect => EscapedSlashes::Redirect,
        PathWithEscapedSlashesAction::UnescapeAndForward => EscapedSlashes::Forward,
    })
}

fn upgrade(config: UpgradeConfig) -> Translated<(Box<str>, bool)> {
    let UpgradeConfig { upgrade_type, enabled } = config;
    Ok((protocol(&upgrade_type)?, enabled.unwrap_or(true)))
}

/// The name of a protocol to switch to.
pub(super) fn protocol(upgrade_type: &str) -> Translated<Box<str>> {
    let lower = upgrade_type.to_ascii_lowercase();
    match lower.as_str() {
        "" => Err(Fault::new("is required").under("upgrade_type")),
        "h2c" => Err(Fault::new("h2c is never switched to: it would pass every rule").under("upgrade_type")),
        _ => Ok(lower.into()),
    }
}

/// Bytes of a head.
pub(super) fn head_bytes(kb: u32) -> Translated<usize> {
    match kb {
        1..=MAX_HEAD_KB => Ok(kb as usize * 1024),
        _ => Err(Fault::new(format!("{kb} is not from 1 to {MAX_HEAD_KB}"))),
    }
}

/// Lines of a head.
pub(super) fn header_count(count: u32) -> Translated<usize> {
    match count as usize {
        count @ 1..=Limits::MAX_HEADERS => Ok(count),
        count => Err(Fault::new(format!("{count} is not from 1 to {}", Limits::MAX_HEADERS))),
    }
}

/// Bytes for one direction of a connection.
pub(super) fn buffer_bytes(bytes: u32) -> Translated<usize> {
    match bytes {
        MIN_BUFFER..=MAX_BUFFER => Ok(bytes as usize),
        _ => Err(Fault::new(format!("{bytes} is not from {MIN_BUFFER} to {MAX_BUFFER}"))),
    }
}

/// A time that may be set, or turned off by 0.
pub(super) fn set_time(time: &mut Option<Duration>, set: Option<prost_types::Duration>) -> Translated<()> {
    if let Some(set) = set {
        *time = Some(duration(set)?).filter(|time| !time.is_zero());
    }
    Ok(())
}

/// A time of at most a year, so that no deadline overflows.
pub(super) fn duration(wire: prost_types::Duration) -> Translated<Duration> {
    match Duration::try_from(wire) {
        Ok(time) if time <= Duration::from_secs(365 * 86_400) => Ok(time),
        Ok(_) => Err(Fault::new("is more than a year")),
        Err(_) => Err(Fault::new("must not be negative")),
    }
}

/// A text that can stand in a header line.
pub(super) fn field_value(text: String) -> Translated<String> {
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && text.trim() == text {
        Ok(text)
    } else {
        Err(Fault::new(format!("{text:?} cannot stand in a header")))
    }
}

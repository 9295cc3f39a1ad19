//! What becomes of a request: forwarding, redirects, direct responses.

use std::time::Duration;

use xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use xds_proto::envoy::config::route::v3 as route_proto;
use xds_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use xds_proto::envoy::config::route::v3::route_action::upgrade_config::ConnectConfig;
use xds_proto::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, HostRewriteSpecifier, MaxStreamDuration, UpgradeConfig,
};
use xds_proto::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::http::{duration, field_value, protocol};
use super::matching::{is_token, substitution};
use super::overrides::Overrides;
use super::{access, split, unpack};
use crate::config::{
    DirectResponse, Forward, HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath, RouteOptions,
    RouteTimeout,
};

pub(super) fn forward(
    action: route_proto::RouteAction,
    path: &PathMatch,
    overrides: &Overrides,
) -> Translated<Forward> {
    let route_proto::RouteAction {
        cluster_specifier,
        metadata_match,
        prefix_rewrite,
        host_rewrite_specifier,
        timeout,
        priority,
        hash_policy,
        cluster_not_found_response_code,
        idle_timeout,
        upgrade_configs,
        regex_rewrite,
        max_stream_duration,
        append_x_forwarded_host: appends_forwarded_host,
        path_rewrite_policy,
    } = action;
    let timeout = match timeout.map(duration).transpose().at("timeout")? {
        None => RouteTimeout::Default,
        Some(Duration::ZERO) => RouteTimeout::Never,
        Some(time) => RouteTimeout::Whole(time),
    };
    let MaxStreamDuration { max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset } =
        max_stream_duration.unwrap_or_default();
    let time_of =
        |field: &str, time: Option<_>| time.map(duration).transpose().at(field).at("max_stream_duration");
    let exchange = time_of("max_stream_duration", max_stream_duration)?;
    let grpc_timeout_max = time_of("grpc_timeout_header_max", grpc_timeout_header_max)?;
    let grpc_timeout_offset = time_of("grpc_timeout_header_offset", grpc_timeout_header_offset)?;
    let mut terminates_connect = false;
    let upgrades = each("upgrade_configs", upgrade_configs, |config| {
        let UpgradeConfig { upgrade_type, enabled, connect_config } = config;
        let protocol = protocol(&upgrade_type)?;
        if let Some(ConnectConfig {}) = connect_config {
            if &*protocol != "connect" {
                return Err(Fault::new("is for CONNECT only").under("connect_config"));
            }
            terminates_connect = true;
        }
        Ok((protocol, enabled.unwrap_or(true)))
    })?;
    let options = RouteOptions {
        timeout,
        idle_timeout: idle_timeout.map(duration).transpose().at("idle_timeout")?,
        exchange,
        grpc_timeout_max,
        grpc_timeout_offset: grpc_timeout_offset.unwrap_or_default(),
        priority: super::cluster::priority(priority).at("priority")?,
        upgrades,
        terminates_connect,
        injection: overrides.injection()?,
        limits: overrides.limits.clone().map(Box::new),
    };
    let mut rewrites = Vec::new();
    if !prefix_rewrite.is_empty() {
        rewrites.push(prefix(prefix_rewrite, path).at("prefix_rewrite")?);
    }
    if let Some(regex) = regex_rewrite {
        rewrites.push(PathRewrite::Regex(substitution(regex).at("regex_rewrite")?));
    }
    if let Some(TypedExtensionConfig { name: _, typed_config }) = path_rewrite_policy {
        let at = "path_rewrite_policy.typed_config";
        let any = required(at, typed_config)?;
        let UriTemplateRewriteConfig { path_template_rewrite } = unpack(&any).at(at)?;
        let PathMatch::Template(template) = path else {
            return Err(Fault::new("is for routes that match by a template").under(at));
        };
        let rewrite = template.rewrite(&path_template_rewrite).map_err(|error| Fault::new(error.to_string()));
        rewrites.push(PathRewrite::Template(Box::new(rewrite.at("path_template_rewrite").at(at)?)));
    }
    if rewrites.len() > 1 {
        let reason = "only one of prefix_rewrite, regex_rewrite and path_rewrite_policy may be set";
        return Err(Fault::new(reason));
    }
    if *path == PathMatch::Connect && !rewrites.is_empty() {
        return Err(Fault::new("a CONNECT has no path to rewrite"));
    }
    Ok(Forward {
        split: split::split(cluster_specifier, metadata_match, hash_policy)?,
        options,
        path: rewrites.pop().unwrap_or_default(),
        host: host_rewrite(host_rewrite_specifier)?,
        appends_forwarded_host,
        cluster_not_found: match enum_value(cluster_not_found_response_code)
            .at("cluster_not_found_response_code")?
        {
            ClusterNotFoundResponseCode::ServiceUnavailable => 503,
            ClusterNotFoundResponseCode::NotFound => 404,
            ClusterNotFoundResponseCode::InternalServerError => 500,
        },
    })
}

/// What takes the place of the prefix that was matched. An expression has none: there it takes the place of the path.
fn prefix(text: String, path: &PathMatch) -> Translated<PathRewrite> {
    if matches!(path, PathMatch::Template(_)) {
        return Err(Fault::new("a template has no prefix; path_rewrite_policy rewrites its paths"));
    }
    path_text(text).map(|text| PathRewrite::Prefix(text.into()))
}

/// A text that can stand in a request target.
fn path_text(text: String) -> Translated<String> {
    if text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        Ok(text)
    } else {
        Err(Fault::new(format!("{text:?} cannot stand in a path")))
    }
}

/// A text that can stand in a Host line.
pub(super) fn host_text(text: String) -> Translated<Box<str>> {
    if !text.is_empty() && crate::http1::is_host(text.as_bytes()) {
        Ok(text.into())
    } else {
        Err(Fault::new(format!("{text:?} is not a host")))
    }
}

fn host_rewrite(specifier: Option<HostRewriteSpecifier>) -> Translated<HostRewrite> {
    Ok(match specifier {
        None | Some(HostRewriteSpecifier::AutoHostRewrite(false)) => HostRewrite::Keep,
        Some(HostRewriteSpecifier::AutoHostRewrite(true)) => HostRewrite::Endpoint,
        Some(HostRewriteSpecifier::HostRewriteLiteral(text)) => {
            HostRewrite::Literal(host_text(text).at("host_rewrite_literal")?)
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            HostRewrite::Header(header_name(&name).at("host_rewrite_header")?)
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(regex)) => {
            HostRewrite::PathRegex(substitution(regex).at("host_rewrite_path_regex")?)
        }
    })
}

/// The name of a header, in lower case.
pub(super) fn header_name(name: &str) -> Translated<Box<str>> {
    let lower = name.to_ascii_lowercase();
    if is_token(&lower) {
        Ok(lower.into())
    } else {
        Err(Fault::new(format!("{name:?} is not a header name")))
    }
}

pub(super) fn redirect(message: route_proto::RedirectAction, path: &PathMatch) -> Translated<Redirect> {
    let route_proto::RedirectAction {
        host_redirect,
        response_code,
        strip_query: strips_query,
        port_redirect,
        path_rewrite_specifier,
        scheme_rewrite_specifier,
    } = message;
    let scheme: Option<Box<str>> = match scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if scheme.is_empty() => None,
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
            let valid = scheme.bytes().enumerate().all(|(i, b)| {
                b.is_ascii_alphabetic() || (i > 0 && (b.is_ascii_digit() || b"+-.".contains(&b)))
            });
            if !valid {
                return Err(Fault::new(format!("{scheme:?} is not a scheme")).under("scheme_redirect"));
            }
            Some(scheme.to_ascii_lowercase().into())
        }
    };
    let path = match path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(text)) if text.is_empty() => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(text)) => {
            RedirectPath::Replace(path_text(text).at("path_redirect")?.into())
        }
        Some(PathRewriteSpecifier::PrefixRewrite(text)) => {
            RedirectPath::Rewrite(prefix(text, path).at("prefix_rewrite")?)
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            RedirectPath::Rewrite(PathRewrite::Regex(substitution(regex).at("regex_rewrite")?))
        }
    };
    let port = match port_redirect {
        0 => None,
        port => Some(
            u16::try_from(port)
                .map_err(|_| Fault::new(format!("{port} is not a port")).under("port_redirect"))?,
        ),
    };
    Ok(Redirect {
        status: match enum_value(response_code).at("response_code")? {
            RedirectResponseCode::MovedPermanently => 301,
            RedirectResponseCode::Found => 302,
            RedirectResponseCode::SeeOther => 303,
            RedirectResponseCode::TemporaryRedirect => 307,
            RedirectResponseCode::PermanentRedirect => 308,
        },
        scheme,
        host: if host_redirect.is_empty() {
            None
        } else {
            Some(host_text(host_redirect).at("host_redirect")?)
        },
        port,
        path,
        strips_query,
    })
}

pub(super) fn direct_response(
    message: route_proto::DirectResponseAction,
    max_body: usize,
) -> Translated<DirectResponse> {
    let route_proto::DirectResponseAction { status, body, body_format } = message;
    let status = match status {
        200..=599 => status as u16,
        other => return Err(Fault::new(format!("{other} is not a status from 200 to 599")).under("status")),
    };
    let body = body.map(access::data_source).transpose().at("body")?.unwrap_or_default();
    if body.len() > max_body {
        let reason = format!(
            "{} bytes are more than max_direct_response_body_size_bytes, which is {max_body}",
            body.len()
        );
        return Err(Fault::new(reason).under("body"));
    }
    let format = body_format.map(access::body_of_reply).transpose().at("body_format")?;
    Ok(DirectResponse { status, body: body.into(), format })
}

/// A text that can stand in an attribute of a cookie.
pub(super) fn cookie_text(text: String) -> Translated<Box<str>> {
    if text.contains([';', ',']) {
        return Err(Fault::new(format!("{text:?} cannot stand in a cookie")));
    }
    field_value(text).map(Into::into)
}

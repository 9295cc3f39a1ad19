//! Access logs and local replies: sinks, formats, filters.

use std::sync::Arc;

use xds_proto::envoy::config::accesslog::v3 as log_proto;
use xds_proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use xds_proto::envoy::config::accesslog::v3::comparison_filter::Op;
use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::data_source::Specifier;
use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_proto::envoy::config::core::v3::substitution_format_string::Format as WireFormat;
use xds_proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use xds_proto::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat as FileFormat;
use xds_proto::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm_proto;
use xds_proto::prost_types::{Struct, Value, value};
use xds_proto::type_url;

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::{matching, unpack};
use crate::access::{AccessLogConfig, Comparison, Filter, Format, JsonValue, Sink};
use crate::local_reply::{BodyFormat, HeaderLine, LocalReplies, Mapper};

/// Nesting of filters.
const MAX_DEPTH: usize = 16;

pub(super) fn access_log(log: log_proto::AccessLog) -> Translated<AccessLogConfig> {
    let log_proto::AccessLog { name: _, filter, config_type } = log; // the name only labels the type
    let filter = filter.map(|filter| self::filter(filter, 0)).transpose().at("filter")?;
    let log_proto::access_log::ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
    let (sink, format) = match type_url::message_name(&any.type_url) {
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let StdoutAccessLog { access_log_format } = unpack(&any).at("typed_config")?;
            let format = access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(f)| f);
            (Sink::Stdout, log_format(format).at("log_format"))
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let StderrAccessLog { access_log_format } = unpack(&any).at("typed_config")?;
            let format = access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(f)| f);
            (Sink::Stderr, log_format(format).at("log_format"))
        }
        _ => {
            let FileAccessLog { path, access_log_format } = unpack(&any).at("typed_config")?;
            if path.is_empty() {
                return Err(Fault::new("is required").under("path").under("typed_config"));
            }
            // Envoy's users write these paths; opened as files they would be truncated or rotated.
            let sink = match path.as_str() {
                "/dev/stdout" => Sink::Stdout,
                "/dev/stderr" => Sink::Stderr,
                _ => Sink::File(path.into()),
            };
            (sink, file_format(access_log_format))
        }
    };
    Ok(AccessLogConfig { sink, format: format.at("typed_config")?, filter })
}

fn file_format(format: Option<FileFormat>) -> Translated<Arc<Format>> {
    match format {
        None => Ok(Format::standard()),
        Some(FileFormat::Format(text)) => text_format(&text, false).at("format"),
        Some(FileFormat::JsonFormat(document)) => json_format(document, false).at("json_format"),
        Some(FileFormat::TypedJsonFormat(document)) => json_format(document, false).at("typed_json_format"),
        Some(FileFormat::LogFormat(format)) => log_format(Some(format)).at("log_format"),
    }
}

fn log_format(format: Option<core_proto::SubstitutionFormatString>) -> Translated<Arc<Format>> {
    match format {
        None => Ok(Format::standard()),
        Some(format) => Ok(substitution(format)?.format),
    }
}

/// The same for a body, in which values stand as they are.
pub(super) fn body_of_reply(message: core_proto::SubstitutionFormatString) -> Translated<BodyFormat> {
    let BodyFormat { format, content_type } = substitution(message)?;
    Ok(BodyFormat { format: Arc::new(Format::clone(&format).unescaped()), content_type })
}

/// A format string with the content type of what it makes.
fn substitution(message: core_proto::SubstitutionFormatString) -> Translated<BodyFormat> {
    let core_proto::SubstitutionFormatString { omit_empty_values, content_type, format } = message;
    let (format, default_type) = match required("text_format, json_format or text_format_source", format)? {
        WireFormat::TextFormat(text) => {
            (text_format(&text, omit_empty_values).at("text_format")?, "text/plain")
        }
        WireFormat::JsonFormat(document) => {
            (json_format(document, omit_empty_values).at("json_format")?, "application/json")
        }
        WireFormat::TextFormatSource(source) => {
            let text = data_source(source).at("text_format_source")?;
            (text_format(&text, omit_empty_values).at("text_format_source")?, "text/plain")
        }
    };
    let content_type = super::http::field_value(content_type).at("content_type")?;
    let content_type = if content_type.is_empty() { default_type.into() } else { content_type.into() };
    Ok(BodyFormat { format, content_type })
}

fn text_format(text: &str, omits_empty: bool) -> Translated<Arc<Format>> {
    Format::text(text, omits_empty).map(Arc::new).map_err(|error| Fault::new(error.to_string()))
}

fn json_format(document: Struct, omits_empty: bool) -> Translated<Arc<Format>> {
    let document = object(document);
    Format::json(&document, omits_empty).map(Arc::new).map_err(|error| Fault::new(error.to_string()))
}

fn object(document: Struct) -> JsonValue {
    JsonValue::Object(document.fields.into_iter().map(|(key, value)| (key, json_value(value))).collect())
}

pub(super) fn json_value(value: Value) -> JsonValue {
    match value.kind {
        None | Some(value::Kind::NullValue(_)) => JsonValue::Null,
        Some(value::Kind::BoolValue(value)) => JsonValue::Bool(value),
        Some(value::Kind::NumberValue(number)) if number.is_finite() => JsonValue::Number(number.to_string()),
        Some(value::Kind::NumberValue(_)) => JsonValue::Null,
        Some(value::Kind::StringValue(text)) => JsonValue::Text(text),
        Some(value::Kind::ListValue(list)) => {
            JsonValue::List(list.values.into_iter().map(json_value).collect())
        }
        Some(value::Kind::StructValue(document)) => object(document),
    }
}

pub(super) fn data_source(source: core_proto::DataSource) -> Translated<String> {
    let core_proto::DataSource { specifier, watched_directory } = source;
    if watched_directory.is_some() {
        return Err(Fault::new("is for certificates").under("watched_directory"));
    }
    match required("inline_string or inline_bytes", specifier)? {
        Specifier::Filename(_) => Err(Fault::new("text is not read from files").under("filename")),
        Specifier::EnvironmentVariable(_) => {
            Err(Fault::new("text is not read from the environment").under("environment_variable"))
        }
        Specifier::InlineString(text) => Ok(text),
        Specifier::InlineBytes(bytes) => {
            String::from_utf8(bytes).map_err(|_| Fault::new("is not UTF-8").under("inline_bytes"))
        }
    }
}

fn filter(message: log_proto::AccessLogFilter, depth: usize) -> Translated<Filter> {
    if depth >= MAX_DEPTH {
        return Err(Fault::new(format!("filters are nested more than {MAX_DEPTH} deep")));
    }
    let log_proto::AccessLogFilter { filter_specifier } = message;
    match required("filter_specifier", filter_specifier)? {
        FilterSpecifier::StatusCodeFilter(log_proto::StatusCodeFilter { comparison }) => {
            let (op, figure) = self::comparison(comparison).at("status_code_filter")?;
            Ok(Filter::Status(op, figure))
        }
        FilterSpecifier::DurationFilter(log_proto::DurationFilter { comparison }) => {
            let (op, figure) = self::comparison(comparison).at("duration_filter")?;
            Ok(Filter::Duration(op, figure))
        }
        FilterSpecifier::AndFilter(log_proto::AndFilter { filters }) => {
            Ok(Filter::And(each("filters", filters, |f| filter(f, depth + 1)).at("and_filter")?))
        }
        FilterSpecifier::OrFilter(log_proto::OrFilter { filters }) => {
            Ok(Filter::Or(each("filters", filters, |f| filter(f, depth + 1)).at("or_filter")?))
        }
        FilterSpecifier::HeaderFilter(log_proto::HeaderFilter { header }) => {
            let header = required("header", header).and_then(|h| matching::header_match(h).at("header"));
            Ok(Filter::Header(header.at("header_filter")?))
        }
        FilterSpecifier::ResponseFlagFilter(log_proto::ResponseFlagFilter { flags }) => {
            Ok(Filter::Flags(flags.into_iter().map(Into::into).collect()))
        }
    }
}

fn comparison(message: Option<log_proto::ComparisonFilter>) -> Translated<(Comparison, u32)> {
    let log_proto::ComparisonFilter { op, value } = required("comparison", message)?;
    let op = match enum_value(op).at("comparison.op")? {
        Op::Eq => Comparison::Equal,
        Op::Ge => Comparison::AtLeast,
        Op::Le => Comparison::AtMost,
        Op::Ne => Comparison::NotEqual,
    };
    // runtime_key: ignorable
    let core_proto::RuntimeUInt32 { default_value, runtime_key: _ } =
        required("value", value).at("comparison")?;
    Ok((op, default_value))
}

pub(super) fn local_replies(config: hcm_proto::LocalReplyConfig) -> Translated<LocalReplies> {
    let hcm_proto::LocalReplyConfig { mappers, body_format } = config;
    Ok(LocalReplies {
        mappers: each("mappers", mappers, mapper)?,
        body: body_format.map(body_of_reply).transpose().at("body_format")?,
    })
}

fn mapper(message: hcm_proto::ResponseMapper) -> Translated<Mapper> {
    let hcm_proto::ResponseMapper { filter, status_code, body, body_format_override, headers_to_add } =
        message;
    let status = match status_code {
        None => None,
        Some(code @ 200..=599) => Some(code as u16),
        Some(code) => {
            return Err(Fault::new(format!("{code} is not a status from 200 to 599")).under("status_code"));
        }
    };
    Ok(Mapper {
        filter: required("filter", filter).and_then(|f| self::filter(f, 0).at("filter"))?,
        status,
        text: body.map(data_source).transpose().at("body")?.map(Into::into),
        body: body_format_override.map(body_of_reply).transpose().at("body_format_override")?,
        headers: each("headers_to_add", headers_to_add, header_line)?,
    })
}

fn header_line(option: core_proto::HeaderValueOption) -> Translated<HeaderLine> {
    let core_proto::HeaderValueOption { header, append, append_action, keep_empty_value } = option;
    let core_proto::HeaderValue { key, value } = required("header", header)?;
    if value.is_empty() && !keep_empty_value {
        return Err(Fault::new("is required, unless keep_empty_value is set").under("header.value"));
    }
    let name = key.to_ascii_lowercase();
    if !matching::is_token(&name) {
        return Err(Fault::new(format!("{key:?} is not a header name")).under("header.key"));
    }
    const FRAMING: [&str; 6] =
        ["connection", "content-length", "date", "server", "transfer-encoding", "upgrade"];
    if FRAMING.contains(&name.as_str()) {
        return Err(Fault::new(format!("{key:?} is written by the proxy itself")).under("header.key"));
    }
    // A reply of our own has none of these lines yet, so that adding, setting and completing are the same; only what
    // would change an existing line has nothing to change.
    match enum_value(append_action).at("append_action")? {
        HeaderAppendAction::AppendIfExistsOrAdd
        | HeaderAppendAction::AddIfAbsent
        | HeaderAppendAction::OverwriteIfExistsOrAdd => {}
        HeaderAppendAction::OverwriteIfExists if name == "content-type" => {}
        HeaderAppendAction::OverwriteIfExists => {
            return Err(Fault::new("a local reply has no such header to overwrite").under("append_action"));
        }
    }
    let _ = append; // an older spelling of append_action, with the same effect here
    let value =
        Format::text(&value, true).map_err(|error| Fault::new(error.to_string()).under("header.value"))?;
    Ok(HeaderLine { name: name.into(), value: Arc::new(value) })
}

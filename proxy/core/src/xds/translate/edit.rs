//! Header lines to add and to take away.

use std::sync::Arc;

use xds_proto::envoy::config::core::v3 as core_proto;
use xds_proto::envoy::config::core::v3::HeaderValueOption;
use xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use super::cluster::enum_value;
use super::fault::{At, Fault, Translated, each, required};
use super::matching::is_token;
use crate::access::Format;
use crate::config::{Append, EditList, HeaderAddition, HeaderEdits, HeaderText};

/// Lines that frame the message, name its target, or speak about this hop: the proxy writes them itself.
const OWN: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `(to add, to remove)` of requests and of responses.
pub(super) fn edits(
    (request_add, request_remove): (Vec<HeaderValueOption>, Vec<String>),
    (response_add, response_remove): (Vec<HeaderValueOption>, Vec<String>),
) -> Translated<HeaderEdits> {
    let request = EditList {
        remove: each("request_headers_to_remove", request_remove, |name| self::name(&name))?,
        add: each("request_headers_to_add", request_add, addition)?,
    };
    let response = EditList {
        remove: each("response_headers_to_remove", response_remove, |name| self::name(&name))?,
        add: each("response_headers_to_add", response_add, addition)?,
    };
    Ok(HeaderEdits::new(request, response))
}

fn name(text: &str) -> Translated<Box<str>> {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with(':') || OWN.contains(&lower.as_str()) {
        return Err(Fault::new(format!("{text:?} is written by the proxy itself")));
    }
    if !is_token(&lower) {
        return Err(Fault::new(format!("{text:?} is not a header name")));
    }
    Ok(lower.into())
}

fn addition(option: HeaderValueOption) -> Translated<HeaderAddition> {
    let HeaderValueOption { header, append, append_action, keep_empty_value } = option;
    let core_proto::HeaderValue { key, value } = required("header", header)?;
    let name = name(&key).at("header.key")?;
    let action = enum_value(append_action).at("append_action")?;
    let append = match (append, action) {
        (None, HeaderAppendAction::AppendIfExistsOrAdd)
        | (Some(true), HeaderAppendAction::AppendIfExistsOrAdd) => Append::Append,
        // An older spelling.
        (Some(false), HeaderAppendAction::AppendIfExistsOrAdd) => Append::Overwrite,
        (None, HeaderAppendAction::AddIfAbsent) => Append::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Append::Overwrite,
        (None, HeaderAppendAction::OverwriteIfExists) => Append::OverwriteIfPresent,
        (Some(_), _) => {
            return Err(Fault::new("only one of append and append_action may be set").under("append"));
        }
    };
    Ok(HeaderAddition { name, value: text(value).at("header.value")?, append, keeps_empty: keep_empty_value })
}

/// What a line says: as it is, unless there is something to fill in.
fn text(value: String) -> Translated<HeaderText> {
    if value.contains('%') {
        let format = Format::text(&value, true).map_err(|error| Fault::new(error.to_string()))?;
        return Ok(HeaderText::Format(Arc::new(format.unescaped())));
    }
    super::http::field_value(value).map(|value| HeaderText::Fixed(value.into()))
}

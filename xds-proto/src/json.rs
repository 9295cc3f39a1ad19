//! The JSON and YAML form of messages, as Envoy writes and reads it.
//!
//! Driven by descriptors through `prost-reflect`: right for a bootstrap file and for dumps, too slow for files of
//! thousands of resources.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    SerializeOptions,
};
use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::type_url;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTORS).expect("the committed descriptors decode"));

/// The descriptors of everything in `proto/`.
pub fn descriptor_pool() -> &'static DescriptorPool {
    &POOL
}

/// A document that is not the message it should be.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not YAML (or JSON), or not of the message's shape.
    #[error("{}{message}", place(*line, *column))]
    Document {
        /// 1-based line, if known.
        line: Option<u64>,
        /// 1-based column, if known.
        column: Option<u64>,
        /// What is wrong.
        message: String,
    },
    /// The message type is not in the subset.
    #[error("unknown type {0}")]
    UnknownType(String),
}

fn place(line: Option<u64>, column: Option<u64>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: "),
        _ => String::new(),
    }
}

impl From<serde_saphyr::Error> for ReadError {
    fn from(error: serde_saphyr::Error) -> Self {
        let location = error.location();
        Self::Document {
            line: location.map(|l| l.line()),
            column: location.map(|l| l.column()),
            message: yaml_message(&error),
        }
    }
}

/// The reason alone: no snippet, no place.
pub fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    match first.rfind(" at line ") {
        Some(at) => first[..at].to_owned(),
        None => first.to_owned(),
    }
}

/// Reads a YAML or JSON document as message `M`. Keys that `M` lacks are refused inside resources (listeners,
/// clusters) and returned as warnings (their paths) elsewhere: Envoy's own bootstrap has many that do not concern this
/// proxy.
///
/// # Errors
/// [`ReadError`] with line and column, or with the path of a key that is not known.
pub fn from_yaml<M: Message + Default + prost::Name>(text: &str) -> Result<(M, Vec<String>), ReadError> {
    let descriptor =
        POOL.get_message_by_name(&M::full_name()).ok_or_else(|| ReadError::UnknownType(M::full_name()))?;
    let value: Value = serde_saphyr::from_str(text)?;
    let mut unknown = UnknownKeys::default();
    unknown.collect(&value, &descriptor, false, "");
    if let Some(message) = unknown.in_resources.into_iter().next() {
        return Err(ReadError::Document { line: None, column: None, message });
    }
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        Seed { descriptor: descriptor.clone(), options: &options }.deserialize(deserializer)
    })?;
    let typed = M::decode(message.encode_to_vec().as_slice()).map_err(|error| ReadError::Document {
        line: None,
        column: None,
        message: error.to_string(),
    })?;
    Ok((typed, unknown.elsewhere))
}

struct Seed<'a> {
    descriptor: MessageDescriptor,
    options: &'a DeserializeOptions,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = DynamicMessage;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<DynamicMessage, D::Error> {
        DynamicMessage::deserialize_with_options(self.descriptor, deserializer, self.options)
    }
}

/// Keys of a document that its message type lacks.
#[derive(Default)]
struct UnknownKeys {
    /// Sentences: these are refused.
    in_resources: Vec<String>,
    /// Paths: these are reported.
    elsewhere: Vec<String>,
}

impl UnknownKeys {
    fn collect(&mut self, value: &Value, message: &MessageDescriptor, in_resource: bool, path: &str) {
        let Value::Object(object) = value else { return };
        let opened = object.get("@type").and_then(Value::as_str).filter(|_| is_any(message));
        let opened = opened.and_then(|url| POOL.get_message_by_name(type_url::message_name(url)));
        let message = opened.as_ref().unwrap_or(message);
        if message.full_name().starts_with("google.protobuf.") {
            return;
        }
        let in_resource = in_resource || RESOURCES.contains(&message.full_name());
        for (key, inner) in object {
            let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match field_named(message, key) {
                Some(field) => self.collect_field(inner, &field, in_resource, &at),
                None if key == "@type" && opened.is_some() => {}
                None if in_resource => self.in_resources.push(unknown_key(&at, key, message)),
                None => self.elsewhere.push(at),
            }
        }
    }

    fn collect_field(&mut self, value: &Value, field: &FieldDescriptor, in_resource: bool, at: &str) {
        let message = match field.kind() {
            Kind::Message(message) => message,
            Kind::Enum(known) => {
                // The deserializer, lenient as it must be about keys, would take such a word for the default.
                let words = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                for word in
                    words.iter().filter_map(Value::as_str).filter(|w| known.get_value_by_name(w).is_none())
                {
                    let names: Vec<_> = known.values().map(|v| v.name().to_owned()).collect();
                    let hint = did_you_mean(word, names.iter().map(String::as_str));
                    self.in_resources.push(format!("{at}: `{word}` is not a {}{hint}", known.name()));
                }
                return;
            }
            _ => return,
        };
        match value {
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.collect(item, &message, in_resource, &format!("{at}[{i}]"));
                }
            }
            Value::Object(entries) if field.is_map() => {
                let Kind::Message(inner) = message.map_entry_value_field().kind() else {
                    return;
                };
                for (key, item) in entries {
                    self.collect(item, &inner, in_resource, &format!("{at}[{key:?}]"));
                }
            }
            _ => self.collect(value, &message, in_resource, at),
        }
    }
}

/// Inside these, an unknown key may be a security setting that nobody would enforce.
const RESOURCES: &[&str] = &["envoy.config.listener.v3.Listener", "envoy.config.cluster.v3.Cluster"];

fn is_any(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.protobuf.Any"
}

fn unknown_key(path: &str, key: &str, message: &MessageDescriptor) -> String {
    let fields: Vec<_> = message.fields().map(|f| f.name().to_owned()).collect();
    let hint = did_you_mean(key, fields.iter().map(String::as_str));
    format!("{path}: {} has no field `{key}`{hint}", message.name())
}

/// `, did you mean ...?` for the nearest of `candidates`, or nothing when none is near.
pub fn did_you_mean<'a>(key: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| format!(", did you mean `{candidate}`?"))
        .unwrap_or_default()
}

fn field_named(message: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(key).or_else(|| message.get_field_by_json_name(key))
}

/// A message as JSON with Envoy's field names; `Any` values are opened.
///
/// # Errors
/// If the type is unknown or the bytes do not decode as it.
pub fn to_json(full_name: &str, bytes: &[u8]) -> Result<Value, ReadError> {
    let unknown = || ReadError::UnknownType(full_name.to_owned());
    let descriptor = POOL.get_message_by_name(full_name).ok_or_else(unknown)?;
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|_| unknown())?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|_| unknown())
}

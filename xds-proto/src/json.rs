//! The JSON and YAML form of messages, as Envoy writes and reads it ("ProtoJSON Format" of protobuf's documentation).
//!
//! Reading is a stream: each value goes from the text straight into the bytes of the wire, driven by the schema, and no
//! tree is built. What is wrong is said with its line, its column and its path. Writing, for dumps, goes through
//! `prost-reflect`.

mod forms;
mod place;
mod scalar;
mod writer;

use std::fmt;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::gate::Gate;
use crate::schema::Schema;
pub use place::{Place, place_of};
use writer::{MessageSeed, Writer};

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTORS).expect("the committed descriptors decode"));

/// The descriptors of everything in `proto/`.
pub fn descriptor_pool() -> &'static DescriptorPool {
    &POOL
}

/// A document that is not the message it should be. As text: `line:column: path: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ReadError {
    /// Where, if that is known.
    pub place: Option<Place>,
    /// What is wrong, with the path of the field.
    pub message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The reason alone: no snippet, no place.
pub fn yaml_message(error: &serde_saphyr::Error) -> String {
    match without_place(&error.without_snippet().to_string()).as_str() {
        "expected mapping start" => "a map is expected here".to_owned(),
        "expected sequence start" => "a list is expected here".to_owned(),
        "expected string scalar" => "a text is expected here".to_owned(),
        other => other.to_owned(),
    }
}

fn without_place(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    match first.rfind(" at line ") {
        Some(at) => first[..at].to_owned(),
        None => first.to_owned(),
    }
}

/// Reads a YAML or JSON document as message `M`. Keys that `M` lacks are refused; only in a bootstrap, outside its listeners
/// and clusters, they are returned (their paths): Envoy's own has many that do not concern this proxy.
///
/// # Errors
/// [`ReadError`] with line, column and path.
pub fn read<M: Message + Default + prost::Name>(text: &str) -> Result<(M, Vec<String>), ReadError> {
    let (bytes, unknown) = to_wire(&M::full_name(), text)?;
    let message =
        M::decode(bytes.as_slice()).map_err(|error| ReadError { place: None, message: error.to_string() })?;
    Ok((message, unknown))
}

/// The same, as the bytes of the wire.
///
/// # Errors
/// As [`read`].
pub fn to_wire(full_name: &str, text: &str) -> Result<(Vec<u8>, Vec<String>), ReadError> {
    let schema: &'static Schema = Gate::standard().schema();
    let Some(message) = schema.message(full_name) else {
        return Err(ReadError { place: None, message: format!("unknown type {full_name}") });
    };
    let is_strict = full_name != BOOTSTRAP;
    // The bytes of the wire are about half of the text.
    let writer = Writer::new(schema, text.len() / 2);
    let seed = || MessageSeed { writer: &writer, message, is_strict };
    let failed = |place: Option<Place>, message: String| {
        let path = writer.path();
        let message = if path.is_empty() { message } else { format!("{path}: {message}") };
        ReadError { place, message }
    };
    if text.trim_start().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(text);
        match seed().deserialize(&mut json).and_then(|()| json.end()) {
            Ok(()) => return Ok(writer.finish()),
            // A YAML document may start with a brace as well.
            Err(error) if error.is_syntax() || error.is_eof() => writer.restart(),
            Err(error) => {
                let message = without_place(&error.to_string());
                let by_path =
                    message.starts_with(CANNOT_STAND).then(|| place_of(text, &writer.path())).flatten();
                return Err(failed(by_path.or_else(|| place::of_json_error(text, &error)), message));
            }
        }
    }
    match yaml(text, |deserializer| seed().deserialize(deserializer)) {
        Ok(()) => Ok(writer.finish()),
        Err(error) => {
            let message = yaml_message(&error);
            // The parser does not know where a value of the wrong kind stands, or one too many.
            let is_vague = message.starts_with("invalid ") || message.starts_with(CANNOT_STAND);
            let by_path = is_vague.then(|| place_of(text, &writer.path())).flatten();
            Err(failed(by_path.or_else(|| place::of_yaml_error(&error)), message))
        }
    }
}

/// Reads YAML. A file may be large, and say the same thing many times; how deep it is, and what its aliases add up to, stays
/// bounded.
fn yaml<T>(
    text: &str,
    read: impl FnOnce(serde_saphyr::Deserializer<'_, '_>) -> Result<T, serde_saphyr::Error>,
) -> Result<T, serde_saphyr::Error> {
    let budget = serde_saphyr::budget! {
        max_events: 50_000_000,
        max_nodes: 20_000_000,
        enforce_alias_anchor_ratio: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(
        text,
        serde_saphyr::options! { budget: budget },
        read,
    )
}

/// How a refusal of two fields that exclude one another begins.
const CANNOT_STAND: &str = "cannot stand beside";

/// The only document whose unknown keys are not refused.
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// `, did you mean ...?` for the nearest of `candidates`, or nothing when none is near.
pub fn did_you_mean<'a>(key: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let length = key.chars().count();
    candidates
        .into_iter()
        // What is longer or shorter by more cannot be near.
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= 1 + candidate.len() / 4)
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| format!(", did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// A message as JSON with Envoy's field names; `Any` values are opened.
///
/// # Errors
/// If the type is unknown or the bytes do not decode as it.
pub fn to_json(full_name: &str, bytes: &[u8]) -> Result<Value, ReadError> {
    let unknown = || ReadError { place: None, message: format!("unknown type {full_name}") };
    let descriptor = POOL.get_message_by_name(full_name).ok_or_else(unknown)?;
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|_| unknown())?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|_| unknown())
}

#[cfg(test)]
mod tests;

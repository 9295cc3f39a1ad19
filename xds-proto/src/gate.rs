//! The gate: nothing that Weir does not understand gets past it.
//!
//! A protobuf decoder drops fields it does not know. For a proxy that is a security hole: an RBAC policy whose narrowing
//! condition is dropped allows everyone. The gate walks the bytes of a resource *before* they are decoded, opens every
//! `Any`, and refuses each field, enum number and message type that is not in the subset, by name and place.
//!
//! It decides only "known or not". Whether a known value makes sense is translation's question.
//!
//! Cost: one pass over the bytes, no allocation for a resource that passes (about 1 ms for 10,000 endpoints).

mod refusal;
mod walk;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use prost::Message;
use prost_types::{Any, FileDescriptorSet};

pub use refusal::{Problem, Refusal};

use crate::fields::IGNORABLE;
use crate::schema::Schema;
use crate::type_url;

/// How deep and how large a resource may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages within messages, the content of an `Any` included. prost stops at 100.
    pub depth: usize,
    /// Bytes of one resource.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 32, bytes: 64 << 20 }
    }
}

/// The name of a resource, read without decoding it: xDS has it in field 1 of every type.
pub fn resource_name(bytes: &[u8]) -> Option<String> {
    walk::first_string(bytes)
}

/// A schema and the limits under which resources are held against it.
#[derive(Debug)]
pub struct Gate {
    schema: Schema,
    limits: Limits,
}

/// A field that a resource sets and that this version accepts without acting upon it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IgnoredField {
    /// Full message name.
    pub message: String,
    /// Field name.
    pub field: String,
}

/// The resource holds nothing unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Fields that were set and are ignorable, each once, sorted.
    pub ignored: Vec<IgnoredField>,
}

impl Gate {
    /// The gate over Weir's own subset.
    pub fn standard() -> &'static Self {
        static STANDARD: LazyLock<Gate> = LazyLock::new(|| {
            let set =
                FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the committed descriptors decode");
            Gate::new(Schema::new(&set, IGNORABLE), Limits::default())
        });
        &STANDARD
    }

    /// The table of messages that it holds resources against.
    pub(crate) const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// A gate over another schema.
    pub fn new(schema: Schema, limits: Limits) -> Self {
        Self { schema, limits }
    }

    /// Holds one resource, as it arrived, against the schema.
    ///
    /// # Errors
    /// The first thing that is not understood, with type, resource name and field path.
    pub fn admit(&self, resource: &Any) -> Result<Admitted, Refusal> {
        self.admit_message(type_url::message_name(&resource.type_url), &resource.value)
    }

    /// As [`Gate::admit`], for bytes whose message type is known from elsewhere.
    ///
    /// # Errors
    /// As [`Gate::admit`].
    pub fn admit_message(&self, full_name: &str, bytes: &[u8]) -> Result<Admitted, Refusal> {
        let refuse = |path: String, problem| Refusal {
            type_name: full_name.to_owned(),
            resource: walk::first_string(bytes),
            path,
            problem,
        };
        let Some(message) = self.schema.message(full_name) else {
            return Err(refuse(String::new(), Problem::UnknownType { name: full_name.to_owned() }));
        };
        if bytes.len() > self.limits.bytes {
            return Err(refuse(
                String::new(),
                Problem::TooLarge { bytes: bytes.len(), limit: self.limits.bytes },
            ));
        }
        let mut seen = BTreeSet::new();
        let mut walker = walk::Walker::new(&self.schema, self.limits.depth, &mut seen);
        walker.message(message, bytes, 0).map_err(|failure| refuse(failure.path(), failure.problem))?;
        let ignored = seen
            .into_iter()
            .map(|(message, field)| {
                let message = &self.schema.messages[message];
                IgnoredField { message: message.name.clone(), field: message.fields[field].name.clone() }
            })
            .collect();
        Ok(Admitted { ignored })
    }
}

//! Why a resource was refused, and where.

use std::fmt;

/// A resource that holds something this version does not understand. Its text is what the NACK carries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Full name of the resource's message.
    pub type_name: String,
    /// The resource's own name, if its bytes hold one.
    pub resource: Option<String>,
    /// Path of the field, such as `virtual_hosts[0].routes[2].match`; empty for the resource itself.
    pub path: String,
    /// What is wrong there.
    pub problem: Problem,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.type_name)?;
        if let Some(resource) = &self.resource {
            write!(f, " {resource:?}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A message type, in a resource or an `Any`, that the subset lacks.
    #[error("unknown type {name}")]
    UnknownType {
        /// Full message name.
        name: String,
    },
    /// A field number that the subset lacks.
    #[error("{} of {message} is not supported", field_label(*number, name.as_deref()))]
    UnknownField {
        /// Full name of the message that would hold the field.
        message: String,
        /// The field's number.
        number: u32,
        /// The field's name, where Envoy's API is known to have one.
        name: Option<String>,
    },
    /// An enum number that the subset lacks.
    #[error("{number} is not a known value of {name}")]
    UnknownEnumNumber {
        /// Full name of the enum.
        name: String,
        /// The number found.
        number: i64,
    },
    /// The bytes are not a protobuf message of this type.
    #[error("malformed: {reason}")]
    Malformed {
        /// What the bytes violate.
        reason: &'static str,
    },
    /// Messages within messages beyond the limit.
    #[error("nested more than {limit} messages deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// More bytes than the limit.
    #[error("{bytes} bytes are more than the {limit} allowed")]
    TooLarge {
        /// Bytes of the resource.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

fn field_label(number: u32, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("field `{name}`"),
        None => format!("unknown field {number}"),
    }
}

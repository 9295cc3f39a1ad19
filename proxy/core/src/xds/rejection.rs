//! Why a resource was not taken: the text of the NACK and of the command line.

use std::fmt;

use xds_proto::gate::Refusal;

/// A resource that was refused, by the gate or because its values make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Rejection {
    /// Full name of the resource's message.
    pub type_name: String,
    /// The resource's name, where it has one.
    pub resource: Option<String>,
    /// Path of the field; empty for the resource as a whole.
    pub path: String,
    /// One sentence without full stop.
    pub reason: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.type_name)?;
        if let Some(resource) = &self.resource {
            write!(f, " {resource:?}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.problem.to_string(),
            type_name: refusal.type_name,
            resource: refusal.resource,
            path: refusal.path,
        }
    }
}

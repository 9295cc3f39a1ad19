//! The resources that people write: Kubernetes' Gateway API, what of Kubernetes it refers to, and `weir.dev/v1` for what
//! it lacks.
//!
//! Closed structs: a field that is not here is refused with line, column and the nearest known name. Field meanings of
//! Gateway API follow its v1 reference, those of Kubernetes its API reference.

mod document;
mod gateway;
mod health;
mod kind;
mod kubernetes;
mod metadata;
mod resource;
mod validate;
mod weir;

pub(crate) use document::documents;
pub use document::{Document, Memory, Origin, Problem, Refused, problem, read};
pub use gateway::*;
pub use health::{GrpcCheck, HealthCheckSpec, HttpGet, ProbeHeader, ProbeScheme, TcpSocket};
pub use kind::{Kind, ObjectKey, UnknownKind};
pub use kubernetes::*;
pub use metadata::{Metadata, Object};
pub use resource::{Objects, Resource};
pub use validate::{Flaw, duration, validate};

pub use weir::*;

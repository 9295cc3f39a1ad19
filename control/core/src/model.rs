//! The resources that people write: Gateway API's `HTTPRoute`, and `weir.dev/v1` for what it lacks.
//!
//! Closed structs: a field that is not here is refused with line, column and the nearest known name. Gateway API field
//! meanings follow its v1 reference.

mod document;
mod resource;

pub use document::{DocumentError, Memory, Objects, Origin, Problem, Sourced, problem, read};
pub use resource::{
    Backend, BackendEndpoint, BackendRef, BackendSpec, HeaderMatch, HeaderMatchType, HttpRoute,
    HttpRouteMatch, HttpRouteRule, HttpRouteSpec, LoadBalancing, Metadata, ParentRef, PathMatch,
    PathMatchType, SplitKey, SplitSpec, TargetRef, TrafficPolicy, TrafficPolicySpec,
};

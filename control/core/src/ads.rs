//! The ADS server: one state machine a stream, in either form.
//!
//! ```text
//!   request ──► Stream ──► responses, events          config ──► Stream ──► responses
//!                 └── deadline: nothing is held back for ever
//! ```
//! Order: clusters, endpoints, secrets, listeners, routes, and removals of clusters last. A response never waits for the ACK
//! of clusters, as Envoy gives that ACK only once it has the endpoints; it waits until the endpoints of new clusters have
//! left, so that no route arrives before the cluster it leads to.

mod kind;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;
mod wire;

pub use stream::{Event, Output, Published, Stream, StreamError};
pub use wire::{Ask, Response};

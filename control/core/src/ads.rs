//! The ADS server: one state machine a stream, state of the world.
//!
//! ```text
//!   request ──► Stream ──► responses, events          config ──► Stream ──► responses
//!                 └── deadline: nothing is held back for ever
//! ```
//! Order: clusters, endpoints, listeners, routes, and removals of clusters last. A response never waits for the ACK of
//! clusters, as Envoy gives that ACK only once it has the endpoints; it waits until the endpoints of new clusters have
//! left, so that no route arrives before the cluster it leads to.

mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Event, Output, Published, Stream, StreamError};

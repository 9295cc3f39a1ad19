//! The xDS client: from the wire to the typed configuration.
//!
//! [`translate`] turns one resource into a value that makes sense; [`Resources`] holds what was accepted and says what
//! of it can be served; [`AdsClient`] is the state machine of one aggregated stream. Nothing here does I/O.

mod backoff;
mod client;
mod kind;
mod rejection;
mod resources;
pub mod translate;

pub use backoff::Backoff;
pub use client::{AdsClient, Conclusion, Delivered, Origin, Request, Review, Subscriptions, Update, Variant};
pub use rejection::Rejection;
pub use resources::{Held, Resources, StaticConflict, Verdicts, holds_private_key};

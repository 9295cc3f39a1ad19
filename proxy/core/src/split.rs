//! The split: which arm takes a request.
//!
//! Without a key, a [`Sequence`] serves the arms in an order that is never a whole request off. With a key,
//! [`Rendezvous`] gives each user an arm, and raising an arm only moves users into it.
//!
//! It knows nothing of clusters or health: an arm here is a name and a weight.

mod envoy;
mod rendezvous;
mod sequence;

pub use envoy::{cumulative, envoy_hash};
pub use rendezvous::Rendezvous;
pub use sequence::{Phase, Sequence};

/// Arms v0, v1 and so on with these weights.
#[cfg(test)]
fn arms(weights: &[u32]) -> Vec<crate::config::Arm> {
    weights
        .iter()
        .enumerate()
        .map(|(i, w)| crate::config::Arm::new(format!("v{i}"), format!("v{i}"), *w))
        .collect()
}

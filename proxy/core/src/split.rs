//! The split: which arm takes a request.
//!
//! Without a key, a [`Sequence`] serves the arms in an order that is never a whole request off. With a key,
//! [`Rendezvous`] gives each user an arm, and raising an arm only moves users into it.
//!
//! It knows nothing of clusters or health: an arm here is a name and a weight.

mod rendezvous;
mod sequence;

pub use rendezvous::Rendezvous;
pub use sequence::{Phase, Sequence};

//! What the Weir control plane decides, apart from files, sockets and clocks.
//!
//! ```text
//!   documents ─► model ─► ir ─► lower ─► resources ─► ads (one state machine a stream) ─► proxies
//!                          └─► version                  └─► fleet
//! ```
//! Everything downstream of the intermediate representation reads only that.

pub mod ads;
pub mod fleet;
pub mod ir;
pub mod lower;
pub mod model;
pub mod version;

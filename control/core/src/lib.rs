//! What the Weir control plane decides, apart from files, sockets and clocks.
//!
//! ```text
//!   documents ─► model ─► version ─► ir ─► lower ─► resources ─► ads (one state machine a stream) ─► proxies
//!   import ──────┘                   └─► preview                  └─► fleet
//! ```
//! Everything downstream of the intermediate representation reads only that.

pub mod ads;
pub mod diff;
pub mod fleet;
pub mod import;
pub mod ir;
pub mod lower;
pub mod model;
pub mod preview;
pub mod registry;
pub mod version;

//! The route table: from a request to the first route that matches it, and to the arm that takes it.
//!
//! xDS says "first match wins". The table keeps that answer while its cost stays flat: hosts are hashed, paths walk a
//! trie, expressions run at once, and of the routes whose path matches only those are looked at whose headers are there. A
//! linear matcher over the same configuration is the oracle of its tests.

mod choose;
mod condition;
mod explain;
mod fields;
mod host;
#[cfg(test)]
mod oracle;
mod path;
mod request;
mod table;

pub use choose::{Chosen, NewUser, Way, set_cookie};
pub(crate) use condition::{header_holds, text_holds};
pub use explain::{Mismatch, Trail, Tried};
pub use request::{Asked, Caller, HeadView, RequestView, SourceLabels};
pub use table::{ArmTarget, Choice, CompiledRoute, NoRoute, RouteLabel, RouteTable};

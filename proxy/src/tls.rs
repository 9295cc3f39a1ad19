//! TLS: what protects connections on both sides, and whom it trusts.
//!
//! Keys and certificates are read and judged when a configuration is taken and whenever a file changes; a handshake finds
//! them ready. What cannot be used is refused with its place, and what was there before stays. Keys are never logged,
//! dumped or written.

mod certificate;
mod context;
mod identity;
mod layer;
mod material;
mod trust;

use context::TlsError;
pub(crate) use context::{ClientContext, Contexts, InUse, ServerContext, check_secret};
pub(crate) use identity::Identity;
pub(crate) use layer::{Handshake, TlsStream};

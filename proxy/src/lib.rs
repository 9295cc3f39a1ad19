//! The Weir data plane: workers that move bytes, and a controller that follows the control plane.
//!
//! ```text
//!   worker threads:  listener ─► downstream ─► forward ─► upstream
//!                                                ▲ view
//!   control thread:  xds ─► controller ─► publish┘          admin
//! ```
//! What is decided, from syntax to routing, is in `proxy-core`.

mod admin;
mod bootstrap;
mod controller;
mod downstream;
mod exchange;
mod forward;
mod listener;
mod process;
mod publish;
mod socket;
mod telemetry;
mod upstream;
mod worker;
mod xds;

pub use bootstrap::{Bootstrap, BootstrapError};
pub use listener::OpenError;
pub use process::{Options, Proxy, StartError};

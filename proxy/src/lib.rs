//! The Weir data plane: workers that move bytes, and a controller that follows the control plane.
//!
//! ```text
//!   worker threads:  listener ─► downstream ─► forward ─► upstream
//!                                                ▲ view
//!   control thread:  xds ─► controller ─► publish┘          admin
//! ```
//! What is decided, from syntax to routing, is in `proxy-core`.

mod accepted;
mod admin;
mod bootstrap;
mod cache;
mod connection;
mod controller;
mod deadline;
mod dns;
mod downstream;
mod exchange;
mod executor;
mod explain;
mod files;
mod fleet;
mod forward;
mod grpc_web;
mod health;
mod http2;
mod ledger;
mod listener;
mod offline;
mod probe;
mod process;
mod publish;
mod runs;
mod socket;
mod source_limit;
mod strangers;
mod tcp;
mod telemetry;
mod tls;
mod upstream;
mod watchdog;
mod worker;
mod xds;

pub use bootstrap::{Bootstrap, BootstrapError, Sources as BootstrapSources};
pub use explain::Ask;
pub use health::is_ready;
pub use listener::OpenError;
pub use offline::{Offline, Warning, check_resources, holds_resources};
pub use process::{Drain, Options, PrivilegedPort, Proxy, SetLogLevel, StartError};

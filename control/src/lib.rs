//! The Weir control plane: reads resources, serves them over xDS, and knows what every proxy made of them.
//!
//! ```text
//!   source (files) ─► hub ─► ads (one task a stream) ─► proxies
//!                      └─► http: /healthz /readyz /fleet
//! ```
//! What is decided, from meaning to the protocol's state machine, is in `control-core`.

mod ads;
mod config;
mod csds;
mod fleet;
mod http;
mod hub;
mod process;
mod source;
mod tls;

pub use config::{ConfigError, ControlConfig, GatewayConfig};
pub use hub::RefusedSource;
pub use process::{ControlPlane, StartError, Status};
pub use tls::TlsFiles;

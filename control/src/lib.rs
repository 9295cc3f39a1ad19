//! The Weir control plane: reads resources, serves them over xDS, and knows what every proxy made of them.
//!
//! ```text
//!   files ─► sync ─┐        ┌─► store: versions, tokens, audit
//!   REST ─► api ───┴─► hub ─┴─► ads (one task a stream) ─► proxies
//! ```
//! What is decided, from meaning to the protocol's state machine, is in `control-core`.

mod ads;
mod api;
mod audit;
#[cfg(feature = "etcd")]
mod cluster;
mod config;
mod csds;
mod fleet;
mod grpc;
mod health;
mod http;
mod hub;
mod journal;
mod process;
mod registry;
mod store;
mod sync;
mod tls;
mod tokens;

#[cfg(feature = "etcd")]
pub use config::EtcdConfig;
pub use config::{ConfigError, ControlConfig, GatewayConfig, StoreConfig};
pub use health::is_alive;
pub use hub::RefusedSource;
pub use process::{ControlPlane, StartError, Status};
pub use tls::TlsFiles;

//! What the Weir proxy decides, apart from how it moves bytes.
//!
//! Plain synchronous code: no sockets, no runtime, no clock, no ambient randomness; time and seeds are arguments. The
//! `proxy` crate around it does the I/O.

pub mod access;
pub mod breaker;
pub mod chain;
pub mod config;
pub mod edit;
pub mod endpoint;
pub mod explain;
pub mod fault;
pub mod grpc;
pub mod health;
pub mod hop;
pub mod http1;
pub mod http2;
pub mod lb;
pub mod lint;
pub mod local_reply;
pub mod overload;
pub mod path;
pub mod pattern;
pub mod proxy_protocol;
pub mod rewrite;
pub mod route;
pub mod snapshot;
pub mod split;
pub mod template;
pub mod xds;

//! What the end-to-end tests share: processes of this workspace, scripted backends, raw clients. Blocking on purpose: a
//! test reads from top to bottom.

mod ads;
mod api;
mod backend;
mod client;
mod control;
mod envoy;
mod frames;
mod http2;
pub mod mesh;
mod name_server;
mod pki;
mod process;
mod proxy;

pub use ads::{Ads, python};
pub use api::Api;
pub use backend::{Backend, Conversation};
pub use client::{Client, Response, http_get};
pub use control::{Control, resources};
pub use envoy::Envoy;
pub use frames::FrameServer;
pub use http2::{Frame, Http2, Stream};
pub use name_server::NameServer;
pub use pki::{Leaf, Pki};
pub use process::{Output, Process, eventually, free_port};
pub use proxy::{Proxy, Setup};

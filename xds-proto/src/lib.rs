//! Envoy's v3 configuration messages, as far as Weir acts on them.
//!
//! The `.proto` files under `proto/` are a subset of Envoy's API with the same packages, names, numbers and types,
//! so bytes and type URLs agree with every other implementation. What the subset lacks is not lost in decoding, as
//! `prost` alone would have it, but refused by the [`gate`].
//!
//! This crate does not interpret configuration: that is `proxy-core::xds::translate`.

/// Messages, and with feature `grpc` the service stubs, generated from `proto/`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, unreachable_pub)]
mod generated {
    include!("gen/mod.rs");
}

mod fields;
pub mod gate;
pub mod json;
mod schema;
pub mod type_url;

pub use generated::{envoy, google, weir};
pub use prost_types;
pub use schema::Schema;

/// The `FileDescriptorSet` of everything in `proto/` and its imports, encoded.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

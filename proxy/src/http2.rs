//! HTTP/2 on both sides: connections whose streams the rest of the proxy takes for sockets that speak HTTP/1.1.
//!
//! A [`Socket`](crate::socket::Socket) over a stream gives and takes the HTTP/1.1 message that says the same
//! ([`proxy_core::http2`]). One task drives a connection: it lets the library read, lets the streams work, and writes
//! what came of that at once, in one write.

mod body;
mod client;
mod keepalive;
mod server;
mod wire;

pub(crate) use client::Trunk;
pub(crate) use server::{Hangup, is_spoken, serve};

/// Whether bytes can be, or are, the start of a client's preface.
pub(crate) enum Greeting {
    /// So far, they are.
    Partial,
    /// They are.
    Whole,
    /// They are not.
    Other,
}

impl Greeting {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let preface = proxy_core::http2::PREFACE;
        let common = bytes.len().min(preface.len());
        match bytes[..common] == preface[..common] {
            false => Self::Other,
            true if common == preface.len() => Self::Whole,
            true => Self::Partial,
        }
    }
}

//! The route table: from a request to the first route that matches it.
//!
//! xDS says "first match wins". The table keeps that answer while its cost stays flat: hosts are hashed, paths walk a
//! trie, and only the header conditions of routes whose path matches are looked at. A linear matcher over the same
//! configuration is the oracle of its tests.

mod header;
mod host;
#[cfg(test)]
mod oracle;
mod path;
mod table;

pub(crate) use header::holds as header_holds;
pub use table::{ArmTarget, Choice, CompiledRoute, NoRoute, RouteLabel, RouteTable};

use crate::http1::RequestHead;

/// What of a request a route may ask for. HTTP/1.1 heads and HTTP/2 header lists both are one.
pub trait RequestView {
    /// The method's token.
    fn method(&self) -> &[u8];
    /// Host and port, in the client's case; empty where the client sent none.
    fn authority(&self) -> &[u8];
    /// Path and query; empty for CONNECT, and only there.
    fn path(&self) -> &[u8];
    /// The values of all lines of a header, in order. `name` is in lower case.
    fn header<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]>;
}

/// A request head over its bytes, as routes see it: with what this hop added, without what it took away.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a> {
    /// The parsed head.
    pub head: &'a RequestHead,
    /// The bytes that it was parsed from.
    pub buffer: &'a [u8],
    /// Lines that this hop adds, each with its end.
    pub added: &'a [u8],
    /// The host of a request that names none.
    pub default_host: &'a str,
}

impl<'a> HeadView<'a> {
    /// The values of all lines named `name`, in lower case. Lines about the connection itself can be seen, although they
    /// are not passed on; lines that were taken away cannot.
    pub fn lines<'n>(self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let Self { head, buffer, added, .. } = self;
        let kept = head.headers.iter().filter(move |line| {
            line.name.len() == name.len()
                && (!line.dropped || line.id.is_hop_by_hop())
                && line.name.slice(buffer).eq_ignore_ascii_case(name)
        });
        // Nothing but these is ever added.
        let may_be_added = name.starts_with(b"x-") || name == b"via";
        let added = if may_be_added { added } else { &[] };
        let added = added.split(|byte| *byte == b'\n').filter_map(move |line| {
            let value = line.strip_suffix(b"\r")?.strip_prefix(name)?;
            value.strip_prefix(b": ")
        });
        kept.map(move |line| line.value.slice(buffer)).chain(added)
    }
}

impl RequestView for HeadView<'_> {
    fn method(&self) -> &[u8] {
        self.head.method_token.slice(self.buffer)
    }

    fn authority(&self) -> &[u8] {
        match self.head.authority.slice(self.buffer) {
            [] => self.default_host.as_bytes(),
            authority => authority,
        }
    }

    fn path(&self) -> &[u8] {
        self.head.path.slice(self.buffer)
    }

    fn header<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name)
    }
}

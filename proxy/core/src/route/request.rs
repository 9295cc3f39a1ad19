//! What of a request a route may ask for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Labels;
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
    /// The name of every line, in any case and order; a name may come more than once, and one that [`Self::header`] does
    /// not find may come as well.
    fn each_name(&self, take: impl FnMut(&[u8]));
    /// `http` or `https`.
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    /// The client's address, as the listener knows it.
    fn source(&self) -> Option<IpAddr> {
        None
    }
    /// The labels of the endpoint that has the client's address.
    fn source_labels(&self) -> Option<&Labels> {
        None
    }
    /// A random number, the same each time.
    fn draw(&self) -> u64 {
        0
    }
}

/// The path without its query (RFC 3986 §3.4).
pub(super) fn without_query(path: &[u8]) -> &[u8] {
    memchr::memchr(b'?', path).map_or(path, |at| &path[..at])
}

/// The first query parameter of a name, as it is written; empty where it has no value.
pub(super) fn query_parameter<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let query = &path[memchr::memchr(b'?', path)? + 1..];
    query.split(|byte| *byte == b'&').find_map(|pair| match memchr::memchr(b'=', pair) {
        Some(at) => (&pair[..at] == name).then(|| &pair[at + 1..]),
        None => (pair == name).then_some(b""),
    })
}

/// The first cookie of a name, without quotes around its value (RFC 6265 §5.4).
pub(super) fn cookie<'a>(request: &'a impl RequestView, name: &[u8]) -> Option<&'a [u8]> {
    request.header(b"cookie").flat_map(|line| line.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii_start();
        let value = pair.strip_prefix(name)?.strip_prefix(b"=")?;
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(unquoted.unwrap_or(value))
    })
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
        let added = added.split(|byte| *byte == b'\n').filter_map(move |line| {
            let value = line.strip_suffix(b"\r")?.strip_prefix(name)?;
            value.strip_prefix(b": ")
        });
        kept.map(move |line| line.value.slice(buffer)).chain(added)
    }

    fn authority(self) -> &'a [u8] {
        match self.head.authority.slice(self.buffer) {
            [] => self.default_host.as_bytes(),
            authority => authority,
        }
    }
}

impl RequestView for HeadView<'_> {
    fn method(&self) -> &[u8] {
        self.head.method_token.slice(self.buffer)
    }

    fn authority(&self) -> &[u8] {
        Self::authority(*self)
    }

    fn path(&self) -> &[u8] {
        self.head.path.slice(self.buffer)
    }

    fn header<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name)
    }

    fn each_name(&self, mut take: impl FnMut(&[u8])) {
        self.head.headers.iter().for_each(|line| take(line.name.slice(self.buffer)));
        self.added
            .split(|byte| *byte == b'\n')
            .filter_map(|line| Some(&line[..memchr::memchr(b':', line)?]))
            .for_each(take);
    }
}

/// Labels of endpoints by their address.
pub type SourceLabels = HashMap<IpAddr, Arc<Labels>, foldhash::fast::FixedState>;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The client's address, as the listener knows it; none for a Unix socket, and where no route asks for it.
    pub address: Option<IpAddr>,
    /// Labels of known endpoints.
    pub labels: &'a SourceLabels,
    /// A random number.
    pub draw: u64,
}

/// A request head and who sent it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The head.
    pub head: HeadView<'a>,
    /// Who sent it.
    pub caller: Caller<'a>,
}

impl RequestView for Asked<'_> {
    fn method(&self) -> &[u8] {
        self.head.method()
    }

    fn authority(&self) -> &[u8] {
        HeadView::authority(self.head)
    }

    fn path(&self) -> &[u8] {
        self.head.path()
    }

    fn header<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.head.lines(name)
    }

    fn each_name(&self, take: impl FnMut(&[u8])) {
        self.head.each_name(take);
    }

    fn scheme(&self) -> &[u8] {
        // What was not to be believed is gone by now, and what was missing was added.
        match self.head.lines(b"x-forwarded-proto").next() {
            Some(b"https") => b"https",
            _ => b"http",
        }
    }

    fn source(&self) -> Option<IpAddr> {
        self.caller.address
    }

    fn source_labels(&self) -> Option<&Labels> {
        self.caller.labels.get(&self.source()?.to_canonical()).map(|labels| &**labels)
    }

    fn draw(&self) -> u64 {
        self.caller.draw
    }
}

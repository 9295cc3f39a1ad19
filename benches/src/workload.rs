//! What is measured: one workload a row of `docs/performance.md`.

use clap::ValueEnum;

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// 64 connections, 1 KiB.
    W1,
    /// The same with a JSON access log of ten fields.
    W1Log,
    /// As W1, behind 20 header routes that do not match.
    W2Headers,
    /// As W1, behind 1,000 prefixes; the last one matches.
    W2Prefixes,
    /// As W1, behind 10,000 prefixes; the last one matches.
    W2Prefixes10k,
    /// As W1, behind 1,000 hosts; the last one matches.
    W2Hosts,
    /// As W1, behind 10,000 hosts; the last one matches.
    W2Hosts10k,
    /// 64 connections, a file of 64 KiB.
    W3,
    /// 400 connections, 1 KiB.
    W4,
    /// 16,000 requests a second on 64 connections: latency.
    W7,
    /// One worker against two, both cores for everybody.
    Workers,
}

/// What stands before the route that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Nothing.
    Plain,
    /// So many routes that want a header.
    Headers(usize),
    /// So many prefixes, the one that is asked for the last of them.
    Prefixes(usize),
    /// So many virtual hosts, the one that is asked for the last of them.
    Hosts(usize),
}

impl Workload {
    pub(crate) const fn connections(self) -> usize {
        match self {
            Self::W4 => 400,
            _ => 64,
        }
    }

    /// What the proxies have to look through.
    pub(crate) const fn table(self) -> Table {
        match self {
            Self::W2Headers => Table::Headers(20),
            Self::W2Prefixes => Table::Prefixes(1_000),
            Self::W2Prefixes10k => Table::Prefixes(10_000),
            Self::W2Hosts => Table::Hosts(1_000),
            Self::W2Hosts10k => Table::Hosts(10_000),
            _ => Table::Plain,
        }
    }

    /// What is asked for.
    pub(crate) fn path(self) -> String {
        match (self, self.table()) {
            (Self::W3, _) => "/64k".to_owned(),
            (_, Table::Prefixes(count)) => format!("/service-{}/", count - 1),
            _ => "/".to_owned(),
        }
    }

    /// Whom it is asked of, where that matters.
    pub(crate) fn host(self) -> Option<String> {
        match self.table() {
            Table::Hosts(count) => Some(format!("host-{}.example.com", count - 1)),
            _ => None,
        }
    }

    /// Requests a second; as many as there can be where unset.
    pub(crate) const fn rate(self) -> Option<u64> {
        match self {
            Self::W7 => Some(16_000),
            _ => None,
        }
    }

    pub(crate) const fn logs(self) -> bool {
        matches!(self, Self::W1Log)
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::W1 => "W1: 64 connections, 1 KiB answers",
            Self::W1Log => {
                "W1 with an access log: 64 connections, 1 KiB answers, a JSON line of ten fields each"
            }
            Self::W2Headers => "W2: 64 connections, 1 KiB answers, behind 20 header routes",
            Self::W2Prefixes => "W2: 64 connections, 1 KiB answers, behind 1,000 prefixes",
            Self::W2Prefixes10k => "W2: 64 connections, 1 KiB answers, behind 10,000 prefixes",
            Self::W2Hosts => "W2: 64 connections, 1 KiB answers, behind 1,000 hosts",
            Self::W2Hosts10k => "W2: 64 connections, 1 KiB answers, behind 10,000 hosts",
            Self::W3 => "W3: 64 connections, a file of 64 KiB",
            Self::W4 => "W4: 400 connections, 1 KiB answers",
            Self::W7 => "W7: 16,000 requests a second, open loop, 64 connections, 1 KiB answers",
            Self::Workers => {
                "One worker against two: 64 connections, 1 KiB answers, both cores for proxy, load and origin"
            }
        }
    }
}

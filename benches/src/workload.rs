//! What is measured: one workload a row of `docs/performance.md`.

use clap::ValueEnum;

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// 64 connections, 1 KiB.
    W1,
    /// The same with a JSON access log of ten fields.
    W1Log,
    /// 64 connections, a file of 64 KiB.
    W3,
    /// 400 connections, 1 KiB.
    W4,
    /// 16,000 requests a second on 64 connections: latency.
    W7,
    /// One worker against two, both cores for everybody.
    Workers,
}

impl Workload {
    pub(crate) const fn connections(self) -> usize {
        match self {
            Self::W4 => 400,
            Self::W1 | Self::W1Log | Self::W3 | Self::W7 | Self::Workers => 64,
        }
    }

    /// What is asked for.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::W3 => "/64k",
            Self::W1 | Self::W1Log | Self::W4 | Self::W7 | Self::Workers => "/",
        }
    }

    /// Requests a second; as many as there can be where unset.
    pub(crate) const fn rate(self) -> Option<u64> {
        match self {
            Self::W7 => Some(16_000),
            Self::W1 | Self::W1Log | Self::W3 | Self::W4 | Self::Workers => None,
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
            Self::W3 => "W3: 64 connections, a file of 64 KiB",
            Self::W4 => "W4: 400 connections, 1 KiB answers",
            Self::W7 => "W7: 16,000 requests a second, open loop, 64 connections, 1 KiB answers",
            Self::Workers => {
                "One worker against two: 64 connections, 1 KiB answers, both cores for proxy, load and origin"
            }
        }
    }
}

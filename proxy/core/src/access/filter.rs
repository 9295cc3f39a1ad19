//! Which requests a log tells of, and which local replies a mapper changes (`envoy.config.accesslog.v3.AccessLogFilter`).

use super::Record;
use crate::config::HeaderMatch;
use crate::route::{HeadView, header_holds};

/// A condition on what became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// On the status sent.
    Status(Comparison, u32),
    /// On the duration, in milliseconds.
    Duration(Comparison, u32),
    /// On a request header.
    Header(HeaderMatch),
    /// The request has one of these response flags; any flag where empty.
    Flags(Vec<Box<str>>),
    /// Every one of these holds.
    And(Vec<Filter>),
    /// At least one of these holds.
    Or(Vec<Filter>),
}

/// How a figure is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// At least.
    AtLeast,
    /// At most.
    AtMost,
    /// Other than.
    NotEqual,
}

impl Comparison {
    const fn holds(self, figure: u64, limit: u32) -> bool {
        let limit = limit as u64;
        match self {
            Self::Equal => figure == limit,
            Self::AtLeast => figure >= limit,
            Self::AtMost => figure <= limit,
            Self::NotEqual => figure != limit,
        }
    }
}

impl Filter {
    /// Whether the request is one of those meant. A header condition does not hold of a head that could not be read.
    pub fn holds(&self, record: &Record<'_>) -> bool {
        match self {
            Self::Status(comparison, status) => comparison.holds(u64::from(record.status), *status),
            Self::Duration(comparison, limit) => comparison.holds(record.duration / 1_000, *limit),
            Self::Header(condition) => record.request.is_some_and(|(head, buffer)| {
                header_holds(condition, &HeadView { head, buffer, added: record.added, default_host: "" })
            }),
            Self::Flags(flags) => match record.flag {
                "" => false,
                flag => flags.is_empty() || flags.iter().any(|wanted| **wanted == *flag),
            },
            Self::And(filters) => filters.iter().all(|filter| filter.holds(record)),
            Self::Or(filters) => filters.iter().any(|filter| filter.holds(record)),
        }
    }
}

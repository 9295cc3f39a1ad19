//! What went where, and how far that is from exact.

use std::fmt;

use serde_json::{Value, json};

use super::client::Counts;
use super::weights::Weights;

/// The outcome of the demo's requests.
pub(crate) struct Report {
    pub(crate) weights: Weights,
    /// The version that the header rule leads to.
    pub(crate) canary: String,
    /// Answers to requests without the header.
    pub(crate) split: Counts,
    /// Answers to requests with it.
    pub(crate) rule: Counts,
}

struct Row<'a> {
    version: &'a str,
    weight: u32,
    expected: f64,
    got: u64,
}

impl Row<'_> {
    fn off(&self) -> f64 {
        self.got as f64 - self.expected
    }
}

impl Report {
    fn rows(&self) -> Vec<Row<'_>> {
        let requests = self.split.values().sum();
        let row = |(version, weight)| Row {
            version,
            weight,
            expected: self.weights.expected(weight, requests),
            got: self.split.get(version).copied().unwrap_or(0),
        };
        self.weights.iter().map(row).collect()
    }

    /// Requests with the header, and how many of them came where the rule leads.
    fn rule(&self) -> (u64, u64) {
        (self.rule.values().sum(), self.rule.get(&self.canary).copied().unwrap_or(0))
    }

    pub(crate) fn to_json(&self) -> Value {
        let rows: Vec<_> = self
            .rows()
            .iter()
            .map(|row| {
                json!({
                    "version": row.version,
                    "weight": row.weight,
                    "expected": row.expected,
                    "got": row.got,
                    "off": row.off(),
                })
            })
            .collect();
        let (sent, arrived) = self.rule();
        json!({
            "requests": self.split.values().sum::<u64>(),
            "split": rows,
            "rule": { "header": "x-canary", "value": self.canary, "sent": sent, "arrived": arrived },
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests: u64 = self.split.values().sum();
        writeln!(f, "{requests} requests, split by weight")?;
        writeln!(f, "  {:<12}{:>8}{:>12}{:>10}{:>8}", "version", "weight", "exact", "got", "off")?;
        for row in self.rows() {
            let Row { version, weight, expected, got } = row;
            writeln!(f, "  {version:<12}{weight:>8}{expected:>12.1}{got:>10}{:>+8.1}", row.off())?;
        }
        let (sent, arrived) = self.rule();
        writeln!(f, "{sent} requests with x-canary: {0}, {arrived} of them answered by {0}", self.canary)
    }
}

//! Active health checks: what an answer means, what a row of answers means, and when to ask again.
//!
//! As Envoy has it: an endpoint is not well before its first check; the first answer counts at once, later ones once as many
//! in a row agree as the threshold says; a status that is neither expected nor retriable takes an endpoint out at once.
//! Nothing here opens a connection or reads a clock.

use std::ops::Range;
use std::time::Duration;

use crate::config::{HealthCheck, HttpProbe, Pace, Verdict};

/// What became of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is as it should be; whether the endpoint asks to be spared.
    Passed {
        /// `x-envoy-degraded` is among the answer's header lines.
        is_degraded: bool,
    },
    /// It is not, or none came; why.
    Failed {
        /// One sentence.
        reason: String,
        /// Whether that takes the endpoint out whatever the threshold.
        at_once: bool,
    },
}

impl Outcome {
    /// A failure that counts towards the threshold.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), at_once: false }
    }
}

/// The checks of one endpoint so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracker {
    verdict: Verdict,
    /// Outcomes in a row that speak against the verdict.
    against: u32,
}

impl Default for Tracker {
    fn default() -> Self {
        Self { verdict: Verdict::Pending, against: 0 }
    }
}

impl Tracker {
    /// What they say.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes an outcome. Whether the verdict is another one now.
    pub fn note(&mut self, outcome: &Outcome, check: &HealthCheck) -> bool {
        let before = self.verdict;
        let is_first = before == Verdict::Pending;
        let is_well = matches!(before, Verdict::Healthy | Verdict::Degraded);
        let (after, threshold) = match outcome {
            Outcome::Passed { is_degraded } => {
                let well = if *is_degraded { Verdict::Degraded } else { Verdict::Healthy };
                (well, if is_first || is_well { 0 } else { check.healthy_threshold })
            }
            Outcome::Failed { at_once, .. } => (
                Verdict::Failed,
                if is_first || !is_well || *at_once { 0 } else { check.unhealthy_threshold },
            ),
        };
        // Between well and degraded there is no threshold.
        let agrees = is_well == matches!(after, Verdict::Healthy | Verdict::Degraded) && !is_first;
        self.against = if agrees { 0 } else { self.against.saturating_add(1) };
        if agrees || self.against >= threshold {
            self.verdict = after;
            self.against = 0;
        }
        self.verdict != before
    }

    /// The pause before the next check. `is_used` tells whether the cluster has had a connection; `draw` gives numbers from 0
    /// to 1.
    pub fn pause(&self, pace: &Pace, is_used: bool, mut draw: impl FnMut() -> f64) -> Duration {
        let is_well = matches!(self.verdict, Verdict::Healthy | Verdict::Degraded);
        let pause = match (is_used, is_well, self.against > 0) {
            (true, true, true) => pace.unhealthy_edge,
            (true, false, true) => pace.healthy_edge,
            (true, true, false) => pace.healthy,
            (true, false, false) => pace.unhealthy,
            (false, true, false) => pace.idle_healthy,
            (false, ..) => pace.idle,
        };
        let percent = f64::from(pace.jitter_percent) / 100.0;
        pause + pace.jitter.mul_f64(draw()) + pause.mul_f64(percent * draw())
    }
}

impl HttpProbe {
    /// What a response means that has this status, these header lines and this body, of which no more than
    /// [`HttpProbe::body_bytes`] need be there.
    pub fn judge(&self, status: u16, header: impl Fn(&str) -> Option<String>, body: &[u8]) -> Outcome {
        let is_in = |ranges: &[Range<u16>]| ranges.iter().any(|range| range.contains(&status));
        if header("x-envoy-immediate-health-check-fail").is_some() {
            let reason = "the endpoint says x-envoy-immediate-health-check-fail".to_owned();
            return Outcome::Failed { reason, at_once: true };
        }
        if !is_in(&self.expected) {
            let reason = format!("the status is {status}");
            return Outcome::Failed { reason, at_once: !is_in(&self.retriable) };
        }
        if !holds(body, &self.receive) {
            return Outcome::failed("the body lacks what is expected");
        }
        if let Err(reason) = self.judge_json(body) {
            return Outcome::failed(reason);
        }
        Outcome::Passed { is_degraded: header("x-envoy-degraded").is_some() }
    }

    /// Whether the body must be there to judge a response.
    pub const fn wants_body(&self) -> bool {
        !self.receive.is_empty() || !self.json.is_empty()
    }

    fn judge_json(&self, body: &[u8]) -> Result<(), String> {
        if self.json.is_empty() {
            return Ok(());
        }
        let document: serde_json::Value =
            serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
        for (path, wanted) in &self.json {
            let found = path.split('.').try_fold(&document, |value, name| value.get(name));
            let found = match found {
                None => return Err(format!("the body has no {path:?}")),
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
            };
            if found != **wanted {
                return Err(format!("{path} is {found:?}, not {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// Whether `parts` come in this order, with anything in between.
pub fn holds(bytes: &[u8], parts: &[Box<[u8]>]) -> bool {
    let rest = parts.iter().try_fold(bytes, |rest, part| {
        let at = memchr::memmem::find(rest, part)?;
        rest.get(at + part.len()..)
    });
    rest.is_some()
}

#[cfg(test)]
mod tests;

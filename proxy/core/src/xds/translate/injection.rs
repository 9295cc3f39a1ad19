//! Faults on purpose.

use xds_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use xds_proto::weir::fault::v1::Correlation;

use super::fault::{At, Fault, Translated, each, required};
use super::http::duration;
use super::matching::{fraction, header_match};
use crate::fault::{Chance, Injection};

pub(super) fn injection(message: HttpFault) -> Translated<Injection> {
    let HttpFault { delay, abort, upstream_cluster, headers } = message;
    let delay = delay.map(|delay| {
        let FaultDelay { percentage, fault_delay_secifier } = delay;
        let fault_delay::FaultDelaySecifier::FixedDelay(time) =
            required("fixed_delay", fault_delay_secifier)?;
        let time = duration(time).at("fixed_delay")?;
        let millionths = percentage.map(fraction).transpose().at("percentage")?.unwrap_or(0);
        Ok((time, Chance { millionths, correlation: 0 }))
    });
    let abort = abort.map(|abort| {
        let FaultAbort { percentage, error_type } = abort;
        let fault_abort::ErrorType::HttpStatus(status) = required("http_status", error_type)?;
        let status = match status {
            200..=599 => status as u16,
            other => {
                return Err(
                    Fault::new(format!("{other} is not a status from 200 to 599")).under("http_status")
                );
            }
        };
        let millionths = percentage.map(fraction).transpose().at("percentage")?.unwrap_or(0);
        Ok((status, Chance { millionths, correlation: 0 }))
    });
    Ok(Injection {
        delay: delay.transpose().at("delay")?,
        abort: abort.transpose().at("abort")?,
        headers: each("headers", headers, header_match)?,
        cluster: (!upstream_cluster.is_empty()).then(|| upstream_cluster.into()),
    })
}

/// Correlations of delays and of aborts, of a million.
pub(super) fn correlation(message: Correlation) -> Translated<(u32, u32)> {
    let Correlation { delay, abort } = message;
    for (field, value) in [("delay", delay), ("abort", abort)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Fault::new(format!("{value} is not from 0 to 1")).under(field));
        }
    }
    Ok(((delay * 1e6) as u32, (abort * 1e6) as u32))
}

//! Faults on purpose.

use std::collections::HashMap;

use xds_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use xds_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use xds_proto::prost_types::Any;
use xds_proto::type_url::pack;
use xds_proto::weir::fault::v1::Correlation;

use super::Dialect;
use super::route::wire_duration;
use crate::model::{FaultSpec, duration};

/// The filter that injects them.
pub(super) const FILTER: &str = "envoy.filters.http.fault";

/// What a route says to the filter. Envoy does not know how faults depend on one another.
pub(super) fn filters(fault: &FaultSpec, dialect: Dialect, filters: &mut HashMap<String, Any>) {
    let percentage = |percent: Option<u32>| {
        let (numerator, denominator) = (percent.unwrap_or(100), DenominatorType::Hundred as i32);
        Some(FractionalPercent { numerator, denominator })
    };
    let delay = fault.delay.as_ref().map(|delay| FaultDelay {
        percentage: percentage(delay.percentage),
        fault_delay_secifier: duration(&delay.fixed_delay)
            .map(|time| fault_delay::FaultDelaySecifier::FixedDelay(wire_duration(time))),
    });
    let abort = fault.abort.as_ref().map(|abort| FaultAbort {
        percentage: percentage(abort.percentage),
        error_type: Some(fault_abort::ErrorType::HttpStatus(abort.http_status.into())),
    });
    filters.insert(FILTER.to_owned(), pack(&HttpFault { delay, abort, ..HttpFault::default() }));
    let part = |percent: Option<u32>| f64::from(percent.unwrap_or(0)) / 100.0;
    let correlation = Correlation {
        delay: part(fault.delay.as_ref().and_then(|delay| delay.correlation)),
        abort: part(fault.abort.as_ref().and_then(|abort| abort.correlation)),
    };
    if dialect == Dialect::Weir && correlation != Correlation::default() {
        filters.insert("weir.fault".to_owned(), pack(&correlation));
    }
}

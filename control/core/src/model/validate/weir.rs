//! `weir.dev/v1`.

use std::time::Duration;

use proxy_core::config::Address;

use super::{Checked, Flaw, MAX_WEIGHT, header_name, health, optional_duration};
use crate::ir::BackendAddress;
use crate::model::{
    BackendSpec, BreakerWindow, FaultSpec, FlowAction, FlowRuleSpec, PeerAuthenticationSpec, SplitSpec,
    TrafficPolicySpec, UserGroupSpec,
};

/// The longest time of a fault or a breaker.
const MOST: Duration = Duration::from_secs(86_400);
/// Divisors of which the remainder can be read off the last two digits.
const DIVISORS: [u32; 8] = [2, 4, 5, 10, 20, 25, 50, 100];

pub(super) fn backend(spec: &BackendSpec) -> Checked {
    let elsewhere = spec.health_check.as_ref().is_some_and(|check| check.place() != (None, None));
    for (i, endpoint) in spec.endpoints.iter().enumerate() {
        let at = format!("spec.endpoints[{i}].address");
        match BackendAddress::parse(&endpoint.address) {
            None => {
                let reason = format!("{:?} is neither IP:port, name:port nor unix:/path", endpoint.address);
                return Err(Flaw::new(at, reason));
            }
            Some(BackendAddress::Known(Address::Pipe(_))) if elsewhere => {
                return Err(Flaw::new(at, "a Unix socket has no port at which it could be asked elsewhere"));
            }
            Some(BackendAddress::Name(..)) if spec.traffic_distribution.is_some() => {
                let reason = "where a name leads is not known: trafficDistribution goes with addresses only";
                return Err(Flaw::new(at, reason));
            }
            Some(BackendAddress::Known(_) | BackendAddress::Name(..)) => {}
        }
    }
    if let Some(check) = &spec.health_check {
        health::check("spec.healthCheck", check)?;
    }
    match &spec.instances {
        Some(selector) if selector.service.is_empty() => {
            Err(Flaw::new("spec.instances.service", "a name is missing"))
        }
        _ => Ok(()),
    }
}

pub(super) fn traffic_policy(spec: &TrafficPolicySpec) -> Checked {
    let target = &spec.target_ref;
    let group = match target.kind.as_str() {
        "HTTPRoute" | "GRPCRoute" => "gateway.networking.k8s.io",
        "Backend" => "weir.dev",
        "Service" => "",
        other => {
            let reason = format!("{other} is none of HTTPRoute, GRPCRoute, Backend and Service");
            return Err(Flaw::new("spec.targetRef.kind", reason));
        }
    };
    if target.group.as_deref().is_some_and(|g| g != group) {
        return Err(Flaw::new("spec.targetRef.group", format!("of a {} is {group:?}", target.kind)));
    }
    let is_route = target.kind.ends_with("Route");
    let (of_routes, of_backends) = (
        [
            ("spec.split", spec.split.is_some()),
            ("spec.groups", !spec.groups.is_empty()),
            ("spec.timeouts", spec.timeouts.is_some()),
            ("spec.fault", spec.fault.is_some()),
        ],
        [
            ("spec.circuitBreaker", spec.circuit_breaker.is_some()),
            ("spec.loadBalancing", spec.load_balancing.is_some()),
            ("spec.healthCheck", spec.health_check.is_some()),
        ],
    );
    let odd = if is_route { &of_backends[..] } else { &of_routes[..] };
    if let Some((path, _)) = odd.iter().find(|(_, is_set)| *is_set) {
        return Err(Flaw::new(path, format!("says nothing of a {}", target.kind)));
    }
    spec.split.as_ref().map_or(Ok(()), split)?;
    spec.fault.as_deref().map_or(Ok(()), fault)?;
    if let Some(window) = spec.circuit_breaker.as_ref().and_then(|breaker| breaker.window.as_ref()) {
        breaker_window(window)?;
    }
    if let Some(check) = &spec.health_check {
        health::check("spec.healthCheck", check)?;
    }
    for (i, group) in spec.groups.iter().enumerate() {
        let at = format!("spec.groups[{i}]");
        if let Some(j) = group.backend_refs.iter().position(|backend| backend.weight > MAX_WEIGHT) {
            return Err(Flaw::new(
                format!("{at}.backendRefs[{j}].weight"),
                format!("is more than {MAX_WEIGHT}"),
            ));
        }
        if group.backend_refs.is_empty() {
            return Err(Flaw::new(format!("{at}.backendRefs"), "one is wanted"));
        }
    }
    if let Some(timeouts) = &spec.timeouts {
        optional_duration("spec.timeouts.request", timeouts.request.as_ref())?;
        optional_duration("spec.timeouts.idle", timeouts.idle.as_ref())?;
    }
    Ok(())
}

fn fault(fault: &FaultSpec) -> Checked {
    let (delay, abort) = (fault.delay.as_ref(), fault.abort.as_ref());
    if delay.is_none() && abort.is_none() {
        return Err(Flaw::new("spec.fault", "delay or abort is wanted"));
    }
    if let Some(delay) = delay {
        let at = "spec.fault.delay.fixedDelay";
        let time = optional_duration(at, Some(&delay.fixed_delay))?;
        if time.is_some_and(|time| time.is_zero() || time > MOST) {
            let reason = format!("{:?} is not more than nothing and at most a day", delay.fixed_delay);
            return Err(Flaw::new(at, reason));
        }
    }
    if let Some(abort) = abort.filter(|abort| !(200..=599).contains(&abort.http_status)) {
        let reason = format!("{} is not a status from 200 to 599", abort.http_status);
        return Err(Flaw::new("spec.fault.abort.httpStatus", reason));
    }
    for (field, value) in [
        ("delay.percentage", delay.and_then(|delay| delay.percentage)),
        ("delay.correlation", delay.and_then(|delay| delay.correlation)),
        ("abort.percentage", abort.and_then(|abort| abort.percentage)),
        ("abort.correlation", abort.and_then(|abort| abort.correlation)),
    ] {
        if let Some(value) = value.filter(|value| *value > 100) {
            return Err(Flaw::new(format!("spec.fault.{field}"), format!("{value} is more than 100")));
        }
    }
    Ok(())
}

fn breaker_window(window: &BreakerWindow) -> Checked {
    let size = window.sliding_window_size;
    for (field, most, value) in [
        ("slidingWindowSize", 1_000, size),
        ("minimumNumberOfCalls", size.unwrap_or(BreakerWindow::SIZE), window.minimum_number_of_calls),
        ("failureRateThreshold", 100, window.failure_rate_threshold),
        ("permittedNumberOfCallsInHalfOpenState", 1_000, window.permitted_number_of_calls_in_half_open_state),
    ] {
        if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
            let reason = format!("{value} is not from 1 to {most}");
            return Err(Flaw::new(format!("spec.circuitBreaker.window.{field}"), reason));
        }
    }
    let open = window.wait_duration_in_open_state.as_ref();
    let at = "spec.circuitBreaker.window.waitDurationInOpenState";
    match optional_duration(at, open)? {
        Some(time) if time > MOST => Err(Flaw::new(at, "is more than a day")),
        _ => Ok(()),
    }
}

fn split(split: &SplitSpec) -> Checked {
    if let Some(name) = &split.override_header {
        header_name("spec.split.overrideHeader", name)?;
    }
    let Some(key) = &split.key else {
        if !split.salt.is_empty() {
            return Err(Flaw::new("spec.split.salt", "goes with a key only"));
        }
        return match split.draining.is_empty() {
            true => Ok(()),
            false => Err(Flaw::new("spec.split.draining", "goes with a cookie as key only")),
        };
    };
    let set = [
        key.header.is_some(),
        key.cookie.is_some(),
        key.query_param.is_some(),
        key.source_ip.is_some_and(|is_set| is_set),
    ];
    if set.iter().filter(|is_set| **is_set).count() != 1 {
        return Err(Flaw::new("spec.split.key", "one of header, cookie, queryParam and sourceIp is wanted"));
    }
    if let Some(header) = &key.header {
        header_name("spec.split.key.header", header)?;
    }
    if let Some(cookie) = &key.cookie {
        header_name("spec.split.key.cookie.name", &cookie.name)?;
        optional_duration("spec.split.key.cookie.ttl", cookie.ttl.as_ref())?;
        if cookie.ttl.is_none() && !split.draining.is_empty() {
            return Err(Flaw::new("spec.split.draining", "goes with a cookie that has a ttl"));
        }
    } else if !split.draining.is_empty() {
        return Err(Flaw::new("spec.split.draining", "goes with a cookie as key only"));
    }
    Ok(())
}

pub(super) fn user_group(spec: &UserGroupSpec) -> Checked {
    let ways = [!spec.members.is_empty(), spec.modulo.is_some(), spec.attribute.is_some()];
    if ways.iter().filter(|is_set| **is_set).count() != 1 {
        return Err(Flaw::new("spec", "one of members, modulo and attribute is wanted"));
    }
    let length: usize = spec.members.iter().map(String::len).sum();
    if spec.members.len() > 1_000 || length > 32_768 {
        return Err(Flaw::new(
            "spec.members",
            "a list has 1000 members and 32 KiB at the most; modulo or attribute has no bound",
        ));
    }
    if let Some(header) = &spec.header {
        header_name("spec.header", header)?;
    }
    if let Some(attribute) = &spec.attribute {
        if spec.header.is_some() {
            return Err(Flaw::new("spec.header", "an attribute has a header of its own"));
        }
        header_name("spec.attribute.header", &attribute.header)?;
    }
    let Some(modulo) = &spec.modulo else { return Ok(()) };
    if !DIVISORS.contains(&modulo.divisor) {
        let reason = format!("{} is none of 2, 4, 5, 10, 20, 25, 50 and 100", modulo.divisor);
        return Err(Flaw::new("spec.modulo.divisor", reason));
    }
    match modulo.remainders.iter().position(|remainder| *remainder >= modulo.divisor) {
        Some(i) => Err(Flaw::new(format!("spec.modulo.remainders[{i}]"), "is not below the divisor")),
        None if modulo.remainders.is_empty() => Err(Flaw::new("spec.modulo.remainders", "one is wanted")),
        None => Ok(()),
    }
}

pub(super) fn flow_rule(spec: &FlowRuleSpec) -> Checked {
    for name in spec.conditions.keys() {
        if !matches!(name.as_str(), ":path" | ":method" | ":authority") {
            header_name(format!("spec.match[{name:?}]"), name)?;
        }
    }
    match (spec.action, &spec.target) {
        (FlowAction::Forward, None) => Err(Flaw::new("spec.target", "is missing: where `forward` leads")),
        (FlowAction::Drop, Some(_)) => Err(Flaw::new("spec.target", "`drop` has none")),
        _ => Ok(()),
    }
}

pub(super) fn peer_authentication(spec: &PeerAuthenticationSpec) -> Checked {
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    match spec.port_level_mtls.is_empty() || selects {
        true => Ok(()),
        false => Err(Flaw::new("spec.portLevelMtls", "goes with a selector only")),
    }
}

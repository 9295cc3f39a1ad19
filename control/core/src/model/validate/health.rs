//! Health checks.

use std::net::IpAddr;

use super::{Checked, Flaw, header_name};
use crate::model::{HealthCheckSpec, PortName, ProbeHeader};

/// Times and counts have a day and so many as their bounds.
const MAX_SECONDS: u32 = 86_400;
const MAX_COUNT: u32 = 1_000;
/// Lines that a request's own form decides.
const FRAMING: [&str; 5] = ["connection", "content-length", "te", "transfer-encoding", "upgrade"];

pub(super) fn check(at: &str, check: &HealthCheckSpec) -> Checked {
    let HealthCheckSpec { http_get, tcp_socket, grpc, json, .. } = check;
    let kinds = [http_get.is_some(), tcp_socket.is_some(), grpc.is_some()];
    if kinds.iter().filter(|is_set| **is_set).count() != 1 {
        return Err(Flaw::new(at, "one of httpGet, tcpSocket and grpc is wanted"));
    }
    if let Some(http) = http_get {
        let at = format!("{at}.httpGet");
        let path = http.path.as_deref().unwrap_or("/");
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Flaw::new(format!("{at}.path"), format!("{path:?} is not a path")));
        }
        place(&at, http.host.as_deref(), http.port.as_ref())?;
        for (i, header) in http.http_headers.iter().enumerate() {
            let at = format!("{at}.httpHeaders[{i}]");
            header_name(format!("{at}.name"), &header.name)?;
            let lower = header.name.to_ascii_lowercase();
            if FRAMING.contains(&lower.as_str()) {
                let reason = format!("{:?} is written by the proxy itself", header.name);
                return Err(Flaw::new(format!("{at}.name"), reason));
            }
            let is_again = |earlier: &ProbeHeader| earlier.name.eq_ignore_ascii_case(&header.name);
            if http.http_headers[..i].iter().any(is_again) {
                return Err(Flaw::new(format!("{at}.name"), format!("{:?} is said twice", header.name)));
            }
            let is_text = header.value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
                && header.value.trim() == header.value;
            if header.value.is_empty() || !is_text || header.value.contains('%') {
                return Err(Flaw::new(
                    format!("{at}.value"),
                    format!("{:?} cannot stand there", header.value),
                ));
            }
        }
    }
    if let Some(tcp) = tcp_socket {
        place(&format!("{at}.tcpSocket"), tcp.host.as_deref(), tcp.port.as_ref())?;
    }
    if grpc.as_ref().is_some_and(|grpc| grpc.port == Some(0)) {
        return Err(Flaw::new(format!("{at}.grpc.port"), "0 is not a port"));
    }
    if !json.is_empty() && http_get.is_none() {
        return Err(Flaw::new(format!("{at}.json"), "goes with httpGet only"));
    }
    for (field, least, most, value) in [
        ("initialDelaySeconds", 0, MAX_SECONDS, check.initial_delay_seconds),
        ("periodSeconds", 1, MAX_SECONDS, check.period_seconds),
        ("timeoutSeconds", 1, MAX_SECONDS, check.timeout_seconds),
        ("successThreshold", 1, MAX_COUNT, check.success_threshold),
        ("failureThreshold", 1, MAX_COUNT, check.failure_threshold),
    ] {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            return Err(Flaw::new(format!("{at}.{field}"), format!("{value} is not from {least} to {most}")));
        }
    }
    Ok(())
}

fn place(at: &str, host: Option<&str>, port: Option<&PortName>) -> Checked {
    if let Some(host) = host.filter(|host| host.parse::<IpAddr>().is_err()) {
        let reason = format!("{host:?} is no IP address; what the request calls its host is a header");
        return Err(Flaw::new(format!("{at}.host"), reason));
    }
    match port {
        Some(PortName::Number(0)) => Err(Flaw::new(format!("{at}.port"), "0 is not a port")),
        Some(PortName::Name(name)) => {
            let reason = format!("{name:?}: ports of endpoints have no names here, a number is wanted");
            Err(Flaw::new(format!("{at}.port"), reason))
        }
        Some(PortName::Number(_)) | None => Ok(()),
    }
}

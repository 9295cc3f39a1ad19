//! Gateways, and what they need of others.

use std::net::IpAddr;

use super::{Checked, Flaw, hostname};
use crate::model::{
    BackendTlsPolicySpec, EndpointSlice, GatewaySpec, Listener, Protocol, SubjectAltNameType, TlsMode,
};

pub(super) fn gateway(spec: &GatewaySpec) -> Checked {
    for (i, address) in spec.addresses.iter().enumerate() {
        let is_ip = address.kind.as_deref().is_none_or(|kind| kind == "IPAddress");
        let value = address.value.as_deref().unwrap_or_default();
        if is_ip && !value.is_empty() && value.parse::<IpAddr>().is_err() {
            return Err(Flaw::new(
                format!("spec.addresses[{i}].value"),
                format!("{value:?} is not an IP address"),
            ));
        }
    }
    listeners(&spec.listeners)
}

pub(super) fn listeners(listeners: &[Listener]) -> Checked {
    for (i, listener) in listeners.iter().enumerate() {
        let at = |field: &str| format!("spec.listeners[{i}].{field}");
        if listener.name.is_empty() {
            return Err(Flaw::new(at("name"), "a name is missing"));
        }
        if listeners[..i].iter().any(|earlier| earlier.name == listener.name) {
            return Err(Flaw::new(at("name"), format!("another listener is named {:?}", listener.name)));
        }
        if listener.port == 0 {
            return Err(Flaw::new(at("port"), "is 1 at the least"));
        }
        if let Some(name) = listener.hostname.as_deref().filter(|name| !name.is_empty()) {
            hostname(at("hostname"), name)?;
        }
        match (listener.protocol, &listener.tls) {
            (Protocol::Http | Protocol::Tcp | Protocol::Udp, Some(_)) => {
                return Err(Flaw::new(at("tls"), "goes with the protocols HTTPS and TLS only"));
            }
            (Protocol::Https, Some(tls)) if tls.mode == TlsMode::Passthrough => {
                return Err(Flaw::new(at("tls.mode"), "Passthrough goes with the protocol TLS only"));
            }
            (Protocol::Https | Protocol::Tls, None) => {
                return Err(Flaw::new(at("tls"), "is missing: certificateRefs, or mode Passthrough"));
            }
            (Protocol::Tcp | Protocol::Udp, None)
                if listener.hostname.as_deref().is_some_and(|h| !h.is_empty()) =>
            {
                return Err(Flaw::new(at("hostname"), "a protocol without host names has none"));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn backend_tls_policy(spec: &BackendTlsPolicySpec) -> Checked {
    let at = "spec.validation";
    let validation = &spec.validation;
    match (validation.ca_certificate_refs.is_empty(), validation.well_known_ca_certificates) {
        (true, None) => {
            return Err(Flaw::new(at, "one of caCertificateRefs and wellKnownCACertificates is wanted"));
        }
        (false, Some(_)) => {
            return Err(Flaw::new(at, "caCertificateRefs and wellKnownCACertificates exclude each other"));
        }
        _ => {}
    }
    if let Some(i) = validation.ca_certificate_refs.iter().position(|reference| reference.namespace.is_some())
    {
        return Err(Flaw::new(
            format!("{at}.caCertificateRefs[{i}].namespace"),
            "only the policy's own is meant",
        ));
    }
    hostname(format!("{at}.hostname"), &validation.hostname)?;
    for (i, name) in validation.subject_alt_names.iter().enumerate() {
        let at = format!("{at}.subjectAltNames[{i}]");
        match name.kind {
            SubjectAltNameType::Hostname => {
                hostname(format!("{at}.hostname"), name.hostname.as_deref().unwrap_or_default())?;
            }
            SubjectAltNameType::Uri if !name.uri.as_deref().is_some_and(|uri| uri.contains(':')) => {
                return Err(Flaw::new(format!("{at}.uri"), "an absolute URI is wanted"));
            }
            SubjectAltNameType::Uri => {}
        }
    }
    Ok(())
}

pub(super) fn endpoint_slice(slice: &EndpointSlice) -> Checked {
    if !["IPv4", "IPv6", "FQDN"].contains(&slice.address_type.as_str()) {
        return Err(Flaw::new(
            "addressType",
            format!("{:?} is none of IPv4, IPv6 and FQDN", slice.address_type),
        ));
    }
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        let Some(address) = endpoint.addresses.first() else {
            return Err(Flaw::new(format!("endpoints[{i}].addresses"), "one is wanted"));
        };
        if slice.address_type != "FQDN" && address.parse::<IpAddr>().is_err() {
            return Err(Flaw::new(
                format!("endpoints[{i}].addresses[0]"),
                format!("{address:?} is not an IP address"),
            ));
        }
    }
    Ok(())
}

//! How endpoints are asked whether they are well: a probe in the words of Kubernetes, and what it lacks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PortName;

/// `healthCheck`: exactly one of `httpGet`, `tcpSocket` and `grpc`. Every proxy asks every endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheckSpec {
    /// A GET whose status must be from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    /// A connection that must open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocket>,
    /// `grpc.health.v1.Health/Check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// Members of the answer's body, which must be JSON then: the path to each, with dots, and its value as text. For
    /// `httpGet`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, String>,
    /// How long an endpoint that is new is left alone, without requests; 0 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay_seconds: Option<u32>,
    /// The pause between two checks; 10 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u32>,
    /// How long an answer may take; 1 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Successes in a row that bring an endpoint back; 1 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
    /// Failures in a row that take it out; 3 where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
}

/// `httpGet`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpGet {
    /// The path with its query; `/` where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Instead of the endpoint's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
    /// The address to connect to instead of the endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// As the requests go where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<ProbeScheme>,
    /// Header lines of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<ProbeHeader>,
}

/// `httpGet.scheme`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeScheme {
    /// Without TLS.
    Http,
    /// With TLS; whose certificate it is does not matter, as for the kubelet.
    Https,
}

/// A header line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProbeHeader {
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// `tcpSocket`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpSocket {
    /// Instead of the endpoint's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
    /// The address to connect to instead of the endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// `grpc`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcCheck {
    /// Instead of the endpoint's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The service that is asked about; the server as a whole where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

impl HealthCheckSpec {
    /// Where endpoints are asked, where that is not where they serve: address and port.
    pub fn place(&self) -> (Option<&str>, Option<u16>) {
        let number = |port: &Option<PortName>| match port {
            Some(PortName::Number(number)) => Some(*number),
            Some(PortName::Name(_)) | None => None,
        };
        match (&self.http_get, &self.tcp_socket, &self.grpc) {
            (Some(http), ..) => (http.host.as_deref(), number(&http.port)),
            (_, Some(tcp), _) => (tcp.host.as_deref(), number(&tcp.port)),
            (.., Some(grpc)) => (None, grpc.port),
            (None, None, None) => (None, None),
        }
    }
}

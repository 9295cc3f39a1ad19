//! How endpoints are asked whether they are well (`envoy.config.core.v3.HealthCheck`).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Address, Labels};

/// One check of every endpoint of a cluster, for as long as the cluster is there.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// How long an answer may take, the connection included.
    pub timeout: Duration,
    /// When the next check comes.
    pub pace: Pace,
    /// Failures in a row that take an endpoint out.
    pub unhealthy_threshold: u32,
    /// Successes in a row that take it back. The first answer of all counts at once.
    pub healthy_threshold: u32,
    /// What carries connections of checks is chosen by these labels instead of the endpoint's.
    pub transport_labels: Option<Arc<Labels>>,
    /// Whether one connection serves many checks.
    pub reuses_connection: bool,
    /// How long an endpoint that is new is left alone.
    pub initial_delay: Duration,
    /// Whether every failure is logged, not only the first of several.
    pub logs_failures: bool,
    /// Whether every success is.
    pub logs_successes: bool,
}

/// The pauses between checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// Of an endpoint that is well.
    pub healthy: Duration,
    /// Of one that is not.
    pub unhealthy: Duration,
    /// Of one that is well and has begun to fail.
    pub unhealthy_edge: Duration,
    /// Of one that is not well and has begun to answer.
    pub healthy_edge: Duration,
    /// Of one that is not well in a cluster that has had no connection yet.
    pub idle: Duration,
    /// Of one that is well there.
    pub idle_healthy: Duration,
    /// Up to so much is waited before the first.
    pub initial_jitter: Duration,
    /// Up to so much is added.
    pub jitter: Duration,
    /// Up to so many percent are added.
    pub jitter_percent: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// A request, and what its response must be.
    Http(HttpProbe),
    /// A connection; and what is sent and must come, if anything.
    Tcp(TcpProbe),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
}

/// A request, and what its response must be.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// The host; the endpoint's where empty, then the cluster's name.
    pub host: Box<str>,
    /// The path with its query.
    pub path: Box<str>,
    /// The method.
    pub method: Box<str>,
    /// Header lines beside the usual ones.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// Usual lines that are not sent.
    pub removed_headers: Vec<Box<str>>,
    /// Statuses of an endpoint that is well.
    pub expected: Vec<Range<u16>>,
    /// Others than these and the expected ones take an endpoint out at once, whatever the threshold.
    pub retriable: Vec<Range<u16>>,
    /// Parts of the body, in this order.
    pub receive: Vec<Box<[u8]>>,
    /// How much of the body is looked at.
    pub body_bytes: usize,
    /// Members of the body, which must be JSON then: path with dots, and value as text.
    pub json: Vec<(Box<str>, Box<str>)>,
    /// Whether HTTP/2 is spoken.
    pub is_http2: bool,
}

/// A connection; and what is sent and must come, if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpProbe {
    /// Sent first.
    pub send: Box<[u8]>,
    /// Must come, in this order, with anything in between.
    pub receive: Vec<Box<[u8]>>,
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcProbe {
    /// The service that is asked about; the server as a whole where empty.
    pub service: Box<str>,
    /// `:authority`; the endpoint's host where empty, then the cluster's name.
    pub authority: Box<str>,
    /// Further metadata.
    pub metadata: Vec<(Box<str>, Box<str>)>,
}

/// How an endpoint is checked, where that differs from how it is used (`Endpoint.HealthCheckConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckTarget {
    /// Instead of the endpoint's port.
    pub port: Option<u16>,
    /// Instead of its address.
    pub address: Option<Address>,
    /// Its host in requests.
    pub hostname: Box<str>,
    /// It is not checked, and counts as well.
    pub is_disabled: bool,
}

/// What active checks say of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It is not checked.
    #[default]
    Unchecked,
    /// No check has ended yet.
    Pending,
    /// It answers as it should.
    Healthy,
    /// It answers, and asks to be spared (`x-envoy-degraded`).
    Degraded,
    /// It does not.
    Failed,
}

/// What EDS and active checks say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It takes requests.
    Healthy,
    /// It takes them where too few others are left.
    Degraded,
    /// Its checks fail: it takes none, unless so few are well that the checks are not to be believed.
    Failing,
    /// EDS wants it to take none.
    Unhealthy,
}

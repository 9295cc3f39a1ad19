//! What is measured: one workload a row of `docs/performance.md`.

use clap::ValueEnum;

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// 64 connections, 1 KiB.
    W1,
    /// The same with a JSON access log of ten fields.
    W1Log,
    /// As W1, behind 20 header routes that do not match.
    W2Headers,
    /// As W1, behind 1,000 prefixes; the last one matches.
    W2Prefixes,
    /// As W1, behind 10,000 prefixes; the last one matches.
    W2Prefixes10k,
    /// As W1, behind 1,000 hosts; the last one matches.
    W2Hosts,
    /// As W1, behind 10,000 hosts; the last one matches.
    W2Hosts10k,
    /// 64 connections, a file of 64 KiB.
    W3,
    /// 400 connections, 1 KiB.
    W4,
    /// As W1, with TLS 1.3 from clients and mutual TLS to the origin.
    W5,
    /// 8 connections of HTTP/2 with 32 streams each, to HTTP/1.1.
    #[value(name = "w6-h1")]
    W6H1,
    /// The same, to HTTP/2.
    #[value(name = "w6-h2")]
    W6H2,
    /// 16,000 requests a second on 64 connections: latency.
    W7,
    /// Connections of TLS 1.3, each with a full handshake and one answer of the proxy itself.
    Handshakes,
    /// The same, each resumed.
    Resumptions,
    /// TCP: 1 KiB there and back, 64 connections.
    TcpRoundTrips,
    /// TCP: as many bytes from the origin as there can be, 4 connections.
    TcpStream,
    /// One worker against two, both cores for everybody.
    Workers,
}

/// What stands before the route that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Nothing.
    Plain,
    /// So many routes that want a header.
    Headers(usize),
    /// So many prefixes, the one that is asked for the last of them.
    Prefixes(usize),
    /// So many virtual hosts, the one that is asked for the last of them.
    Hosts(usize),
}

/// What a proxy speaks, to clients and to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1 on both sides.
    Http1,
    /// The same, in TLS from clients and in mutual TLS to the origin.
    Tls,
    /// HTTP/1.1 in TLS, answered by the proxy itself.
    Answered,
    /// Cleartext HTTP/2 to HTTP/1.1.
    Http2To1,
    /// Cleartext HTTP/2 on both sides.
    Http2,
    /// Bytes.
    Tcp,
}

/// What is counted, and in what it is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    /// Of which CPU time.
    pub(crate) figure: &'static str,
    /// Microseconds a count, by which the figure is multiplied.
    pub(crate) factor: f64,
    /// What is counted.
    pub(crate) counts: &'static str,
}

impl Workload {
    pub(crate) const fn wire(self) -> Wire {
        match self {
            Self::W5 => Wire::Tls,
            Self::W6H1 => Wire::Http2To1,
            Self::W6H2 => Wire::Http2,
            Self::Handshakes | Self::Resumptions => Wire::Answered,
            Self::TcpRoundTrips | Self::TcpStream => Wire::Tcp,
            _ => Wire::Http1,
        }
    }

    pub(crate) const fn unit(self) -> Unit {
        match self {
            Self::Handshakes | Self::Resumptions => {
                Unit { figure: "CPU µs/connection", factor: 1.0, counts: "connections" }
            }
            Self::TcpRoundTrips => Unit { figure: "CPU µs/round trip", factor: 1.0, counts: "round trips" },
            // A MiB is counted.
            Self::TcpStream => Unit { figure: "CPU ms/GiB", factor: 1.024, counts: "MiB" },
            _ => Unit { figure: "CPU µs/request", factor: 1.0, counts: "requests" },
        }
    }

    pub(crate) const fn connections(self) -> usize {
        match self {
            Self::W4 => 400,
            Self::W6H1 | Self::W6H2 => 8,
            Self::Handshakes | Self::Resumptions => 16,
            Self::TcpStream => 4,
            _ => 64,
        }
    }

    /// What the proxies have to look through.
    pub(crate) const fn table(self) -> Table {
        match self {
            Self::W2Headers => Table::Headers(20),
            Self::W2Prefixes => Table::Prefixes(1_000),
            Self::W2Prefixes10k => Table::Prefixes(10_000),
            Self::W2Hosts => Table::Hosts(1_000),
            Self::W2Hosts10k => Table::Hosts(10_000),
            _ => Table::Plain,
        }
    }

    /// What is asked for.
    pub(crate) fn path(self) -> String {
        match (self, self.table()) {
            (Self::W3, _) => "/64k".to_owned(),
            (_, Table::Prefixes(count)) => format!("/service-{}/", count - 1),
            _ => "/".to_owned(),
        }
    }

    /// Whom it is asked of, where that matters.
    pub(crate) fn host(self) -> Option<String> {
        match self.table() {
            Table::Hosts(count) => Some(format!("host-{}.example.com", count - 1)),
            _ => None,
        }
    }

    /// Requests a second; as many as there can be where unset.
    pub(crate) const fn rate(self) -> Option<u64> {
        match self {
            Self::W7 => Some(16_000),
            _ => None,
        }
    }

    pub(crate) const fn logs(self) -> bool {
        matches!(self, Self::W1Log)
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::W1 => "W1: 64 connections, 1 KiB answers",
            Self::W1Log => {
                "W1 with an access log: 64 connections, 1 KiB answers, a JSON line of ten fields each"
            }
            Self::W2Headers => "W2: 64 connections, 1 KiB answers, behind 20 header routes",
            Self::W2Prefixes => "W2: 64 connections, 1 KiB answers, behind 1,000 prefixes",
            Self::W2Prefixes10k => "W2: 64 connections, 1 KiB answers, behind 10,000 prefixes",
            Self::W2Hosts => "W2: 64 connections, 1 KiB answers, behind 1,000 hosts",
            Self::W2Hosts10k => "W2: 64 connections, 1 KiB answers, behind 10,000 hosts",
            Self::W3 => "W3: 64 connections, a file of 64 KiB",
            Self::W4 => "W4: 400 connections, 1 KiB answers",
            Self::W5 => {
                "W5: as W1, with TLS 1.3 from clients and mutual TLS to the origin, P-256 and AES-GCM"
            }
            Self::W6H1 => {
                "W6-h1: 8 connections of cleartext HTTP/2, 32 streams each, to HTTP/1.1; 1 KiB answers"
            }
            Self::W6H2 => {
                "W6-h2: 8 connections of cleartext HTTP/2, 32 streams each, to HTTP/2; 1 KiB answers"
            }
            Self::Handshakes => "Handshakes: TLS 1.3, P-256, full; one request each, answered by the proxy",
            Self::Resumptions => {
                "Handshakes: TLS 1.3, P-256, resumed; one request each, answered by the proxy"
            }
            Self::TcpRoundTrips => "TCP: 64 connections, 1 KiB there and back",
            Self::TcpStream => "TCP: 4 connections, bytes from the origin as fast as they go",
            Self::W7 => "W7: 16,000 requests a second, open loop, 64 connections, 1 KiB answers",
            Self::Workers => {
                "One worker against two: 64 connections, 1 KiB answers, both cores for proxy, load and origin"
            }
        }
    }
}

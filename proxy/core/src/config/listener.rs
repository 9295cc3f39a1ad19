//! Listeners: where connections come in, what is learnt of each, and which filter chain serves it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Address, AddressRange, DownstreamTls, HttpOptions, ListenerName, Patience, RouteConfigName,
    RouteConfiguration,
};

/// `envoy.config.listener.v3.Listener`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique among listeners.
    pub name: ListenerName,
    /// Where it listens.
    pub address: Address,
    /// What is learnt of a connection before a chain is chosen.
    pub inspection: Inspection,
    /// The chains; at most one of them is the default.
    pub chains: Vec<FilterChain>,
}

/// `listener_filters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Whether the first bytes are a ClientHello, and for whom (`tls_inspector`).
    pub tls: bool,
    /// Bytes of a ClientHello.
    pub max_client_hello: usize,
    /// Whether the first bytes are HTTP, and of which version (`http_inspector`).
    pub http: bool,
    /// Where the client wanted to go before the kernel sent it here (`original_dst`).
    pub original_dst: bool,
    /// Who the client is, told by whoever stands before us (`proxy_protocol`).
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How long all of that may take; 0 is any time (`listener_filters_timeout`).
    pub timeout: Option<Duration>,
    /// Whether a connection that is silent for so long is served all the same.
    pub continues_on_timeout: bool,
}

/// `envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Whether a connection may begin without it.
    pub is_optional: bool,
    /// Whether version 1 is taken.
    pub v1: bool,
    /// Whether version 2 is taken.
    pub v2: bool,
}

impl Default for Inspection {
    fn default() -> Self {
        Self {
            tls: false,
            max_client_hello: 16 << 10,
            http: false,
            original_dst: false,
            proxy_protocol: None,
            timeout: Some(Duration::from_secs(15)),
            continues_on_timeout: false,
        }
    }
}

/// `envoy.config.listener.v3.FilterChain`.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    /// May be empty; where it is not, it is the chain's identity over updates.
    pub name: Box<str>,
    /// Which connections it is for; unset of the default chain, which serves those that no other one is for.
    pub matching: Option<ChainMatch>,
    /// What protects its connections.
    pub tls: Option<Arc<DownstreamTls>>,
    /// How long a handshake may take.
    pub handshake_timeout: Option<Duration>,
    /// Where its requests or connections go.
    pub routes: RouteSource,
    /// What its connections may do, and how they are told of.
    pub http: Arc<HttpOptions>,
    /// What its bytes are.
    pub serves: Serves,
}

/// What a chain takes its connections for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Requests (`http_connection_manager`).
    Http,
    /// Bytes, to whichever endpoint the only route leads (`tcp_proxy`).
    Tcp(TcpOptions),
}

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`, beside where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// How often an endpoint is tried (`max_connect_attempts`).
    pub attempts: u32,
}

/// `envoy.config.listener.v3.FilterChainMatch`. Everything that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ChainMatch {
    /// The port that the client wanted.
    pub destination_port: Option<u16>,
    /// The addresses that the client wanted.
    pub destinations: Vec<AddressRange>,
    /// The names that the client asked for by SNI.
    pub server_names: Vec<ServerName>,
    /// Whether the connection begins with TLS.
    pub transport: Option<TransportProtocol>,
    /// What the client offers by ALPN, or `http_inspector` found.
    pub application_protocols: Vec<Box<str>>,
    /// Where the connection really comes from.
    pub direct_sources: Vec<AddressRange>,
    /// How far the client is away.
    pub source_kind: SourceKind,
    /// Where the client is.
    pub sources: Vec<AddressRange>,
    /// The client's port.
    pub source_ports: Vec<u16>,
}

impl ChainMatch {
    /// Whether it asks for nothing.
    pub fn takes_all(&self) -> bool {
        *self == Self::default()
    }
}

/// A name to be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerName {
    /// This one, in lower case.
    Exact(Box<str>),
    /// Whatever ends in this; it begins with a dot.
    Suffix(Box<str>),
}

/// `transport_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportProtocol {
    /// `tls`
    Tls,
    /// `raw_buffer`
    RawBuffer,
}

/// `source_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// Anywhere.
    #[default]
    Any,
    /// The same machine.
    Local,
    /// Another one.
    External,
}

/// Where a chain's routes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteSource {
    /// They are part of the listener.
    Inline(Arc<RouteConfiguration>),
    /// They are asked for by name over RDS.
    Rds(RouteConfigName, Patience),
    /// They are read by name from a file that holds route configurations.
    RdsFile(RouteConfigName, Arc<str>),
}

impl Listener {
    /// A listener of one chain for every connection, without TLS.
    pub fn plain(name: ListenerName, address: Address, routes: RouteSource, http: HttpOptions) -> Self {
        let chain = FilterChain {
            name: "".into(),
            matching: Some(ChainMatch::default()),
            tls: None,
            handshake_timeout: None,
            routes,
            http: Arc::new(http),
            serves: Serves::Http,
        };
        Self { name, address, inspection: Inspection::default(), chains: vec![chain] }
    }

    /// What its chains have in common of what a drain and an accept need: the first chain's settings.
    pub fn http(&self) -> Option<&Arc<HttpOptions>> {
        self.chains.first().map(|chain| &chain.http)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

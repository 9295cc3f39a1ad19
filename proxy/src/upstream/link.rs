//! The way to an endpoint beyond its address: what protects it, and who the endpoint is told that the client is.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::config::{Address, Cluster, Endpoint, UpstreamProtocol, UpstreamTls};
use proxy_core::proxy_protocol;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;

use super::{Demand, Protocol};
use crate::forward::Reason;
use crate::socket::Socket;
use crate::stranger;
use crate::tls::{ClientContext, Contexts, Handshake, TlsStream};

/// How one endpoint is connected to.
#[derive(Default)]
pub(crate) struct Link {
    tls: Option<Tls>,
    /// The version of the PROXY protocol that it is told with.
    proxy_protocol_v2: Option<bool>,
}

/// What protects the way.
struct Tls {
    context: Arc<ClientContext>,
    /// Another one for HTTP/2, where the client's protocol decides.
    for_http2: Option<Arc<ClientContext>>,
    /// Whom we ask for; its address where unset.
    name: Option<ServerName<'static>>,
}

/// A connection, and what the endpoint has chosen to speak.
pub(crate) struct Connected {
    pub(crate) socket: Socket,
    pub(super) is_tls: bool,
    pub(super) chosen: Chosen,
}

impl Connected {
    /// Whether HTTP/2 is spoken on it: what was agreed upon goes before what was wanted.
    pub(crate) fn speaks_http2(&self, wanted: Protocol) -> bool {
        match self.chosen {
            Chosen::Nothing => wanted == Protocol::Http2,
            Chosen::Http1 => false,
            Chosen::Http2 => true,
        }
    }
}

/// What was agreed upon by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chosen {
    Nothing,
    Http1,
    Http2,
}

impl Chosen {
    fn of(stream: &TlsStream) -> Self {
        match stream.session().alpn_protocol() {
            None => Self::Nothing,
            Some(b"h2") => Self::Http2,
            Some(_) => Self::Http1,
        }
    }
}

impl Link {
    pub(crate) fn new(contexts: &Contexts, cluster: &Cluster, endpoint: &Endpoint) -> Self {
        let transport = cluster.transport_to(endpoint);
        let tls = transport.tls.as_ref().map(|tls| {
            let Offers { any, http2 } = Offers::of(tls, cluster.connections.protocol);
            Tls {
                context: contexts.client(&any),
                for_http2: http2.map(|tls| contexts.client(&tls)),
                name: name_of(tls, endpoint),
            }
        });
        Self { tls, proxy_protocol_v2: transport.proxy_protocol_v2 }
    }

    /// Whether a connection belongs to one client.
    pub(crate) const fn tells_client(&self) -> bool {
        self.proxy_protocol_v2.is_some()
    }

    /// Connects, tells who the client is, and shakes hands.
    pub(super) async fn connect(&self, address: &Address, demand: &Demand<'_>) -> Result<Connected, Reason> {
        let log = |error: &io::Error| tracing::debug!(%address, %error, "no connection");
        let mut socket =
            Socket::connect(address).await.inspect_err(log).map_err(|_| Reason::ConnectFailed)?;
        if demand.protocol != Protocol::Http1 {
            socket.notice_silence();
        }
        if let Some(is_v2) = self.proxy_protocol_v2 {
            let header = proxy_protocol::write(is_v2, demand.told);
            socket.write_all(&header).await.map_err(|_| Reason::ConnectFailed)?;
        }
        let Some(tls) = &self.tls else {
            return Ok(Connected { socket, is_tls: false, chosen: Chosen::Nothing });
        };
        let stream = tls.protect(socket, address, demand.protocol).await.map_err(|error| {
            stranger!(%address, %error, "a TLS handshake with an endpoint failed");
            Reason::UpstreamTls
        })?;
        let chosen = Chosen::of(&stream);
        Ok(Connected { socket: Socket::layered(stream), is_tls: true, chosen })
    }
}

impl Link {
    /// Connects for the proxy itself, not for a client: to a control plane, or to see whether an endpoint is well.
    pub(crate) async fn reach(&self, address: &Address, protocol: Protocol) -> io::Result<Connected> {
        let mut socket = Socket::connect(address).await?;
        socket.notice_silence();
        if let Some(is_v2) = self.proxy_protocol_v2 {
            socket.write_all(&proxy_protocol::write(is_v2, None)).await?;
        }
        let Some(tls) = &self.tls else {
            return Ok(Connected { socket, is_tls: false, chosen: Chosen::Nothing });
        };
        let stream = tls.protect(socket, address, protocol).await?;
        let chosen = Chosen::of(&stream);
        Ok(Connected { socket: Socket::layered(stream), is_tls: true, chosen })
    }

    pub(crate) const fn is_protected(&self) -> bool {
        self.tls.is_some()
    }
}

impl Tls {
    async fn protect(&self, socket: Socket, address: &Address, protocol: Protocol) -> io::Result<TlsStream> {
        let for_http2 = self.for_http2.as_ref().filter(|_| protocol == Protocol::Http2);
        let context = for_http2.unwrap_or(&self.context);
        let name = match (&self.name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Socket(address)) => ServerName::from(address.ip()),
            (None, Address::Pipe(_)) => ServerName::from(IpAddr::from([127, 0, 0, 1])),
        };
        let handshake = Handshake::connect(socket, name.clone(), context).map_err(io::Error::other)?;
        let stream = handshake.finish().await?;
        context.judge_resumed(stream.session(), &name).map_err(io::Error::other)?;
        Ok(stream)
    }
}

/// What is offered by ALPN. Where nobody said: what the cluster speaks.
struct Offers {
    any: Arc<UpstreamTls>,
    /// Where HTTP/2 is wanted in particular.
    http2: Option<Arc<UpstreamTls>>,
}

impl Offers {
    fn of(tls: &Arc<UpstreamTls>, protocol: UpstreamProtocol) -> Self {
        let offering = |protocols: &mut dyn Iterator<Item = &str>| {
            let mut tls = (**tls).clone();
            tls.common.alpn = protocols.map(Box::from).collect();
            Arc::new(tls)
        };
        let given = &tls.common.alpn;
        let any = match protocol {
            // What would be spoken if it were chosen is known already.
            UpstreamProtocol::Downstream => offering(&mut given.iter().map(|p| &**p).filter(|p| *p != "h2")),
            _ if !given.is_empty() => tls.clone(),
            UpstreamProtocol::Http1 => tls.clone(),
            UpstreamProtocol::Http2 => offering(&mut ["h2"].into_iter()),
            UpstreamProtocol::Alpn => offering(&mut ["h2", "http/1.1"].into_iter()),
        };
        let http2 = (protocol == UpstreamProtocol::Downstream).then(|| offering(&mut ["h2"].into_iter()));
        Self { any, http2 }
    }
}

/// The contexts that connections to a cluster's endpoints may need, each with the place of what it is made of.
pub(crate) fn contexts_of(contexts: &Contexts, cluster: &Cluster) -> Vec<(String, Arc<ClientContext>)> {
    let matches = cluster.transport_matches.iter().enumerate();
    let matches =
        matches.map(|(i, m)| (format!("transport_socket_matches[{i}].transport_socket"), &m.transport));
    let all = std::iter::once(("transport_socket".to_owned(), &cluster.transport)).chain(matches);
    let mut found = Vec::new();
    for (place, transport) in all {
        if let Some(tls) = &transport.tls {
            let Offers { any, http2 } = Offers::of(tls, cluster.connections.protocol);
            let offers = std::iter::once(any).chain(http2);
            found.extend(offers.map(|tls| (place.clone(), contexts.client(&tls))));
        }
    }
    found
}

/// The name that is asked for; none: its address.
fn name_of(tls: &UpstreamTls, endpoint: &Endpoint) -> Option<ServerName<'static>> {
    let name = match &*endpoint.hostname {
        hostname if tls.auto_host_sni && !hostname.is_empty() => hostname,
        _ => &*tls.sni,
    };
    ServerName::try_from(name.to_owned()).ok()
}

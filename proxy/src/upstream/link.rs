//! The way to an endpoint beyond its address: what protects it, and who the endpoint is told that the client is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy_core::config::{Address, Cluster, Endpoint, UpstreamProtocol, UpstreamTls};
use proxy_core::proxy_protocol;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;

use crate::forward::Reason;
use crate::socket::Socket;
use crate::tls::{ClientContext, Contexts, Handshake};

/// How one endpoint is connected to.
#[derive(Default)]
pub(crate) struct Link {
    tls: Option<Tls>,
    /// The version of the PROXY protocol that it is told with.
    proxy_protocol_v2: Option<bool>,
}

/// What protects the way.
enum Tls {
    Ready(Arc<ClientContext>, Option<ServerName<'static>>),
    /// Its keys or certificates cannot be used.
    Unusable,
}

/// A connection, and what the endpoint has chosen to speak.
pub(super) struct Connected {
    pub(super) socket: Socket,
    pub(super) is_tls: bool,
    pub(super) chose_http2: bool,
}

impl Link {
    pub(crate) fn new(contexts: &Contexts, cluster: &Cluster, endpoint: &Endpoint) -> Self {
        let transport = cluster.transport_to(endpoint);
        let tls = transport.tls.as_ref().map(|tls| {
            let tls = spoken(tls, cluster.connections.protocol);
            match contexts.client(&tls) {
                Ok(context) => Tls::Ready(context, name_of(&tls, endpoint)),
                // It was usable when it was taken; it is looked at again with each change of its files.
                Err(error) => {
                    tracing::warn!(%error, cluster = %cluster.name, "an endpoint's TLS cannot be used");
                    Tls::Unusable
                }
            }
        });
        Self { tls, proxy_protocol_v2: transport.proxy_protocol_v2 }
    }

    /// Whether a connection belongs to one client.
    pub(super) const fn tells_client(&self) -> bool {
        self.proxy_protocol_v2.is_some()
    }

    /// Connects, tells who the client is, and shakes hands.
    pub(super) async fn connect(
        &self,
        address: &Address,
        told: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Connected, Reason> {
        let log = |error: &io::Error| tracing::debug!(%address, %error, "no connection");
        let mut socket =
            Socket::connect(address).await.inspect_err(log).map_err(|_| Reason::ConnectFailed)?;
        if let Some(is_v2) = self.proxy_protocol_v2 {
            let header = proxy_protocol::write(is_v2, told);
            socket.write_all(&header).await.map_err(|_| Reason::ConnectFailed)?;
        }
        let (context, name) = match &self.tls {
            None => return Ok(Connected { socket, is_tls: false, chose_http2: false }),
            Some(Tls::Ready(context, name)) => (context, name),
            Some(Tls::Unusable) => return Err(Reason::UpstreamTls),
        };
        let name = match (name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Socket(address)) => ServerName::from(address.ip()),
            (None, Address::Pipe(_)) => ServerName::from(IpAddr::from([127, 0, 0, 1])),
        };
        let failed = |error: &dyn std::fmt::Display| {
            tracing::info!(%address, %error, "a TLS handshake with an endpoint failed");
            Reason::UpstreamTls
        };
        let handshake = Handshake::connect(socket, name, context.config()).map_err(|error| failed(&error))?;
        let stream = handshake.finish().await.map_err(|error| failed(&error))?;
        let chose_http2 = stream.session().alpn_protocol() == Some(b"h2");
        Ok(Connected { socket: Socket::layered(stream), is_tls: true, chose_http2 })
    }
}

/// What is offered by ALPN where nobody said: what the cluster speaks.
pub(crate) fn spoken(tls: &Arc<UpstreamTls>, protocol: UpstreamProtocol) -> Arc<UpstreamTls> {
    let offered: &[&str] = match protocol {
        _ if !tls.common.alpn.is_empty() => return tls.clone(),
        UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => return tls.clone(),
        UpstreamProtocol::Http2 => &["h2"],
        UpstreamProtocol::Alpn => &["h2", "http/1.1"],
    };
    let mut tls = (**tls).clone();
    tls.common.alpn = offered.iter().map(|protocol| (*protocol).into()).collect();
    Arc::new(tls)
}

/// The name that is asked for; none: its address.
fn name_of(tls: &UpstreamTls, endpoint: &Endpoint) -> Option<ServerName<'static>> {
    let name = match &*tls.sni {
        "" if tls.auto_host_sni => &*endpoint.hostname,
        name => name,
    };
    ServerName::try_from(name.to_owned()).ok()
}

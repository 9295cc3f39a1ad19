//! A connection of HTTP/2 to a control plane, on the controller's thread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_core::config::{Cluster, Endpoint, EndpointSource};
use tonic::body::Body;

use crate::dns;
use crate::executor::OnThisThread;
use crate::tls::Contexts;
use crate::upstream::{Link, Protocol};

/// A half-open connection is noticed after this and the time-out that follows.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cluster \"{0}\" has no endpoint")]
    NoEndpoint(String),
    #[error("{address}: no answer in {limit:?}")]
    Slow { address: String, limit: Duration },
    #[error("{address}: {source}")]
    Io { address: String, source: io::Error },
    #[error("{address}: {source}")]
    Http { address: String, source: hyper::Error },
}

/// It ends with the last of its clones.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    requests: SendRequest<Body>,
    is_tls: bool,
    authority: String,
}

impl Channel {
    /// Connects to one of a cluster's endpoints, another one each `turn`.
    pub(super) async fn connect(
        contexts: &Contexts,
        cluster: &Cluster,
        turn: usize,
    ) -> Result<Self, ConnectError> {
        let endpoints = endpoints_of(cluster).await;
        let none = || ConnectError::NoEndpoint(cluster.name.to_string());
        let endpoint = endpoints.get(turn.checked_rem(endpoints.len()).ok_or_else(none)?).ok_or_else(none)?;
        let address = endpoint.address.to_string();
        let link = Link::new(contexts, cluster, endpoint);
        let limit = cluster.connect_timeout;
        let reached = link.reach(&endpoint.address, Protocol::Http2);
        let socket = match tokio::time::timeout(limit, reached).await {
            Ok(Ok(connected)) => connected.socket,
            Ok(Err(source)) => return Err(ConnectError::Io { address, source }),
            Err(_) => return Err(ConnectError::Slow { address, limit }),
        };
        let (requests, connection) = http2::Builder::new(OnThisThread)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .adaptive_window(true)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|source| ConnectError::Http { address, source })?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the control plane broke");
            }
        });
        // As in Envoy, the cluster's name where nothing says how the server is called.
        let authority = match &*endpoint.hostname {
            "" => cluster.name.to_string(),
            hostname => hostname.to_owned(),
        };
        Ok(Self { requests, is_tls: link.is_protected(), authority })
    }

    /// What requests say of whom they are for.
    pub(crate) fn origin(&self) -> Uri {
        let scheme = if self.is_tls { "https" } else { "http" };
        let named = Uri::builder().scheme(scheme).authority(self.authority.as_str()).path_and_query("/");
        named.build().unwrap_or_else(|_| Uri::from_static("http://control-plane/"))
    }
}

/// Looked up each time anew where they have names.
async fn endpoints_of(cluster: &Cluster) -> Vec<Endpoint> {
    match &cluster.endpoints {
        EndpointSource::Static(assignment) => assignment.endpoints().cloned().collect(),
        EndpointSource::Dns(targets) => dns::endpoints_now(targets).await,
        EndpointSource::Eds(..) | EndpointSource::EdsFile(..) | EndpointSource::OriginalDst { .. } => {
            Vec::new()
        }
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

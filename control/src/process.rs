//! A running control plane.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::transport::Server;
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use xds_proto::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use xds_proto::weir::fleet::v1::fleet_service_server::FleetServiceServer;

use crate::ads::Ads;
use crate::config::ControlConfig;
use crate::csds::ClientStatus;
use crate::fleet::Reports;
use crate::http;
use crate::hub::{Hub, RefusedSource};
use crate::source::Source;
use crate::tls::{self, Reloaded};

/// A half-open stream is noticed after this and the time-out that follows.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one request: names of resources, and the text of a refusal.
const MAX_REQUEST: usize = 16 << 20;

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or runtime could not be made.
    #[error("threads could not be started: {0}")]
    Threads(#[source] io::Error),
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {}", said(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate cannot be used.
    #[error("tls: {0}")]
    Tls(String),
    /// The resources make no sense. Nothing is served.
    #[error("{0}")]
    Source(#[from] RefusedSource),
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// A running control plane, on a thread of its own. Dropping it ends it; proxies keep serving.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where xDS is served.
    pub xds: SocketAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
    hub: Arc<Hub>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a control plane serves and what it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The current version's number.
    pub version: Option<u64>,
    /// Why the source was refused, if it was since it was last taken.
    pub refusal: Option<String>,
    /// Refused sources since the start.
    pub refusals: u64,
}

impl ControlPlane {
    /// Reads the source, opens both ports and starts to serve.
    ///
    /// # Errors
    /// [`StartError`], with nothing left running.
    pub fn start(config: ControlConfig) -> Result<Self, StartError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(StartError::Threads)?;
        let hub = Arc::new(Hub::new(config.gateway.into()));
        let mut source = Source::new(config.source);
        source.load(&hub)?;
        let protection = config.tls.map(Reloaded::new).transpose().map_err(StartError::Tls)?;
        let (xds, xds_address) = listen(&runtime, config.xds)?;
        let (http, http_address) = listen(&runtime, config.http)?;
        let interval = Duration::from_millis(config.report_interval_ms.into());
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = hub.clone();
        let thread = std::thread::Builder::new()
            .name("weir-control-plane".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = serve_xds(hub.clone(), xds, protection, interval) => {}
                        () = serve_http(hub.clone(), http) => {}
                        () = source.follow(hub.clone()) => {}
                    }
                });
                // Streams are cut, not waited for: proxies keep what they have.
                runtime.shutdown_background();
            })
            .map_err(StartError::Threads)?;
        tracing::info!(xds = %xds_address, http = %http_address, "control plane");
        Ok(Self { xds: xds_address, http: http_address, hub: shared, stop: Some(stop), thread: Some(thread) })
    }

    /// What is served and what was refused.
    pub fn status(&self) -> Status {
        let version = self.hub.history(|history| history.current().map(|version| version.number));
        let refusals = self.hub.refusals(|refusals| refusals.clone());
        Status { version, refusal: refusals.current.map(|(_, reason)| reason), refusals: refusals.count }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control plane's thread panicked");
        }
    }
}

fn listen(runtime: &Runtime, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn serve_xds(hub: Arc<Hub>, listener: TcpListener, protection: Option<Reloaded>, interval: Duration) {
    let (reports, clients) = (hub.clone(), hub.clone());
    let service = AggregatedDiscoveryServiceServer::new(Ads::new(hub)).max_decoding_message_size(MAX_REQUEST);
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(service)
        .add_service(ClientStatusDiscoveryServiceServer::new(ClientStatus::new(clients)))
        .add_service(FleetServiceServer::new(Reports::new(reports, interval)))
        .serve_with_incoming(tls::accept(listener, protection))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the xDS port ended");
    }
}

async fn serve_http(hub: Arc<Hub>, listener: TcpListener) {
    if let Err(error) = axum::serve(listener, http::router(hub)).await {
        tracing::error!(%error, "the HTTP port ended");
    }
}

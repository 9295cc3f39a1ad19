//! A running control plane.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::transport::Server;
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use xds_proto::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use xds_proto::weir::control::v1::control_service_server::ControlServiceServer;
use xds_proto::weir::fleet::v1::fleet_service_server::FleetServiceServer;

use crate::ads::Ads;
use crate::config::{ControlConfig, StoreConfig};
use crate::csds::ClientStatus;
use crate::fleet::Reports;
use crate::grpc::Api;
use crate::http;
use crate::hub::{Hub, Refused, RefusedSource};
#[cfg(feature = "etcd")]
use crate::store::Etcd;
use crate::store::{Directory, Redb, Store, StoreError};
use crate::sync::Sync;
use crate::tls::{self, Reloaded};
use crate::{api, audit, registry, tokens};

/// A half-open stream is noticed after this and the time-out that follows.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted: after a restart, a fleet comes all at once, and whoever finds no place here is reset.
const BACKLOG: u32 = 4_096;
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
    /// The store cannot be used.
    #[error("{0}")]
    Store(String),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<Refused> for StartError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Store(error) => error.into(),
            other => RefusedSource(other.to_string()).into(),
        }
    }
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
    /// An admin's token, where the store had none before. It is told this once.
    pub token: Option<String>,
    hub: Arc<Hub>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a control plane serves and what it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The current version's number.
    pub version: Option<u64>,
    /// Who made it, why, and when.
    pub change: Option<(String, String, SystemTime)>,
    /// Why the source was refused, if it was since it was last taken.
    pub refusal: Option<String>,
    /// Refused sources since the start.
    pub refusals: u64,
}

/// What was made before the first port opened.
struct Parts {
    hub: Arc<Hub>,
    sync: Option<Sync>,
    follower: Option<crate::store::Follower>,
    events: tokio::sync::mpsc::UnboundedReceiver<audit::Event>,
    leases: Option<Redb>,
    token: Option<String>,
}

async fn prepare(config: &ControlConfig) -> Result<Parts, StartError> {
    let source = config.source.clone().map(Directory::open).transpose();
    let (directory, follower) = source.map_err(RefusedSource)?.unzip();
    let (store, leases): (Arc<dyn Store>, Option<Redb>) = match &config.store {
        StoreConfig::Memory => {
            let store = Redb::in_memory()?;
            (Arc::new(store.clone()), Some(store))
        }
        StoreConfig::Redb(path) => {
            let store = Redb::open(path)?;
            (Arc::new(store.clone()), Some(store))
        }
        #[cfg(feature = "etcd")]
        StoreConfig::Etcd(etcd) => (Arc::new(Etcd::connect(&etcd.endpoints, &etcd.prefix).await?), None),
    };
    let (hub, events) = Hub::open(config.gateway.clone().into(), store).await?;
    if let Some(directory) = &directory
        && let Some(refused) = directory.follow().borrow().refused.first()
        && hub.state().catalog.current().is_none()
    {
        // There is nothing that could be served instead.
        return Err(RefusedSource(refused.clone()).into());
    }
    let mut sync = directory.map(|directory| Sync::new(directory, hub.clone()));
    if let Some(sync) = &mut sync {
        sync.begin().await?;
    }
    let token = tokens::first(&*hub.store).await?;
    Ok(Parts { hub, sync, follower, events, leases, token })
}

impl ControlPlane {
    /// Reads the source, opens both ports and starts to serve.
    ///
    /// # Errors
    /// [`StartError`], with nothing left running.
    pub fn start(config: ControlConfig) -> Result<Self, StartError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(StartError::Threads)?;
        let parts = runtime.block_on(prepare(&config))?;
        let protection = config.tls.map(Reloaded::new).transpose().map_err(StartError::Tls)?;
        let (xds, xds_address) = listen(&runtime, config.xds)?;
        let (http, http_address) = listen(&runtime, config.http)?;
        let interval = Duration::from_millis(config.report_interval_ms.into());
        let (stop, stopped) = oneshot::channel::<()>();
        let hub = parts.hub.clone();
        let shared = hub.clone();
        let token = parts.token.clone();
        let audit_file = config.audit;
        let thread = std::thread::Builder::new()
            .name("weir-control-plane".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    spawn_beside(parts, audit_file);
                    let hub = &shared;
                    tokio::select! {
                        _ = stopped => {}
                        () = serve_xds(hub.clone(), xds, protection, interval) => {}
                        () = serve_http(hub.clone(), http) => {}
                    }
                });
                // Streams are cut, not waited for: proxies keep what they have.
                runtime.shutdown_background();
            })
            .map_err(StartError::Threads)?;
        tracing::info!(xds = %xds_address, http = %http_address, "control plane");
        Ok(Self { xds: xds_address, http: http_address, token, hub, stop: Some(stop), thread: Some(thread) })
    }

    /// What is served and what was refused.
    pub fn status(&self) -> Status {
        let current = self.hub.state().catalog.current().cloned();
        let refusals = self.hub.refusals(|refusals| refusals.clone());
        Status {
            version: current.as_ref().map(|version| version.number),
            change: current.map(|version| (version.author.clone(), version.reason.clone(), version.time)),
            refusal: refusals.current.map(|(_, reason)| reason),
            refusals: refusals.count,
        }
    }
}

/// What goes on beside the ports, for as long as the runtime lives.
fn spawn_beside(parts: Parts, audit_file: Option<std::path::PathBuf>) {
    let Parts { hub, sync, follower, events, leases, token: _ } = parts;
    tokio::spawn(hub.clone().keep_records(events));
    tokio::spawn(registry::follow(hub.clone()));
    tokio::spawn(audit::deliver(hub.store.clone(), audit_file));
    match leases {
        Some(leases) => drop(tokio::spawn(leases.end_leases())),
        // Whoever shares its store is one of several.
        #[cfg(feature = "etcd")]
        None => {
            tokio::spawn(crate::cluster::follow(hub.clone()));
            tokio::spawn(crate::cluster::lead(hub, format!("process {}", std::process::id())));
        }
        #[cfg(not(feature = "etcd"))]
        None => {}
    }
    if let Some(follower) = follower {
        tokio::spawn(follower.follow());
    }
    if let Some(sync) = sync {
        tokio::spawn(sync.follow());
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
    let _inside = runtime.enter();
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let listener = open().map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn serve_xds(hub: Arc<Hub>, listener: TcpListener, protection: Option<Reloaded>, interval: Duration) {
    let (reports, clients, api) = (hub.clone(), hub.clone(), api::router(hub.clone()));
    let service = AggregatedDiscoveryServiceServer::new(Ads::new(hub)).max_decoding_message_size(MAX_REQUEST);
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(service)
        .add_service(ClientStatusDiscoveryServiceServer::new(ClientStatus::new(clients)))
        .add_service(FleetServiceServer::new(Reports::new(reports, interval)))
        .add_service(ControlServiceServer::new(Api::new(api)).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming(tls::accept(listener, protection))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the xDS port ended");
    }
}

async fn serve_http(hub: Arc<Hub>, listener: TcpListener) {
    let router = http::router(hub.clone()).merge(api::router(hub));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the HTTP port ended");
    }
}

//! A control plane and a proxy in this process, over the real protocols.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use control::{ControlConfig, ControlPlane, GatewayConfig, Status, StoreConfig};
use proxy::{Bootstrap, Drain, Options, Proxy};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::Left;

/// How long the first configuration may take to be served.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long Ctrl-C waits for open connections.
const DRAIN: Drain = Drain { wait: Duration::ZERO, limit: Duration::from_secs(2) };

/// Both halves.
pub(crate) struct Local {
    pub(crate) plane: ControlPlane,
    pub(crate) proxy: Proxy,
    _left: Option<Left>,
}

/// What they serve, and where they listen.
pub(crate) struct Places {
    pub(crate) source: PathBuf,
    pub(crate) gateway: GatewayConfig,
    pub(crate) xds: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Local {
    /// Starts both, and waits until the gateway serves.
    pub(crate) fn start(places: Places, options: Options) -> Result<Self> {
        let Places { source, gateway, xds, http } = places;
        let plane = ControlPlane::start(ControlConfig {
            xds,
            http,
            report_interval_ms: 1_000,
            tls: None,
            source: Some(source),
            store: StoreConfig::Memory,
            audit: None,
            gateway,
        })?;
        let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let text = format!("{}{}", bootstrap(plane.xds), admin_port(admin));
        let proxy = Proxy::start(Bootstrap::from_yaml(&text)?, options)?;
        let token = plane.token.as_deref().unwrap_or_default();
        // For whoever comes to this machine's other terminals.
        let left = Left::leave(&format!("http://{}", plane.http), token, &format!("http://{admin}"))?;
        let local = Self { plane, proxy, _left: left };
        let deadline = Instant::now() + PATIENCE;
        while local.proxy.listener_address("weir").is_none() {
            if Instant::now() > deadline {
                bail!("the proxy took no configuration within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(local)
    }

    /// Ends both without losing a request.
    pub(crate) fn stop(self) {
        self.proxy.drain(DRAIN);
        drop(self.plane);
    }
}

/// What became of an edit of the source.
pub(crate) enum Edit {
    /// The last version stays.
    Refused(String),
    /// It is served.
    Served {
        version: u64,
        /// What it came from: the file, or somebody and why.
        cause: String,
        /// How long it took.
        after: Duration,
    },
}

/// Sees what becomes of every edit. The traffic does not wait for this.
pub(crate) struct Edits {
    last: Status,
    generation: u64,
}

impl Edits {
    /// How often is looked.
    const LOOK: Duration = Duration::from_millis(2);
    /// How long a version may take to be served.
    const LONGEST: Duration = Duration::from_secs(1);

    /// From now on.
    pub(crate) fn of(local: &Local) -> Self {
        Self { last: local.plane.status(), generation: local.proxy.generation() }
    }

    /// The next one.
    pub(crate) async fn next(&mut self, local: &Local, file: &Path) -> Edit {
        loop {
            tokio::time::sleep(Self::LOOK).await;
            let status = local.plane.status();
            let before = std::mem::replace(&mut self.last, status.clone());
            if status.refusals != before.refusals
                && let Some(reason) = status.refusal
            {
                return Edit::Refused(reason);
            }
            if status.version != before.version {
                // The version is out; it counts when the proxy serves it. One that changes nothing for it never does.
                let limit = Instant::now() + Self::LONGEST;
                while local.proxy.generation() == self.generation && Instant::now() < limit {
                    tokio::time::sleep(Self::LOOK).await;
                }
                self.generation = local.proxy.generation();
                let (author, reason, taken) =
                    status.change.unwrap_or((String::new(), String::new(), SystemTime::now()));
                let saved = std::fs::metadata(file).and_then(|data| data.modified()).ok();
                let (cause, since) = match author.as_str() {
                    "file" => ("the file was saved".to_owned(), saved.unwrap_or(taken)),
                    _ => (format!("{author} said: {reason}"), taken),
                };
                let after = SystemTime::now().duration_since(since).unwrap_or_default();
                return Edit::Served { version: status.version.unwrap_or(0), cause, after };
            }
            self.generation = local.proxy.generation();
        }
    }
}

/// Ctrl-C or SIGTERM, from the moment that it is made.
pub(crate) struct Interrupted {
    terminate: Signal,
    interrupt: Signal,
}

impl Interrupted {
    /// Must be called within a runtime.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Where the proxy tells about itself.
fn admin_port(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!("admin: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}\n")
}

/// What an Envoy would be given to follow the same control plane.
fn bootstrap(xds: SocketAddr) -> String {
    format!(
        "node: {{ id: local, cluster: local }}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{{ envoy_grpc: {{ cluster_name: control }} }}]
  lds_config: {{ resource_api_version: V3, ads: {{}} }}
  cds_config: {{ resource_api_version: V3, ads: {{}} }}
static_resources:
  clusters:
  - name: control
    type: STATIC
    load_assignment:
      cluster_name: control
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}
",
        xds.ip(),
        xds.port()
    )
}

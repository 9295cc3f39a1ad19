//! `control.yaml`: where the control plane listens and what it reads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use control_core::ir::ImplicitGateway;
use proxy_core::config::Address;
use serde::Deserialize;

use crate::tls::TlsFiles;

/// The control plane's own configuration. Unknown keys are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ControlConfig {
    /// Where proxies follow over xDS. Loopback unless told otherwise.
    #[serde(default = "default_xds")]
    pub xds: SocketAddr,
    /// Protects the xDS port.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Where `/healthz`, `/readyz` and `/fleet` are answered. Loopback unless told otherwise.
    #[serde(default = "default_http")]
    pub http: SocketAddr,
    /// How often proxies report what came of requests, in milliseconds; 100 at the least.
    #[serde(default = "default_report_interval")]
    pub report_interval_ms: u32,
    /// A file or a folder of resources, relative to this file. Watched: what changes there becomes a version.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Where versions, tokens and the audit are kept.
    #[serde(default)]
    pub store: StoreConfig,
    /// A file, relative to this one, to which each audit record is written as a line of JSON.
    #[serde(default)]
    pub audit: Option<PathBuf>,
    /// The listener of routes that name no other gateway.
    #[serde(default)]
    pub gateway: GatewayConfig,
}

/// Where versions, tokens and the audit are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StoreConfig {
    /// In the process, and gone with it.
    Memory,
    /// In a file of one process, relative to the configuration; `weir.redb` where unset.
    Redb(PathBuf),
    /// In etcd, for several controllers of which one leads. Needs the feature `etcd`.
    #[cfg(feature = "etcd")]
    Etcd(EtcdConfig),
}

/// Where etcd is.
#[cfg(feature = "etcd")]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EtcdConfig {
    /// Such as `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// What every key begins with; `weir/` where unset.
    #[serde(default = "default_prefix")]
    pub prefix: String,
}

#[cfg(feature = "etcd")]
fn default_prefix() -> String {
    "weir/".to_owned()
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Redb(PathBuf::from("weir.redb"))
    }
}

/// The implicit gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct GatewayConfig {
    /// The address that proxies listen on.
    pub address: IpAddr,
    /// The port that proxies listen on.
    pub port: u16,
    /// A file, on the proxies' machines, that gets a line for each request.
    pub access_log: Option<String>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 8080, access_log: None }
    }
}

impl From<GatewayConfig> for ImplicitGateway {
    fn from(config: GatewayConfig) -> Self {
        let address = Address::Socket(SocketAddr::new(config.address, config.port));
        Self { address, access_log: config.access_log }
    }
}

const fn default_xds() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 18_000)
}

const fn default_report_interval() -> u32 {
    1_000
}

const fn default_http() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 18_001)
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a configuration.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
}

impl ControlConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// One sentence with the place.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let mut config: Self = serde_saphyr::from_str(&text).map_err(|error| {
            let problem = control_core::model::problem(&error);
            ConfigError::Document {
                path: path.to_owned(),
                line: problem.line,
                column: problem.column,
                message: problem.message,
            }
        })?;
        if let Some(folder) = path.parent() {
            config.source = config.source.map(|source| folder.join(source));
            config.audit = config.audit.map(|file| folder.join(file));
            if let StoreConfig::Redb(path) = &mut config.store {
                *path = folder.join(&*path);
            }
            config.tls = config.tls.map(|files| files.within(folder));
        }
        Ok(config)
    }
}

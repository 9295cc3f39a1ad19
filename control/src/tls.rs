//! TLS on the port that proxies follow: who the control plane is, and whom it takes. Files are read again when they change; what
//! cannot be used leaves what was there.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the files are looked at.
const GLANCE: Duration = Duration::from_secs(1);
/// Connections that wait to be served.
const QUEUE: usize = 64;

/// Where keys and certificates lie, relative to the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsFiles {
    /// The chain in PEM.
    pub certificate: PathBuf,
    /// Its key in PEM.
    pub key: PathBuf,
    /// Whose certificates clients must show; nobody is asked for one where unset.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// The same, seen from a folder.
    pub(crate) fn within(self, folder: &Path) -> Self {
        Self {
            certificate: folder.join(self.certificate),
            key: folder.join(self.key),
            client_ca: self.client_ca.map(|path| folder.join(path)),
        }
    }

    /// What says that something has changed.
    fn stamp(&self) -> Vec<Option<(SystemTime, u64)>> {
        let of = |path: &PathBuf| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(of)
            .collect()
    }

    /// Reads them.
    fn config(&self) -> Result<Arc<ServerConfig>, String> {
        let said = |path: &Path, reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let found: Vec<_> = read.map_err(|error| said(path, &error))?;
            match found.is_empty() {
                true => Err(said(path, &"holds no certificate")),
                false => Ok(found),
            }
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&self.certificate)?;
        // What is wrong with a key is said without any of it.
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|_| said(&self.key, &"holds no private key in PEM, or cannot be read"))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(path)? {
                    roots.add(root).map_err(|error| said(path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| said(path, &error))?)
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| said(&self.certificate, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// What handshakes are made with, as the files have it.
pub(crate) struct Reloaded {
    files: TlsFiles,
    stamp: Vec<Option<(SystemTime, u64)>>,
    config: Arc<ServerConfig>,
}

impl Reloaded {
    /// # Errors
    /// Which file cannot be used, and why.
    pub(crate) fn new(files: TlsFiles) -> Result<Self, String> {
        let stamp = files.stamp();
        let config = files.config()?;
        Ok(Self { files, stamp, config })
    }

    fn refresh(&mut self) {
        let stamp = self.files.stamp();
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        match self.files.config() {
            Ok(config) => {
                self.config = config;
                tracing::info!("certificates were read again");
            }
            Err(error) => tracing::warn!("certificates cannot be used; those before them stay: {error}"),
        }
    }
}

/// Accepts connections, each after its handshake. One that fails or dawdles keeps nobody waiting.
pub(crate) fn accept(listener: TcpListener, tls: Option<Reloaded>) -> ReceiverStream<io::Result<Io>> {
    let (accepted, incoming) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut tls = tls;
        let mut glance = tokio::time::interval(GLANCE);
        loop {
            let stream = tokio::select! {
                connection = listener.accept() => match connection {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                _ = glance.tick(), if tls.is_some() => {
                    if let Some(tls) = &mut tls {
                        tls.refresh();
                    }
                    continue;
                }
                () = accepted.closed() => return,
            };
            let _ = stream.set_nodelay(true);
            let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config.clone()));
            let accepted = accepted.clone();
            tokio::spawn(async move {
                if let Some(stream) = protect(acceptor, stream).await {
                    let _ = accepted.send(Ok(stream)).await;
                }
            });
        }
    });
    ReceiverStream::new(incoming)
}

async fn protect(acceptor: Option<TlsAcceptor>, stream: TcpStream) -> Option<Io> {
    let Some(acceptor) = acceptor else { return Some(Io(Box::pin(stream))) };
    let peer = stream.peer_addr().ok();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(Io(Box::pin(stream))),
        Ok(Err(error)) => tracing::warn!(?peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::warn!(?peer, "a TLS handshake took too long"),
    }
    None
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// A connection, protected or not.
pub(crate) struct Io(Pin<Box<dyn Stream>>);

impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}

//! The load of handshakes: connections of TLS 1.3 that each make one request and end, full or resumed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, client::Resumption};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pki::SERVER_NAME;

/// Whom to connect to, how often at once, for how long.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    address: SocketAddr,
    /// The authority's certificate.
    #[arg(long)]
    ca: PathBuf,
    /// Each connection but a client's first is resumed by a ticket.
    #[arg(long)]
    resume: bool,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&flags.ca)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = Instant::now();
        let until = started + Duration::from_secs(flags.seconds);
        let tasks: Vec<_> = (0..flags.connections)
            .map(|_| {
                let mut config = ClientConfig::builder_with_provider(Arc::new(one_group()))
                    .with_protocol_versions(&[&rustls::version::TLS13])?
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth();
                if !flags.resume {
                    config.resumption = Resumption::disabled();
                }
                let connector = TlsConnector::from(Arc::new(config));
                Ok(tokio::spawn(client(flags.address, connector, flags.resume, until)))
            })
            .collect::<Result<_>>()?;
        let (mut count, mut errors) = (0_u64, 0_u64);
        let mut why = None;
        for task in tasks {
            match task.await? {
                Ok(more) => count += more,
                Err(error) => {
                    errors += 1;
                    why = Some(error);
                }
            }
        }
        // The lines that the caller reads, in wrk's words.
        println!("  {count} requests in {:.2}s, 0B read", started.elapsed().as_secs_f64());
        if let Some(why) = why {
            println!("  Socket errors: connect 0, read {errors}, write 0, timeout 0");
            eprintln!("{why:#}");
        }
        Ok(())
    })
}

/// What every proxy says itself.
const ANSWER: &[u8] = b"answered";

/// X25519 alone, so that all peers agree on the same.
fn one_group() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    provider
}

/// Connections, one after the other.
async fn client(address: SocketAddr, connector: TlsConnector, resume: bool, until: Instant) -> Result<u64> {
    let name = ServerName::try_from(SERVER_NAME)?;
    let mut count = 0;
    while Instant::now() < until {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let mut stream = connector.connect(name.clone(), tcp).await.context("handshake")?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.example.com\r\n\r\n").await?;
        let mut response = Vec::with_capacity(1024);
        // Not to the end: Envoy waits a second before it closes.
        while !response.ends_with(ANSWER) {
            ensure!(stream.read_buf(&mut response).await.context("response")? > 0, "the response was cut");
        }
        ensure!(response.starts_with(b"HTTP/1.1 200"), "not a 200");
        let kind = stream.get_ref().1.handshake_kind();
        let expected = if resume && count > 0 { HandshakeKind::Resumed } else { HandshakeKind::Full };
        ensure!(kind == Some(expected), "the handshake was {kind:?}");
        count += 1;
    }
    Ok(count)
}

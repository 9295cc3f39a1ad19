//! Requests through the proxy, and who answered them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use tokio::net::TcpStream;

/// Connections that share the requests.
const CONNECTIONS: u64 = 4;

/// Answers by the name in them.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Sends requests, with `x-canary: <canary>` if one is given.
pub(crate) async fn send(
    address: SocketAddr,
    requests: u64,
    canary: Option<&str>,
    progress: &ProgressBar,
) -> Result<Counts> {
    let share = |connection| requests / CONNECTIONS + u64::from(connection < requests % CONNECTIONS);
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let (canary, progress) = (canary.map(str::to_owned), progress.clone());
            tokio::spawn(send_on_one(address, share(connection), canary, progress))
        })
        .collect();
    let mut counts = Counts::new();
    for task in tasks {
        for (name, count) in task.await?? {
            *counts.entry(name).or_default() += count;
        }
    }
    Ok(counts)
}

async fn send_on_one(
    address: SocketAddr,
    requests: u64,
    canary: Option<String>,
    progress: ProgressBar,
) -> Result<Counts> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("no connection to {address}"))?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut counts = Counts::new();
    for _ in 0..requests {
        sender.ready().await?;
        let mut request = Request::get("/").header("host", "shop.example.com");
        if let Some(canary) = &canary {
            request = request.header("x-canary", canary);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        ensure!(status.is_success(), "the proxy answered {status}: {body}");
        *counts.entry(body).or_default() += 1;
        progress.inc(1);
    }
    Ok(counts)
}

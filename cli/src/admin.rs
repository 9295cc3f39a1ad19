//! Asks a proxy's admin port, or a control plane.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::BadInput;
use crate::progress::Progress;

const PATIENCE: Duration = Duration::from_secs(10);

/// A page of the port at `base`, such as `http://127.0.0.1:9901`, which `flag` gave.
pub(crate) fn page(flag: &str, base: &str, path: &str) -> Result<String> {
    let _progress = Progress::of(format!("asking {base}: {path}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, fetch(flag, base, path)).await {
            Ok(page) => page,
            Err(_) => bail!("{base} did not answer within {} s", PATIENCE.as_secs()),
        }
    })
}

async fn fetch(flag: &str, base: &str, path: &str) -> Result<String> {
    let uri: Uri = base.parse().map_err(|_| BadInput(format!("{flag} {base}: not a URL")))?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!(BadInput(format!("{flag} {base}: an address such as http://127.0.0.1:9901 is wanted")));
    };
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await.with_context(|| format!("{base} cannot be reached"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path).header("host", authority.as_str()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(|| format!("{base} did not answer"))?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    match status {
        StatusCode::OK => Ok(text),
        StatusCode::BAD_REQUEST => bail!(BadInput(text.trim_end().to_owned())),
        status => bail!("{base} answered {status}: {}", text.trim_end()),
    }
}

//! Asks a control plane, as whom its token says.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::progress::Progress;
use crate::{BadInput, Exit};

const PATIENCE: Duration = Duration::from_secs(30);

/// Which control plane, and who asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// The control plane's HTTP address; where unset, that of `weir demo` or `weir run` if one goes on, otherwise
    /// http://127.0.0.1:18001.
    #[arg(long, env = "WEIR_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The token that says who asks; `weir demo` and `weir run` leave theirs where it is found.
    #[arg(long, env = "WEIR_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// What `weir demo` and `weir run` leave for whoever comes to this machine's terminal.
#[derive(Debug)]
pub(crate) struct Left(PathBuf);

fn place() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    Some(state.join("weir/local.json"))
}

impl Left {
    /// Leaves the address and the token of a local control plane, readable by this user alone.
    pub(crate) fn leave(server: &str, token: &str, admin: &str) -> Result<Option<Self>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let Some(place) = place() else { return Ok(None) };
        let folder = place.parent().context("no folder")?;
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let _ = std::fs::remove_file(&place);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place);
        let file = file.with_context(|| place.display().to_string())?;
        let process = std::process::id();
        let text =
            serde_json::json!({ "server": server, "token": token, "admin": admin, "process": process });
        serde_json::to_writer(file, &text)?;
        Ok(Some(Self(place)))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let is_ours = |value: &Value| value["process"] == std::process::id();
        if left().as_ref().is_some_and(is_ours) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// What a local control plane left, while it lives: one that was killed takes nothing away.
pub(crate) fn left() -> Option<Value> {
    let left: Value = serde_json::from_str(&std::fs::read_to_string(place()?).ok()?).ok()?;
    let process = left["process"].as_u64()?;
    std::path::Path::new(&format!("/proc/{process}")).exists().then_some(left)
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Value,
}

impl Server {
    pub(crate) fn base(&self) -> String {
        let left = || left().and_then(|left| left["server"].as_str().map(str::to_owned));
        let base = self.server.clone().or_else(left);
        base.unwrap_or_else(|| "http://127.0.0.1:18001".to_owned())
    }

    fn token(&self) -> Option<String> {
        let of_left = || {
            let left = left()?;
            // A token is for the control plane that made it.
            (left["server"] == self.base().as_str()).then(|| left["token"].as_str().map(str::to_owned))?
        };
        self.token.clone().or_else(of_left)
    }

    /// Asks, and takes only a success for an answer.
    pub(crate) fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<Value> {
        self.ask_with(method, path, body, &[]).map(|answer| answer.body)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None)
    }

    pub(crate) fn ask_with(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        headers: &[(&str, String)],
    ) -> Result<Answer> {
        let _progress = Progress::of(format!("asking {}: {method} {path}", self.base()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let asked = async {
                let response = self.send(method, path, body, headers).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                self.judge(status, &body)
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(answer) => answer,
                Err(_) => bail!("{} did not answer within {} s", self.base(), PATIENCE.as_secs()),
            }
        })
    }

    fn judge(&self, status: StatusCode, body: &Bytes) -> Result<Answer> {
        let value = serde_json::from_slice(body).unwrap_or(Value::Null);
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(Answer { body: value });
        }
        let text = String::from_utf8_lossy(body);
        let detail = value["detail"].as_str().unwrap_or(text.trim());
        let place = match (value["line"].as_u64(), value["column"].as_u64()) {
            (Some(line), Some(column)) => format!("{line}:{column}: "),
            _ => String::new(),
        };
        let detail =
            if detail.is_empty() { format!("{} answered {status}", self.base()) } else { detail.to_owned() };
        let detail = match status {
            StatusCode::UNAUTHORIZED => format!("{detail} (--token, or WEIR_TOKEN)"),
            _ => format!("{place}{detail}"),
        };
        bail!(Exit::of(status, detail))
    }

    /// Lines as they come, until `each` has seen enough.
    pub(crate) fn lines(&self, path: &str, mut each: impl FnMut(Value) -> Result<()>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let response = self.send(Method::GET, path, None, &[]).await?;
            let status = response.status();
            if !status.is_success() {
                let body = response.into_body().collect().await?.to_bytes();
                return self.judge(status, &body).map(drop);
            }
            let mut body = response.into_body();
            let mut pending = Vec::new();
            while let Some(frame) = body.frame().await {
                if let Some(data) = frame?.data_ref() {
                    pending.extend_from_slice(data);
                }
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    each(serde_json::from_slice(&line)?)?;
                }
            }
            Ok(())
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        headers: &[(&str, String)],
    ) -> Result<Response<Incoming>> {
        let base = self.base();
        let uri: Uri = base.parse().map_err(|_| BadInput(format!("--server {base}: not a URL")))?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!(BadInput(format!("--server {base}: an address such as http://127.0.0.1:18001 is wanted")));
        };
        let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("{base} cannot be reached"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", authority.as_str());
        if let Some(token) = self.token() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.as_ref().is_some_and(|body| body.trim_start().starts_with('{')) {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        sender.send_request(request).await.with_context(|| format!("{base} did not answer"))
    }
}

//! One question to an endpoint, on a connection that is no worker's.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use proxy_core::config::{
    Address, CheckTarget, Cluster, ClusterName, Endpoint, GrpcProbe, HealthCheck, HttpProbe, Probe, TcpProbe,
};
use proxy_core::health::{Outcome, holds};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::executor::OnThisThread;
use crate::tls::Contexts;
use crate::upstream::{Link, Protocol};

/// Who asks, as endpoints see it.
const USER_AGENT: &str = "weir-health-check";
/// Bytes that are kept of what a TCP endpoint says.
const MOST_BYTES: usize = 64 << 10;
/// Bytes of an answer to a gRPC check.
const MOST_GRPC_BYTES: usize = 4 << 10;

/// Asks one endpoint.
pub(super) struct Asker {
    cluster: ClusterName,
    address: Address,
    /// The endpoint's host in requests that name none: its own, the cluster's name, or the address.
    host: Box<str>,
    scheme: &'static str,
    link: Link,
    sender: Option<Sender>,
}

/// A connection that may serve another check.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Asker {
    pub(super) fn new(contexts: &Arc<Contexts>, cluster: &Cluster, endpoint: &Endpoint) -> Self {
        let of_check = endpoint.check.as_deref().map_or("", |CheckTarget { hostname, .. }| &**hostname);
        let address = endpoint.check_address();
        let names = [of_check, &*endpoint.hostname, cluster.name.as_str()];
        // Not every name of a cluster can stand as a host.
        let host = names.into_iter().find(|name| name.parse::<Authority>().is_ok());
        let own = match &address {
            Address::Socket(address) => address.to_string(),
            Address::Pipe(_) => "localhost".to_owned(),
        };
        let link = Link::new(contexts, cluster, endpoint);
        Self {
            cluster: cluster.name.clone(),
            address,
            host: host.map_or(own, str::to_owned).into(),
            scheme: if link.is_protected() { "https" } else { "http" },
            link,
            sender: None,
        }
    }

    /// The next check gets a connection of its own.
    pub(super) fn hang_up(&mut self) {
        self.sender = None;
    }

    /// Asks once. The caller sets the time that it may take.
    pub(super) async fn ask(&mut self, check: &HealthCheck) -> Outcome {
        match &check.probe {
            Probe::Http(probe) => self.ask_http(probe).await,
            Probe::Tcp(probe) => self.ask_tcp(probe).await,
            Probe::Grpc(probe) => self.ask_grpc(probe).await,
        }
        .unwrap_or_else(Outcome::failed)
    }

    async fn ask_tcp(&self, probe: &TcpProbe) -> Result<Outcome, String> {
        let protocol = Protocol::Http1;
        let connected =
            self.link.reach(&self.address, protocol).await.map_err(|error| no_connection(&error))?;
        let mut socket = connected.socket;
        if !probe.send.is_empty() {
            socket.write_all(&probe.send).await.map_err(|error| format!("nothing can be sent: {error}"))?;
            socket.flush().await.map_err(|error| format!("nothing can be sent: {error}"))?;
        }
        let mut said = Vec::new();
        while !holds(&said, &probe.receive) {
            let mut part = [0; 1_024];
            match socket.read(&mut part).await {
                Ok(0) => return Err("it closes before it has said what is expected".to_owned()),
                Ok(_) if said.len() >= MOST_BYTES => {
                    return Err("it says much, and not what is expected".to_owned());
                }
                Ok(count) => said.extend_from_slice(&part[..count]),
                Err(error) => return Err(format!("nothing can be read: {error}")),
            }
        }
        Ok(Outcome::Passed { is_degraded: false })
    }

    async fn ask_http(&mut self, probe: &HttpProbe) -> Result<Outcome, String> {
        let host = if probe.host.is_empty() { &*self.host } else { &*probe.host };
        let mut lines = HeaderMap::new();
        lines.insert(header::HOST, value(host)?);
        lines.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for name in &probe.removed_headers {
            lines.remove(&**name);
        }
        add(&mut lines, &probe.headers)?;
        let protocol = if probe.is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        let question = Question {
            scheme: self.scheme,
            method: &probe.method,
            path: &probe.path,
            lines,
            body: Bytes::new(),
        };
        let response = self.send(protocol, question).await?;
        let (head, body) = response.into_parts();
        let header = |name: &str| Some(head.headers.get(name)?.to_str().unwrap_or_default().to_owned());
        let limit = if probe.wants_body() { probe.body_bytes } else { 0 };
        let (read, is_whole) = up_to(body, limit).await?;
        if !is_whole {
            self.hang_up();
        }
        Ok(probe.judge(head.status.as_u16(), header, &read))
    }

    async fn ask_grpc(&mut self, probe: &GrpcProbe) -> Result<Outcome, String> {
        let host = if probe.authority.is_empty() { &*self.host } else { &*probe.authority };
        let mut lines = HeaderMap::new();
        lines.insert(header::HOST, value(host)?);
        lines.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        lines.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        lines.insert(header::TE, HeaderValue::from_static("trailers"));
        add(&mut lines, &probe.metadata)?;
        let body = framed(&HealthCheckRequest { service: probe.service.to_string() });
        let path = "/grpc.health.v1.Health/Check";
        let question = Question { scheme: self.scheme, method: "POST", path, lines, body };
        let response = self.send(Protocol::Http2, question).await?;
        let (head, body) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(format!("the status is {}", head.status.as_u16()));
        }
        let whole = Limited::new(body, MOST_GRPC_BYTES).collect().await.map_err(|error| error.to_string())?;
        let trailers = whole.trailers().unwrap_or(&head.headers);
        match trailers.get("grpc-status").map(HeaderValue::as_bytes) {
            Some(b"0") => {}
            Some(status) => return Err(format!("grpc-status is {}", String::from_utf8_lossy(status))),
            None => return Err("the answer has no grpc-status".to_owned()),
        }
        let bytes = whole.to_bytes();
        let [0, a, b, c, d, message @ ..] = &*bytes else {
            return Err("the answer is no message".to_owned());
        };
        let message = message.get(..u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        let answer = message.and_then(|message| HealthCheckResponse::decode(message).ok());
        match answer.ok_or("the answer is no message")?.status {
            1 => Ok(Outcome::Passed { is_degraded: false }),
            2 => Err("the service does not serve".to_owned()),
            status => Err(format!("the service's status is {status}")),
        }
    }

    /// Sends a request, on the connection of the check before if that is still good.
    async fn send(
        &mut self,
        protocol: Protocol,
        question: Question<'_>,
    ) -> Result<Response<Incoming>, String> {
        let kept = self.sender.take();
        let was_kept = kept.is_some();
        let mut sender = match kept {
            Some(sender) if sender.is_open() => sender,
            Some(_) | None => self.connect(protocol).await?,
        };
        let mut answer = sender.send(&question).await;
        // It may have closed while the question was on its way.
        if was_kept && matches!(&answer, Err(error) if is_closed(error)) {
            sender = self.connect(protocol).await?;
            answer = sender.send(&question).await;
        }
        let answer = answer.map_err(|error| format!("no response: {}", whole(&error)))?;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn connect(&self, protocol: Protocol) -> Result<Sender, String> {
        let connected =
            self.link.reach(&self.address, protocol).await.map_err(|error| no_connection(&error))?;
        let is_http2 = connected.speaks_http2(protocol);
        let io = TokioIo::new(connected.socket);
        let failed = |error: hyper::Error| no_connection(&io::Error::other(error));
        let ended = {
            let cluster = self.cluster.clone();
            move |outcome: Result<(), hyper::Error>| {
                if let Err(error) = outcome {
                    tracing::debug!(%cluster, %error, "a connection of health checks ended");
                }
            }
        };
        if is_http2 {
            let mut builder = http2::Builder::new(OnThisThread);
            let (sender, connection) =
                builder.timer(TokioTimer::new()).handshake(io).await.map_err(failed)?;
            tokio::task::spawn_local(async move { ended(connection.await) });
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
        tokio::task::spawn_local(async move { ended(connection.await) });
        Ok(Sender::Http1(sender))
    }
}

/// A request before its form is known.
struct Question<'a> {
    scheme: &'static str,
    method: &'a str,
    path: &'a str,
    /// With the host.
    lines: HeaderMap,
    body: Bytes,
}

impl Sender {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed() && sender.is_ready(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(&mut self, question: &Question<'_>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(question.request(Version::HTTP_11)).await,
            Self::Http2(sender) => sender.send_request(question.request(Version::HTTP_2)).await,
        }
    }
}

impl Question<'_> {
    fn request(&self, version: Version) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.parse().unwrap_or_default();
        *request.version_mut() = version;
        let mut lines = self.lines.clone();
        let host = match version {
            Version::HTTP_2 => lines.remove(header::HOST),
            _ => None,
        };
        let host = host.as_ref().and_then(|host| host.to_str().ok());
        let target = match host {
            Some(host) => format!("{}://{host}{}", self.scheme, self.path),
            None => self.path.to_owned(),
        };
        // A host that is no authority cannot be said in HTTP/2; the path can.
        *request.uri_mut() = target.parse().or_else(|_| self.path.parse()).unwrap_or_default();
        // RFC 9110 §8.6
        if matches!(self.method, "POST" | "PUT" | "PATCH") && self.body.is_empty() {
            lines.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *request.headers_mut() = lines;
        request
    }
}

/// As much of a body as is looked at, and whether there is no more of it: one that goes on for long is not waited for.
async fn up_to(mut body: Incoming, limit: usize) -> Result<(Vec<u8>, bool), String> {
    let mut read = Vec::new();
    let mut passed = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| format!("the body ends early: {error}"))?.into_data() else {
            continue;
        };
        passed += data.len();
        read.extend_from_slice(&data[..data.len().min(limit.saturating_sub(read.len()))]);
        if passed > limit.max(MOST_BYTES) {
            return Ok((read, false));
        }
    }
    Ok((read, true))
}

fn add(lines: &mut HeaderMap, added: &[(Box<str>, Box<str>)]) -> Result<(), String> {
    for (name, text) in added {
        let name = HeaderName::try_from(&**name).map_err(|_| format!("{name:?} is not a header name"))?;
        lines.insert(name, value(text)?);
    }
    Ok(())
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(text).map_err(|_| format!("{text:?} cannot stand in a header"))
}

fn no_connection(error: &io::Error) -> String {
    format!("no connection: {error}")
}

fn is_closed(error: &hyper::Error) -> bool {
    error.is_closed() || error.is_canceled() || error.is_incomplete_message()
}

/// An error with what it is due to.
fn whole(error: &hyper::Error) -> String {
    use std::error::Error as _;

    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// One uncompressed message of a gRPC call.
fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &bytes].concat().into()
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

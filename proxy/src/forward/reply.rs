//! Replies of the proxy itself.

use std::borrow::Cow;
use std::pin::pin;
use std::time::Instant;

use proxy_core::access::Record;
use proxy_core::config::{Action, DirectResponse, HttpOptions};
use proxy_core::grpc;
use proxy_core::http1::{HeadError, LocalReply, Method, ResponseEdits, Version, write_local_reply};
use proxy_core::rewrite::{self, Here};
use proxy_core::route::RequestView as _;

use super::observe::{observe, record};
use super::{Next, Reason, RequestContext, Routed, edits};
use crate::deadline::Limit;
use crate::exchange::Exchange;
use crate::grpc_web::Form;
use crate::socket::Socket;
use crate::telemetry::Lapse;

/// What is answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Something went wrong.
    Failure(Reason),
    /// The route's cluster does not exist; the status is the route's.
    NoCluster(u16),
    /// It is refused on purpose, with this status.
    Aborted(u16),
    /// The route is a redirect or a direct response.
    OfRoute,
    /// The virtual host is for TLS: the client is sent there.
    TlsRequired,
}

impl From<Reason> for Answer {
    fn from(reason: Reason) -> Self {
        Self::Failure(reason)
    }
}

impl Answer {
    const fn failure(self) -> Option<Reason> {
        match self {
            Self::Failure(reason) => Some(reason),
            Self::NoCluster(_) => Some(Reason::NoCluster),
            Self::Aborted(_) => Some(Reason::FaultAborted),
            Self::OfRoute | Self::TlsRequired => None,
        }
    }

    fn status(self, action: Option<&Action>) -> u16 {
        match (self, action) {
            // A client that stalled is not answered, only cut off.
            (Self::Failure(reason), _) if reason.status() == 0 => 408,
            (Self::Failure(reason), _) => reason.status(),
            (Self::NoCluster(status) | Self::Aborted(status), _) => status,
            (Self::OfRoute, Some(Action::Redirect(redirect))) => redirect.status,
            (Self::OfRoute, Some(Action::Respond(response))) => response.status,
            (Self::OfRoute, Some(Action::Forward(_)) | None) => 500,
            (Self::TlsRequired, _) => 301,
        }
    }
}

/// Sends a reply of our own. The connection goes on if the request had no body.
pub(super) async fn answer(
    cx: &RequestContext<'_>,
    routed: &Routed,
    client: &mut Socket,
    exchange: &mut Exchange,
    local: Answer,
) -> Next {
    cx.deadlines().clear_all();
    let ended = Instant::now();
    let failure = local.failure();
    if failure == Some(Reason::ClientGone) {
        observe(cx, routed, exchange, 0, failure, b"", ended);
        return Next::Close;
    }
    let head = &exchange.request;
    let (used, method, version) = (head.len, head.method, head.version);
    let keep_alive = head.keep_alive
        && !head.framing.has_body()
        && !cx.connection_shall_end()
        // What follows a request for a tunnel may be meant for the tunnel.
        && head.method != Method::Connect
        && head.upgrade.is_none()
        && failure.is_none_or(Reason::leaves_client_in_step);
    let mut out = std::mem::take(&mut exchange.out);
    let date = cx.worker.date();
    let action = routed.route.as_ref().map(|route| &route.config().action);
    let status = local.status(action);
    if failure.is_none_or(|reason| reason == Reason::UnescapedPath) {
        add_location(cx, routed, exchange, local, action);
    }
    edits::local_reply(cx, routed, exchange, status);
    let (status, sent) = {
        let duration = ended.saturating_duration_since(cx.started).as_micros() as u64;
        let mut record = record(cx, routed, exchange, status, failure, duration);
        if failure.is_none() {
            record.details = "direct_response";
        }
        let http = cx.http();
        let edits = ResponseEdits {
            client: version,
            keep_alive,
            server: &http.server,
            date: &date,
            added: &exchange.answered,
        };
        match (failure, action) {
            (None, Some(Action::Respond(response))) => {
                direct(http, &record, response, method, &edits, &mut out)
            }
            // A client of gRPC reads no status but its own.
            (Some(reason), _) if exchange.request.is_grpc && reason != Reason::UnescapedPath => {
                let web = http.bridges_grpc_web.then(|| Form::of(&exchange.from_client, &exchange.request));
                let content_type = web.flatten().map_or("application/grpc", Form::content_type);
                grpc(http, &record, reason.words(), content_type, &edits, &mut out)
            }
            (None, _) => local_reply(http, &record, "", method, &edits, &mut out),
            (Some(reason), _) => local_reply(http, &record, reason.words(), method, &edits, &mut out),
        }
    };
    exchange.progress.sent = sent;
    let body = out.len() - (sent as usize).min(out.len());
    observe(cx, routed, exchange, status, failure, &out[body..], ended);
    let stall = cx.client_stall(cx.http().timeouts.write);
    let written = {
        let mut write = pin!(stall.write_all(client, &out));
        cx.guard(write.as_mut()).await
    };
    cx.deadlines().clear_all();
    exchange.out = out;
    match written {
        Ok(Ok(())) if keep_alive => Next::Request(used, ended),
        Ok(Ok(())) => Next::Linger,
        Ok(Err(_)) | Err(_) => Next::Close,
    }
}

/// Where the client is sent, if it is.
fn add_location(
    cx: &RequestContext<'_>,
    routed: &Routed,
    exchange: &mut Exchange,
    local: Answer,
    action: Option<&Action>,
) {
    let asked = super::asked(cx, exchange);
    let mut location = Vec::new();
    let here = Here { scheme: asked.scheme(), authority: asked.authority(), target: asked.path() };
    match (local, action, &routed.route) {
        (Answer::OfRoute, Some(Action::Redirect(redirect)), Some(route)) => {
            rewrite::location(redirect, &route.config().path, &here, &mut location);
        }
        (Answer::TlsRequired, ..) => location = rewrite::to_tls(&here),
        // The path in its normal form.
        (Answer::Failure(Reason::UnescapedPath), ..) => location.extend_from_slice(here.target),
        _ => return,
    }
    for part in [b"location: ", location.as_slice(), b"\r\n"] {
        exchange.answered.extend_from_slice(part);
    }
}

/// Writes a route's own response into `out`. Returns its status and the bytes of its body.
fn direct(
    http: &HttpOptions,
    record: &Record<'_>,
    response: &DirectResponse,
    method: Method,
    edits: &ResponseEdits<'_>,
    out: &mut Vec<u8>,
) -> (u16, u64) {
    let (body, content_type) = match &response.format {
        Some(form) => {
            let mut body = Vec::new();
            form.format.write(&Record { local_body: response.body.as_bytes(), ..*record }, &mut body);
            (Cow::Owned(body), &*form.content_type)
        }
        None if response.body.is_empty() => (Cow::Borrowed(&b""[..]), ""),
        None => (Cow::Borrowed(response.body.as_bytes()), "text/plain"),
    };
    // The listener's mappers may change it like any reply of our own.
    if http.local_replies.changes(record) {
        let text = String::from_utf8_lossy(&body).into_owned();
        return local_reply(http, record, &text, method, edits, out);
    }
    let bodiless = method == Method::Head || matches!(response.status, 204 | 304);
    let written = LocalReply { status: response.status, content_type, body: &body, is_head: bodiless };
    out.clear();
    write_local_reply(out, &written, edits);
    (response.status, if bodiless { 0 } else { body.len() as u64 })
}

/// Writes a reply in the form of gRPC: the failure as its status, in a response of trailers alone. Returns the status of HTTP
/// and the bytes of its body.
fn grpc(
    http: &HttpOptions,
    record: &Record<'_>,
    text: &str,
    content_type: &str,
    edits: &ResponseEdits<'_>,
    out: &mut Vec<u8>,
) -> (u16, u64) {
    // A mapper may say another status and other words.
    let reply = http.local_replies.reply(record, text);
    let words = if reply.content_type.starts_with("text/plain") { &*reply.body } else { text.as_bytes() };
    let mut added = reply.headers;
    added.extend_from_slice(edits.added);
    grpc::write_status(grpc::status_of(reply.status), words, &mut added);
    let edits = ResponseEdits { added: &added, ..*edits };
    let written = LocalReply { status: 200, content_type, body: b"", is_head: false };
    out.clear();
    write_local_reply(out, &written, &edits);
    (200, 0)
}

/// Answers a head that breaks a rule, or did not come in time. Nobody knows where the next request would start, so the
/// connection ends.
pub(crate) async fn refuse(
    cx: &RequestContext<'_>,
    client: &mut Socket,
    exchange: &mut Exchange,
    error: Result<HeadError, Limit>,
) -> Next {
    cx.deadlines().clear_all();
    cx.chain.cells.requests.add(1);
    let (reason, status, text) = match error {
        Ok(error) => (Reason::MalformedHead, error.status(), error.to_string()),
        Err(limit) => {
            (Reason::from(limit), Reason::from(limit).status(), Reason::from(limit).words().to_owned())
        }
    };
    tracing::debug!(text, peer = %cx.connection.peer().ip, "a request was refused");
    cx.worker.cells.failures[reason].add(1);
    let ended = Instant::now();
    let duration = ended.saturating_duration_since(cx.started).as_micros() as u64;
    cx.chain.cells.observe(status, Lapse::of(duration));
    let peer = cx.connection.peer();
    let record = Record {
        status,
        reason: reason.words(),
        details: reason.label(),
        flag: reason.flag(),
        started: cx.worker.unix_micros(cx.started),
        duration,
        connection_id: cx.connection.id,
        peer: &peer.ip,
        peer_port: peer.port(),
        client: &peer.ip,
        local_address: &cx.connection.local,
        ..Record::default()
    };
    let date = cx.worker.date();
    let http = cx.http();
    let upgrade: &[u8] = if status == 426 { b"upgrade: HTTP/1.1\r\n" } else { b"" };
    let edits = ResponseEdits {
        client: Version::Http11,
        keep_alive: false,
        server: &http.server,
        date: &date,
        added: upgrade,
    };
    let (status, sent) = local_reply(http, &record, &text, Method::Get, &edits, &mut exchange.out);
    let body = &exchange.out[exchange.out.len() - sent as usize..];
    let record = Record { status, bytes_sent: sent, local_body: body, ..record };
    cx.chain.logs.iter().for_each(|log| log.write(&record));
    let stall = cx.client_stall(cx.http().timeouts.write);
    let mut write = pin!(stall.write_all(client, &exchange.out));
    match cx.guard(write.as_mut()).await {
        Ok(Ok(())) => Next::Linger,
        Ok(Err(_)) | Err(_) => Next::Close,
    }
}

/// Writes the reply to a request that ended as `record` says into `out`, as the listener's `local_reply_config` wants it.
/// Returns its status and the bytes of its body.
fn local_reply(
    http: &HttpOptions,
    record: &Record<'_>,
    text: &str,
    method: Method,
    edits: &ResponseEdits<'_>,
    out: &mut Vec<u8>,
) -> (u16, u64) {
    let mut reply = http.local_replies.reply(record, text);
    reply.headers.extend_from_slice(edits.added);
    let edits = ResponseEdits { added: &reply.headers, ..*edits };
    let is_head = method == Method::Head || matches!(reply.status, 204 | 304);
    let written =
        LocalReply { status: reply.status, content_type: &reply.content_type, body: &reply.body, is_head };
    out.clear();
    write_local_reply(out, &written, &edits);
    (reply.status, if is_head { 0 } else { reply.body.len() as u64 })
}

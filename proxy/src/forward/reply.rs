//! Replies of the proxy itself.

use std::pin::pin;
use std::time::Instant;

use proxy_core::access::Record;
use proxy_core::config::HttpOptions;
use proxy_core::http1::{HeadError, LocalReply, Method, ResponseEdits, Version, write_local_reply};

use super::observe::{observe, record};
use super::{Next, Reason, RequestContext, Routed};
use crate::deadline::Limit;
use crate::exchange::Exchange;
use crate::socket::Socket;

/// Sends a reply of our own. The connection goes on if the request had no body.
pub(super) async fn answer(
    cx: &RequestContext<'_>,
    routed: &Routed,
    client: &mut Socket,
    exchange: &mut Exchange,
    reason: Reason,
) -> Next {
    cx.deadlines().clear_all();
    let ended = Instant::now();
    if reason == Reason::ClientGone {
        observe(cx, routed, exchange, 0, Some(reason), b"", ended);
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
        && reason.leaves_client_in_step();
    let mut out = std::mem::take(&mut exchange.out);
    let date = cx.worker.date();
    // A client that stalled is not answered, only cut off.
    let status = if reason.status() == 0 { 408 } else { reason.status() };
    let (status, sent) = {
        let duration = ended.saturating_duration_since(cx.started).as_micros() as u64;
        let record = record(cx, routed, exchange, status, Some(reason), duration);
        let mut added = exchange.answered.clone();
        if reason == Reason::UnescapedPath {
            let location = head.path.slice(&exchange.from_client);
            [b"location: ", location, b"\r\n"].into_iter().for_each(|part| added.extend_from_slice(part));
        }
        let http = cx.http();
        let edits =
            ResponseEdits { client: version, keep_alive, server: &http.server, date: &date, added: &added };
        local_reply(http, &record, reason.words(), method, &edits, &mut out)
    };
    exchange.progress.sent = sent;
    let body = out.len() - (sent as usize).min(out.len());
    observe(cx, routed, exchange, status, Some(reason), &out[body..], ended);
    let stall = cx.client_stall(cx.http().timeouts.write);
    let written = {
        let mut write = pin!(stall.write_all(client, &out));
        cx.deadlines().guard(write.as_mut()).await
    };
    cx.deadlines().clear_all();
    exchange.out = out;
    match written {
        Ok(Ok(())) if keep_alive => Next::Request(used, ended),
        Ok(Ok(())) => Next::Linger,
        Ok(Err(_)) | Err(_) => Next::Close,
    }
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
    cx.listener.cells.requests.add(1);
    let (reason, status, text) = match error {
        Ok(error) => (Reason::MalformedHead, error.status(), error.to_string()),
        Err(limit) => {
            (Reason::from(limit), Reason::from(limit).status(), Reason::from(limit).words().to_owned())
        }
    };
    tracing::debug!(text, peer = %cx.connection.peer.ip, "a request was refused");
    cx.worker.cells.failures[reason as usize].add(1);
    cx.listener.cells.observe(status);
    let ended = Instant::now();
    let peer = &cx.connection.peer;
    let record = Record {
        status,
        reason: reason.words(),
        details: reason.label(),
        flag: reason.flag(),
        started: cx.worker.unix_micros(cx.started),
        duration: ended.saturating_duration_since(cx.started).as_micros() as u64,
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
    cx.listener.logs.iter().for_each(|log| log.write(&record));
    let stall = cx.client_stall(cx.http().timeouts.write);
    let mut write = pin!(stall.write_all(client, &exchange.out));
    match cx.deadlines().guard(write.as_mut()).await {
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

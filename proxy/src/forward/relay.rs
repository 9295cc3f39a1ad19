//! The response's way back: read, judge, pass on.

use std::cell::Cell;
use std::io;
use std::time::Instant;

use proxy_core::config::RouteTimeout;
use proxy_core::grpc;
use proxy_core::http1::{
    BodyReader, Output, ResponseEdits, ResponseFraming, Version, parse_response, write_chunk_size,
    write_response,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::plan::Plan;
use super::send::{Broken, Harm, is_delimited};
use super::stall::Stall;
use super::{Reason, RequestContext, Routed, edits};
use crate::deadline::Limit;
use crate::exchange::{Exchange, HEAD_BUFFER};

/// Room before a chunk's content for its size line.
const CHUNK_HEADROOM: usize = 18;
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A response of which at least the head reached the client, or tried to.
pub(super) struct Received {
    pub(super) failure: Option<Reason>,
    /// The upstream's connection stands exactly after the response.
    pub(super) upstream_reusable: bool,
    pub(super) client_reusable: bool,
    /// The method or status promised no body; an upstream that sends one all the same does it in the next segment.
    pub(super) bodiless: bool,
    /// The response's end can only be told by the connection's.
    pub(super) ends_with_close: bool,
    /// Both sides agreed to talk about something else from here on.
    pub(super) switched: bool,
}

/// What the response's side knows of the request's.
#[derive(Debug, Default)]
pub(super) struct UploadView {
    /// The request's end is not reached, and so many bytes, if their number is known, are to come.
    pub(super) unfinished: Cell<bool>,
    pub(super) remaining: Cell<Option<u64>>,
    /// The final head is on its way: the client's pace is its own affair from here on.
    pub(super) answered: Cell<bool>,
    /// The client waits for a 100 before it sends the body, and none came.
    pub(super) awaits_continue: Cell<bool>,
}

/// A request's rest that is still read after an early response, so that the connection survives.
pub(super) const DRAINED_BYTES: u64 = 256 << 10;

impl UploadView {
    /// Whether the rest of the request is worth reading once the response is out.
    fn is_drainable(&self) -> bool {
        !self.unfinished.get()
            || (!self.awaits_continue.get() && self.remaining.get().is_none_or(|rest| rest <= DRAINED_BYTES))
    }
}

/// Passes a response from `upstream` to `client`.
pub(super) async fn response<U, C>(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    routed: &Routed,
    upstream: &mut U,
    client: &mut C,
    exchange: &mut Exchange,
    upload: &UploadView,
) -> Result<Received, Broken>
where
    U: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    let stall = cx.client_stall(plan.write);
    read_final_head(cx, plan, upstream, client, exchange, upload).await?;
    let own_lines = exchange.answered.len();
    edits::response(cx, routed, exchange);
    let http = cx.http();
    let Exchange { request, response, from_upstream, out, answered, progress, .. } = exchange;
    if progress.is_timed {
        progress.response_begin = Some(Instant::now());
    }
    if plan.timeout == RouteTimeout::Default {
        cx.deadlines().clear(Limit::Response);
    }
    upload.answered.set(true);
    if upload.unfinished.get() {
        for limit in [Limit::Request, Limit::BodyIdle, Limit::BodyRate] {
            cx.deadlines().clear(limit);
        }
    }
    let switched = plan.opens_tunnel(response);
    if let Some(passage) = &routed.passage {
        passage.begin(response.status >= 500, switched, Instant::now());
    }
    if switched {
        // From here on silence is the tunnel's business.
        cx.begin_tunnel();
    }
    // Asked now, not when the request came: a drain may have begun since.
    let keep_alive = request.keep_alive
        && !cx.connection_shall_end()
        && is_delimited(request, response)
        && (switched || upload.is_drainable());
    let output = cx.output_for(request);
    let promised_none = response.framing == ResponseFraming::None;
    let mut body = BodyReader::of_response(response.framing, output, http.chunks);
    out.clear();
    let date = cx.worker.date();
    let edits = ResponseEdits {
        client: request.version,
        keep_alive,
        server: &http.server,
        date: &date,
        added: answered,
    };
    write_response(out, from_upstream, response, &edits);

    if request.is_grpc {
        let line = response
            .headers
            .iter()
            .find(|line| line.name.slice(from_upstream).eq_ignore_ascii_case(b"grpc-status"));
        progress.grpc_status = line.and_then(|line| grpc::parse_status(line.value.slice(from_upstream)));
    }
    let at_hand = &mut from_upstream[response.len..];
    let count = at_hand.len();
    if switched {
        // The endpoint may speak first.
        out.extend_from_slice(at_hand);
    }
    // A head that promises no body leaves nothing to read; what is there all the same belongs to nobody.
    let Ok(relayed) = body.relay(at_hand) else {
        // Nothing of the response leaves, and the reply in its place is edited for itself.
        answered.truncate(own_lines);
        return Err(Reason::UpstreamProtocol.into());
    };
    let chunked_anew = response.framing == ResponseFraming::UntilClose && output != Output::Content;
    append_body(out, &at_hand[..relayed.kept], chunked_anew);
    out.extend_from_slice(body.tail());
    progress.sent = body.content_bytes();
    let leftover = count - relayed.taken;
    let ends_with_close = !is_delimited(request, response);
    let received = |failure: Option<Reason>, upstream_reusable| Received {
        failure,
        upstream_reusable,
        client_reusable: keep_alive && failure.is_none(),
        bodiless: promised_none,
        ends_with_close,
        switched,
    };
    (progress.answering, progress.answered) = (true, true);
    if stall.write_all(client, out).await.is_err() {
        return Ok(received(Some(Reason::ClientGone), false));
    }
    let upstream_keeps = response.keep_alive;
    if request.is_grpc && body.is_done() {
        progress.grpc_status = progress.grpc_status.or_else(|| grpc::trailing_status(body.tail()));
    }
    if switched || body.is_done() {
        return Ok(received(None, upstream_keeps && leftover == 0));
    }
    let mut buffer = cx.worker.body_buffer();
    let streamed =
        stream(cx, plan, upstream, client, &mut body, &mut buffer, chunked_anew, &mut progress.sent).await;
    cx.worker.return_body_buffer(buffer);
    if request.is_grpc {
        progress.grpc_status = progress.grpc_status.or_else(|| grpc::trailing_status(body.tail()));
    }
    Ok(match streamed {
        Ok(Streamed { leftover }) => {
            received(None, upstream_keeps && leftover == 0 && !body.ends_with_connection())
        }
        Err(failure) => received(Some(failure), false),
    })
}

/// Reads heads until one is final; informational ones are passed on (RFC 9110 §15.2).
async fn read_final_head<U, C>(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    upstream: &mut U,
    client: &mut C,
    exchange: &mut Exchange,
    upload: &UploadView,
) -> Result<(), Broken>
where
    U: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    let Exchange { request, response, from_upstream, out, progress, .. } = exchange;
    let mut unanswered = true;
    loop {
        if !from_upstream.is_empty() {
            unanswered = false;
            let whole = parse_response(from_upstream, &plan.response_limits, request.method, response)
                .map_err(|_| Reason::UpstreamProtocol)?;
            match (whole, response.status) {
                (true, 101) if plan.opens_tunnel(response) => {
                    progress.has_response = true;
                    return Ok(());
                }
                // Nobody asked to switch protocols, or not to this one.
                (true, 101) => return Err(Reason::UpstreamProtocol.into()),
                (true, 100..=199) => {
                    if response.status == 100 && upload.awaits_continue.replace(false) {
                        // Now it is the client's turn.
                        cx.deadlines().clear(Limit::StreamIdle);
                        cx.deadlines().set(Limit::BodyIdle, Instant::now(), plan.body_idle);
                    }
                    out.clear();
                    let edits = ResponseEdits {
                        client: request.version,
                        keep_alive: true,
                        server: &cx.http().server,
                        date: b"",
                        added: b"",
                    };
                    write_response(out, from_upstream, response, &edits);
                    from_upstream.drain(..response.len);
                    if request.version == Version::Http11 {
                        // Half of a head must not be followed by a reply of our own.
                        progress.answering = true;
                        let sent = cx.client_stall(plan.write).write_all(client, out).await;
                        sent.map_err(|_| Reason::ClientGone)?;
                        progress.answering = false;
                    }
                    continue;
                }
                (true, _) => {
                    progress.has_response = true;
                    return Ok(());
                }
                (false, _) => {}
            }
        }
        from_upstream.reserve(HEAD_BUFFER.saturating_sub(from_upstream.len()).max(1024));
        match upstream.read_buf(from_upstream).await {
            Ok(1..) => {}
            read => {
                let kind = read.err().map(|error| error.kind());
                let reason = match kind {
                    Some(io::ErrorKind::InvalidData) => Reason::UpstreamProtocol,
                    _ => Reason::UpstreamReset,
                };
                return Err(Broken { reason, harm: if unanswered { Harm::of(kind) } else { Harm::Done } });
            }
        }
    }
}

fn append_body(out: &mut Vec<u8>, content: &[u8], chunked_anew: bool) {
    if content.is_empty() {
        return;
    }
    if chunked_anew {
        let mut line = [0; CHUNK_HEADROOM];
        let start = write_chunk_size(&mut line, content.len());
        out.extend_from_slice(&line[start..]);
    }
    out.extend_from_slice(content);
    if chunked_anew {
        out.extend_from_slice(CHUNK_END);
    }
}

struct Streamed {
    /// Bytes read beyond the body's end: they belong to nobody.
    leftover: usize,
}

/// Moves the rest of a response's body. Reads only when the last piece was written, so a slow client slows the upstream.
#[allow(clippy::too_many_arguments)]
async fn stream<U, C>(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    upstream: &mut U,
    client: &mut C,
    body: &mut BodyReader,
    buffer: &mut Vec<u8>,
    chunked_anew: bool,
    sent: &mut u64,
) -> Result<Streamed, Reason>
where
    U: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    let stall: Stall<'_> = cx.client_stall(plan.write);
    let gone = |_: io::Error| Reason::ClientGone;
    let headroom = if chunked_anew { CHUNK_HEADROOM } else { 0 };
    // Room for the line end of a chunk stays free, so that the buffer never grows.
    let room = buffer.capacity().min(plan.buffer_bytes.max(2 * CHUNK_HEADROOM)) - headroom - CHUNK_END.len();
    loop {
        buffer.clear();
        buffer.resize(headroom, 0);
        cx.deadlines().set(Limit::StreamIdle, Instant::now(), plan.stream_idle);
        let read = (&mut *upstream).take(room as u64).read_buf(buffer).await;
        match read {
            Ok(0) if body.ends_with_connection() => {
                if chunked_anew {
                    stall.write_all(client, LAST_CHUNK).await.map_err(gone)?;
                }
                return Ok(Streamed { leftover: 0 });
            }
            Ok(0) | Err(_) => return Err(Reason::UpstreamTruncated),
            Ok(_) => {}
        }
        let content = &mut buffer[headroom..];
        let count = content.len();
        let relayed = body.relay(content).map_err(|_| Reason::UpstreamProtocol)?;
        *sent = body.content_bytes();
        if chunked_anew {
            let start = write_chunk_size(&mut buffer[..headroom], relayed.kept);
            buffer.extend_from_slice(CHUNK_END);
            stall.write_all(client, &buffer[start..]).await.map_err(gone)?;
        } else {
            // The tail, empty but for trailers, leaves with the last piece.
            buffer.truncate(relayed.kept);
            buffer.extend_from_slice(body.tail());
            stall.write_all(client, buffer).await.map_err(gone)?;
        }
        if body.is_done() {
            return Ok(Streamed { leftover: count - relayed.taken });
        }
    }
}

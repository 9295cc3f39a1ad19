//! The response's way back: read, judge, pass on.

use std::io;

use proxy_core::http1::{
    BodyReader, Limits, Output, ResponseEdits, ResponseFraming, Version, parse_response, write_chunk_size,
    write_response,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Broken, Reason, is_delimited, output_for};
use crate::exchange::{Exchange, HEAD_BUFFER};
use crate::worker::Worker;

/// Room before a chunk's content for its size line.
const CHUNK_HEADROOM: usize = 18;
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A response of which at least the head reached the client, or tried to.
pub(super) struct Received {
    pub(super) status: u16,
    pub(super) failure: Option<Reason>,
    /// The upstream's connection stands exactly after the response.
    pub(super) upstream_reusable: bool,
    pub(super) client_reusable: bool,
    /// The method or status promised no body; an upstream that sends one all the same does it in the next segment.
    pub(super) bodiless: bool,
}

/// Passes a response from `upstream` to `client`.
pub(super) async fn response<U, C>(
    worker: &Worker,
    upstream: &mut U,
    client: &mut C,
    exchange: &mut Exchange,
) -> Result<Received, Broken>
where
    U: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    read_final_head(upstream, client, exchange).await?;
    let Exchange { request, response, from_upstream, out, answering, .. } = exchange;
    let status = response.status;
    // Asked now, not when the request came: a drain may have begun since.
    let keep_alive = request.keep_alive && !worker.is_draining() && is_delimited(request, response);
    let output = output_for(request);
    let promised_none = response.framing == ResponseFraming::None;
    let mut body = BodyReader::of_response(response.framing, output);
    out.clear();
    write_response(out, from_upstream, response, ResponseEdits { client: request.version, keep_alive });

    let at_hand = &mut from_upstream[response.len..];
    let count = at_hand.len();
    // A head that promises no body leaves nothing to read; what is there all the same belongs to nobody.
    let relayed = body.relay(at_hand).map_err(|_| Reason::UpstreamProtocol)?;
    let chunked_anew = response.framing == ResponseFraming::UntilClose && output != Output::Content;
    append_body(out, &at_hand[..relayed.kept], chunked_anew);
    out.extend_from_slice(body.tail());
    let leftover = count - relayed.taken;
    let received = |failure, upstream_reusable| Received {
        status,
        failure,
        upstream_reusable,
        client_reusable: keep_alive && failure.is_none(),
        bodiless: promised_none,
    };
    *answering = true;
    if client.write_all(out).await.is_err() {
        return Ok(received(Some(Reason::ClientGone), false));
    }
    let upstream_keeps = response.keep_alive;
    if body.is_done() {
        return Ok(received(None, upstream_keeps && leftover == 0));
    }
    let mut buffer = worker.body_buffer();
    let streamed = stream(upstream, client, &mut body, &mut buffer, chunked_anew).await;
    worker.return_body_buffer(buffer);
    Ok(match streamed {
        Ok(Streamed { leftover }) => {
            received(None, upstream_keeps && leftover == 0 && !body.ends_with_connection())
        }
        Err(failure) => received(Some(failure), false),
    })
}

/// Reads heads until one is final; informational ones are passed on (RFC 9110 §15.2).
async fn read_final_head<U, C>(
    upstream: &mut U,
    client: &mut C,
    exchange: &mut Exchange,
) -> Result<(), Broken>
where
    U: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    let Exchange { request, response, from_upstream, out, answering, .. } = exchange;
    let mut unanswered = true;
    loop {
        if !from_upstream.is_empty() {
            unanswered = false;
            let whole = parse_response(from_upstream, &Limits::default(), request.method, response)
                .map_err(|_| Reason::UpstreamProtocol)?;
            match (whole, response.status) {
                // Nobody asked to switch protocols.
                (true, 101) => return Err(Reason::UpstreamProtocol.into()),
                (true, 100..=199) => {
                    let edits = ResponseEdits { client: request.version, keep_alive: true };
                    out.clear();
                    write_response(out, from_upstream, response, edits);
                    from_upstream.drain(..response.len);
                    if request.version == Version::Http11 {
                        // Half of a head must not be followed by a reply of our own.
                        *answering = true;
                        client.write_all(out).await.map_err(|_| Reason::ClientGone)?;
                        *answering = false;
                    }
                    continue;
                }
                (true, _) => return Ok(()),
                (false, _) => {}
            }
        }
        from_upstream.reserve(HEAD_BUFFER.saturating_sub(from_upstream.len()).max(1024));
        match upstream.read_buf(from_upstream).await {
            Ok(0) | Err(_) => {
                return Err(Broken { reason: Reason::UpstreamReset, unanswered, untouched: false });
            }
            Ok(_) => {}
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

pub(super) struct Streamed {
    /// Bytes read beyond the body's end: they belong to nobody.
    pub(super) leftover: usize,
}

/// Moves the rest of a response's body. Reads only when the last piece was written, so a slow client slows the upstream.
async fn stream<U, C>(
    upstream: &mut U,
    client: &mut C,
    body: &mut BodyReader,
    buffer: &mut Vec<u8>,
    chunked_anew: bool,
) -> Result<Streamed, Reason>
where
    U: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    let gone = |_: io::Error| Reason::ClientGone;
    loop {
        let headroom = if chunked_anew { CHUNK_HEADROOM } else { 0 };
        buffer.clear();
        buffer.resize(headroom, 0);
        // Room for the line end of a chunk stays free, so that the buffer never grows.
        let room = buffer.capacity() - headroom - CHUNK_END.len();
        let read = (&mut *upstream).take(room as u64).read_buf(buffer).await;
        match read {
            Ok(0) if body.ends_with_connection() => {
                if chunked_anew {
                    client.write_all(LAST_CHUNK).await.map_err(gone)?;
                }
                return Ok(Streamed { leftover: 0 });
            }
            Ok(0) | Err(_) => return Err(Reason::UpstreamTruncated),
            Ok(_) => {}
        }
        let content = &mut buffer[headroom..];
        let count = content.len();
        let relayed = body.relay(content).map_err(|_| Reason::UpstreamProtocol)?;
        if chunked_anew {
            let start = write_chunk_size(&mut buffer[..headroom], relayed.kept);
            buffer.extend_from_slice(CHUNK_END);
            client.write_all(&buffer[start..]).await.map_err(gone)?;
        } else {
            // The tail, empty but for trailers, leaves with the last piece.
            buffer.truncate(relayed.kept);
            buffer.extend_from_slice(body.tail());
            client.write_all(buffer).await.map_err(gone)?;
        }
        if body.is_done() {
            return Ok(Streamed { leftover: count - relayed.taken });
        }
    }
}

//! A request body that is still coming while the response may already be on its way.

use proxy_core::http1::BodyReader;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::relay::{self, Received};
use super::{Broken, Reason, Upload};
use crate::exchange::Exchange;
use crate::socket::Socket;
use crate::worker::Worker;

/// How the body ended.
enum Sent {
    /// Whole; these bytes, at the end of the buffer, belong to the next request.
    Whole { leftover: usize },
    /// The upstream takes no more: it may have answered already.
    Refused,
    /// The client stopped, or broke the coding.
    Failed(Reason),
}

/// Both directions at once, in one task.
pub(super) async fn duplex(
    worker: &Worker,
    upstream: &mut Socket,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Received, Broken> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_upstream, mut to_upstream) = upstream.split();
    let mut buffer = worker.body_buffer();
    let mut whole = None;
    let outcome = {
        let mut sending =
            std::pin::pin!(send_body(&mut from_client, &mut to_upstream, &mut upload.body, &mut buffer));
        let mut receiving =
            std::pin::pin!(relay::response(worker, &mut from_upstream, &mut to_client, exchange));
        let mut sent = false;
        loop {
            tokio::select! {
                received = &mut receiving => break received,
                end = &mut sending, if !sent => {
                    sent = true;
                    match end {
                        Sent::Whole { leftover } => whole = Some(leftover),
                        Sent::Refused => {}
                        Sent::Failed(reason) => break Err(reason.into()),
                    }
                }
            }
        }
    };
    if let Some(leftover) = whole {
        upload.sent = true;
        let next = buffer.len() - leftover;
        exchange.from_client.truncate(upload.used);
        exchange.from_client.extend_from_slice(&buffer[next..]);
    }
    worker.return_body_buffer(buffer);
    match outcome {
        // The request failed while its response was on the way: the response cannot be taken back, only cut.
        Err(broken) if exchange.answering => Ok(Received {
            status: exchange.response.status,
            failure: Some(broken.reason),
            upstream_reusable: false,
            client_reusable: false,
            bodiless: false,
        }),
        outcome => outcome,
    }
}

async fn send_body<C, U>(
    client: &mut C,
    upstream: &mut U,
    body: &mut BodyReader,
    buffer: &mut Vec<u8>,
) -> Sent
where
    C: AsyncRead + Unpin,
    U: AsyncWrite + Unpin,
{
    let mut refused = false;
    loop {
        buffer.clear();
        match client.read_buf(buffer).await {
            Ok(0) | Err(_) => return Sent::Failed(Reason::ClientGone),
            Ok(_) => {}
        }
        let Ok(relayed) = body.relay(buffer) else { return Sent::Failed(Reason::MalformedBody) };
        // A client that sends all before it reads must not be left waiting by an upstream that answers early.
        refused = refused
            || upstream.write_all(&buffer[..relayed.kept]).await.is_err()
            || (!body.tail().is_empty() && upstream.write_all(body.tail()).await.is_err());
        match (body.is_done(), refused) {
            (true, true) => return Sent::Refused,
            (true, false) => return Sent::Whole { leftover: buffer.len() - relayed.taken },
            (false, _) => {}
        }
    }
}

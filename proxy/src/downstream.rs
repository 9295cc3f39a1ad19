//! A client's connection: one task, one request after the other.

use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_core::http1::{HeadError, Limits, Method, ResponseEdits, Version, parse_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::exchange::{Exchange, HEAD_BUFFER};
use crate::forward::{self, Next, Reason, local_reply};
use crate::socket::Socket;
use crate::worker::Worker;

/// What a client may still send after a response that came too early, before its connection is closed.
const LINGER_BYTES: usize = 256 << 10;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, listener: usize, mut client: Socket) {
    loop {
        // Nothing is held while the client is silent. In a drain too: closing an idle connection could cross a request
        // on its way, so each ends with its next response or with the drain.
        if client.readable().await.is_err() {
            return;
        }
        let mut exchange = worker.exchange();
        let end = requests(&worker, listener, &mut client, &mut exchange).await;
        worker.return_exchange(exchange);
        match end {
            End::Idle => {}
            End::Closed => return,
            // Boxed: its buffer would otherwise be a part of every idle connection.
            End::Linger => return Box::pin(linger(client)).await,
        }
    }
}

/// How a run of requests ended.
enum End {
    /// The client has nothing to say for now.
    Idle,
    /// The connection is over.
    Closed,
    /// It is over; the client may still be sending.
    Linger,
}

/// Reads and serves requests until the client pauses between two.
async fn requests(worker: &Rc<Worker>, listener: usize, client: &mut Socket, exchange: &mut Exchange) -> End {
    let limits = Limits::default();
    let mut started = None;
    // Bytes that the parser has seen without finding a whole head; it looks again when a line was completed.
    let mut seen = 0;
    loop {
        let Exchange { request, from_client, .. } = exchange;
        let fresh = &from_client[seen.min(from_client.len())..];
        if !from_client.is_empty()
            && (seen == 0 || fresh.contains(&b'\n') || from_client.len() >= limits.head_bytes)
        {
            match parse_request(from_client, &limits, request) {
                Ok(true) => {
                    let began = started.take().unwrap_or_else(Instant::now);
                    let next = forward::serve(worker, listener, client, exchange, began).await;
                    match next {
                        Next::Request(used) => {
                            exchange.from_client.drain(..used);
                            seen = 0;
                            if exchange.from_client.is_empty() {
                                return End::Idle;
                            }
                            continue;
                        }
                        Next::Close { gone: false } => return End::Linger,
                        Next::Close { gone: true } => return End::Closed,
                    }
                }
                Ok(false) => seen = from_client.len(),
                Err(error) => return refuse(worker, client, exchange, error).await,
            }
        }
        from_client.reserve(HEAD_BUFFER.saturating_sub(from_client.len()).max(4096));
        match client.read_buf(from_client).await {
            Ok(0) | Err(_) => return End::Closed,
            Ok(_) => {
                started.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// Answers a head that breaks a rule. Nobody knows where the next request would start, so the connection ends.
async fn refuse(worker: &Worker, client: &mut Socket, exchange: &mut Exchange, error: HeadError) -> End {
    worker.cells.failures[Reason::MalformedHead as usize].add(1);
    tracing::debug!(%error, "a request was refused");
    let edits = ResponseEdits { client: Version::Http11, keep_alive: false };
    local_reply(client, &mut exchange.out, error.status(), &error.to_string(), edits, Method::Get).await;
    End::Linger
}

/// Closes our direction and reads on for a moment: closing at once would answer late bytes with a reset, which can
/// destroy the response before the client has read it (RFC 9112 §9.6).
async fn linger(mut client: Socket) {
    let _ = client.shutdown().await;
    let drain = async {
        let mut sink = [0; 4096];
        let mut total = 0;
        while total < LINGER_BYTES {
            match client.read(&mut sink).await {
                Ok(0) | Err(_) => return,
                Ok(n) => total += n,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_TIME, drain).await;
}

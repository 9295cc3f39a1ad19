//! A client's connection: one task, one request after the other.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_core::config::Codec;
use proxy_core::http1::parse_request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connection::Connection;
use crate::deadline::Limit;
use crate::exchange::{Exchange, HEAD_BUFFER};
use crate::forward::{self, Next, Reason, RequestContext};
use crate::http2::{self, Greeting};
use crate::socket::Socket;
use crate::worker::Worker;

/// What a client may still send after a response that came too early, before its connection is closed.
const LINGER_BYTES: usize = 256 << 10;
/// How long a connection may still be idle whose listener is gone.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a listener's connections linger that is gone.
const DEFAULT_LINGER: Duration = Duration::from_secs(1);

/// Serves a connection to its end. `early` holds what was read from it already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    mut client: Socket,
    mut early: Option<Box<Exchange>>,
) {
    rest(&worker, &connection, connection.opened);
    loop {
        // Nothing is held while the client is silent. In a drain too: closing an idle connection could cross a request
        // on its way, so each ends with its next response, or when it was idle for the drain time.
        if early.is_none() {
            let readable = {
                let mut wait = pin!(client.readable());
                connection.deadlines.guard(wait.as_mut()).await
            };
            if !matches!(readable, Ok(Ok(()))) {
                return;
            }
        }
        let is_early = early.is_some();
        let mut exchange = early.take().unwrap_or_else(|| worker.exchange());
        if !is_early {
            exchange.from_client.reserve(HEAD_BUFFER);
            match client.read_now(&mut exchange.from_client).await {
                Some(Ok(1..)) => {}
                // Woken for nothing: the pause goes on.
                None => {
                    worker.return_exchange(exchange);
                    continue;
                }
                Some(Ok(0) | Err(_)) => return worker.return_exchange(exchange),
            }
        }
        connection.is_idle.set(false);
        connection.deadlines.clear(Limit::KeepAlive);
        if connection.requests.get() == 0 {
            // Boxed, both: rare beside the many that are idle, and large.
            if may_greet(&worker, &connection, &exchange)
                && let Some(early) = Box::pin(greet(&worker, &connection, &mut client, &mut exchange)).await
            {
                worker.return_exchange(exchange);
                return Box::pin(http2::serve(worker, connection, client, early)).await;
            }
        }
        // What a request needs to remember is several times what an idle connection does, and is kept for the next one.
        let mut run = worker.runs.start(requests(worker.clone(), connection.clone(), client, exchange));
        let Finished { socket, exchange, end } = run.finish().await;
        worker.runs.keep(run);
        worker.return_exchange(exchange);
        client = socket;
        match end {
            End::Idle(now) => rest(&worker, &connection, now),
            End::Closed => return,
            End::Aborted => return client.abort(),
            // Boxed: its buffer would otherwise be a part of every idle connection.
            End::Linger(time) => return Box::pin(linger(client, time)).await,
        }
    }
}

/// Whether a connection speaks HTTP/2, or may still turn out to.
fn may_greet(worker: &Rc<Worker>, connection: &Connection, exchange: &Exchange) -> bool {
    let view = worker.view();
    let codec = view.chain(worker, connection.chain.get()).map(|chain| chain.http().codec);
    match codec {
        Some(Codec::Http2) => true,
        Some(Codec::Auto) => !matches!(Greeting::of(&exchange.from_client), Greeting::Other),
        Some(Codec::Http1) | None => false,
    }
}

/// What was read of a connection that speaks HTTP/2; none of one that does not.
async fn greet(
    worker: &Rc<Worker>,
    connection: &Connection,
    client: &mut Socket,
    exchange: &mut Exchange,
) -> Option<Vec<u8>> {
    let chain = worker.view().chain(worker, connection.chain.get())?;
    let http = chain.http();
    let bytes = &mut exchange.from_client;
    connection.deadlines.set(Limit::Header, Instant::now(), http.timeouts.header);
    while http.codec == Codec::Auto && matches!(Greeting::of(bytes), Greeting::Partial) {
        let mut read = pin!(client.read_buf(bytes));
        if !matches!(connection.deadlines.guard(read.as_mut()).await, Ok(Ok(1..))) {
            // Whatever is missing, the one who reads heads finds out.
            return None;
        }
    }
    http2::is_spoken(http.codec, &Greeting::of(bytes)).then(|| std::mem::take(bytes))
}

/// Begins the pause between two requests.
pub(crate) fn rest(worker: &Worker, connection: &Connection, now: Instant) {
    connection.is_idle.set(true);
    let Some(timeouts) = worker.timeouts(connection) else {
        // The listener was removed: there is nothing to wait for but a request that is on its way.
        connection.deadlines.set(Limit::KeepAlive, now, Some(FAREWELL));
        return;
    };
    connection.deadlines.set(Limit::KeepAlive, now, timeouts.keep_alive);
    if let Some(left) = connection.protection().and_then(|protection| protection.left(now)) {
        let idle = timeouts.keep_alive.map_or(left, |idle| idle.min(left));
        connection.deadlines.set(Limit::KeepAlive, now, Some(idle));
    }
    if let Some(longest) = timeouts.connection {
        // Whoever is silent beyond its connection's age goes after the drain time.
        let left = (connection.opened + longest + timeouts.drain).saturating_duration_since(now);
        let idle = timeouts.keep_alive.map_or(left, |idle| idle.min(left));
        connection.deadlines.set(Limit::KeepAlive, now, Some(idle));
    }
}

/// How a run of requests ended.
enum End {
    /// The client has nothing to say for now.
    Idle(Instant),
    /// The connection is over.
    Closed,
    /// It is over, and the client must not take what it got for all.
    Aborted,
    /// It is over; the client may still be sending.
    Linger(Duration),
}

/// What a run of requests gives back.
struct Finished {
    socket: Socket,
    exchange: Box<Exchange>,
    end: End,
}

/// Serves what was read, and reads and serves on until the client pauses between two requests.
async fn requests(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    mut socket: Socket,
    mut exchange: Box<Exchange>,
) -> Finished {
    let end = until_pause(&worker, &connection, &mut socket, &mut exchange).await;
    Finished { socket, exchange, end }
}

async fn until_pause(
    worker: &Rc<Worker>,
    connection: &Connection,
    client: &mut Socket,
    exchange: &mut Exchange,
) -> End {
    loop {
        // One snapshot from here to the request's end.
        let view = worker.view();
        let Some(chain) = view.chain(worker, connection.chain.get()) else {
            worker.cells.failures[Reason::ListenerGone].add(1);
            return gone(client).await;
        };
        let started = Instant::now();
        let deadlines = &connection.deadlines;
        let mut cx = RequestContext {
            worker,
            connection,
            view,
            chain,
            started,
            complete: started,
            deadlines,
            stream: None,
        };
        let next = match head(&mut cx, client, exchange).await {
            Head::Whole => forward::serve(&cx, client, exchange).await,
            Head::Refused(next) => next,
            Head::Gone => return End::Closed,
        };
        match next {
            Next::Request(used, ended) => {
                exchange.from_client.drain(..used);
                if exchange.from_client.is_empty() {
                    return End::Idle(ended);
                }
            }
            Next::Linger => return End::Linger(cx.chain.http().timeouts.delayed_close),
            Next::Close => return End::Closed,
            Next::Abort => return End::Aborted,
        }
    }
}

/// What became of a head.
enum Head {
    /// It was parsed into the exchange.
    Whole,
    /// It was answered.
    Refused(Next),
    /// The client left before its end.
    Gone,
}

/// Parses the head, reading what is missing of it.
async fn head(cx: &mut RequestContext<'_>, client: &mut Socket, exchange: &mut Exchange) -> Head {
    let rules = cx.chain.http().requests;
    // Bytes that the parser has seen without finding a whole head; it looks again when a line was completed.
    let mut seen = 0;
    loop {
        let Exchange { request, from_client, .. } = exchange;
        let fresh = &from_client[seen.min(from_client.len())..];
        if seen == 0 || fresh.contains(&b'\n') || from_client.len() >= rules.limits.head_bytes {
            match parse_request(from_client, &rules, request) {
                Ok(true) => {
                    // A whole request is limited anew where it has a body.
                    cx.connection.deadlines.clear(Limit::Header);
                    cx.connection.deadlines.clear(Limit::Request);
                    return Head::Whole;
                }
                Ok(false) => seen = from_client.len(),
                Err(error) => return Head::Refused(forward::refuse(cx, client, exchange, Ok(error)).await),
            }
        }
        let timeouts = &cx.chain.http().timeouts;
        cx.connection.deadlines.set(Limit::Header, cx.started, timeouts.header);
        if timeouts.request.is_some() {
            cx.connection.deadlines.set(Limit::Request, cx.started, timeouts.request);
        }
        let read = {
            let mut read = pin!(read(client, exchange));
            cx.connection.deadlines.guard(read.as_mut()).await
        };
        match read {
            Ok(0) => return Head::Gone,
            Ok(_) => cx.complete = Instant::now(),
            Err(limit) => return Head::Refused(forward::refuse(cx, client, exchange, Err(limit)).await),
        }
    }
}

/// Bytes read; 0 where the client is gone.
async fn read(client: &mut Socket, exchange: &mut Exchange) -> usize {
    let buffer = &mut exchange.from_client;
    buffer.reserve(HEAD_BUFFER.saturating_sub(buffer.len()).max(4096));
    client.read_buf(buffer).await.unwrap_or(0)
}

/// The listener was removed: whoever reconnects finds the one that took its place.
async fn gone(client: &mut Socket) -> End {
    const REPLY: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 26\r\n\
                           connection: close\r\n\r\nthis listener was removed\n";
    match tokio::time::timeout(DEFAULT_LINGER, client.write_all(REPLY)).await {
        Ok(Ok(())) => End::Linger(DEFAULT_LINGER),
        Ok(Err(_)) | Err(_) => End::Closed,
    }
}

/// Closes our direction and reads on for a moment: closing at once would answer late bytes with a reset, which can
/// destroy the response before the client has read it (RFC 9112 §9.6).
pub(crate) async fn linger(mut client: Socket, time: Duration) {
    let drain = async {
        // What TLS has to say may wait as well.
        let _ = client.shutdown().await;
        let mut sink = [0; 4096];
        let mut total = 0;
        while total < LINGER_BYTES {
            match client.read(&mut sink).await {
                Ok(0) | Err(_) => return,
                Ok(n) => total += n,
            }
        }
    };
    let _ = tokio::time::timeout(time, drain).await;
}

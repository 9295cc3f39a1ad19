//! A client's connection that speaks HTTP/2: one task that drives it, and one for each stream.

mod stream;

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use proxy_core::config::{Codec, HttpOptions};
use proxy_core::http2::{Meter, Side};

pub(crate) use stream::Hangup;

use super::keepalive::Keepalive;
use super::wire::Wire;
use crate::connection::Connection;
use crate::deadline::Limit;
use crate::downstream;
use crate::socket::Socket;
use crate::stranger;
use crate::worker::Worker;

/// How long a connection that ends may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// Streams that were reset and are remembered for a moment, so that what crosses the reset is no error.
const REMEMBERED_RESETS: usize = 100;
/// Bytes of a response that may wait in the library, for each stream.
const SEND_BUFFER: usize = 32 << 10;
/// Bytes that small DATA frames which wait may cost beyond what they hold. Windows bound what they hold.
const FRAME_BUDGET: usize = 4 << 20;

type Library = h2::server::Connection<Wire, Bytes>;
type Request = (http::Request<RecvStream>, SendResponse<Bytes>);

/// What the streams of a connection have in common.
pub(super) struct Streams {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    open: Cell<usize>,
}

/// Serves a connection to its end. `early` was read from it already.
pub(crate) async fn serve(worker: Rc<Worker>, connection: Rc<Connection>, socket: Socket, early: Vec<u8>) {
    let Some(chain) = worker.view().chain(&worker, connection.chain.get()) else { return };
    let http = chain.http();
    let wire = Wire::new(
        socket,
        early,
        Meter::new(Side::Server, http.http2.meter.for_heads(http.requests.limits.head_bytes)),
    );
    connection.deadlines.set(Limit::Header, Instant::now(), http.timeouts.header);
    let Some(library) = shake_hands(&connection, &wire, http).await else { return };
    connection.deadlines.clear(Limit::Header);
    let streams =
        Rc::new(Streams { worker: worker.clone(), connection: connection.clone(), open: Cell::new(0) });
    let mut driver = Driver {
        keepalive: Keepalive::new(http.http2.keepalive, worker.random_percent()),
        library,
        wire: wire.clone(),
        streams,
        leaving: false,
        ended_by_us: false,
    };
    drop(chain);
    loop {
        let event = {
            let mut next = pin!(poll_fn(|cx| driver.poll(cx)));
            connection.deadlines.guard(next.as_mut()).await
        };
        match event {
            Ok(Event::Request(request)) => driver.start(request),
            Ok(Event::Ended) => break,
            Err(Limit::KeepAlive) if !driver.leaving => driver.leave(),
            Err(limit) => {
                tracing::debug!(?limit, peer = %connection.peer().ip, "an HTTP/2 connection is cut");
                return;
            }
        }
    }
    let ended_by_us = driver.ended_by_us;
    drop(driver);
    if let Some(socket) = wire.into_socket().filter(|_| ended_by_us) {
        connection.deadlines.clear_all();
        // A reset would destroy the word that tells the client why.
        downstream::linger(socket, FAREWELL).await;
    }
}

async fn shake_hands(connection: &Connection, wire: &Wire, http: &HttpOptions) -> Option<Library> {
    let options = &http.http2;
    let offers_connect =
        options.allows_connect || http.upgrades.iter().any(|(protocol, _)| &**protocol != "connect");
    let mut builder = Builder::new();
    builder
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_concurrent_streams(options.streams)
        .max_header_list_size(u32::try_from(http.requests.limits.head_bytes).unwrap_or(u32::MAX))
        .header_table_size(options.header_table_bytes)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_pending_accept_reset_streams(options.meter.resets as usize)
        // The meter counts them, over time.
        .max_local_error_reset_streams(None)
        .data_frame_budget(FRAME_BUDGET)
        .max_send_buffer_size(SEND_BUFFER);
    if offers_connect {
        builder.enable_connect_protocol();
    }
    let mut handshake = pin!(builder.handshake(wire.clone()));
    let mut work = pin!(poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        match wire.poll_write_out(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            Poll::Ready(Ok(())) | Poll::Pending => polled.map(Result::ok),
        }
    }));
    connection.deadlines.guard(work.as_mut()).await.ok().flatten()
}

#[allow(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Event {
    Request(Request),
    Ended,
}

/// One connection: the library, its bytes, and when it shall end.
struct Driver {
    library: Library,
    wire: Wire,
    streams: Rc<Streams>,
    keepalive: Keepalive,
    /// The client was told to open no more streams.
    leaving: bool,
    /// The client was told that it went too far.
    ended_by_us: bool,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let accepted = match self.library.poll_accept(cx) {
                Poll::Ready(Some(Ok(request))) => return Poll::Ready(Event::Request(request)),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, peer = %self.streams.connection.peer().ip, "an HTTP/2 connection failed");
                    // What the library has to say about it is in the wire.
                    self.ended_by_us |= error.is_library();
                    Poll::Ready(())
                }
                Poll::Ready(None) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            };
            if accepted.is_pending() && self.acts(cx) {
                continue;
            }
            let written = self.wire.poll_write_out(cx);
            return match (accepted, written) {
                (_, Poll::Ready(Err(_))) | (Poll::Ready(()), Poll::Ready(Ok(()))) => {
                    Poll::Ready(Event::Ended)
                }
                (Poll::Ready(()), Poll::Pending) => {
                    self.limit_farewell();
                    Poll::Pending
                }
                (Poll::Pending, written) => {
                    self.set_deadlines(written.is_pending());
                    Poll::Pending
                }
            };
        }
    }

    /// Whether something was done that the library must hear of.
    fn acts(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(excess) = self.wire.excess().filter(|_| !self.ended_by_us) {
            let streams = &self.streams;
            streams.worker.cells.http2_floods.add(1);
            stranger!(%excess, peer = %streams.connection.peer().ip, "an HTTP/2 connection is ended");
            self.ended_by_us = true;
            self.library.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.limit_farewell();
            return true;
        }
        if !self.leaving && self.streams.connection.farewell().is_said(cx) {
            self.leave();
            return true;
        }
        match self.keepalive.poll(cx, || self.library.ping_pong()) {
            Poll::Ready(()) if !self.ended_by_us => {
                tracing::debug!(peer = %self.streams.connection.peer().ip, "an HTTP/2 client answers no PING");
                self.ended_by_us = true;
                self.library.abrupt_shutdown(Reason::NO_ERROR);
                self.limit_farewell();
                true
            }
            Poll::Ready(()) | Poll::Pending => false,
        }
    }

    /// The client shall open no more streams; those that are open end in peace.
    fn leave(&mut self) {
        self.leaving = true;
        self.streams.connection.deadlines.clear(Limit::KeepAlive);
        self.library.graceful_shutdown();
    }

    fn limit_farewell(&self) {
        let deadlines = &self.streams.connection.deadlines;
        deadlines.clear_all();
        deadlines.set(Limit::Exchange, Instant::now(), Some(FAREWELL));
    }

    fn set_deadlines(&self, stalled: bool) {
        let Streams { worker, connection, open } = &*self.streams;
        if self.ended_by_us {
            return;
        }
        let is_idle = open.get() == 0;
        if stalled {
            let timeouts = worker.timeouts(connection);
            let time = timeouts.map_or(Some(FAREWELL), |timeouts| timeouts.write);
            if self.wire.take_moved() || !connection.deadlines.is_set(Limit::ClientStall) {
                connection.deadlines.set(Limit::ClientStall, Instant::now(), time);
            }
        } else {
            connection.deadlines.clear(Limit::ClientStall);
        }
        match (is_idle, connection.is_idle.replace(is_idle)) {
            (true, true) if connection.deadlines.is_set(Limit::KeepAlive) => {}
            (true, _) => {
                self.wire.rest();
                downstream::rest(worker, connection, Instant::now());
            }
            (false, _) => connection.deadlines.clear(Limit::KeepAlive),
        }
    }

    /// Serves a stream in a task of its own.
    fn start(&self, (request, respond): Request) {
        let open = OpenStream::new(&self.streams);
        let worker = self.streams.worker.clone();
        // What a stream needs to remember is large, and kept for the next one.
        let mut run = worker.stream_runs.start(stream::serve(open, request, respond));
        tokio::task::spawn_local(async move {
            run.finish().await;
            worker.stream_runs.keep(run);
        });
    }
}

/// Counts a stream until it ends, in whichever way. The runtime catches a task's panic.
pub(super) struct OpenStream(Rc<Streams>);

impl OpenStream {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let open = self.0.open.get() - 1;
        self.0.open.set(open);
        if open == 0 {
            self.0.connection.farewell().wake();
        }
        if std::thread::panicking() {
            self.0.worker.cells.panics.add(1);
        }
    }
}

/// Whether a connection whose first bytes are these is for this module.
pub(crate) fn is_spoken(codec: Codec, greeting: &super::Greeting) -> bool {
    match codec {
        Codec::Http1 => false,
        Codec::Http2 => true,
        Codec::Auto => matches!(greeting, super::Greeting::Whole),
    }
}

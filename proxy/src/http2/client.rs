//! An endpoint's connection that speaks HTTP/2, and its streams as sockets that take an HTTP/1.1 request and give its
//! response.

mod stream;

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use proxy_core::config::Http2Options;
use proxy_core::http2::{Meter, Side};
use tokio::task::AbortHandle;

use super::keepalive::Keepalive;
use super::wire::Wire;
use crate::socket::Socket;

/// Bytes of a response's head, beyond which the library does not keep it. The listener's own limit holds after that.
const MAX_HEAD: u32 = 8 << 20;
/// Streams that are opened before the endpoint has said how many it takes (RFC 9113 §6.5.2 recommends no fewer).
const FIRST_STREAMS: usize = 100;
/// Bytes of requests that one connection may have waiting in the library.
const SEND_BUFFER: usize = 64 << 10;

/// A connection to an endpoint, and how many streams are open on it.
#[derive(Debug)]
pub(crate) struct Trunk {
    requests: SendRequest<Bytes>,
    state: Rc<State>,
    /// Streams that we open at once at most.
    most: usize,
    is_tls: bool,
    pub(crate) opened: Instant,
    idle_interval: Option<std::time::Duration>,
    driver: AbortHandle,
}

/// What the driver and the streams share.
#[derive(Debug, Default)]
struct State {
    open: Cell<usize>,
    /// Requests sent on it.
    served: Cell<u32>,
    /// When the last stream ended.
    idle_since: Cell<Option<Instant>>,
    /// Nothing more can be sent on it.
    closed: Cell<bool>,
    /// The endpoint takes no more streams on it; those that are open may go on.
    leaving: Cell<bool>,
    /// The endpoint has said what it can do.
    greeted: Cell<bool>,
    awaits_greeting: RefCell<Vec<Waker>>,
    /// Whether the endpoint is there shall be asked before the next request.
    doubted: Cell<bool>,
    driver: RefCell<Option<Waker>>,
}

impl Trunk {
    /// Begins to speak. Nothing is waited for: the first request leaves with the preface.
    pub(crate) async fn open(
        socket: Socket,
        options: &Http2Options,
        is_tls: bool,
        percent: u32,
    ) -> Option<Self> {
        let wire = Wire::new(socket, Vec::new(), Meter::new(Side::Client, options.meter));
        let mut builder = Builder::new();
        builder
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .initial_max_send_streams((options.streams as usize).min(FIRST_STREAMS))
            .max_header_list_size(MAX_HEAD)
            .header_table_size(options.header_table_bytes)
            .enable_push(false)
            .max_send_buffer_size(SEND_BUFFER);
        let (requests, library) = builder.handshake(wire.clone()).await.ok()?;
        let state = Rc::<State>::default();
        let driver = Driver {
            library,
            wire,
            state: state.clone(),
            keepalive: Keepalive::new(options.keepalive, percent),
        };
        let driver = tokio::task::spawn_local(driver.run()).abort_handle();
        Some(Self {
            requests,
            state,
            most: options.streams as usize,
            is_tls,
            opened: Instant::now(),
            idle_interval: options.keepalive.and_then(|keepalive| keepalive.idle_interval),
            driver,
        })
    }

    /// Whether another stream can be opened.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_leaving() && self.state.open.get() < self.most.min(self.requests.current_max_send_streams())
    }

    /// Whether no more streams can be opened on it.
    pub(crate) fn is_leaving(&self) -> bool {
        self.state.closed.get() || self.state.leaving.get()
    }

    /// Requests sent on it.
    pub(crate) fn served(&self) -> u32 {
        self.state.served.get()
    }

    /// Since when no stream is open; none while one is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.state.open.get() == 0).then(|| self.state.idle_since.get().unwrap_or(self.opened))
    }

    /// Opens a stream; its place is counted until [`Trunk::end_stream`].
    pub(crate) fn stream(&self) -> Socket {
        let state = &self.state;
        if let (Some(interval), Some(since)) = (self.idle_interval, self.idle_since())
            && since.elapsed() >= interval
        {
            state.doubted.set(true);
            state.wake_driver();
        }
        state.open.set(state.open.get() + 1);
        state.served.set(state.served.get() + 1);
        stream::socket(self.requests.clone(), state.clone(), self.is_tls)
    }

    /// A stream has ended.
    pub(crate) fn end_stream(&self) {
        let open = self.state.open.get() - 1;
        self.state.open.set(open);
        if open == 0 {
            self.state.idle_since.set(Some(Instant::now()));
        }
    }
}

impl Drop for Trunk {
    /// The library ends a connection that nobody can open a stream on, once the open ones have ended. One that is broken
    /// has nothing to wait for.
    fn drop(&mut self) {
        if self.state.closed.get() {
            self.driver.abort();
        }
    }
}

impl State {
    /// A stream could not be opened, and no other one can be; nothing of its request has left.
    fn refused(&self, error: h2::Error) -> io::Error {
        self.leaving.set(true);
        io::Error::new(io::ErrorKind::ConnectionRefused, error)
    }

    fn wake_driver(&self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

struct Driver {
    library: Connection<Wire, Bytes>,
    wire: Wire,
    state: Rc<State>,
    keepalive: Keepalive,
}

impl Drop for Driver {
    /// However it ends.
    fn drop(&mut self) {
        self.state.closed.set(true);
        self.greet();
    }
}

impl Driver {
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.library).poll(cx);
        if let Some(excess) = self.wire.excess() {
            tracing::info!(%excess, "an endpoint's HTTP/2 connection is ended");
            return Poll::Ready(());
        }
        if !self.state.greeted.get() && self.wire.has_settings() {
            self.greet();
        }
        if self.wire.has_goaway() {
            self.state.leaving.set(true);
        }
        let state = self.state.clone();
        if state.doubted.take() {
            self.keepalive.ask(|| self.library.ping_pong());
        }
        let silent = self.keepalive.poll(cx, || self.library.ping_pong());
        match &mut *state.driver.borrow_mut() {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if silent.is_ready() {
            tracing::debug!("an endpoint answers no PING");
            return Poll::Ready(());
        }
        let written = self.wire.poll_write_out(cx);
        match (polled, written) {
            (Poll::Ready(outcome), _) => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "an endpoint's HTTP/2 connection failed");
                }
                Poll::Ready(())
            }
            (Poll::Pending, Poll::Ready(Err(_))) => Poll::Ready(()),
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    fn greet(&self) {
        self.state.greeted.set(true);
        self.state.awaits_greeting.take().into_iter().for_each(Waker::wake);
    }
}

//! An endpoint's connection that speaks HTTP/2, and its streams as sockets that take an HTTP/1.1 request and give its
//! response.

mod stream;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, Connection, SendRequest};
use proxy_core::config::Http2Options;
use proxy_core::http2::{Meter, Side};
use tokio::task::AbortHandle;

use super::keepalive::Keepalive;
use super::wire::Wire;
use crate::socket::Socket;
use crate::stranger;

/// Bytes of a response's head, beyond which the library does not keep it. The listener's own limit holds after that.
const MAX_HEAD: u32 = 8 << 20;
/// Streams that are opened before the endpoint has said how many it takes (RFC 9113 §6.5.2 recommends no fewer).
const FIRST_STREAMS: usize = 100;
/// Bytes of a request that may wait in the library, for each stream.
const SEND_BUFFER: usize = 64 << 10;
/// Streams whose end is waited for at most; of more, the first ones are reset.
const MAX_ENDING: usize = 64;
/// Streams that we have reset and remember for a moment.
const REMEMBERED_RESETS: usize = 1_024;
/// Bytes that small DATA frames which wait may cost beyond what they hold. One stream whose client reads slowly must not
/// end all of them.
const FRAME_BUDGET: usize = 64 << 20;

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
    /// Responses that were read, and whose end is still to come.
    ending: RefCell<VecDeque<RecvStream>>,
    driver: RefCell<Option<Waker>>,
}

impl Trunk {
    /// Begins to speak, with responses' heads of up to `head_bytes`. Nothing is waited for: the first request leaves with the preface.
    pub(crate) async fn open(
        socket: Socket,
        options: &Http2Options,
        head_bytes: usize,
        is_tls: bool,
        percent: u32,
    ) -> Option<Self> {
        let wire =
            Wire::new(socket, Vec::new(), Meter::new(Side::Client, options.meter.for_heads(head_bytes)));
        let mut builder = Builder::new();
        builder
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .initial_max_send_streams((options.streams as usize).min(FIRST_STREAMS))
            .max_header_list_size(MAX_HEAD)
            .header_table_size(options.header_table_bytes)
            .enable_push(false)
            // What crosses a reset of ours is no error, however many calls clients give up.
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .max_local_error_reset_streams(None)
            .data_frame_budget(FRAME_BUDGET)
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

    /// Waits for the end of a stream of which everything else was read.
    fn await_end(&self, body: RecvStream) {
        let mut ending = self.ending.borrow_mut();
        if ending.len() == MAX_ENDING {
            ending.pop_front();
        }
        ending.push_back(body);
        drop(ending);
        self.wake_driver();
    }

    fn poll_ends(&self, cx: &mut Context<'_>) {
        self.ending.borrow_mut().retain_mut(|body| {
            loop {
                match body.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => {
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    Poll::Ready(Some(Err(_)) | None) => return false,
                    Poll::Pending => return true,
                }
            }
        });
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
            stranger!(%excess, "an endpoint's HTTP/2 connection is ended");
            return Poll::Ready(());
        }
        if !self.state.greeted.get() && self.wire.has_settings() {
            self.greet();
        }
        if self.wire.has_goaway() {
            self.state.leaving.set(true);
        }
        let state = self.state.clone();
        if !state.ending.borrow().is_empty() {
            state.poll_ends(cx);
        }
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

//! One stream of a client's connection: a socket on which an HTTP/1.1 request came, and its response leaves.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use base64::Engine as _;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use proxy_core::http1::{
    BodyReader, ChunkLimits, HeadError, Limits, Method, Output, ResponseFraming, ResponseHead, parse_request,
    parse_response,
};
use proxy_core::http2::{self, BodyForm, Tunnel};
use rand::Rng as _;
use tokio::io::ReadBuf;

use super::super::body::{Incoming, Outgoing, failure, invalid};
use super::{OpenStream, Streams};
use crate::deadline::Deadlines;
use crate::exchange::Exchange;
use crate::forward::{self, Next, RequestContext};
use crate::socket::{Layer, Socket};

/// Bytes of a body that are looked at with its head.
const AT_HAND: usize = 16 << 10;

/// Serves one request.
pub(super) async fn serve(
    open: OpenStream,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let streams = &*open.0;
    let Streams { worker, connection, .. } = streams;
    let started = Instant::now();
    let view = worker.view();
    let Some(chain) = view.chain(worker, connection.chain.get()) else {
        let mut respond = respond;
        respond.send_reset(Reason::REFUSED_STREAM);
        return;
    };
    let mut exchange = worker.exchange();
    let (parts, body) = request.into_parts();
    let written = read_head(streams, &parts, body.is_end_stream(), &mut exchange);
    let parsed = written.and_then(|form| {
        let rules = &chain.http().requests;
        // The crumbs of a cookie are one line by now.
        if parts.headers.len() > rules.limits.headers {
            return Err(HeadError::TooManyHeaders);
        }
        let whole = parse_request(&exchange.from_client, rules, &mut exchange.request)?;
        if whole { Ok(form) } else { Err(HeadError::RequestLine) }
    });
    let form = *parsed.as_ref().unwrap_or(&BodyForm::Empty);
    let method = if parsed.is_ok() { exchange.request.method } else { Method::Get };
    let stream = Rc::new(RefCell::new(Stream {
        incoming: Incoming::new(body, form, Vec::new(), None),
        state: State::Awaiting(respond),
        method,
    }));
    let hangup = Hangup(stream.clone());
    let mut socket = Socket::Layered(Box::new(RefCell::new(Shared(stream.clone()))));
    let deadlines = worker.deadlines();
    let cx = RequestContext {
        worker,
        connection,
        view,
        chain,
        started,
        complete: started,
        deadlines: &deadlines,
        stream: Some(&hangup),
    };
    if parsed.is_ok() && form != BodyForm::Empty {
        read_at_hand(&mut socket, &mut exchange.from_client).await;
    }
    let next = match parsed {
        Ok(_) => forward::serve(&cx, &mut socket, &mut exchange).await,
        Err(error) => forward::refuse(&cx, &mut socket, &mut exchange, Ok(error)).await,
    };
    if matches!(next, Next::Abort) || !stream.borrow().has_ended() {
        stream.borrow_mut().abort();
    }
    if cx.connection_shall_end() {
        connection.farewell().say();
    }
    worker.return_exchange(exchange);
}

/// Reads what of the body has come with the head: most calls are whole then, and go on in one piece.
async fn read_at_hand(socket: &mut Socket, from_client: &mut Vec<u8>) {
    let most = from_client.len() + AT_HAND;
    while from_client.len() < most {
        from_client.reserve(1024);
        if !matches!(socket.read_now(from_client).await, Some(Ok(1..))) {
            return;
        }
    }
}

/// Writes the request's head into the exchange.
fn read_head(
    streams: &Streams,
    parts: &http::request::Parts,
    ended: bool,
    exchange: &mut Exchange,
) -> Result<BodyForm, HeadError> {
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    let key = protocol.map(|_| {
        let mut bytes = [0; 16];
        streams.worker.rng.borrow_mut().fill_bytes(&mut bytes);
        base64::engine::general_purpose::STANDARD.encode(bytes)
    });
    let tunnel = Tunnel {
        protocol: protocol.map(h2::ext::Protocol::as_str),
        websocket_key: key.as_deref().unwrap_or_default(),
    };
    exchange.from_client.clear();
    http2::write_request(&mut exchange.from_client, parts, ended, tunnel)
}

/// A stream, request side and response side.
#[derive(Debug)]
struct Stream {
    incoming: Incoming,
    state: State,
    method: Method,
}

#[derive(Debug)]
enum State {
    /// No final head has left.
    Awaiting(SendResponse<Bytes>),
    /// The head has left.
    Answering(Outgoing),
}

impl Stream {
    fn has_ended(&self) -> bool {
        match &self.state {
            State::Awaiting(_) => false,
            State::Answering(outgoing) => outgoing.has_ended(),
        }
    }

    fn abort(&mut self) {
        match &mut self.state {
            State::Awaiting(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            State::Answering(outgoing) => outgoing.reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Sends the head at the start of `bytes`, which must be whole. Returns its length.
    fn send_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let State::Awaiting(respond) = &mut self.state else { return Ok(0) };
        let mut head = ResponseHead::default();
        let whole = parse_response(bytes, &Limits::OWN, self.method, &mut head).map_err(invalid)?;
        if !whole {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let response = http2::response_parts(bytes, &head).map_err(invalid)?;
        if head.is_informational() && head.status != 101 {
            respond.send_informational(response).map_err(failure)?;
            return Ok(head.len);
        }
        let opens_tunnel =
            head.status == 101 || (self.method == Method::Connect && response.status().is_success());
        let framing = if opens_tunnel { ResponseFraming::UntilClose } else { head.framing };
        let ended = matches!(framing, ResponseFraming::None | ResponseFraming::Length(0));
        let send = respond.send_response(response, ended).map_err(failure)?;
        let reader = BodyReader::of_response(framing, Output::ContentAndTrailers, ChunkLimits::OWN);
        self.state = State::Answering(Outgoing::new(send, reader, ended));
        Ok(head.len)
    }
}

/// A stream in a socket.
#[derive(Debug)]
struct Shared(Rc<RefCell<Stream>>);

impl Layer for Shared {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().incoming.poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.0.borrow_mut();
        let head = stream.send_head(bytes)?;
        let rest = &bytes[head..];
        match &mut stream.state {
            State::Answering(outgoing) if !rest.is_empty() => match outgoing.poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => Poll::Ready(Ok(head + count)),
                Poll::Pending if head > 0 => Poll::Ready(Ok(head)),
                other => other,
            },
            State::Answering(_) | State::Awaiting(_) => Poll::Ready(Ok(head)),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0.borrow_mut().state {
            State::Awaiting(_) => Poll::Ready(Ok(())),
            State::Answering(outgoing) => Poll::Ready(outgoing.end()),
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.borrow_mut().incoming.poll_readable(cx))?;
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        self.0.borrow_mut().abort();
    }

    fn is_empty(&self) -> bool {
        true
    }

    fn local_address(&self) -> Box<str> {
        "".into()
    }
}

/// Tells whether the client has given a request up.
#[derive(Debug)]
pub(crate) struct Hangup(Rc<RefCell<Stream>>);

impl Hangup {
    /// Waits for it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0.borrow_mut().state {
            State::Awaiting(respond) => respond.poll_reset(cx).map(drop),
            State::Answering(outgoing) if outgoing.has_ended() => Poll::Pending,
            State::Answering(outgoing) => outgoing.poll_reset(cx),
        }
    }

    /// Does `work` under `deadlines`, for as long as the client wants it.
    pub(crate) async fn guard<F: Future>(
        &self,
        deadlines: &Deadlines,
        work: Pin<&mut F>,
    ) -> Result<F::Output, crate::deadline::Limit> {
        let mut guarded = std::pin::pin!(deadlines.guard(work));
        std::future::poll_fn(|cx| match guarded.as_mut().poll(cx) {
            Poll::Pending => self.poll(cx).map(|()| Err(crate::deadline::Limit::HungUp)),
            ready => ready,
        })
        .await
    }
}

//! One stream of an endpoint's connection, as a socket.

use std::cell::RefCell;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest;
use base64::Engine as _;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use proxy_core::http1::{
    BodyReader, ChunkLimits, Limits, Method, Output, RequestFraming, RequestHead, RequestRules,
    ResponseFraming, parse_request,
};
use proxy_core::http2::{self, BodyForm, Opened, Protocol};
use tokio::io::ReadBuf;

use super::super::body::{Incoming, Outgoing, failure, invalid};
use super::State;
use crate::socket::{Layer, Socket};

/// The bounds within which a request of our own making stays.
const OUR_RULES: RequestRules = RequestRules { limits: Limits::OWN, http10: true, absolute_form: true };
/// What is appended to a WebSocket's key before it is hashed (RFC 6455 §1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A stream that waits for its request.
pub(super) fn socket(requests: SendRequest<Bytes>, state: Rc<State>, is_tls: bool) -> Socket {
    let stream = Stream { requests, state, is_tls, phase: Phase::Fresh };
    Socket::Layered(Box::new(RefCell::new(stream)))
}

#[derive(Debug)]
struct Stream {
    requests: SendRequest<Bytes>,
    state: Rc<State>,
    is_tls: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was sent.
    Fresh,
    /// The request's head was.
    Asked { asked: Box<Asked>, outgoing: Outgoing, response: ResponseFuture, text: Vec<u8>, read: usize },
    /// The response's head has come.
    Answered { outgoing: Outgoing, incoming: Incoming },
}

/// What of the request matters to its response.
#[derive(Debug)]
struct Asked {
    method: Method,
    /// The protocol of an extended CONNECT, and what a WebSocket's answer must hold.
    protocol: Option<(Vec<u8>, String)>,
}

impl Stream {
    /// Sends the head at the start of `bytes`, which must be whole. Returns its length.
    fn poll_send_head(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !matches!(self.phase, Phase::Fresh) {
            return Poll::Ready(Ok(0));
        }
        let mut head = RequestHead::default();
        if !parse_request(bytes, &OUR_RULES, &mut head).map_err(invalid)? {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        ready!(self.requests.poll_ready(cx)).map_err(|error| self.state.refused(error))?;
        let mut request = http2::request_parts(bytes, &head, self.is_tls).map_err(invalid)?;
        let protocol = request.extensions_mut().remove::<Protocol>().map(|Protocol(protocol)| protocol);
        if let Some(protocol) = &protocol {
            ready!(self.poll_extended_connect(cx))?;
            request.extensions_mut().insert(h2::ext::Protocol::from(&**protocol));
        }
        let opens_tunnel = protocol.is_some() || head.method == Method::Connect;
        let ended = !opens_tunnel && !head.framing.has_body();
        let sent = self.requests.send_request(request, ended);
        let (response, send) = sent.map_err(|error| self.state.refused(error))?;
        let reader = match opens_tunnel {
            true => BodyReader::of_response(ResponseFraming::UntilClose, Output::Content, ChunkLimits::OWN),
            false => BodyReader::of_request(head.framing, Output::ContentAndTrailers, ChunkLimits::OWN),
        };
        let accept = || {
            let key = head.header(bytes, b"sec-websocket-key")?;
            let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, WEBSOCKET_GUID].concat());
            Some(base64::engine::general_purpose::STANDARD.encode(hash))
        };
        let protocol = protocol.map(|protocol| (protocol.as_bytes().to_vec(), accept().unwrap_or_default()));
        self.phase = Phase::Asked {
            asked: Box::new(Asked { method: head.method, protocol }),
            outgoing: Outgoing::new(send, reader, ended),
            response,
            text: Vec::new(),
            read: 0,
        };
        debug_assert!(ended || opens_tunnel || head.framing != RequestFraming::None);
        Poll::Ready(Ok(head.len))
    }

    /// Waits for what the endpoint can do; an extended CONNECT must be among it (RFC 8441 §3).
    fn poll_extended_connect(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.requests.is_extended_connect_protocol_enabled() {
            return Poll::Ready(Ok(()));
        }
        if self.state.greeted.get() {
            let reason = "the endpoint takes no upgrade over HTTP/2";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::Unsupported, reason)));
        }
        self.state.awaits_greeting.borrow_mut().push(cx.waker().clone());
        self.state.wake_driver();
        Poll::Pending
    }

    /// Until there is something to read; `false` at the end.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match &mut self.phase {
                // Nothing comes before something was asked.
                Phase::Fresh => return Poll::Pending,
                Phase::Answered { incoming, .. } => return incoming.poll_readable(cx),
                Phase::Asked { text, read, .. } if *read < text.len() => return Poll::Ready(Ok(true)),
                Phase::Asked { asked, response, text, read, .. } => {
                    (*read, _) = (0, text.clear());
                    if let Some(informational) = ready!(response.poll_informational(cx)) {
                        let (parts, ()) = informational.map_err(failure)?.into_parts();
                        http2::write_response(text, &parts, false, true, None).map_err(invalid)?;
                        continue;
                    }
                    let (parts, body) = ready!(Pin::new(response).poll(cx)).map_err(failure)?.into_parts();
                    let form = asked.write(text, &parts, &body)?;
                    let length = parts.headers.get(http::header::CONTENT_LENGTH);
                    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
                    self.answer(body, form, length);
                }
            }
        }
    }

    fn answer(&mut self, body: RecvStream, form: BodyForm, length: Option<u64>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Fresh);
        if let Phase::Asked { outgoing, text, .. } = phase {
            self.phase = Phase::Answered { outgoing, incoming: Incoming::new(body, form, text, length) };
        }
    }
}

impl Drop for Stream {
    /// A response whose end has not come yet, but for whose end nobody waits, is not given up: the endpoint would take
    /// its work for wasted.
    fn drop(&mut self) {
        if let Phase::Answered { outgoing, incoming } = std::mem::replace(&mut self.phase, Phase::Fresh)
            && outgoing.has_ended()
            && let Some(body) = incoming.into_end()
        {
            self.state.await_end(body);
        }
    }
}

impl Asked {
    fn write(
        &self,
        text: &mut Vec<u8>,
        parts: &http::response::Parts,
        body: &RecvStream,
    ) -> io::Result<BodyForm> {
        let opened =
            self.protocol.as_ref().map(|(protocol, accept)| Opened { protocol, websocket_accept: accept });
        let bodiless = self.method == Method::Head;
        let form =
            http2::write_response(text, parts, body.is_end_stream(), bodiless, opened).map_err(invalid)?;
        // What follows a 2xx to CONNECT is the tunnel.
        let opens_tunnel = self.method == Method::Connect && parts.status.is_success();
        Ok(if opens_tunnel { BodyForm::Plain } else { form })
    }
}

impl Layer for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !ready!(self.poll_incoming(cx))? {
            return Poll::Ready(Ok(()));
        }
        match &mut self.phase {
            Phase::Fresh => Poll::Ready(Ok(())),
            Phase::Asked { text, read, .. } => {
                let count = (text.len() - *read).min(buf.remaining());
                buf.put_slice(&text[*read..*read + count]);
                *read += count;
                Poll::Ready(Ok(()))
            }
            Phase::Answered { incoming, .. } => incoming.poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let head = ready!(self.poll_send_head(cx, bytes))?;
        let rest = &bytes[head..];
        match &mut self.phase {
            Phase::Asked { outgoing, .. } | Phase::Answered { outgoing, .. } if !rest.is_empty() => {
                match outgoing.poll_write(cx, rest) {
                    Poll::Ready(Ok(count)) => Poll::Ready(Ok(head + count)),
                    Poll::Pending if head > 0 => Poll::Ready(Ok(head)),
                    other => other,
                }
            }
            Phase::Fresh | Phase::Asked { .. } | Phase::Answered { .. } => Poll::Ready(Ok(head)),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.phase {
            Phase::Fresh => Poll::Ready(Ok(())),
            Phase::Asked { outgoing, .. } | Phase::Answered { outgoing, .. } => Poll::Ready(outgoing.end()),
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_incoming(cx))?;
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        match &mut self.phase {
            Phase::Fresh => {}
            Phase::Asked { outgoing, .. } | Phase::Answered { outgoing, .. } => {
                outgoing.reset(Reason::CANCEL);
            }
        }
    }

    fn is_empty(&self) -> bool {
        true
    }

    fn local_address(&self) -> Box<str> {
        "".into()
    }
}

//! To an endpoint and back: the request goes up, the response comes down, and the connection goes back to its pool.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use proxy_core::http1::{
    BodyReader, Output, RequestEdits, RequestHead, ResponseFraming, ResponseHead, Version, write_request,
};
use tokio::io::AsyncWriteExt as _;

use super::plan::{Plan, Tunnel};
use super::relay::{self, Received, UploadView};
use super::tunnel::{self, Carried};
use super::{Finished, Reason, RequestContext, Routed, upload};
use crate::exchange::Exchange;
use crate::grpc_web::Bridge;
use crate::socket::Socket;
use crate::upstream::{Demand, Leased, Link, Pool, Protocol};

/// How often a request goes out again where an endpoint cannot have seen it.
const MAX_REPEATS: u32 = 2;

/// The request on its way up: what of its body is at hand, and what is still to come.
pub(super) struct Upload {
    pub(super) body: BodyReader,
    /// All of it was written to the upstream, or is part of the first write. (That the reader has seen its end says
    /// nothing: its last piece may still wait.)
    pub(super) sent: bool,
    /// Bytes of `from_client` that belong to this request.
    pub(super) used: usize,
}

impl Upload {
    /// Writes the outgoing head, and whatever of the body came with it, into `out`.
    pub(super) fn prepare<'a>(
        cx: &RequestContext<'_>,
        plan: &Plan<'_>,
        exchange: &'a mut Exchange,
        pool: &Pool,
    ) -> Result<Self, Reason> {
        let Exchange { request, from_client, out, added, progress, target, host, .. } = exchange;
        let http = cx.http();
        let trails = http.forwards_trailers || (cx.stream.is_some() && plan.protocol == Protocol::Http2);
        let output = if trails { Output::ChunksAndTrailers } else { Output::Chunks };
        let mut body = BodyReader::of_request(request.framing, output, http.chunks);
        let fallback_host = match &*http.default_host {
            "" => pool.endpoint.host().as_bytes(),
            host => host.as_bytes(),
        };
        out.clear();
        let given = |text: &'a Vec<u8>| (!text.is_empty()).then_some(text.as_slice());
        let edits = RequestEdits { fallback_host, target: given(target), host: given(host), added };
        write_request(out, from_client, request, &edits);
        let mut used = request.len;
        if request.framing.has_body() {
            let at_hand = &mut from_client[request.len..];
            let relayed = body.relay(at_hand).map_err(|_| Reason::MalformedBody)?;
            out.extend_from_slice(&at_hand[..relayed.kept]);
            out.extend_from_slice(body.tail());
            used += relayed.taken;
        }
        progress.received = body.content_bytes();
        if body.is_done() {
            progress.request_end = Some(cx.complete);
        }
        Ok(Self { sent: body.is_done(), body, used })
    }
}

/// Sends the request and passes the response back.
#[allow(clippy::too_many_arguments)]
pub(super) async fn send(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    routed: &Routed,
    pool: &Rc<Pool>,
    link: &Link,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Finished, Reason> {
    let mut repeats = 0;
    loop {
        let leased = acquire(cx, plan, pool, link, exchange, repeats > 0).await?;
        let (reused, is_stream) = (leased.reused, leased.is_stream());
        // What is not at hand any more cannot be sent again.
        let is_whole = upload.sent;
        let broken = match send_on(cx, plan, routed, pool, leased, client, exchange, upload).await {
            Ok(finished) => return Ok(finished),
            Err(broken) => broken,
        };
        let may_repeat = match broken.harm {
            Harm::NothingLeft => reused || is_stream,
            Harm::Refused => is_whole,
            // An endpoint may close an idle connection just as we take it.
            Harm::Lost => reused && is_whole && exchange.request.method.is_idempotent(),
            Harm::Done => false,
        };
        if !may_repeat || repeats == MAX_REPEATS {
            return Err(broken.reason);
        }
        repeats += 1;
    }
}

async fn acquire(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    pool: &Rc<Pool>,
    link: &Link,
    exchange: &mut Exchange,
    fresh: bool,
) -> Result<Leased, Reason> {
    let cluster = plan.cluster;
    let demand = Demand {
        cluster: &cluster.table,
        priority: plan.options.priority,
        method: exchange.request.method,
        // What goes through a tunnel cannot be sent again.
        fresh: fresh || (plan.tunnel.is_some() && plan.protocol == Protocol::Http1),
        waits: plan.tunnel != Some(Tunnel::Terminated),
        link,
        protocol: plan.protocol,
        told: link.tells_client().then(|| cx.connection.addresses()).flatten(),
        now: cx.worker.recent_time(),
        percent: if plan.protocol != Protocol::Http1 { cx.worker.random_percent() } else { 0 },
        worker: &cx.worker.cells,
        cells: &cluster.cells,
    };
    exchange.progress.attempts += 1;
    let leased = pool.acquire(&demand).await?;
    // As in Envoy, a request counts as sent once it has a connection.
    cluster.cells.sent.add(1);
    Ok(leased)
}

/// An upstream connection failed before the client got anything.
pub(super) struct Broken {
    pub(super) reason: Reason,
    pub(super) harm: Harm,
}

/// What may have become of a request that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    /// No byte of it left.
    NothingLeft,
    /// The endpoint has said that it did not look at it (RFC 9113 §8.7).
    Refused,
    /// Its connection ended before a byte of a response.
    Lost,
    /// It may have had its effect, or would fail again.
    Done,
}

impl Harm {
    /// What a connection's or a stream's end tells, where no byte of a response came; by no error where it ended in peace.
    pub(super) const fn of(error: Option<io::ErrorKind>) -> Self {
        match error {
            Some(io::ErrorKind::ConnectionRefused) => Self::Refused,
            Some(io::ErrorKind::InvalidData | io::ErrorKind::Other) => Self::Done,
            _ => Self::Lost,
        }
    }
}

impl From<Reason> for Broken {
    fn from(reason: Reason) -> Self {
        Self { reason, harm: Harm::Done }
    }
}

#[allow(clippy::too_many_arguments)]
async fn send_on(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    routed: &Routed,
    pool: &Rc<Pool>,
    leased: Leased,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Finished, Broken> {
    let mut upstream = leased.upstream;
    let mut web_status = None;
    if let Some(form) = plan.web {
        upstream = upstream.layer(|socket| {
            let (bridge, status) = Bridge::over(socket, form, plan.response_limits);
            web_status = Some(status);
            bridge
        });
    }
    write_first(cx, plan, &mut upstream.socket, &exchange.out).await?;
    exchange.from_upstream.clear();
    let received = if upload.sent {
        relay::response(cx, plan, routed, &mut upstream.socket, client, exchange, &UploadView::default())
            .await?
    } else {
        // Both directions at once: the response may come before the body's end. Boxed, as it is rare and large.
        Box::pin(upload::duplex(cx, plan, routed, &mut upstream.socket, client, exchange, upload)).await?
    };
    if received.switched {
        let tunnel = open_tunnel(cx, plan, &mut upstream.socket, client, exchange, upload.used);
        return Ok(Box::pin(tunnel).await);
    }
    if let Some(status) = web_status {
        exchange.progress.grpc_status = exchange.progress.grpc_status.or(status.get());
    }
    let Received { failure, client_reusable, ends_with_close, .. } = received;
    if received.upstream_reusable && upload.sent {
        let now = cx.worker.recent_time();
        pool.put(upstream, received.bodiless, now, &plan.cluster.table, cx.worker.count());
    }
    Ok(Finished {
        status: exchange.response.status,
        failure,
        client_reusable,
        looks_whole: ends_with_close,
        used: upload.used,
    })
}

/// Writes all of `bytes`.
async fn write_first(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    upstream: &mut Socket,
    bytes: &[u8],
) -> Result<(), Broken> {
    let mut left = 0;
    let written = cx.upstream_stall(plan).write_counted(upstream, bytes, &mut left).await;
    written.map_err(|error| match error.kind() {
        // The endpoint's protocol has no words for it, or the endpoint takes no such thing.
        io::ErrorKind::InvalidData | io::ErrorKind::Unsupported => plan.unsayable().into(),
        io::ErrorKind::ConnectionRefused => Broken { reason: Reason::UpstreamReset, harm: Harm::Refused },
        _ if left == 0 => Broken { reason: Reason::UpstreamReset, harm: Harm::NothingLeft },
        kind => Broken { reason: Reason::UpstreamReset, harm: Harm::of(Some(kind)) },
    })
}

/// CONNECT that ends here: a connection to the endpoint, then our own 200, then bytes.
pub(super) async fn terminate_connect(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    routed: &Routed,
    (pool, link): (&Rc<Pool>, &Link),
    client: &mut Socket,
    exchange: &mut Exchange,
    used: usize,
) -> Result<Finished, Reason> {
    let mut leased = acquire(cx, plan, pool, link, exchange, true).await?;
    exchange.progress.answering = true;
    let opened = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    exchange.progress.answered = opened.is_ok();
    exchange.response.status = 200;
    if opened.is_err() {
        return Err(Reason::ClientGone);
    }
    if let Some(passage) = &routed.passage {
        passage.begin(false, true, Instant::now());
    }
    cx.begin_tunnel();
    Ok(open_tunnel(cx, plan, &mut leased.upstream.socket, client, exchange, used).await)
}

/// Bytes both ways. What the client sent behind its head goes first.
async fn open_tunnel(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    upstream: &mut Socket,
    client: &mut Socket,
    exchange: &mut Exchange,
    used: usize,
) -> Finished {
    let mut carried = Carried::default();
    let early = &exchange.from_client[used..];
    let begun = cx.upstream_stall(plan).write_all(upstream, early).await;
    carried.up += early.len() as u64;
    let mut limit = None;
    if begun.is_ok() {
        let idle = plan.tunnel_idle;
        // Boxed: rare, and large.
        let mut work =
            Box::pin(tunnel::carry(cx.worker, client, upstream, cx.deadlines(), idle, &mut carried));
        limit = cx.guard(work.as_mut()).await.err();
    }
    exchange.progress.received += carried.up;
    exchange.progress.sent += carried.down;
    Finished {
        status: exchange.response.status,
        failure: Some(limit.map_or(Reason::ClientGone, Reason::from)).filter(|_| limit.is_some()),
        client_reusable: false,
        looks_whole: false,
        used,
    }
}

/// Whether the response's end can be told without closing the client's connection.
pub(super) const fn is_delimited(request: &RequestHead, response: &ResponseHead) -> bool {
    match response.framing {
        ResponseFraming::None | ResponseFraming::Length(_) => true,
        ResponseFraming::Chunked | ResponseFraming::UntilClose => matches!(request.version, Version::Http11),
    }
}

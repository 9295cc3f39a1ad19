//! A request body that is still coming while the response may already be on its way.

use std::io;
use std::time::{Duration, Instant};

use proxy_core::config::{BodyRate, RouteTimeout};
use proxy_core::http1::BodyReader;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::plan::Plan;
use super::relay::{self, DRAINED_BYTES, Received, UploadView};
use super::send::{Broken, Upload};
use super::{Reason, RequestContext, Routed};
use crate::deadline::Limit;
use crate::exchange::{Exchange, Progress};
use crate::socket::Socket;

/// How the body ended.
enum Sent {
    /// Whole; these bytes, at the end of the buffer, belong to the next request.
    Whole { leftover: usize },
    /// Whole, and the upstream takes no more: it may have answered already.
    Refused { leftover: usize },
    /// The client stopped, or broke the coding.
    Failed(Reason),
}

/// Both directions at once, in one task.
pub(super) async fn duplex(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    routed: &Routed,
    upstream: &mut Socket,
    client: &mut Socket,
    exchange: &mut Exchange,
    upload: &mut Upload,
) -> Result<Received, Broken> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_upstream, mut to_upstream) = upstream.split();
    let mut buffer = cx.worker.body_buffer();
    let view = UploadView::default();
    view.unfinished.set(true);
    view.remaining.set(upload.body.remaining());
    view.awaits_continue.set(exchange.request.expects_continue);
    // The response's side holds the exchange; what this side has to tell waits here.
    let mut sent_progress = exchange.progress;
    let mut ended = None;
    let mut outcome = {
        let mut sending = std::pin::pin!(send_body(
            cx,
            plan,
            &mut from_client,
            &mut to_upstream,
            &mut upload.body,
            &mut buffer,
            &view,
            &mut sent_progress
        ));
        let mut receiving = std::pin::pin!(relay::response(
            cx,
            plan,
            routed,
            &mut from_upstream,
            &mut to_client,
            exchange,
            &view
        ));
        let received = loop {
            tokio::select! {
                received = &mut receiving => break received,
                end = &mut sending, if ended.is_none() => {
                    if let Sent::Failed(reason) = end {
                        break Err(reason.into());
                    }
                    view.unfinished.set(false);
                    ended = Some(end);
                }
            }
        };
        // The response was early: the rest of the request is read within a bound, so that the connection survives.
        let drains = ended.is_none() && received.as_ref().is_ok_and(|received| received.client_reusable);
        if drains {
            let time = cx.http().timeouts.delayed_close.max(Duration::from_millis(100));
            ended = tokio::time::timeout(time, sending).await.ok();
        }
        received
    };
    exchange.progress.received = upload.body.content_bytes();
    exchange.progress.request_end = sent_progress.request_end;
    match ended {
        Some(Sent::Whole { leftover } | Sent::Refused { leftover }) => {
            upload.sent = matches!(ended, Some(Sent::Whole { .. }));
            let next = buffer.len() - leftover;
            exchange.from_client.truncate(upload.used);
            exchange.from_client.extend_from_slice(&buffer[next..]);
        }
        Some(Sent::Failed(_)) | None => {
            if let Ok(received) = &mut outcome {
                received.client_reusable = false;
            }
        }
    }
    cx.worker.return_body_buffer(buffer);
    match outcome {
        // The request failed while its response was on the way: the response cannot be taken back, only cut.
        Err(broken) if exchange.progress.answering => Ok(Received {
            failure: Some(broken.reason),
            upstream_reusable: false,
            client_reusable: false,
            bodiless: false,
            ends_with_close: false,
            switched: false,
        }),
        outcome => outcome,
    }
}

#[allow(clippy::too_many_arguments)]
async fn send_body<C, U>(
    cx: &RequestContext<'_>,
    plan: &Plan<'_>,
    client: &mut C,
    upstream: &mut U,
    body: &mut BodyReader,
    buffer: &mut Vec<u8>,
    view: &UploadView,
    progress: &mut Progress,
) -> Sent
where
    C: AsyncRead + Unpin,
    U: AsyncWrite + Unpin,
{
    let stall = cx.upstream_stall(plan);
    let deadlines = cx.deadlines();
    let mut pace = Pace::new(plan.body_rate);
    let mut refused = false;
    let mut discarded = 0;
    loop {
        buffer.clear();
        let waits_since = Instant::now();
        if view.awaits_continue.get() {
            // The endpoint's turn: the client sends nothing before it says so.
            deadlines.set(Limit::StreamIdle, waits_since, plan.stream_idle);
        } else if !view.answered.get() {
            deadlines.clear(Limit::StreamIdle);
            deadlines.set(Limit::BodyIdle, waits_since, plan.body_idle);
            if let Some((since, time)) = pace.deadline(waits_since) {
                deadlines.set(Limit::BodyRate, since, Some(time));
            }
        }
        let room = buffer.capacity().min(plan.buffer_bytes) as u64;
        match (&mut *client).take(room).read_buf(buffer).await {
            Ok(0) | Err(_) => return Sent::Failed(Reason::ClientGone),
            Ok(count) => pace.moved(waits_since.elapsed(), count),
        }
        deadlines.clear(Limit::BodyIdle);
        deadlines.clear(Limit::BodyRate);
        view.awaits_continue.set(false);
        let Ok(relayed) = body.relay(buffer) else { return Sent::Failed(Reason::MalformedBody) };
        view.remaining.set(body.remaining());
        // A client that sends all before it reads must not be left waiting by an upstream that answers early.
        for piece in [&buffer[..relayed.kept], body.tail()] {
            if refused || piece.is_empty() {
                continue;
            }
            match stall.write_all(upstream, piece).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Sent::Failed(plan.unsayable());
                }
                Err(_) => refused = true,
            }
        }
        if refused {
            discarded += relayed.taken as u64;
        }
        if body.is_done() {
            deadlines.clear(Limit::Request);
            let now = Instant::now();
            progress.request_end = Some(now);
            cx.await_response(plan, now);
            if view.answered.get() && plan.timeout == RouteTimeout::Default {
                deadlines.clear(Limit::Response);
            }
            let leftover = buffer.len() - relayed.taken;
            return if refused { Sent::Refused { leftover } } else { Sent::Whole { leftover } };
        }
        if discarded > DRAINED_BYTES {
            return Sent::Failed(Reason::ClientGone);
        }
    }
}

/// Whether a body comes fast enough. Time in which we did not read does not count.
struct Pace {
    rate: Option<BodyRate>,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    const fn new(rate: Option<BodyRate>) -> Self {
        Self { rate, waited: Duration::ZERO, bytes: 0 }
    }

    fn moved(&mut self, waited: Duration, bytes: usize) {
        self.waited += waited;
        self.bytes += bytes as u64;
    }

    /// By when the next byte must be there: the grace, or what the bytes so far paid for.
    fn deadline(&self, now: Instant) -> Option<(Instant, Duration)> {
        let BodyRate { bytes_per_second, grace } = self.rate?;
        let paid =
            Duration::from_millis(self.bytes.saturating_mul(1_000) / u64::from(bytes_per_second.max(1)));
        Some((now, paid.max(grace).saturating_sub(self.waited)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_pays_for_its_time_with_bytes() {
        let rate = BodyRate { bytes_per_second: 240, grace: Duration::from_secs(10) };
        let mut pace = Pace::new(Some(rate));
        let now = Instant::now();
        let left = |pace: &Pace| pace.deadline(now).map(|(_, time)| time);
        assert_eq!(left(&pace), Some(Duration::from_secs(10)), "any speed within the grace");
        pace.moved(Duration::from_secs(9), 1);
        assert_eq!(left(&pace), Some(Duration::from_secs(1)), "the grace is not renewed");
        pace.moved(Duration::from_secs(1), 240 * 20);
        assert_eq!(
            left(&pace).map(|time| time.as_secs()),
            Some(10),
            "4,801 bytes are worth 20 s, 10 are gone"
        );
        assert_eq!(left(&Pace::new(None)), None);
    }
}

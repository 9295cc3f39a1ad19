//! PING frames: whether a peer that is silent is there still (`connection_keepalive`).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};
use proxy_core::config::Keepalive as Options;
use tokio::time::Sleep;

/// Between PINGs where none are sent but on demand.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The PINGs of one connection.
pub(super) struct Keepalive {
    options: Option<Options>,
    /// The interval, with its random part.
    interval: Option<Duration>,
    pings: Option<PingPong>,
    timer: Option<Pin<Box<Sleep>>>,
    /// A PING is on its way.
    waits: bool,
}

impl Keepalive {
    /// `percent`: a random number below 100.
    pub(super) fn new(options: Option<Options>, percent: u32) -> Self {
        let with_jitter = |options: Options, interval: Duration| {
            interval + interval * (options.jitter_percent * percent) / 10_000
        };
        let interval = options.and_then(|options| Some(with_jitter(options, options.interval?)));
        Self { options, interval, pings: None, timer: None, waits: false }
    }

    /// Asks at once, where no PING is on its way.
    pub(super) fn ask(&mut self, pings: impl FnOnce() -> Option<PingPong>) {
        let Some(options) = self.options else { return };
        if self.pings.is_none() {
            self.pings = pings();
        }
        if let Some(pings) = &mut self.pings
            && !self.waits
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            self.waits = true;
            self.timer = Some(Box::pin(tokio::time::sleep(options.timeout)));
        }
    }

    /// Ready: the peer has not answered in time. `pings` is asked for once.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pings: impl FnOnce() -> Option<PingPong>,
    ) -> Poll<()> {
        let Some(options) = self.options else { return Poll::Pending };
        let interval = self.interval.unwrap_or(NEVER);
        if self.timer.is_none() {
            if self.interval.is_none() {
                return Poll::Pending;
            }
            self.pings = pings();
            self.timer = Some(Box::pin(tokio::time::sleep(interval)));
        }
        let (Some(pings), Some(timer)) = (&mut self.pings, &mut self.timer) else { return Poll::Pending };
        loop {
            if self.waits && matches!(pings.poll_pong(cx), Poll::Ready(Ok(_))) {
                self.waits = false;
                timer.as_mut().reset((Instant::now() + interval).into());
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waits {
                return Poll::Ready(());
            }
            if pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.waits = true;
            timer.as_mut().reset((Instant::now() + options.timeout).into());
        }
    }
}

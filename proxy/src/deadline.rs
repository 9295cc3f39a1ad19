//! The deadlines of one connection: many limits, one timer.
//!
//! Each limit is a number that is set and cleared as the exchange moves; the timer is looked at only when there is
//! nothing to do, and moved only when a deadline comes closer than what it waits for. A request that goes through
//! without a stop pays a few stores.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// What may not take for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// What comes before the first request.
    Handshake,
    /// The connection between two requests.
    KeepAlive,
    /// The request's head.
    Header,
    /// The whole request.
    Request,
    /// Silence of the client within the body.
    BodyIdle,
    /// The body, at the least speed that is allowed.
    BodyRate,
    /// The response, from the request's end.
    Response,
    /// Silence of the endpoint.
    StreamIdle,
    /// The client takes no byte.
    ClientStall,
    /// The endpoint takes no byte.
    UpstreamStall,
    /// The whole exchange.
    Exchange,
    /// Silence of both sides of a tunnel.
    TunnelIdle,
    /// A tunnel or a connection as a whole.
    Lifetime,
    /// No time at all: the client has given the request up.
    HungUp,
}

impl Limit {
    const ALL: [Self; 14] = [
        Self::Handshake,
        Self::KeepAlive,
        Self::Header,
        Self::Request,
        Self::BodyIdle,
        Self::BodyRate,
        Self::Response,
        Self::StreamIdle,
        Self::ClientStall,
        Self::UpstreamStall,
        Self::Exchange,
        Self::TunnelIdle,
        Self::Lifetime,
        Self::HungUp,
    ];
}

const NEVER: u64 = u64::MAX;

/// The deadlines of one connection, in milliseconds since the worker started.
#[derive(Debug)]
pub(crate) struct Deadlines {
    epoch: Instant,
    at: [Cell<u64>; Limit::ALL.len()],
    /// When the timer wakes; [`NEVER`] where it does not.
    armed: Cell<u64>,
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
}

impl Deadlines {
    /// None set. `epoch` is a time in the past.
    pub(crate) fn new(epoch: Instant) -> Self {
        let at = std::array::from_fn(|_| Cell::new(NEVER));
        Self { epoch, at, armed: Cell::new(NEVER), timer: RefCell::default() }
    }

    /// Sets a limit, counted from `from`; no time clears it.
    #[inline]
    pub(crate) fn set(&self, limit: Limit, from: Instant, time: Option<Duration>) {
        let at =
            time.map_or(NEVER, |time| millis(from.saturating_duration_since(self.epoch)) + millis(time) + 1);
        self.at[limit as usize].set(at);
    }

    #[inline]
    pub(crate) fn clear(&self, limit: Limit) {
        self.at[limit as usize].set(NEVER);
    }

    pub(crate) fn is_set(&self, limit: Limit) -> bool {
        self.at[limit as usize].get() != NEVER
    }

    pub(crate) fn clear_all(&self) {
        self.at.iter().for_each(|at| at.set(NEVER));
    }

    /// Clears all limits but one.
    pub(crate) fn clear_all_but(&self, limit: Limit) {
        let kept = self.at[limit as usize].get();
        self.clear_all();
        self.at[limit as usize].set(kept);
    }

    /// Does `work`, for as long as no deadline passes.
    ///
    /// # Errors
    /// The limit that was reached.
    pub(crate) async fn guard<F: Future>(&self, mut work: Pin<&mut F>) -> Result<F::Output, Limit> {
        poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            loop {
                let next = self.at.iter().map(Cell::get).min().unwrap_or(NEVER);
                let mut timer = self.timer.borrow_mut();
                if next < self.armed.get() {
                    let at = tokio::time::Instant::from_std(self.epoch + Duration::from_millis(next));
                    match timer.as_mut() {
                        Some(timer) => timer.as_mut().reset(at),
                        None => *timer = Some(Box::pin(tokio::time::sleep_until(at))),
                    }
                    self.armed.set(next);
                } else if self.armed.get() == NEVER || !timer.as_ref().is_some_and(|timer| timer.is_elapsed())
                {
                    return Poll::Pending;
                }
                // Whatever the task has done so far, the timer must be registered.
                let elapsed = timer.as_mut().is_some_and(|timer| {
                    pin!(tokio::task::unconstrained(timer.as_mut())).poll(cx).is_ready()
                });
                if !elapsed {
                    return Poll::Pending;
                }
                self.armed.set(NEVER);
                if next <= millis(self.epoch.elapsed()) {
                    let reached = Limit::ALL.into_iter().find(|limit| self.at[*limit as usize].get() == next);
                    return Poll::Ready(Err(reached.unwrap_or(Limit::KeepAlive)));
                }
            }
        })
        .await
    }
}

const fn millis(time: Duration) -> u64 {
    time.as_secs() * 1_000 + time.subsec_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn guarded<F: Future>(deadlines: &Deadlines, work: F) -> Result<F::Output, Limit> {
        deadlines.guard(pin!(work)).await
    }

    #[tokio::test]
    async fn the_closest_deadline_is_the_one_that_is_named() {
        let now = Instant::now();
        let deadlines = Deadlines::new(now);
        deadlines.set(Limit::Response, now, Some(Duration::from_millis(500)));
        deadlines.set(Limit::StreamIdle, now, Some(Duration::from_millis(5)));
        let reached = guarded(&deadlines, std::future::pending::<()>()).await;
        assert_eq!(reached, Err(Limit::StreamIdle));
        assert!(now.elapsed() >= Duration::from_millis(5), "never early");
    }

    #[tokio::test]
    async fn a_deadline_that_moved_on_does_not_fire() {
        let now = Instant::now();
        let deadlines = Deadlines::new(now);
        deadlines.set(Limit::StreamIdle, now, Some(Duration::from_millis(5)));
        let work = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                deadlines.set(Limit::StreamIdle, Instant::now(), Some(Duration::from_millis(40)));
            }
            "done"
        };
        assert_eq!(guarded(&deadlines, work).await, Ok("done"));
    }

    #[tokio::test]
    async fn a_deadline_set_within_the_work_counts() {
        let now = Instant::now();
        let deadlines = Deadlines::new(now);
        deadlines.set(Limit::KeepAlive, now, Some(Duration::from_secs(100)));
        let work = async {
            tokio::task::yield_now().await;
            deadlines.clear(Limit::KeepAlive);
            deadlines.set(Limit::ClientStall, Instant::now(), Some(Duration::from_millis(5)));
            std::future::pending::<()>().await;
        };
        assert_eq!(guarded(&deadlines, work).await, Err(Limit::ClientStall));
    }

    #[tokio::test]
    async fn cleared_deadlines_never_fire() {
        let now = Instant::now();
        let deadlines = Deadlines::new(now);
        deadlines.set(Limit::Header, now, Some(Duration::from_millis(1)));
        deadlines.clear_all();
        let work = tokio::time::sleep(Duration::from_millis(20));
        assert_eq!(guarded(&deadlines, work).await, Ok(()));
    }
}

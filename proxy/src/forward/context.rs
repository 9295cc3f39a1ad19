//! What holds for one request from its start to its end.

use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_core::config::{HttpOptions, RouteTimeout};
use proxy_core::http1::{Output, RequestHead, Version};
use proxy_core::overload::Pressure;

use super::plan::Plan;
use super::stall::Stall;
use crate::connection::Connection;
use crate::deadline::{Deadlines, Limit};
use crate::http2::Hangup;
use crate::worker::Worker;
use crate::worker::view::{ChainView, View};

/// How long a response's head may take where nobody said anything, as in Envoy.
const DEFAULT_ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What holds for one request from its start to its end: one snapshot, one listener, one connection.
pub(crate) struct RequestContext<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) connection: &'a Connection,
    pub(crate) view: Rc<View>,
    pub(crate) chain: Rc<ChainView>,
    /// The first byte.
    pub(crate) started: Instant,
    /// The last byte of the head.
    pub(crate) complete: Instant,
    /// The connection's, or the stream's.
    pub(crate) deadlines: &'a Deadlines,
    /// The request came on a stream of HTTP/2, which its client may give up.
    pub(crate) stream: Option<&'a Hangup>,
}

impl RequestContext<'_> {
    pub(super) fn http(&self) -> &HttpOptions {
        self.chain.http()
    }

    pub(super) const fn deadlines(&self) -> &Deadlines {
        self.deadlines
    }

    /// Does `work` for as long as no deadline passes and the client wants it.
    pub(super) async fn guard<F: Future>(&self, work: Pin<&mut F>) -> Result<F::Output, Limit> {
        match self.stream {
            None => self.deadlines.guard(work).await,
            Some(stream) => stream.guard(self.deadlines, work).await,
        }
    }

    /// Whether the connection ends with this response, whatever the client wants.
    pub(crate) fn connection_shall_end(&self) -> bool {
        let http = self.http();
        let most = if self.stream.is_some() { http.http2.requests } else { http.requests_per_connection };
        let worn_out = most.is_some_and(|max| self.connection.requests.get() >= max);
        let old = |max| self.started.saturating_duration_since(self.connection.opened) >= max;
        let presses = self.worker.pressure() > Pressure::None;
        worn_out
            || presses
            || self.chain.is_departing()
            || self.connection.left_behind.get().is_some()
            || self.worker.is_draining()
            || http.timeouts.connection.is_some_and(old)
            || self.connection.protection().is_some_and(|protection| protection.has_expired(self.started))
    }

    /// From here on bytes go both ways. Only how long that may last is bounded: by `max_stream_duration`, and by the
    /// client's certificate.
    pub(super) fn begin_tunnel(&self) {
        self.deadlines.clear_all_but(Limit::Exchange);
        self.bound_lifetime(None);
    }

    /// Bounds a connection as a whole, by its client's certificate and by `longest`.
    pub(super) fn bound_lifetime(&self, longest: Option<Duration>) {
        let protection = self.connection.protection();
        let left = protection.and_then(|protection| protection.left(self.started));
        let longest = left.into_iter().chain(longest).min();
        self.deadlines.set(Limit::Lifetime, self.started, longest);
    }

    pub(super) fn client_stall(&self, time: Option<Duration>) -> Stall<'_> {
        Stall { deadlines: self.deadlines(), limit: Limit::ClientStall, time, rests: Limit::StreamIdle }
    }

    pub(super) fn upstream_stall(&self, plan: &Plan<'_>) -> Stall<'_> {
        let time = plan.write;
        Stall { deadlines: self.deadlines(), limit: Limit::UpstreamStall, time, rests: Limit::BodyIdle }
    }

    /// The request is whole: from `now` on the response is late.
    pub(super) fn await_response(&self, plan: &Plan<'_>, now: Instant) {
        let time = match plan.timeout {
            RouteTimeout::Default => Some(DEFAULT_ROUTE_TIMEOUT),
            RouteTimeout::Whole(time) => Some(time),
            RouteTimeout::Never => None,
        };
        self.deadlines().set(Limit::Response, now, time);
        self.deadlines().set(Limit::StreamIdle, now, plan.stream_idle);
    }

    /// In which form a chunked response leaves.
    pub(super) fn output_for(&self, request: &RequestHead) -> Output {
        match request.version {
            Version::Http10 => Output::Content,
            Version::Http11
                if request.takes_trailers || self.http().forwards_trailers || self.stream.is_some() =>
            {
                Output::ChunksAndTrailers
            }
            Version::Http11 => Output::Chunks,
        }
    }
}

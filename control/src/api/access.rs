//! Who asks, and whether they may.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::Problem;
use crate::audit;
use crate::hub::Hub;
use crate::tokens::{self, Holder, Verb, hex};

/// Whoever asks, with a token that is known.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) holder: Holder,
    pub(super) trace: TraceId,
    method: Method,
    path: String,
    /// `X-Change-Reason`.
    pub(super) reason: String,
    hub: Arc<Hub>,
}

/// A request's id.
#[derive(Debug, Clone)]
pub(super) struct TraceId(pub(super) String);

const REQUEST_ID: &str = "x-request-id";

/// Gives every request an id, and counts it by its page.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let is_plain = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let id = given.filter(is_plain).map_or_else(fresh_id, str::to_owned);
    let method = request.method().clone();
    let endpoint =
        request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |p| p.as_str().to_owned());
    request.extensions_mut().insert(TraceId(id.clone()));
    let started = Instant::now();
    let mut response = next.run(request).await;
    let status = response.status();
    tracing::debug!(trace_id = id, %method, endpoint, status = status.as_u16(), took = ?started.elapsed(), "answered");
    // Whoever asks chooses the word; the series are ours.
    let known = [
        Method::GET,
        Method::PUT,
        Method::POST,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
    ];
    let method = if known.contains(&method) { method.to_string() } else { "other".to_owned() };
    let labels = [("method", method), ("endpoint", endpoint), ("status", status.as_u16().to_string())];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_duration_seconds").record(started.elapsed().as_secs_f64());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn fresh_id() -> String {
    let mut bytes = [0; 8];
    // An id that is not random is an id.
    let _ = rand::fill(&mut bytes);
    hex(&bytes)
}

/// Requests without a token that is known: records of all of them would fill the store.
static STRANGERS: Strangers = Strangers(Mutex::new(None));

/// How many of them have records in a second.
const RECORDED: u32 = 10;

/// Since when, how many were recorded, and how many were not.
struct Strangers(Mutex<Option<(Instant, u32, u32)>>);

impl Strangers {
    /// How many had no record since the last one; none where this one has none either.
    fn admit(&self, now: Instant) -> Option<u32> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, recorded, unrecorded) = state.get_or_insert((now, 0, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *recorded) = (now, 0);
        }
        if *recorded >= RECORDED {
            *unrecorded = unrecorded.saturating_add(1);
            return None;
        }
        *recorded += 1;
        Some(std::mem::take(unrecorded))
    }
}

impl FromRequestParts<Arc<Hub>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Problem> {
        let trace = parts.extensions.get::<TraceId>().cloned().unwrap_or_else(|| TraceId(fresh_id()));
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let holder = match token {
            Some(token) => tokens::holder(&*hub.store, token.trim()).await?,
            None => None,
        };
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let reason: String = text("x-change-reason").unwrap_or_default().chars().take(1_000).collect();
        let path = parts.uri.path().to_owned();
        let Some(holder) = holder else {
            let words = if token.is_some() { "the token is not known" } else { "a token is wanted" };
            if let Some(unrecorded) = STRANGERS.admit(Instant::now()) {
                let others = match unrecorded {
                    0 => String::new(),
                    others => format!("; so were {others} before it, which have no records"),
                };
                hub.record(audit::Event {
                    trace_id: trace.0,
                    operator: "unknown".to_owned(),
                    action: format!("{} {path}", parts.method),
                    target_env: String::new(),
                    details: format!("refused: 401, {words}{others}"),
                });
            }
            return Err(Problem::new(StatusCode::UNAUTHORIZED, format!("{words}: Authorization: Bearer …")));
        };
        Ok(Self { holder, trace, method: parts.method.clone(), path, reason, hub: hub.clone() })
    }
}

impl Caller {
    /// Whether they may do it there; without a namespace the whole is meant.
    pub(super) fn may(&self, verb: Verb, namespace: Option<&str>) -> Result<(), Problem> {
        if self.holder.may(verb, namespace) {
            return Ok(());
        }
        let there = namespace.map(|namespace| format!(" in the namespace {namespace}")).unwrap_or_default();
        let detail = format!("{} is {} and may not do this{there}", self.holder.name, self.holder.role);
        let problem = Problem::new(StatusCode::FORBIDDEN, detail);
        self.refused(namespace, &problem);
        Err(problem)
    }

    /// Records that something was not done.
    pub(super) fn refused(&self, namespace: Option<&str>, problem: &Problem) {
        let action = format!("{} {}", self.method, self.path);
        let details = format!("refused: {}, {}", problem.status, problem.detail);
        self.hub.record(self.event(&action, namespace, details));
    }

    /// What the audit is to say.
    pub(super) fn event(&self, action: &str, namespace: Option<&str>, details: String) -> audit::Event {
        audit::Event {
            trace_id: self.trace.0.clone(),
            operator: self.holder.name.clone(),
            action: action.to_owned(),
            target_env: namespace.unwrap_or_default().to_owned(),
            details,
        }
    }
}

/// Does what was begun, even if whoever wanted it goes meanwhile.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let failed =
        |error: tokio::task::JoinError| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    tokio::spawn(work).await.map_err(failed)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_counted_where_they_are_not_recorded() {
        let strangers = Strangers(Mutex::new(None));
        let now = Instant::now();
        let recorded = (0..100).filter_map(|_| strangers.admit(now)).count();
        assert_eq!(recorded, 10);
        assert_eq!(strangers.admit(now + Duration::from_secs(1)), Some(90));
        assert_eq!(strangers.admit(now + Duration::from_secs(1)), Some(0));
    }
}

//! Changes as they come: a line of JSON each, messages of a WebSocket, or the answer to a long poll.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket};
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use control_core::model::{Kind, ObjectKey, duration};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Problem;
use super::access::Caller;
use super::extract::Query;
use super::resources::{ListFlags, scope, shown};
use crate::hub::Hub;
use crate::journal::Journal;
use crate::tokens::{Holder, Verb};

/// The longest that a poll waits.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// Versions whose changes are told at once.
const AT_ONCE: u64 = 32;
/// Changes that wait for one slow reader.
const QUEUE: usize = 64;

/// Whose changes are wanted.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub(super) kind: Option<Kind>,
    pub(super) namespace: Option<String>,
    pub(super) holder: Holder,
}

impl Filter {
    pub(super) fn takes(&self, key: &ObjectKey) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.holder.may(Verb::Read, scope(key))
    }
}

/// Changes of every kind and namespace.
#[utoipa::path(get, path = "/api/v1/watch", params(ListFlags),
    responses((status = 200, description = "Changes"), (status = 304), (status = 410, body = Problem)))]
pub(super) async fn changes(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(flags): Query<ListFlags>,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    caller.may(Verb::Read, None)?;
    let filter = Filter { kind: None, namespace: None, holder: caller.holder };
    answer(&hub, filter, &flags, socket.ok()).await
}

/// Changes in the form that is asked for.
pub(super) async fn answer(
    hub: &Arc<Hub>,
    filter: Filter,
    flags: &ListFlags,
    socket: Option<WebSocketUpgrade>,
) -> Result<Response, Problem> {
    let newest = hub.state().catalog.current().map_or(0, |version| version.number);
    let mut follower = Follower { hub: hub.clone(), filter, last: flags.from.unwrap_or(newest) };
    // Whether the past is still known is said before anything else.
    let first = follower.since().await?;
    if let Some(wait) = &flags.wait {
        let wait =
            duration(wait).ok_or_else(|| Problem::bad_request(format!("wait={wait}: not a duration")))?;
        return follower.poll(first, wait.min(LONGEST)).await;
    }
    if let Some(socket) = socket {
        return Ok(socket.on_upgrade(move |socket| follower.speak(first, socket)));
    }
    let (lines, body) = mpsc::channel(QUEUE);
    tokio::spawn(follower.write(first, lines));
    let body = Body::from_stream(ReceiverStream::new(body).map(Ok::<_, std::io::Error>));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

struct Follower {
    hub: Arc<Hub>,
    filter: Filter,
    last: u64,
}

impl Follower {
    /// What changed since it was last asked.
    async fn since(&mut self) -> Result<Vec<Value>, Problem> {
        let state = self.hub.state();
        let newest = state.catalog.current().map_or(0, |version| version.number);
        let oldest = state.catalog.versions().next().map_or(1, |version| version.number);
        if self.last.saturating_add(1) < oldest {
            let detail = format!("changes are known from version {oldest} on: list, then watch from there");
            return Err(Problem::new(StatusCode::GONE, detail));
        }
        let mut events = Vec::new();
        // A long past is told in parts.
        let until = newest.min(self.last.saturating_add(AT_ONCE));
        for number in self.last.saturating_add(1)..=until {
            let contents = match number == newest && !state.contents.is_empty() {
                true => (*state.contents).clone(),
                false => {
                    Journal::version(&*self.hub.store, number).await?.map(|(_, c)| c).unwrap_or_default()
                }
            };
            let Some(version) = state.catalog.version(number) else { continue };
            for (change, (key, resource)) in version.changes.iter().zip(contents) {
                if self.filter.takes(&key) {
                    events.push(json!({ "version": number, "action": change.action, "kind": key.kind,
                        "namespace": key.namespace, "name": key.name, "object": resource.as_deref().map(shown) }));
                }
            }
        }
        self.last = self.last.max(until);
        Ok(events)
    }

    /// The next changes; nothing where the control plane ends.
    async fn next(&mut self) -> Result<Vec<Value>, Problem> {
        let mut states = self.hub.states();
        loop {
            states.mark_unchanged();
            let events = self.since().await?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.hub.state().catalog.current().is_some_and(|version| version.number > self.last) {
                continue;
            }
            if states.changed().await.is_err() {
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the control plane ends"));
            }
        }
    }

    async fn poll(mut self, first: Vec<Value>, wait: Duration) -> Result<Response, Problem> {
        let events = if first.is_empty() {
            match tokio::time::timeout(wait, self.next()).await {
                Ok(events) => events?,
                Err(_) => return Ok(StatusCode::NOT_MODIFIED.into_response()),
            }
        } else {
            first
        };
        let body = json!({ "version": self.last, "changes": events });
        Ok(axum::Json(body).into_response())
    }

    async fn write(mut self, first: Vec<Value>, lines: mpsc::Sender<Bytes>) {
        let mut events = first;
        loop {
            for event in events {
                if lines.send(Bytes::from(format!("{event}\n"))).await.is_err() {
                    return;
                }
            }
            events = tokio::select! {
                next = self.next() => match next {
                    Ok(next) => next,
                    Err(_) => return,
                },
                () = lines.closed() => return,
            };
        }
    }

    async fn speak(mut self, first: Vec<Value>, mut socket: WebSocket) {
        let mut events = first;
        loop {
            for event in events {
                if socket.send(Message::Text(event.to_string().into())).await.is_err() {
                    return;
                }
            }
            events = tokio::select! {
                next = self.next() => match next {
                    Ok(next) => next,
                    Err(_) => return,
                },
                // What the client says is of no interest, but that it is gone.
                said = socket.recv() => match said {
                    Some(Ok(_)) => Vec::new(),
                    _ => return,
                },
            };
        }
    }
}

//! What flow rules did, as proxies report it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use control_core::model::duration;
use serde::Deserialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::Problem;
use super::access::Caller;
use super::extract::Query;
use crate::hub::{FlowEvent, Hub};
use crate::tokens::{Holder, Verb};

/// Lines that wait for one slow reader.
const QUEUE: usize = 64;

/// How long to follow.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
pub(super) struct FlowFlags {
    /// The answer ends after this, such as `30s`; it does not end where unset.
    #[serde(default)]
    wait: Option<String>,
}

/// Events of flow rules from now on, a line of JSON each: which rule took how many requests at which proxy since its last
/// report. A reader that is too slow misses some.
#[utoipa::path(get, path = "/api/v1/flow-events", params(FlowFlags),
    responses((status = 200, description = "Events"), (status = 400, body = Problem)))]
pub(super) async fn events(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(FlowFlags { wait }): Query<FlowFlags>,
) -> Result<Response, Problem> {
    caller.may(Verb::Read, None)?;
    let not_one = |wait: &String| Problem::bad_request(format!("wait={wait}: not a duration"));
    let wait = wait.map(|wait| duration(&wait).ok_or_else(|| not_one(&wait))).transpose()?;
    let (lines, body) = mpsc::channel(QUEUE);
    tokio::spawn(follow(hub.flow_events(), caller.holder, wait, lines));
    let body = Body::from_stream(ReceiverStream::new(body).map(Ok::<_, std::io::Error>));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

async fn follow(
    mut events: broadcast::Receiver<FlowEvent>,
    holder: Holder,
    wait: Option<Duration>,
    lines: mpsc::Sender<Bytes>,
) {
    let followed = async {
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            if !holder.may(Verb::Read, Some(&event.namespace)) {
                continue;
            }
            let Ok(line) = serde_json::to_string(&event) else { continue };
            if lines.send(Bytes::from(line + "\n")).await.is_err() {
                return;
            }
        }
    };
    let end = async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = followed => {}
        () = end => {}
        () = lines.closed() => {}
    }
}

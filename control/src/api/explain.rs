//! Where a request would go, by the matcher of the data plane.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use control_core::preview::{Outcome, Question, impact};
use control_core::version::Edit;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Problem;
use super::access::Caller;
use super::extract::{Body, Json};
use super::resources::{read, scope};
use super::versions::{as_it_was, one_diff};
use crate::hub::{Compiled, Hub};
use crate::tokens::Verb;

/// A request that somebody describes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    /// `GET` where unset.
    #[serde(default = "get")]
    method: String,
    /// The host that is asked for.
    host: String,
    /// Path and query; `/` where unset.
    #[serde(default = "root")]
    path: String,
    /// Names and values.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The client's address; loopback where unset.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    source: Option<IpAddr>,
    /// The request's random number.
    #[serde(default)]
    draw: u64,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

impl From<Described> for Question {
    fn from(asked: Described) -> Self {
        Self {
            method: asked.method,
            host: asked.host,
            path: asked.path,
            headers: asked.headers,
            peer: asked.source.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            draw: asked.draw,
            unknown: std::collections::BTreeSet::new(),
        }
    }
}

/// Where a request would go, and why.
#[utoipa::path(post, path = "/api/v1/explain", request_body = Described,
    responses((status = 200, description = "The way, listener by listener"), (status = 422, body = Problem)))]
pub(super) async fn explain(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Json(asked): Json<Described>,
) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::ReadAll, None)?;
    let state = hub.state();
    let question = Question::from(asked);
    let ways = beside(move || {
        let preview = state.compiled.preview(Instant::now())?;
        let way = |(listener, Outcome { route, arm, timeout }, text)| json!({ "listener": listener, "route": route, "arm": arm, "timeout": timeout, "text": text });
        Ok(preview.ways(&question).into_iter().map(way).collect::<Vec<_>>())
    });
    Ok(axum::Json(json!({ "ways": ways.await? })))
}

/// What applying a body would change, by resource and field, and as text.
#[utoipa::path(post, path = "/api/v1/preview", request_body = String,
    responses((status = 200, description = "The differences"), (status = 422, body = Problem)))]
pub(super) async fn preview(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Body(body): Body,
) -> Result<axum::Json<Value>, Problem> {
    let resources = read(&body)?;
    for resource in &resources {
        caller.may(Verb::Read, scope(&resource.key()))?;
    }
    let state = hub.state();
    let newest = state.catalog.current().map_or(0, |version| version.number);
    let (written, compiled) = hub.would_be(resources.into_iter().map(Edit::Put).collect())?;
    let diffs = written.iter().map(|(key, after)| {
        let before = state.catalog.objects().get(key).map(|resource| &**resource);
        one_diff(key, before, after.as_deref(), newest, newest + 1)
    });
    let resources: Vec<_> = diffs.collect();
    let warnings = compiled.complaints(&written);
    Ok(axum::Json(json!({ "from": newest, "resources": resources, "warnings": warnings })))
}

/// Requests in one question.
const MOST_REQUESTS: usize = 10_000;

/// Requests, and two configurations.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The requests.
    requests: Vec<Described>,
    /// Resources that would be applied to what is served.
    #[serde(default)]
    documents: Option<String>,
    /// Or: from this version, which is the one before `to` where unset,
    #[serde(default)]
    from: Option<u64>,
    /// to this one, which is the newest where unset.
    #[serde(default)]
    to: Option<u64>,
}

/// Which requests would go by another route, to another backend, or under another time limit.
#[utoipa::path(post, path = "/api/v1/impact", request_body = Asked,
    responses((status = 200, description = "Those requests"), (status = 422, body = Problem)))]
pub(super) async fn impacts(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Json(asked): Json<Asked>,
) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::ReadAll, None)?;
    if asked.requests.len() > MOST_REQUESTS {
        return Err(Problem::invalid(format!("requests: more than {MOST_REQUESTS}")));
    }
    let state = hub.state();
    let (before, after): (Arc<Compiled>, Arc<Compiled>) = match &asked.documents {
        Some(documents) => {
            let resources = read(&Bytes::from(documents.clone()))?;
            let (_, compiled) = hub.would_be(resources.into_iter().map(Edit::Put).collect())?;
            (state.compiled.clone(), Arc::new(compiled))
        }
        None => {
            let newest = state.catalog.current().map_or(0, |version| version.number);
            let to = asked.to.unwrap_or(newest);
            let from = asked.from.unwrap_or(to.saturating_sub(1));
            let mut both = Vec::new();
            for number in [from, to] {
                both.push(Arc::new(hub.would_be(as_it_was(&hub, number).await?)?.1));
            }
            (both.swap_remove(0), both.swap_remove(0))
        }
    };
    let questions: Vec<_> = asked.requests.into_iter().map(Question::from).collect();
    let impacts = beside(move || {
        let now = Instant::now();
        let (before, after) = (before.preview(now)?, after.preview(now)?);
        Ok(impact(&before, &after, &questions))
    });
    Ok(axum::Json(json!({ "impacts": impacts.await? })))
}

/// Looks at whole configurations on a thread of its own: nobody else waits for it.
async fn beside<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Problem> {
    let failed =
        |error: tokio::task::JoinError| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    tokio::task::spawn_blocking(look).await.map_err(failed)?.map_err(Problem::invalid)
}

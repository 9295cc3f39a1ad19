//! Configuration of services: properties under a version that they name themselves.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use control_core::model::duration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::Problem;
use super::access::{Caller, to_its_end};
use super::extract::Query;
use crate::hub::Hub;
use crate::store::{Commit, Compare, Entry, StoreError, Write};
use crate::tokens::Verb;

/// What a service is configured with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The service; what the path says where unset.
    #[serde(default)]
    service_id: String,
    /// The version, in the writer's own counting. The same one twice is taken once.
    config_version: String,
    /// The properties.
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

fn key(namespace: &str, name: &str) -> Result<String, Problem> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    match is_name(namespace) && is_name(name) {
        true => Ok(format!("config/{namespace}/{name}")),
        false => Err(Problem::bad_request(format!("{namespace}/{name} is not a name"))),
    }
}

fn etag(entry: &Entry) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", entry.modified)).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// How long to wait.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
pub(super) struct Wait {
    /// With `If-None-Match`: for another version, this long, such as `30s`.
    #[serde(default)]
    wait: Option<String>,
}

/// The configuration of a service.
#[utoipa::path(get, path = "/api/v1/config/{namespace}/{key}", params(Wait),
    responses((status = 200, body = Settings), (status = 304), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
    Query(Wait { wait }): Query<Wait>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may(Verb::Read, Some(&namespace))?;
    let key = key(&namespace, &name)?;
    let wait = wait.as_deref().map(|text| {
        duration(text).ok_or_else(|| Problem::bad_request(format!("wait={text}: not a duration")))
    });
    let seen = hub.store.read(&key).await?;
    let current = seen.entries.get(&key);
    let is_known = current.is_some_and(|entry| headers.get(header::IF_NONE_MATCH) == Some(&etag(entry)));
    if !is_known {
        let entry =
            current.ok_or_else(|| Problem::not_found(format!("there is no configuration of {name}")))?;
        return Ok(shown(entry));
    }
    if let Some(wait) = wait.transpose()? {
        let mut changes = hub.store.watch(&key, seen.revision).await?;
        let is_other = async {
            while let Some(Ok(change)) = changes.recv().await {
                if change.key == key {
                    return true;
                }
            }
            false
        };
        if tokio::time::timeout(wait.min(super::watch::LONGEST), is_other).await == Ok(true) {
            let seen = hub.store.read(&key).await?;
            let entry = seen.entries.get(&key).ok_or_else(|| Problem::not_found("it is gone"))?;
            return Ok(shown(entry));
        }
    }
    let tag = current.map_or(HeaderValue::from_static("\"0\""), etag);
    Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response())
}

fn shown(entry: &Entry) -> Response {
    let settings: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
    ([(header::ETAG, etag(entry))], axum::Json(settings)).into_response()
}

/// Configures a service.
#[utoipa::path(put, path = "/api/v1/config/{namespace}/{key}", request_body = Settings,
    responses((status = 200, description = "It was taken, or is what is there"), (status = 412, body = Problem)))]
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    axum::Json(mut settings): axum::Json<Settings>,
) -> Result<Response, Problem> {
    caller.may(Verb::Write, Some(&namespace))?;
    let key = key(&namespace, &name)?;
    if settings.service_id.is_empty() {
        settings.service_id.clone_from(&name);
    }
    let seen = hub.store.read(&key).await?;
    let current = seen.entries.get(&key);
    let before: Option<Settings> = current.and_then(|entry| serde_json::from_slice(&entry.value).ok());
    if let (Some(entry), Some(before)) = (current, &before)
        && before.config_version == settings.config_version
    {
        if *before == settings {
            return Ok(shown(entry));
        }
        let detail = format!("version {} says something else already", settings.config_version);
        let problem = Problem::new(StatusCode::CONFLICT, detail);
        caller.refused(Some(&namespace), &problem);
        return Err(problem);
    }
    if let Some(wanted) = headers.get(header::IF_MATCH)
        && current.map(etag).as_ref() != Some(wanted)
    {
        let problem = Problem::new(StatusCode::PRECONDITION_FAILED, format!("{name} was changed since"));
        caller.refused(Some(&namespace), &problem);
        return Err(problem);
    }
    let value = serde_json::to_vec(&settings).map_err(|error| Problem::bad_request(error.to_string()))?;
    let compares = vec![Compare { key: key.clone(), modified: current.map_or(0, |entry| entry.modified) }];
    let writes = vec![Write::Put(key, value.clone(), None)];
    to_its_end(async move {
        let modified = hub.store.commit(Commit { compares, writes }).await.map_err(|error| match error {
            StoreError::Conflict(_) => {
                Problem::new(StatusCode::CONFLICT, format!("{name} was changed meanwhile"))
            }
            other => other.into(),
        })?;
        let details = format!("config_version {}; {}", settings.config_version, caller.reason);
        hub.record(caller.event(&format!("PUT config {name}"), Some(&namespace), details));
        Ok(shown(&Entry { value, modified }))
    })
    .await
}

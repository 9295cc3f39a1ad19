//! Versions: who changed what and why, what is different, and the way back.

use std::sync::Arc;

use axum::extract::{Path, State};
use control_core::diff::{differences, unified};
use control_core::model::{ObjectKey, Resource};
use control_core::version::{Edit, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Problem;
use super::access::Caller;
use super::extract::{Json, Query};
use super::resources::{ChangeFlags, Outcome, at, change, key, scope, shown};
use crate::hub::Hub;
use crate::tokens::Verb;

/// Between which versions.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
pub(super) struct Between {
    /// The older one; the parent of `to` where unset.
    #[serde(default)]
    from: Option<u64>,
    /// The newer one; the newest where unset.
    #[serde(default)]
    to: Option<u64>,
}

/// Where to go back to.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Back {
    /// The version; the one before the newest where unset.
    #[serde(default)]
    to: Option<u64>,
}

/// A version, as it is shown.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Shown {
    number: u64,
    parent: Option<u64>,
    author: String,
    time: String,
    reason: String,
    /// Such as `HTTPRoute shop: updated`.
    changes: Vec<Value>,
}

fn show(version: &Version, only: impl Fn(&ObjectKey) -> bool) -> Value {
    let mut value = json!(version);
    let changes: Vec<_> = version.changes.iter().filter(|change| only(&change.key)).collect();
    // A reason may name what it is about.
    if changes.is_empty() && !version.changes.is_empty() {
        value["reason"] = json!("");
    }
    value["changes"] = json!(changes);
    value
}

/// The versions of the whole, the newest first.
#[utoipa::path(get, path = "/api/v1/versions", responses((status = 200, body = Vec<Shown>)))]
pub(super) async fn list(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::Read, None)?;
    let state = hub.state();
    let readable = |key: &ObjectKey| caller.holder.may(Verb::Read, scope(key));
    let versions: Vec<_> = state.catalog.versions().rev().map(|version| show(version, readable)).collect();
    Ok(axum::Json(json!({ "versions": versions })))
}

/// The versions that changed a resource, the newest first.
#[utoipa::path(get, path = "/api/v1/namespaces/{namespace}/{kind}/{name}/history",
    responses((status = 200, body = Vec<Shown>), (status = 404, body = Problem)))]
pub(super) async fn history(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Result<axum::Json<Value>, Problem> {
    let key = key(&namespace, &kind, &name)?;
    caller.may(Verb::Read, scope(&key))?;
    let state = hub.state();
    let of_object = state.catalog.versions().rev();
    let of_object = of_object.filter(|version| version.changes.iter().any(|change| change.key == key));
    let versions: Vec<_> = of_object.map(|version| show(version, |k| *k == key)).collect();
    if versions.is_empty() {
        return Err(Problem::not_found(format!("there never was a {key} that is remembered")));
    }
    Ok(axum::Json(json!({ "versions": versions })))
}

/// The two versions that are meant.
fn between(hub: &Hub, asked: Between) -> Result<(u64, u64), Problem> {
    let state = hub.state();
    let newest = state.catalog.current().map_or(0, |version| version.number);
    let oldest = state.catalog.versions().next().map_or(0, |version| version.number);
    let to = asked.to.unwrap_or(newest);
    let from = asked.from.unwrap_or(to.saturating_sub(1));
    for number in [from, to] {
        if number > newest || (number != 0 && number < oldest) {
            return Err(Problem::not_found(format!(
                "there is no version {number}: {oldest} to {newest} are kept"
            )));
        }
    }
    Ok((from, to))
}

/// What is different in a resource between two versions.
#[utoipa::path(get, path = "/api/v1/namespaces/{namespace}/{kind}/{name}/diff", params(Between),
    responses((status = 200, description = "By field, and as text"), (status = 404, body = Problem)))]
pub(super) async fn object_diff(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, kind, name)): Path<(String, String, String)>,
    Query(asked): Query<Between>,
) -> Result<axum::Json<Value>, Problem> {
    let key = key(&namespace, &kind, &name)?;
    caller.may(Verb::Read, scope(&key))?;
    let (from, to) = between(&hub, asked)?;
    let resource =
        async |number| at(&hub, &key, number).await.map(|found| found.map(|(_, resource)| resource));
    let (before, after) = (resource(from).await?, resource(to).await?);
    Ok(axum::Json(one_diff(&key, before.as_deref(), after.as_deref(), from, to)))
}

pub(super) fn one_diff(
    key: &ObjectKey,
    before: Option<&Resource>,
    after: Option<&Resource>,
    from: u64,
    to: u64,
) -> Value {
    let (before, after) = (before.map(shown), after.map(shown));
    let text = |value: &Option<Value>| {
        value.as_ref().map(|value| serde_saphyr::to_string(value).unwrap_or_default()).unwrap_or_default()
    };
    let labels = (format!("version {from}"), format!("version {to}"));
    let unified = unified(&key.to_string(), &text(&before), &text(&after), (&labels.0, &labels.1));
    json!({ "kind": key.kind, "namespace": key.namespace, "name": key.name,
        "changes": differences(before.as_ref(), after.as_ref()), "text": unified })
}

/// What is different between two versions of the whole.
#[utoipa::path(get, path = "/api/v1/diff", params(Between),
    responses((status = 200, description = "By resource and field, and as text"), (status = 404, body = Problem)))]
pub(super) async fn diff(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(asked): Query<Between>,
) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::Read, None)?;
    let (from, to) = between(&hub, asked)?;
    let mut resources = Vec::new();
    for key in changed_between(&hub, from.min(to), from.max(to)) {
        if !caller.holder.may(Verb::Read, scope(&key)) {
            continue;
        }
        let (before, after) = (at(&hub, &key, from).await?, at(&hub, &key, to).await?);
        let (before, after) = (before.map(|(_, resource)| resource), after.map(|(_, resource)| resource));
        if before != after {
            resources.push(one_diff(&key, before.as_deref(), after.as_deref(), from, to));
        }
    }
    Ok(axum::Json(json!({ "from": from, "to": to, "resources": resources })))
}

/// What the versions after one, up to another, changed.
fn changed_between(hub: &Hub, after: u64, until: u64) -> Vec<ObjectKey> {
    let state = hub.state();
    let versions = state.catalog.versions().filter(|v| v.number > after && v.number <= until);
    let mut keys: Vec<_> = versions.flat_map(|v| &v.changes).map(|change| change.key.clone()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// What would make everything as it was in a version.
pub(crate) async fn as_it_was(hub: &Hub, to: u64) -> Result<Vec<Edit>, Problem> {
    let state = hub.state();
    let newest = state.catalog.current().map_or(0, |version| version.number);
    between(hub, Between { from: Some(to), to: Some(newest) })?;
    let mut edits = Vec::new();
    for key in changed_between(hub, to, newest) {
        edits.push(match at(hub, &key, to).await? {
            Some((_, resource)) => Edit::Put(resource),
            None => Edit::Delete(key),
        });
    }
    Ok(edits)
}

/// Makes everything as it was in a version, as a new version.
#[utoipa::path(post, path = "/api/v1/rollback", params(ChangeFlags), request_body = Back,
    responses((status = 200, body = Outcome), (status = 404, body = Problem)))]
pub(super) async fn rollback(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(flags): Query<ChangeFlags>,
    Json(back): Json<Back>,
) -> Result<axum::Json<Outcome>, Problem> {
    let newest = hub.state().catalog.current().map_or(0, |version| version.number);
    let to = back.to.unwrap_or(newest.saturating_sub(1));
    let edits = as_it_was(&hub, to).await?;
    let action = format!("rollback to version {to}");
    let done = change(&hub, &caller, action, edits, Vec::new(), flags).await?;
    Ok(axum::Json(Outcome::new(&done, flags.dry_run)))
}

/// Makes a resource as it was in a version, as a new version.
#[utoipa::path(post, path = "/api/v1/namespaces/{namespace}/{kind}/{name}/rollback", params(ChangeFlags),
    request_body = Back, responses((status = 200, body = Outcome), (status = 404, body = Problem)))]
pub(super) async fn object_rollback(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, kind, name)): Path<(String, String, String)>,
    Query(flags): Query<ChangeFlags>,
    Json(back): Json<Back>,
) -> Result<axum::Json<Outcome>, Problem> {
    let key = key(&namespace, &kind, &name)?;
    caller.may(Verb::Write, scope(&key))?;
    let state = hub.state();
    let Some(touched) = state.catalog.touched(&key) else {
        return Err(Problem::not_found(format!("there never was a {key}")));
    };
    let to = back.to.unwrap_or(touched.saturating_sub(1));
    between(&hub, Between { from: Some(to), to: None })?;
    let edit = match at(&hub, &key, to).await? {
        Some((_, resource)) => Edit::Put(resource),
        None => Edit::Delete(key.clone()),
    };
    let action = format!("rollback {key} to version {to}");
    let done = change(&hub, &caller, action, vec![edit], Vec::new(), flags).await?;
    Ok(axum::Json(Outcome::new(&done, flags.dry_run)))
}

//! Resources by kind, namespace and name.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::{hmac, rand};
use axum::body::Bytes;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use control_core::model::{self, Document, Kind, Memory, ObjectKey, Resource};
use control_core::version::{ChangeAction, Edit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::access::Caller;
use super::extract::{Body, Query};
use super::{Problem, watch};
use crate::hub::{Done, Hub, State as Now, Wanted};
use crate::journal::Journal;
use crate::tokens::Verb;

/// A namespace, or `_` for kinds that have none.
pub(super) fn key(namespace: &str, kind: &str, name: &str) -> Result<ObjectKey, Problem> {
    let kind: Kind =
        kind.parse().map_err(|error: model::UnknownKind| Problem::not_found(error.to_string()))?;
    Ok(ObjectKey::new(kind, namespace, name))
}

/// The namespace that a token must be bound to.
pub(super) fn scope(key: &ObjectKey) -> Option<&str> {
    Some(key.namespace.as_str()).filter(|namespace| !namespace.is_empty())
}

/// How a value begins that is not shown.
const HIDDEN: &str = "(not shown";

/// What is shown of secrets: that they are there, and whether two are the same, as long as this process lives.
pub(super) fn shown(resource: &Resource) -> Value {
    let mut value = resource.to_value().unwrap_or_default();
    if resource.kind() != Kind::Secret {
        return value;
    }
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut bytes = [0; 32];
        // Without random numbers nothing is told apart that should not be.
        let _ = rand::fill(&mut bytes);
        hmac::Key::new(hmac::HMAC_SHA256, &bytes)
    });
    let hidden = |text: &str| {
        let mark = crate::tokens::hex(&hmac::sign(key, text.as_bytes()).as_ref()[..4]);
        json!(format!("{HIDDEN}, {mark})"))
    };
    for field in ["data", "stringData"] {
        if let Some(Value::Object(values)) = value.get_mut(field) {
            values.values_mut().for_each(|value| *value = hidden(value.as_str().unwrap_or_default()));
        }
    }
    // Tools keep whole resources in annotations.
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("annotations");
    }
    value
}

/// A resource with its version and what became of it.
fn with_status(now: &Now, key: &ObjectKey, resource: &Resource) -> Value {
    let mut value = shown(resource);
    if let Some(version) = now.catalog.modified(key) {
        value["metadata"]["resourceVersion"] = json!(version.to_string());
    }
    if let Some(status) = now.compiled.statuses().get(key) {
        value["status"] = json!(status);
    }
    value
}

/// `"7"`, as `ETag` has it.
fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// The version that a condition names; 0: it must not be there. `current` is what is there.
fn expected(headers: &HeaderMap, current: Option<u64>) -> Result<Option<u64>, Problem> {
    let text = |name: header::HeaderName| {
        let value = headers.get(&name).map(|value| value.to_str());
        value.transpose().map_err(|_| Problem::bad_request(format!("{name}: is no version of ours")))
    };
    match (text(header::IF_MATCH)?, text(header::IF_NONE_MATCH)?) {
        (Some("*"), _) => match current {
            Some(current) => Ok(Some(current)),
            None => Err(Problem::new(StatusCode::PRECONDITION_FAILED, "it is not there")),
        },
        (None, Some("*")) => Ok(Some(0)),
        (Some(tag), _) => {
            let number = tag.trim_matches('"').parse();
            number
                .map(Some)
                .map_err(|_| Problem::bad_request(format!("If-Match: {tag} is no version of ours")))
        }
        (None, _) => Ok(None),
    }
}

/// Flags of changes.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChangeFlags {
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// What came of a change.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    /// The version that was made; none where nothing is different.
    pub(super) version: Option<u64>,
    /// What was changed, such as `HTTPRoute shop: updated`.
    pub(super) changes: Vec<String>,
    /// What is not as it should be with it.
    pub(super) warnings: Vec<String>,
    /// Whether nothing was done.
    pub(super) dry_run: bool,
}

impl Outcome {
    pub(super) fn new(done: &Done, dry_run: bool) -> Self {
        let action = |change: &control_core::version::Change| {
            let action = match change.action {
                ChangeAction::Created => "created",
                ChangeAction::Updated => "updated",
                ChangeAction::Deleted => "deleted",
            };
            format!("{}: {action}", change.key)
        };
        let version = done.version.as_ref();
        Self {
            version: version.map(|version| version.number),
            changes: version.iter().flat_map(|version| &version.changes).map(action).collect(),
            warnings: done.warnings.clone(),
            dry_run,
        }
    }
}

/// Makes a change for a caller, who may, and says so in the audit, whatever comes of it.
pub(super) async fn change(
    hub: &Arc<Hub>,
    caller: &Caller,
    action: String,
    edits: Vec<Edit>,
    expected: Vec<(ObjectKey, u64)>,
    flags: ChangeFlags,
) -> Result<Done, Problem> {
    for edit in &edits {
        caller.may(Verb::Write, scope(&edit.key()))?;
    }
    // How old a resource is decides who is first: only who may do everything says so.
    let is_trusted = caller.holder.may(Verb::Administer, None);
    let edits: Vec<Edit> =
        edits.into_iter().map(|edit| if is_trusted { edit } else { undated(edit) }).collect();
    let first = edits.first().map(Edit::key);
    let namespace = first.as_ref().and_then(scope).map(str::to_owned);
    let event = caller.event(&action, namespace.as_deref(), caller.reason.clone());
    let wanted = Wanted {
        edits,
        author: caller.holder.name.clone(),
        reason: if caller.reason.is_empty() { action } else { caller.reason.clone() },
        expected,
        event: Some(event),
        beside: Vec::new(),
        is_dry_run: flags.dry_run,
    };
    hub.change(wanted).await.map_err(|refused| {
        let problem = Problem::from(refused);
        caller.refused(namespace.as_deref(), &problem);
        problem
    })
}

fn undated(edit: Edit) -> Edit {
    match edit {
        Edit::Put(resource) if resource.metadata().creation_timestamp.is_some() => {
            let mut resource = Arc::unwrap_or_clone(resource);
            resource.metadata_mut().creation_timestamp = None;
            Edit::Put(Arc::new(resource))
        }
        other => other,
    }
}

/// The resources in a body: YAML or JSON, one document or several.
pub(super) fn read(body: &Bytes) -> Result<Vec<Arc<Resource>>, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| Problem::bad_request("the body is not UTF-8"))?;
    let documents = model::read(&"body".into(), text, &mut Memory::default());
    if documents.is_empty() {
        return Err(Problem::bad_request("the body holds no document"));
    }
    let one = |document: Document| {
        document.content.map_err(|refused| {
            let is_syntax = refused.key.is_none();
            let problem = if is_syntax && refused.message.starts_with("duplicate") {
                Problem::bad_request(refused.message)
            } else {
                Problem::invalid(refused.message)
            };
            Problem { line: Some(refused.line), column: Some(refused.column), ..problem }
        })
    };
    let resources: Vec<Arc<Resource>> = documents.into_iter().map(one).collect::<Result<_, _>>()?;
    // What is shown of a secret is not what it is.
    let is_hidden = |resource: &&Arc<Resource>| match &***resource {
        Resource::Secret(secret) => {
            secret.data.values().chain(secret.string_data.values()).any(|v| v.starts_with(HIDDEN))
        }
        _ => false,
    };
    match resources.iter().find(is_hidden) {
        Some(secret) => Err(Problem::invalid(format!(
            "{}: its values are those that are shown, not those that are",
            secret.key()
        ))),
        None => Ok(resources),
    }
}

/// What of a list is wanted, and how.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
pub(super) struct ListFlags {
    /// Changes, as they come: a line of JSON each, or messages of a WebSocket.
    #[serde(default)]
    pub(super) watch: Option<String>,
    /// Changes after this version.
    #[serde(default)]
    pub(super) from: Option<u64>,
    /// The next changes, or 304 when there are none within this time, such as `30s`.
    #[serde(default)]
    pub(super) wait: Option<String>,
}

/// The resources of a kind in a namespace; `_` as namespace is every one.
#[utoipa::path(get, path = "/api/v1/namespaces/{namespace}/{kind}", params(ListFlags),
    responses((status = 200, description = "Resources, or their changes"), (status = 304), (status = 403), (status = 410)))]
pub(super) async fn list(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, kind)): Path<(String, String)>,
    Query(flags): Query<ListFlags>,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let socket = socket.ok();
    let of = key(&namespace, &kind, "")?;
    let every = namespace == "_";
    caller.may(Verb::Read, if every { None } else { Some(&namespace) })?;
    let filter = watch::Filter {
        kind: Some(of.kind),
        namespace: (!every).then(|| of.namespace.clone()),
        holder: caller.holder.clone(),
    };
    if flags.watch.is_some() || flags.wait.is_some() || socket.is_some() {
        return watch::answer(&hub, filter, &flags, socket).await;
    }
    let now = hub.state();
    let items = now.catalog.objects().of_kind(of.kind).filter(|(key, _)| filter.takes(key));
    let items: Vec<_> = items.map(|(key, resource)| with_status(&now, key, resource)).collect();
    let version = now.catalog.current().map_or(0, |version| version.number);
    let body = json!({ "apiVersion": of.kind.api_version(), "kind": format!("{}List", of.kind),
        "metadata": { "resourceVersion": version.to_string() }, "items": items });
    Ok(([(header::ETAG, etag(version))], axum::Json(body)).into_response())
}

/// Which version of a resource.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
pub(super) struct Revision {
    /// As it was in this version of the whole.
    #[serde(default)]
    revision: Option<u64>,
}

/// A resource.
#[utoipa::path(get, path = "/api/v1/namespaces/{namespace}/{kind}/{name}", params(Revision),
    responses((status = 200, description = "The resource"), (status = 304), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, kind, name)): Path<(String, String, String)>,
    Query(Revision { revision }): Query<Revision>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key(&namespace, &kind, &name)?;
    caller.may(Verb::Read, scope(&key))?;
    let now = hub.state();
    let missing = || Problem::not_found(format!("there is no {key}"));
    let (version, value) = match revision {
        None => {
            let resource = now.catalog.objects().get(&key).ok_or_else(missing)?;
            (now.catalog.modified(&key).unwrap_or(0), with_status(&now, &key, resource))
        }
        Some(number) => {
            let (version, resource) = at(&hub, &key, number).await?.ok_or_else(missing)?;
            (version, shown(&resource))
        }
    };
    let tag = etag(version);
    if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(([(header::ETAG, tag)], axum::Json(value)).into_response())
}

/// What a resource said in a version of the whole, and the version in which it came to say so.
pub(super) async fn at(
    hub: &Hub,
    key: &ObjectKey,
    number: u64,
) -> Result<Option<(u64, Arc<Resource>)>, Problem> {
    // From the last change back, each tells of the one before it.
    let mut next = hub.state().catalog.touched(key);
    while let Some(version) = next {
        let found = Journal::version(&*hub.store, version).await?;
        let (record, contents) =
            found.ok_or_else(|| Problem::not_found(format!("version {version} is not kept")))?;
        if version <= number {
            let found = contents.into_iter().find(|(of, _)| of == key).and_then(|(_, resource)| resource);
            return Ok(found.map(|resource| (version, resource)));
        }
        let change = record.changes.iter().find(|change| change.key == *key);
        next = change.and_then(|change| change.before);
    }
    Ok(None)
}

/// Makes a resource, or changes it.
#[utoipa::path(put, path = "/api/v1/namespaces/{namespace}/{kind}/{name}", params(ChangeFlags),
    request_body = String,
    responses((status = 200, body = Outcome), (status = 400, body = Problem), (status = 412, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, kind, name)): Path<(String, String, String)>,
    Query(flags): Query<ChangeFlags>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let key = key(&namespace, &kind, &name)?;
    caller.may(Verb::Write, scope(&key))?;
    let refuse = |problem: Problem| {
        caller.refused(scope(&key), &problem);
        problem
    };
    let mut resources = read(&body).map_err(refuse)?;
    let resource = resources.remove(0);
    if resource.key() != key || !resources.is_empty() {
        return Err(refuse(Problem::invalid(format!("the body is {}, not {key}", resource.key()))));
    }
    let expected = expected(&headers, hub.state().catalog.modified(&key))?
        .map(|version| (key.clone(), version))
        .into_iter()
        .collect();
    let edits = vec![Edit::Put(resource)];
    let done = change(&hub, &caller, format!("PUT {key}"), edits, expected, flags).await?;
    let version = done.version.as_ref().map(|version| version.number);
    let version = version.or_else(|| hub.state().catalog.modified(&key)).unwrap_or(0);
    Ok(([(header::ETAG, etag(version))], axum::Json(Outcome::new(&done, flags.dry_run))).into_response())
}

/// Takes a resource away.
#[utoipa::path(delete, path = "/api/v1/namespaces/{namespace}/{kind}/{name}", params(ChangeFlags),
    responses((status = 200, body = Outcome), (status = 404, body = Problem), (status = 412, body = Problem)))]
pub(super) async fn delete(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((namespace, kind, name)): Path<(String, String, String)>,
    Query(flags): Query<ChangeFlags>,
    headers: HeaderMap,
) -> Result<axum::Json<Outcome>, Problem> {
    let key = key(&namespace, &kind, &name)?;
    caller.may(Verb::Write, scope(&key))?;
    if hub.state().catalog.objects().get(&key).is_none() {
        let problem = Problem::not_found(format!("there is no {key}"));
        caller.refused(scope(&key), &problem);
        return Err(problem);
    }
    let expected = expected(&headers, hub.state().catalog.modified(&key))?
        .map(|version| (key.clone(), version))
        .into_iter()
        .collect();
    let edits = vec![Edit::Delete(key.clone())];
    let done = change(&hub, &caller, format!("DELETE {key}"), edits, expected, flags).await?;
    Ok(axum::Json(Outcome::new(&done, flags.dry_run)))
}

/// Makes or changes all resources of a body, as one version.
#[utoipa::path(post, path = "/api/v1/apply", params(ChangeFlags), request_body = String,
    responses((status = 200, body = Outcome), (status = 422, body = Problem)))]
pub(super) async fn apply(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(flags): Query<ChangeFlags>,
    Body(body): Body,
) -> Result<axum::Json<Outcome>, Problem> {
    let resources = read(&body).inspect_err(|problem| caller.refused(None, problem))?;
    let mut edits = BTreeMap::new();
    for resource in resources {
        let key = resource.key();
        if edits.insert(key.clone(), Edit::Put(resource)).is_some() {
            let problem = Problem::invalid(format!("{key} comes twice"));
            caller.refused(scope(&key), &problem);
            return Err(problem);
        }
    }
    let names = match edits.len() {
        1 => edits.keys().map(ToString::to_string).collect::<String>(),
        many => format!("{many} resources"),
    };
    let edits = edits.into_values().collect();
    let done = change(&hub, &caller, format!("apply {names}"), edits, Vec::new(), flags).await?;
    Ok(axum::Json(Outcome::new(&done, flags.dry_run)))
}

/// What is looked for.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
pub(super) struct FindFlags {
    /// Only of this name.
    #[serde(default)]
    name: Option<String>,
}

/// Resources of every kind and namespace, by their names.
#[utoipa::path(get, path = "/api/v1/resources", params(FindFlags),
    responses((status = 200, description = "Resources with their versions and states")))]
pub(super) async fn find(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(FindFlags { name }): Query<FindFlags>,
) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::Read, None)?;
    let now = hub.state();
    let wanted = |key: &ObjectKey| {
        name.as_ref().is_none_or(|name| *name == key.name) && caller.holder.may(Verb::Read, scope(key))
    };
    let items = now.catalog.objects().iter().filter(|(key, _)| wanted(key));
    let items: Vec<_> = items.map(|(key, resource)| with_status(&now, key, resource)).collect();
    Ok(axum::Json(json!({ "items": items })))
}

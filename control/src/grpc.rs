//! The control plane's API over gRPC: each call becomes the request of REST that says the same, and goes to the same handler.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request as HttpRequest, StatusCode};
use axum::response::Response as HttpResponse;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tower::ServiceExt as _;
use xds_proto::weir::control::v1::control_service_server::ControlService;
use xds_proto::weir::control::v1::{
    ApplyRequest, Change, FlowEvent, FlowEventsRequest, FlowRule, InstanceRequest, ListRequest, ListResponse,
    Outcome, Registered, Registration, Resource, ResourceRequest, WatchRequest,
};

/// The largest answer that is read as a whole.
const MAX_ANSWER: usize = 256 << 20;

pub(crate) struct Api {
    router: Router,
}

impl Api {
    /// Calls go to the handlers of this router.
    pub(crate) const fn new(router: Router) -> Self {
        Self { router }
    }

    async fn send(
        &self,
        metadata: &MetadataMap,
        method: Method,
        path: &str,
        (headers, body): (&[(&str, String)], impl Into<Body>),
    ) -> Result<HttpResponse, Status> {
        let mut request = HttpRequest::builder().method(method).uri(path);
        for name in ["authorization", "x-change-reason", "x-request-id"] {
            if let Some(value) = metadata.get(name) {
                request = request.header(name, value.as_bytes());
            }
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request =
            request.body(body.into()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let response = self.router.clone().oneshot(request).await;
        let response = response.unwrap_or_else(|never| match never {});
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = whole(response).await?;
        let detail = serde_json::from_slice::<Value>(&body).ok();
        let detail = detail.and_then(|problem| problem["detail"].as_str().map(str::to_owned));
        Err(Status::new(code(status), detail.unwrap_or_else(|| status.to_string())))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        metadata: &MetadataMap,
        method: Method,
        path: &str,
        with: (&[(&str, String)], impl Into<Body>),
    ) -> Result<T, Status> {
        let response = self.send(metadata, method, path, with).await?;
        read(&whole(response).await?)
    }
}

async fn whole(response: HttpResponse) -> Result<Bytes, Status> {
    let read = axum::body::to_bytes(response.into_body(), MAX_ANSWER).await;
    read.map_err(|error| Status::internal(error.to_string()))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(body).map_err(|error| Status::internal(error.to_string()))
}

/// The code that says what a status says.
const fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 413 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 => Code::Unimplemented,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        412 => Code::FailedPrecondition,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// Part of a path; what would be more than one part is no name.
fn part<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    match is_name(text) && !matches!(text, "" | "." | "..") {
        true => Ok(text),
        false => {
            let reason = format!("{field}: {text:?}: letters, digits, `-`, `.` and `_` make a name");
            Err(Status::invalid_argument(reason))
        }
    }
}

fn namespace(text: &str) -> Result<&str, Status> {
    part("namespace", if text.is_empty() { "default" } else { text })
}

fn resource_path(of: &ResourceRequest) -> Result<String, Status> {
    let (namespace, kind, name) =
        (namespace(&of.namespace)?, part("kind", &of.kind)?, part("name", &of.name)?);
    Ok(format!("/api/v1/namespaces/{namespace}/{kind}/{name}"))
}

fn instance_path(instance: &InstanceRequest, more: &str) -> Result<String, Status> {
    let (namespace, service, id) =
        (namespace(&instance.namespace)?, part("service", &instance.service)?, part("id", &instance.id)?);
    Ok(format!("/api/v1/services/{service}/instances/{id}{more}?namespace={namespace}"))
}

/// What REST answers to a change.
#[derive(Deserialize)]
struct Changed {
    version: Option<u64>,
    changes: Vec<String>,
    warnings: Vec<String>,
}

impl From<Changed> for Outcome {
    fn from(Changed { version, changes, warnings }: Changed) -> Self {
        Self { version: version.unwrap_or(0), changes, warnings }
    }
}

/// A line of REST's watch.
#[derive(Deserialize)]
struct ChangeLine {
    version: u64,
    action: String,
    kind: String,
    namespace: String,
    name: String,
    object: Option<Value>,
}

impl From<ChangeLine> for Change {
    fn from(line: ChangeLine) -> Self {
        let ChangeLine { version, action, kind, namespace, name, object } = line;
        Self {
            version,
            action,
            kind,
            namespace,
            name,
            json: object.map(|object| object.to_string()).unwrap_or_default(),
        }
    }
}

impl From<crate::hub::FlowEvent> for FlowEvent {
    fn from(event: crate::hub::FlowEvent) -> Self {
        let crate::hub::FlowEvent { time, namespace, rule, node, requests } = event;
        Self { time, namespace, rule, node, requests }
    }
}

type Messages<T> = ReceiverStream<Result<T, Status>>;

/// Messages that wait for one slow reader.
const QUEUE: usize = 64;

/// The lines of an answer, each as a message.
fn messages<L: DeserializeOwned + Into<T> + Send, T: Send + 'static>(response: HttpResponse) -> Messages<T> {
    let (sender, messages) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut chunks = response.into_body().into_data_stream();
        let mut rest: Vec<u8> = Vec::new();
        loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                () = sender.closed() => return,
            };
            let Some(Ok(chunk)) = chunk else { return };
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if sender.send(read::<L>(&line).map(Into::into)).await.is_err() {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(messages)
}

#[tonic::async_trait]
impl ControlService for Api {
    type WatchStream = Messages<Change>;
    type FlowEventsStream = Messages<FlowEvent>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<Outcome>, Status> {
        let (metadata, _, ApplyRequest { documents, dry_run }) = request.into_parts();
        let path = format!("/api/v1/apply?dryRun={dry_run}");
        let changed: Changed = self.ask(&metadata, Method::POST, &path, (&[], documents)).await?;
        Ok(Response::new(changed.into()))
    }

    async fn get(&self, request: Request<ResourceRequest>) -> Result<Response<Resource>, Status> {
        let (metadata, _, of) = request.into_parts();
        let value: Value =
            self.ask(&metadata, Method::GET, &resource_path(&of)?, (&[], Body::empty())).await?;
        Ok(Response::new(Resource { json: value.to_string() }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let (metadata, _, ListRequest { namespace: of, kind }) = request.into_parts();
        let path = format!("/api/v1/namespaces/{}/{}", namespace(&of)?, part("kind", &kind)?);
        let list: Value = self.ask(&metadata, Method::GET, &path, (&[], Body::empty())).await?;
        let items = list["items"].as_array().into_iter().flatten();
        let version = list["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
        Ok(Response::new(ListResponse {
            items: items.map(|item| Resource { json: item.to_string() }).collect(),
            version: version.unwrap_or(0),
        }))
    }

    async fn delete(&self, request: Request<ResourceRequest>) -> Result<Response<Outcome>, Status> {
        let (metadata, _, of) = request.into_parts();
        let expected =
            (of.expected_version > 0).then(|| ("if-match", format!("\"{}\"", of.expected_version)));
        let headers: Vec<_> = expected.into_iter().collect();
        let changed: Changed =
            self.ask(&metadata, Method::DELETE, &resource_path(&of)?, (&headers, Body::empty())).await?;
        Ok(Response::new(changed.into()))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, _, WatchRequest { from }) = request.into_parts();
        let path = format!("/api/v1/watch?from={from}");
        let response = self.send(&metadata, Method::GET, &path, (&[], Body::empty())).await?;
        Ok(Response::new(messages::<ChangeLine, _>(response)))
    }

    async fn push_flow_rule(&self, request: Request<FlowRule>) -> Result<Response<Outcome>, Status> {
        let (metadata, _, rule) = request.into_parts();
        let FlowRule { namespace: of, name, r#match, action, target, priority } = rule;
        let conditions: BTreeMap<_, _> = r#match.into_iter().collect();
        let mut spec = json!({ "match": conditions, "action": action, "priority": priority });
        if !target.is_empty() {
            spec["target"] = target.into();
        }
        let (namespace, name) = (namespace(&of)?, part("name", &name)?);
        let body = json!({ "apiVersion": "weir.dev/v1", "kind": "FlowRule", "spec": spec,
            "metadata": { "name": name, "namespace": namespace } });
        let path = format!("/api/v1/namespaces/{namespace}/FlowRule/{name}");
        let changed: Changed = self.ask(&metadata, Method::PUT, &path, (&[], body.to_string())).await?;
        Ok(Response::new(changed.into()))
    }

    async fn flow_events(
        &self,
        request: Request<FlowEventsRequest>,
    ) -> Result<Response<Self::FlowEventsStream>, Status> {
        let path = "/api/v1/flow-events";
        let response = self.send(request.metadata(), Method::GET, path, (&[], Body::empty())).await?;
        Ok(Response::new(messages::<crate::hub::FlowEvent, _>(response)))
    }

    async fn register(&self, request: Request<Registration>) -> Result<Response<Registered>, Status> {
        let (metadata, _, Registration { instance, address, labels, weight, ttl }) = request.into_parts();
        let instance = instance.unwrap_or_default();
        let labels: BTreeMap<_, _> = labels.into_iter().collect();
        let mut body = json!({ "address": address, "labels": labels });
        if weight > 0 {
            body["weight"] = weight.into();
        }
        if !ttl.is_empty() {
            body["ttl"] = ttl.into();
        }
        let headers = [("content-type", "application/json".to_owned())];
        let path = instance_path(&instance, "")?;
        self.send(&metadata, Method::PUT, &path, (&headers, body.to_string())).await?;
        Ok(Response::new(Registered {}))
    }

    async fn heartbeat(&self, request: Request<InstanceRequest>) -> Result<Response<Registered>, Status> {
        let (metadata, _, instance) = request.into_parts();
        let path = instance_path(&instance, "/heartbeat")?;
        self.send(&metadata, Method::POST, &path, (&[], Body::empty())).await?;
        Ok(Response::new(Registered {}))
    }

    async fn deregister(&self, request: Request<InstanceRequest>) -> Result<Response<Registered>, Status> {
        let (metadata, _, instance) = request.into_parts();
        let path = instance_path(&instance, "")?;
        self.send(&metadata, Method::DELETE, &path, (&[], Body::empty())).await?;
        Ok(Response::new(Registered {}))
    }
}

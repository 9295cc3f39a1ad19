//! The read-only admin port: `/ready`, `/metrics`, `/config_dump`. It changes nothing, whatever is asked.

use std::convert::Infallible;
use std::io;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_core::xds::Held;
use serde_json::{Value, json};
use xds_proto::prost_types::Any;
use xds_proto::{json as message_json, type_url};

use crate::controller::{Phase, SharedController};
use crate::listener::{Acceptor, Listening};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The content type of the Prometheus text form that the encoder writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves the admin port for as long as the process lives.
pub(crate) async fn serve(controller: SharedController, acceptor: Acceptor) -> io::Result<()> {
    let listening = acceptor.into_listener()?;
    loop {
        match accept(&listening).await {
            Ok(socket) => drop(tokio::task::spawn_local(connection(controller.clone(), socket))),
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn accept(listening: &Listening) -> io::Result<crate::socket::Socket> {
    listening.accept().await
}

async fn connection(controller: SharedController, socket: crate::socket::Socket) {
    let service = service_fn(|request| {
        let response = answer(&controller, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection broke");
    }
}

fn answer(controller: &SharedController, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this port only answers GET\n".to_owned());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/ready" => ready(controller.borrow().phase),
        "/metrics" => reply(StatusCode::OK, OPENMETRICS, controller.borrow().registry.render()),
        "/config_dump" => reply(StatusCode::OK, JSON, format!("{:#}\n", config_dump(controller))),
        "/" => reply(StatusCode::OK, TEXT, "/config_dump\n/metrics\n/ready\n".to_owned()),
        other => {
            reply(StatusCode::NOT_FOUND, TEXT, format!("there is no {other} here; / lists what there is\n"))
        }
    }
}

/// Envoy's words, so that probes written for it work.
fn ready(phase: Phase) -> Response<Full<Bytes>> {
    let (status, word) = match phase {
        Phase::Initializing => (StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING\n"),
        Phase::Live => (StatusCode::OK, "LIVE\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n"),
    };
    reply(status, TEXT, word.to_owned())
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

/// What is held, in the shape of Envoy's `/config_dump`.
fn config_dump(controller: &SharedController) -> Value {
    let controller = controller.borrow();
    let resources = controller.client.resources();
    let (listeners, routes) = (type_url::LISTENER, type_url::ROUTE_CONFIGURATION);
    let (clusters, endpoints) = (type_url::CLUSTER, type_url::CLUSTER_LOAD_ASSIGNMENT);
    let version = |url| controller.client.version(url);
    json!({ "generation": controller.snapshot().generation, "configs": [
        section("ClustersDump", version(clusters), "cluster", resources.clusters()),
        section("EndpointsDump", version(endpoints), "endpoint_config", resources.endpoints()),
        section("ListenersDump", version(listeners), "listener", resources.listeners()),
        section("RoutesDump", version(routes), "route_config", resources.routes()),
    ]})
}

fn section<'a, T: 'a>(
    kind: &str,
    version: &str,
    key: &str,
    held: impl Iterator<Item = &'a Held<T>>,
) -> Value {
    let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
    for resource in held {
        // Static resources have no version.
        if resource.version.is_empty() {
            fixed.push(json!({ key: as_json(&resource.raw) }));
        } else {
            dynamic.push(json!({ "version_info": resource.version, key: as_json(&resource.raw) }));
        }
    }
    let name = kind.replace("Dump", "ConfigDump");
    let (static_key, dynamic_key) = match key {
        "cluster" => ("static_clusters", "dynamic_active_clusters"),
        "listener" => ("static_listeners", "dynamic_listeners"),
        "route_config" => ("static_route_configs", "dynamic_route_configs"),
        _ => ("static_endpoint_configs", "dynamic_endpoint_configs"),
    };
    json!({
        "@type": format!("type.googleapis.com/envoy.admin.v3.{name}"),
        "version_info": version,
        static_key: fixed,
        dynamic_key: dynamic,
    })
}

fn as_json(resource: &Any) -> Value {
    let name = type_url::message_name(&resource.type_url);
    message_json::to_json(name, &resource.value).unwrap_or_else(|error| json!({ "error": error.to_string() }))
}

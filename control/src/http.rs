//! Pages for whoever watches over the process: `/healthz`, `/readyz`, `/fleet`, `/metrics`.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use control_core::fleet::{NodeStatus, Refusal};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};

use crate::hub::Hub;

pub(crate) fn router(hub: Arc<Hub>) -> Router {
    static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    // One recorder a process; several control planes in it count together.
    let metrics = METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().ok());
    Router::new()
        .route("/healthz", get(async || "OK"))
        .route("/readyz", get(ready))
        .route("/fleet", get(fleet))
        .route("/metrics", get(async || metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default()))
        .with_state(hub)
}

async fn ready(State(hub): State<Arc<Hub>>) -> (StatusCode, &'static str) {
    match hub.state().catalog.current().is_some() {
        true => (StatusCode::OK, "OK"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no configuration was taken yet"),
    }
}

async fn fleet(State(hub): State<Arc<Hub>>) -> axum::Json<Value> {
    axum::Json(fleet_of(&hub))
}

/// What is served, what was refused, and what each node made of it.
pub(crate) fn fleet_of(hub: &Hub) -> Value {
    let version = hub.state().catalog.current().map(|version| {
        json!({
            "number": version.number,
            "parent": version.parent,
            "author": version.author,
            "reason": version.reason,
            "time": timestamp(version.time),
        })
    });
    let source = hub.refusals(|refusals| {
        let current = refusals.current.as_ref();
        let current = current.map(|(at, reason)| json!({ "reason": reason, "at": timestamp(*at) }));
        let drift: Vec<_> = refusals.drift.iter().map(ToString::to_string).collect();
        json!({ "refusals": refusals.count, "refusal": current, "drift": drift })
    });
    let state = hub.state();
    let complaints: Vec<_> = state
        .compiled
        .statuses()
        .iter()
        .flat_map(|(key, status)| status.complaints().map(move |text| format!("{key}: {text}")))
        .collect();
    let nodes = hub.fleet(|fleet| fleet.nodes().map(|(id, status)| node(id, status)).collect::<Vec<_>>());
    json!({ "wanted": version.as_ref().map(|version| version["number"].clone()), "version": version,
        "source": source, "complaints": complaints, "nodes": nodes })
}

fn node(id: &str, status: &NodeStatus) -> Value {
    let types = status.types.iter().map(|(name, of_type)| {
        let refusal = of_type.refusal.as_ref().map(refusal);
        let value = json!({
            "acknowledged": of_type.acknowledged,
            "configVersion": of_type.config_version,
            "served": of_type.served,
            "servedConfigVersion": of_type.served_config_version,
            "refusal": refusal,
        });
        (name.clone(), value)
    });
    json!({
        "node": id,
        "cluster": status.cluster,
        "userAgent": status.user_agent,
        "connected": status.streams > 0,
        "acknowledged": status.acknowledged(),
        "served": status.served(),
        "generation": status.generation,
        "arms": status.arms.iter().map(|(key, counts)| json!({
            "route": key.route,
            "arm": key.arm,
            "cluster": key.cluster,
            "requests": counts.requests,
            "failures": counts.failures,
        })).collect::<Vec<_>>(),
        "types": types.collect::<serde_json::Map<_, _>>(),
    })
}

fn refusal(refusal: &Refusal) -> Value {
    json!({
        "resources": refusal.resources,
        "reason": refusal.reason,
        "configVersion": refusal.config_version,
        "at": timestamp(refusal.at),
    })
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

//! `/healthz`, `/readyz`, `/fleet`.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use control_core::fleet::{NodeStatus, Refusal};
use serde_json::{Value, json};

use crate::hub::Hub;

pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/healthz", get(async || "OK\n"))
        .route("/readyz", get(ready))
        .route("/fleet", get(fleet))
        .with_state(hub)
}

async fn ready(State(hub): State<Arc<Hub>>) -> (StatusCode, &'static str) {
    match hub.history(|history| history.current().is_some()) {
        true => (StatusCode::OK, "OK\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no configuration was taken yet\n"),
    }
}

/// What is served, what was refused, and what each node made of it.
async fn fleet(State(hub): State<Arc<Hub>>) -> axum::Json<Value> {
    let version = hub.history(|history| {
        history.current().map(|version| {
            json!({
                "number": version.number,
                "parent": version.parent,
                "author": version.author,
                "reason": version.reason,
                "time": timestamp(version.time),
            })
        })
    });
    let source = hub.refusals(|refusals| {
        let current = refusals.current.as_ref();
        let current = current.map(|(at, reason)| json!({ "reason": reason, "at": timestamp(*at) }));
        json!({ "refusals": refusals.count, "refusal": current })
    });
    let nodes = hub.fleet(|fleet| fleet.nodes().map(|(id, status)| node(id, status)).collect::<Vec<_>>());
    axum::Json(
        json!({ "wanted": version.as_ref().map(|version| version["number"].clone()), "version": version, "source": source, "nodes": nodes }),
    )
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

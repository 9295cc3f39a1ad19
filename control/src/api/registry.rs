//! Instances of services.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use control_core::model::duration;
use control_core::registry::Instance;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Problem;
use super::access::{Caller, to_its_end};
use super::extract::{Json, Query};
use crate::hub::Hub;
use crate::registry;
use crate::tokens::Verb;

/// Whose services.
#[derive(Debug, Clone, Deserialize, IntoParams)]
pub(super) struct Within {
    /// `default` where unset.
    #[serde(default = "default_namespace")]
    namespace: String,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What an instance says of itself.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Registration {
    /// `IP:port`, or an IP address beside `port`.
    address: String,
    /// The port, where the address has none.
    #[serde(default)]
    port: Option<u16>,
    /// What selectors look at. `metadata` is the same.
    #[serde(default, alias = "metadata")]
    #[schema(value_type = BTreeMap<String, String>)]
    labels: BTreeMap<String, Value>,
    /// Its part among the instances, 1 to 10,000; the label `weight`, or 1, where unset.
    #[serde(default)]
    weight: Option<u32>,
    /// It is gone when nobody hears of it for this long, 1 s to 1 h; `10s` where unset.
    #[serde(default)]
    ttl: Option<String>,
}

impl Registration {
    fn instance(&self, id: &str) -> Result<Instance, Problem> {
        let address = match (self.address.parse::<SocketAddr>(), self.address.parse::<IpAddr>(), self.port) {
            (Ok(address), _, None) => address,
            (_, Ok(ip), Some(port)) => SocketAddr::new(ip, port),
            _ => return Err(Problem::invalid(format!("address: {:?} is not IP:port", self.address))),
        };
        if address.port() == 0 {
            return Err(Problem::invalid("port: 0 is no port"));
        }
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(truth) => Ok(truth.to_string()),
            other => Err(Problem::invalid(format!("labels: {other} is not text"))),
        };
        let labels = self.labels.iter().map(|(key, value)| Ok((key.clone(), text(value)?)));
        let labels: BTreeMap<String, String> = labels.collect::<Result<_, Problem>>()?;
        let labelled = labels.get("weight").map(|text| {
            text.parse().map_err(|_| Problem::invalid(format!("labels.weight: {text} is not a whole number")))
        });
        let weight = self.weight.map_or_else(|| labelled.unwrap_or(Ok(1)), Ok)?;
        if !(1..=10_000).contains(&weight) {
            return Err(Problem::invalid(format!("weight: {weight} is not from 1 to 10000")));
        }
        Ok(Instance { id: id.to_owned(), address, labels, weight })
    }
}

fn names(namespace: &str, service: &str, id: &str) -> Result<(), Problem> {
    let is_name = |text: &str| {
        (1..=253).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    match is_name(namespace) && is_name(service) && is_name(id) {
        true => Ok(()),
        false => Err(Problem::invalid(format!(
            "{namespace}/{service}/{id}: letters, digits, `-`, `.` and `_` make a name"
        ))),
    }
}

/// Registers an instance, or says something else of it.
#[utoipa::path(put, path = "/api/v1/services/{service}/instances/{id}", params(Within), request_body = Registration,
    responses((status = 200, description = "It is there"), (status = 422, body = Problem)))]
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((service, id)): Path<(String, String)>,
    Query(Within { namespace }): Query<Within>,
    Json(registration): Json<Registration>,
) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::Write, Some(&namespace))?;
    let checked = names(&namespace, &service, &id).and_then(|()| registration.instance(&id));
    let instance = checked.inspect_err(|problem| caller.refused(Some(&namespace), problem))?;
    let ttl = registration.ttl.as_deref().unwrap_or("10s");
    let length = duration(ttl).filter(|length| (1..=3_600).contains(&length.as_secs()));
    let length = length.ok_or_else(|| {
        let problem = Problem::invalid(format!("ttl: {ttl:?} is not from 1s to 1h"));
        caller.refused(Some(&namespace), &problem);
        problem
    })?;
    let answer = json!({ "id": id, "instance": instance, "ttl": ttl });
    to_its_end(async move {
        let details = format!("{} weight {}", instance.address, instance.weight);
        registry::register(&*hub.store, &namespace, &service, instance, length).await?;
        hub.record(caller.event(&format!("PUT instance {service}/{id}"), Some(&namespace), details));
        Ok(axum::Json(answer))
    })
    .await
}

/// An instance is still there.
#[utoipa::path(post, path = "/api/v1/services/{service}/instances/{id}/heartbeat", params(Within),
    responses((status = 204), (status = 404, description = "It was gone: register anew", body = Problem)))]
pub(super) async fn heartbeat(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((service, id)): Path<(String, String)>,
    Query(Within { namespace }): Query<Within>,
) -> Result<StatusCode, Problem> {
    caller.may(Verb::Write, Some(&namespace))?;
    match registry::heartbeat(&*hub.store, &namespace, &service, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("{service}/{id} was gone: register anew"))),
    }
}

/// An instance goes.
#[utoipa::path(delete, path = "/api/v1/services/{service}/instances/{id}", params(Within),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path((service, id)): Path<(String, String)>,
    Query(Within { namespace }): Query<Within>,
) -> Result<StatusCode, Problem> {
    caller.may(Verb::Write, Some(&namespace))?;
    to_its_end(async move {
        if !registry::deregister(&*hub.store, &namespace, &service, &id).await? {
            let problem = Problem::not_found(format!("there is no {service}/{id}"));
            caller.refused(Some(&namespace), &problem);
            return Err(problem);
        }
        let action = format!("DELETE instance {service}/{id}");
        hub.record(caller.event(&action, Some(&namespace), String::new()));
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// The instances of a service.
#[utoipa::path(get, path = "/api/v1/services/{service}/instances", params(Within),
    responses((status = 200, description = "Instances")))]
pub(super) async fn list(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path(service): Path<String>,
    Query(Within { namespace }): Query<Within>,
) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::Read, Some(&namespace))?;
    let state = hub.state();
    let instances = state.instances.get(&(namespace, service)).map(Vec::as_slice).unwrap_or_default();
    Ok(axum::Json(json!({ "instances": instances })))
}

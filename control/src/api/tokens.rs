//! Who may do what, who did what, and what the proxies do.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Problem;
use super::access::{Caller, to_its_end};
use super::extract::{Json, Query};
use crate::audit;
use crate::hub::Hub;
use crate::tokens::{self, Holder, Role, Verb};

/// A token that is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Who it is in versions and in the audit.
    name: String,
    /// What it may do.
    role: Role,
    /// Where; everywhere if empty.
    #[serde(default)]
    namespaces: BTreeSet<String>,
}

/// Whose tokens there are; not the tokens.
#[utoipa::path(get, path = "/api/v1/tokens", responses((status = 200, description = "Holders"), (status = 403)))]
pub(super) async fn list(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::Administer, None)?;
    let holders = tokens::list(&*hub.store).await?;
    let shown: Vec<_> =
        holders.into_iter().map(|(id, holder)| json!({ "id": id, "holder": holder })).collect();
    Ok(axum::Json(json!({ "tokens": shown })))
}

/// Makes a token, which is told this once.
#[utoipa::path(post, path = "/api/v1/tokens", request_body = NewToken,
    responses((status = 201, description = "The token"), (status = 403)))]
pub(super) async fn create(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Json(wanted): Json<NewToken>,
) -> Result<(StatusCode, axum::Json<Value>), Problem> {
    caller.may(Verb::Administer, None)?;
    let NewToken { name, role, namespaces } = wanted;
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Problem::invalid("name: 1 to 64 characters are wanted"));
    }
    let details = format!("{name} is {role}");
    let holder = Holder { name, role, namespaces, created: None };
    to_its_end(async move {
        let token = tokens::create(&*hub.store, holder).await?;
        hub.record(caller.event("POST token", None, details));
        Ok((StatusCode::CREATED, axum::Json(json!({ "token": token }))))
    })
    .await
}

/// Ends a token.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.may(Verb::Administer, None)?;
    to_its_end(async move {
        if !tokens::revoke(&*hub.store, &id).await? {
            let problem = Problem::not_found(format!("there is no token {id}"));
            caller.refused(None, &problem);
            return Err(problem);
        }
        hub.record(caller.event(&format!("DELETE token {id}"), None, String::new()));
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Which records are wanted.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
pub(super) struct After {
    /// Those after this number.
    #[serde(default)]
    after: u64,
}

/// Who did what: a chain of records, of which each has the hash of the one before.
#[utoipa::path(get, path = "/api/v1/audit", params(After),
    responses((status = 200, body = Vec<audit::Record>), (status = 403)))]
pub(super) async fn audit(
    State(hub): State<Arc<Hub>>,
    caller: Caller,
    Query(After { after }): Query<After>,
) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::Audit, None)?;
    let records = audit::records(&*hub.store, after).await?;
    let broken = audit::verify(&records).err().or(audit::missing(&*hub.store, after, &records).await?);
    Ok(axum::Json(json!({ "records": records, "whole": broken.is_none(), "broken_at": broken })))
}

/// What each proxy is to have, has taken and serves.
#[utoipa::path(get, path = "/api/v1/fleet", responses((status = 200, description = "The fleet")))]
pub(super) async fn fleet(State(hub): State<Arc<Hub>>, caller: Caller) -> Result<axum::Json<Value>, Problem> {
    caller.may(Verb::ReadAll, None)?;
    Ok(axum::Json(crate::http::fleet_of(&hub)))
}

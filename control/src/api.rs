//! The REST interface: resources, versions, the registry, configuration, and who may do what.
//!
//! Every answer that is not a success is a problem (RFC 9457). Everything under `/api/v1` wants a token.

#![allow(unused_qualifications, reason = "of utoipa's macro")]

mod access;
mod explain;
mod extract;
mod flow;
mod problem;
mod registry;
mod resources;
mod settings;
mod tokens;
mod versions;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::hub::Hub;
pub(crate) use problem::Problem;
#[cfg(test)]
pub(crate) use versions::as_it_was;

/// The largest body that is read.
const MAX_BODY: usize = 16 << 20;

#[derive(OpenApi)]
#[openapi(info(
    title = "Weir control plane",
    description = "Resources, their versions, and what proxies made of them."
))]
struct Description;

/// Everything under `/api/v1`, and its description.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    let api = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(resources::list))
        .routes(routes!(resources::get, resources::put, resources::delete))
        .routes(routes!(resources::apply))
        .routes(routes!(resources::find))
        .routes(routes!(versions::history))
        .routes(routes!(versions::object_diff))
        .routes(routes!(versions::object_rollback))
        .routes(routes!(versions::list))
        .routes(routes!(versions::diff))
        .routes(routes!(versions::rollback))
        .routes(routes!(watch::changes))
        .routes(routes!(flow::events))
        .routes(routes!(explain::explain))
        .routes(routes!(explain::preview))
        .routes(routes!(explain::impacts))
        .routes(routes!(settings::get, settings::put))
        .routes(routes!(registry::list))
        .routes(routes!(registry::put, registry::delete))
        .routes(routes!(registry::heartbeat))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::audit))
        .routes(routes!(tokens::fleet));
    let (router, description) = api.split_for_parts();
    let description = Arc::new(description);
    router
        .route("/openapi.json", axum::routing::get(move || async move { axum::Json((*description).clone()) }))
        .fallback(problem::no_such_page)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(access::identify))
        .with_state(hub)
}

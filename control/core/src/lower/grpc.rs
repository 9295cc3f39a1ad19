//! What clients of gRPC understand (`xds:///name`): a listener for each name that can be called, without an address, and the
//! routes behind it (gRFC A27, A28).

use xds_proto::envoy::config::listener::v3::{ApiListener, Listener};
use xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use xds_proto::envoy::config::route::v3::{Route, RouteMatch};
use xds_proto::envoy::extensions::filters::http::router::v3::Router;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use xds_proto::type_url::pack;

use super::ads;
use crate::ir::{self, Action};

pub(super) fn listener(name: &str) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: name.to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
            ..HttpFilter::default()
        }],
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(pack(&manager)) }),
        ..Listener::default()
    }
}

/// A prefix by elements is two routes to a client that knows whole paths and prefixes alone.
pub(super) fn understood(route: Route) -> Vec<Route> {
    let Some(RouteMatch { path_specifier: Some(PathSpecifier::PathSeparatedPrefix(prefix)), .. }) =
        &route.r#match
    else {
        return vec![route];
    };
    let with = |name: String, path: PathSpecifier| {
        let mut route = route.clone();
        route.name = name;
        if let Some(matching) = &mut route.r#match {
            matching.path_specifier = Some(path);
        }
        route
    };
    vec![
        with(route.name.clone(), PathSpecifier::Path(prefix.clone())),
        with(format!("{}/", route.name), PathSpecifier::Prefix(format!("{prefix}/"))),
    ]
}

/// Clients of gRPC forward calls, and nothing else; what they would refuse would take the rest of its routes with it.
pub(super) fn is_understood(route: &ir::Route) -> bool {
    matches!(route.action, Action::Forward(_))
        && route.conditions.query.is_empty()
        && route.conditions.method.is_none()
}

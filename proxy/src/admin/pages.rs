//! What the read-only port shows.

use std::fmt::Write as _;

use hyper::StatusCode;
use proxy_core::breaker::{Priority, Resource};
use proxy_core::config::{Action, Address, Endpoint, Health, NameKind, Verdict};
use proxy_core::route::Choice;
use proxy_core::xds::Held;
use serde_json::{Value, json};
use xds_proto::prost_types::Any;
use xds_proto::{json as message_json, type_url};

use super::{JSON, PROMETHEUS, Page, TEXT, reply};
use crate::controller::{Controller, Phase};
use crate::telemetry::ServerState;

/// Envoy's words, so that probes written for it work.
pub(super) fn ready(controller: &Controller) -> Page {
    let (status, word) = match controller.phase {
        Phase::Initializing => (StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING\n"),
        Phase::Live if controller.health_failed => (StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n"),
        Phase::Live => (StatusCode::OK, "LIVE\n"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n"),
    };
    reply(status, TEXT, word.to_owned())
}

fn server_state(controller: &Controller) -> ServerState {
    let state = match controller.phase {
        Phase::Initializing => 3,
        Phase::Live if controller.health_failed => 1,
        Phase::Live => 0,
        Phase::Draining => 1,
    };
    ServerState { uptime_seconds: controller.uptime().as_secs(), state }
}

/// `envoy.admin.v3.ServerInfo`, as far as it means something here.
pub(super) fn server_info(controller: &Controller) -> Value {
    let state = ["LIVE", "DRAINING", "PRE_INITIALIZING", "INITIALIZING"];
    let server = server_state(controller);
    let node = &controller.node;
    json!({
        "version": format!("weir/{}", env!("CARGO_PKG_VERSION")),
        "state": state.get(server.state as usize),
        "uptime_current_epoch": format!("{}s", server.uptime_seconds),
        "uptime_all_epochs": format!("{}s", server.uptime_seconds),
        "config_is_stale": controller.is_stale(),
        "command_line_options": { "concurrency": controller.registry.workers.len() },
        "node": { "id": node.id, "cluster": node.cluster, "user_agent_name": node.user_agent_name },
    })
}

/// Whether a page is asked for as JSON.
fn wants_json(query: &str) -> bool {
    parameter(query, "format") == Some("json")
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

fn socket_json(address: &Address) -> Value {
    match address {
        Address::Socket(socket) => json!({
            "socket_address": { "address": socket.ip().to_string(), "port_value": socket.port() }
        }),
        Address::Pipe(path) => json!({ "pipe": { "path": path.display().to_string() } }),
    }
}

/// Clusters, their limits and endpoints, in Envoy's `name::key::value` lines or as JSON.
pub(super) fn clusters(controller: &Controller, query: &str) -> Page {
    let snapshot = controller.snapshot();
    let mut text = String::new();
    let mut statuses = Vec::new();
    for (_, table) in snapshot.clusters() {
        let name = &table.name;
        for priority in Priority::ALL {
            for resource in Resource::ALL {
                let limit = table.thresholds.of(priority).limit(resource);
                let key = format!("{}_priority::max_{}", priority.as_str(), resource.as_str());
                let _ = writeln!(text, "{name}::{key}::{limit}");
            }
        }
        let mut hosts = Vec::new();
        let localities = table.source.localities.iter();
        let places = localities.flat_map(|group| group.endpoints.iter().map(move |config| (group, config)));
        for (endpoint, (group, config)) in table.endpoints.iter().zip(places) {
            let flags = health_flags(config);
            let status = match config.health {
                Health::Healthy => "HEALTHY",
                Health::Degraded => "DEGRADED",
                Health::Unhealthy => "UNHEALTHY",
            };
            let at = &endpoint.label;
            let _ = writeln!(text, "{name}::{at}::rq_active::{}", endpoint.in_flight());
            let _ = writeln!(text, "{name}::{at}::health_flags::{flags}");
            let _ = writeln!(text, "{name}::{at}::weight::{}", config.weight);
            let _ = writeln!(text, "{name}::{at}::priority::{}", group.priority);
            for (key, value) in [
                ("hostname", &config.hostname),
                ("region", &group.locality.region),
                ("zone", &group.locality.zone),
                ("sub_zone", &group.locality.sub_zone),
            ] {
                let _ = writeln!(text, "{name}::{at}::{key}::{value}");
            }
            hosts.push(json!({
                "address": socket_json(&endpoint.address),
                "stats": [ { "name": "rq_active", "type": "GAUGE", "value": endpoint.in_flight().to_string() } ],
                "health_status": {
                    "eds_health_status": status,
                    "failed_active_health_check": matches!(config.verdict, Verdict::Failed | Verdict::Pending),
                    "pending_active_hc": config.verdict == Verdict::Pending,
                    "failed_active_degraded_check": config.verdict == Verdict::Degraded,
                },
                "weight": config.weight,
                "priority": group.priority,
                "hostname": config.hostname,
                "locality": {
                    "region": group.locality.region,
                    "zone": group.locality.zone,
                    "sub_zone": group.locality.sub_zone,
                },
            }));
        }
        statuses.push(json!({ "name": name.as_str(), "host_statuses": hosts }));
    }
    if wants_json(query) {
        return reply(StatusCode::OK, JSON, format!("{:#}\n", json!({ "cluster_statuses": statuses })));
    }
    reply(StatusCode::OK, TEXT, text)
}

/// What speaks against an endpoint, in Envoy's words.
fn health_flags(endpoint: &Endpoint) -> String {
    let active = match endpoint.verdict {
        Verdict::Unchecked | Verdict::Healthy => "",
        Verdict::Degraded => "/degraded_active_hc",
        Verdict::Failed => "/failed_active_hc",
        Verdict::Pending => "/failed_active_hc/pending_active_hc",
    };
    let eds = match endpoint.health {
        Health::Healthy => "",
        Health::Degraded => "/degraded_eds_health",
        Health::Unhealthy => "/failed_eds_health",
    };
    if active.is_empty() && eds.is_empty() { "healthy".to_owned() } else { format!("{active}{eds}") }
}

/// Listeners and where they listen, as Envoy's `name::address` lines or as JSON.
pub(super) fn listeners(controller: &Controller, query: &str) -> Page {
    let snapshot = controller.snapshot();
    let mut text = String::new();
    let mut statuses = Vec::new();
    for (_, listener) in snapshot.live_listeners() {
        let bound = controller.bound_address(&listener.address);
        let _ = writeln!(text, "{}::{bound}", listener.name);
        statuses.push(json!({ "name": listener.name.as_str(), "local_address": socket_json(&bound) }));
    }
    if wants_json(query) {
        return reply(StatusCode::OK, JSON, format!("{:#}\n", json!({ "listener_statuses": statuses })));
    }
    reply(StatusCode::OK, TEXT, text)
}

/// The certificates that are shown, in Envoy's form: who expires when.
pub(super) fn certs(controller: &Controller) -> Page {
    let day = 86_400;
    let now = unix_seconds();
    let time = |seconds: i64| {
        let since = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
    };
    let certificates = controller.certificates().into_iter().map(|certificate| {
        let identity = &certificate.identity;
        let names =
            |kind, key: &str| identity.texts(kind).map(|name| json!({ key: name })).collect::<Vec<_>>();
        let names =
            [names(NameKind::Uri, "uri"), names(NameKind::Dns, "dns"), names(NameKind::Ip, "ip_address")]
                .concat();
        json!({
            "cert_chain": [{
                "path": certificate.origin,
                "serial_number": identity.serial(),
                "subject": identity.subject(),
                "subject_alt_names": names,
                "days_until_expiration": ((identity.not_after - now) / day).max(0).to_string(),
                "valid_from": time(identity.not_before),
                "expiration_time": time(identity.not_after),
            }],
        })
    });
    let certificates: Vec<_> = certificates.collect();
    reply(StatusCode::OK, JSON, format!("{:#}\n", json!({ "certificates": certificates })))
}

fn unix_seconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs() as i64)
}

/// Takes private keys out of what is shown.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "private_key" | "privateKey" => {
                        for part in ["inline_string", "inline_bytes", "inlineString", "inlineBytes"] {
                            if let Some(text) = value.get_mut(part) {
                                *text = json!("[redacted]");
                            }
                        }
                    }
                    _ => redact(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Every route in the order in which it is tried, with its arms.
pub(super) fn routes(controller: &Controller, query: &str) -> Page {
    let snapshot = controller.snapshot();
    let mut text = String::new();
    let mut all = Vec::new();
    let chains = snapshot
        .live_listeners()
        .flat_map(|(_, listener)| listener.chains.iter().map(move |c| (listener, c)));
    for (listener, chain) in chains {
        for route in chain.routes.routes() {
            let choice = match &route.choice {
                Choice::None => match chain.routes.route_config(route).action {
                    Action::Redirect(_) => "redirect".to_owned(),
                    Action::Respond(_) | Action::Forward(_) => "direct response".to_owned(),
                },
                Choice::Only(_) => "single".to_owned(),
                Choice::Sequence => "exact sequence".to_owned(),
                Choice::Keyed(_) | Choice::Number => {
                    chain.routes.forward(route).map_or(String::new(), |forward| forward.split.by.to_string())
                }
            };
            let _ = writeln!(text, "{}::{}::{choice}", listener.name, route.label);
            let arms = chain.routes.arms(route).iter().zip(&route.targets).map(|(arm, target)| {
                let cluster = &target.cluster;
                let _ = writeln!(
                    text,
                    "{}::{}::arm::{}::{cluster}::{}",
                    listener.name, route.label, arm.name, arm.weight.0
                );
                json!({ "name": arm.name.as_str(), "cluster": cluster.as_str(), "weight": arm.weight.0 })
            });
            let arms: Vec<_> = arms.collect();
            all.push(json!({
                "listener": listener.name.as_str(),
                "route": route.label.to_string(),
                "split": choice,
                "arms": arms,
            }));
        }
    }
    if wants_json(query) {
        return reply(StatusCode::OK, JSON, format!("{:#}\n", json!({ "routes": all })));
    }
    reply(StatusCode::OK, TEXT, text)
}

/// Counters and gauges under Envoy's names, one a line or as JSON.
pub(super) fn stats(controller: &Controller, query: &str) -> Page {
    match parameter(query, "format") {
        Some("prometheus") => return stats_prometheus(controller, query),
        Some("json" | "text") | None => {}
        Some(other) => {
            return reply(
                StatusCode::BAD_REQUEST,
                TEXT,
                format!("format {other:?} is not text, json or prometheus\n"),
            );
        }
    }
    let stats = controller.registry.envoy_stats(&controller.snapshot(), server_state(controller));
    let shown = match shown(&stats, query) {
        Ok(shown) => shown,
        Err(page) => return page,
    };
    let mut lines: Vec<_> = shown.iter().map(|stat| (stat.full_name(), stat.value())).collect();
    lines.sort();
    if wants_json(query) {
        let stats: Vec<_> =
            lines.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        return reply(StatusCode::OK, JSON, format!("{:#}\n", json!({ "stats": stats })));
    }
    let text = lines.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    reply(StatusCode::OK, TEXT, text)
}

/// The same in the Prometheus text form.
pub(super) fn stats_prometheus(controller: &Controller, query: &str) -> Page {
    let stats = controller.registry.envoy_stats(&controller.snapshot(), server_state(controller));
    match shown(&stats, query) {
        Ok(shown) => reply(StatusCode::OK, PROMETHEUS, controller.registry.envoy_prometheus(&shown)),
        Err(page) => page,
    }
}

/// Those that `filter` (a regular expression) and `usedonly` leave.
fn shown<'a>(
    stats: &'a [crate::telemetry::Stat],
    query: &str,
) -> Result<Vec<&'a crate::telemetry::Stat>, Page> {
    let used_only = parameter(query, "usedonly").is_some();
    let filter = match parameter(query, "filter").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match regex::RegexBuilder::new(&decoded(text)).size_limit(1 << 16).build() {
            Ok(filter) => Some(filter),
            Err(error) => return Err(reply(StatusCode::BAD_REQUEST, TEXT, format!("filter: {error}\n"))),
        },
    };
    let stays = |stat: &&crate::telemetry::Stat| {
        (!used_only || stat.value() > 0)
            && filter.as_ref().is_none_or(|filter| filter.is_match(&stat.full_name()))
    };
    Ok(stats.iter().filter(stays).collect())
}

/// Percent-decoding, as far as it makes sense.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is held, in the shape of Envoy's `/config_dump`, without private keys.
pub(super) fn config_dump(controller: &Controller) -> Value {
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
    let mut shown = message_json::to_json(name, &resource.value)
        .unwrap_or_else(|error| json!({ "error": error.to_string() }));
    redact(&mut shown);
    shown
}

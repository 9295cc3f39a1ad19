//! Weir and Envoy, which read the same file.

use std::path::Path;

use anyhow::Result;

use super::super::{LISTEN, ORIGINS};
use super::{Peer, Variant};
use crate::pki::SERVER_NAME;
use crate::process::{Launch, find_envoy, version};
use crate::workload::{Table, Wire};

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

const BREAKERS: &str = "circuit_breakers: { thresholds: [ { max_connections: 100000, max_pending_requests: 100000, \
                        max_requests: 100000, max_retries: 100000 } ] }";

/// Ten fields, as JSON.
const LOG: &str = "access_log: [ { name: file, typed_config: { '@type': \
                   type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: FILE, log_format: { \
                   json_format: { time: '%START_TIME%', method: '%REQ(:METHOD)%', authority: '%REQ(:AUTHORITY)%', path: \
                   '%REQ(:PATH)%', status: '%RESPONSE_CODE%', arm: '%WEIR_ARM%', cluster: '%UPSTREAM_CLUSTER%', endpoint: \
                   '%UPSTREAM_HOST%', flags: '%RESPONSE_FLAGS%', duration: '%DURATION%' } } } } ]";

const SPLIT: &str = "weighted_clusters: { clusters: [ { name: v1, weight: 95 }, { name: v2, weight: 5 } ] }";

/// The address of a port, as a field.
pub(super) fn socket(port: u16) -> String {
    format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}")
}

pub(super) fn weir(program: &Path, variant: Variant<'_>, origins: &[String; 2]) -> Result<Peer> {
    let path = variant.folder.join(format!("{}.yaml", variant.name.replace([' ', ','], "-")));
    let mut config = config(variant, origins);
    if variant.logs {
        let log = LOG.replace("FILE", &variant.folder.join("access.log").display().to_string());
        config = config.replace("stat_prefix: bench", &format!("stat_prefix: bench\n          {log}"));
    }
    std::fs::write(&path, config)?;
    let (path, workers) = (path.display().to_string(), variant.workers.to_string());
    let arguments = [
        "-c",
        &path,
        "--concurrency",
        &workers,
        "--log-level",
        "error",
        "--drain-wait-s",
        "0",
        "--drain-time-s",
        "0",
    ];
    let command = Launch { program: program.to_owned(), arguments: arguments.map(str::to_owned).to_vec() };
    let version = version(&program.to_owned(), "--version");
    Ok(Peer { name: variant.name, version, command: Some(command) })
}

/// None where it is not installed.
pub(super) fn envoy(variant: Variant<'_>) -> Result<Option<Peer>> {
    let Some(envoy) = find_envoy() else { return Ok(None) };
    let path = variant.folder.join("envoy.yaml");
    let mut config = config(variant, &ORIGINS.map(socket));
    if variant.wire != Wire::Tcp {
        config = config
            .replace("stat_prefix: bench", "stat_prefix: bench\n          generate_request_id: false")
            .replace("v3.Router }", "v3.Router, dynamic_stats: false }");
    }
    std::fs::write(&path, config)?;
    let path = path.display().to_string();
    let arguments = ["-c", &path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "off"];
    let command = Launch { program: envoy.clone(), arguments: arguments.map(str::to_owned).to_vec() };
    Ok(Some(Peer { name: variant.name, version: version(&envoy, "--version"), command: Some(command) }))
}

fn config(variant: Variant<'_>, origins: &[String; 2]) -> String {
    let options = cluster_options(variant);
    let cluster = |name: &str, origin: &String| {
        format!(
            "  - name: {name}
    connect_timeout: 1s
    {BREAKERS}
{options}    load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {origin} }} }} ] }} ] }}
"
        )
    };
    format!(
        "static_resources:
  listeners:
  - name: bench
    address: {listen}
    filter_chains:
    - {tls}filters:
{filter}  clusters:
{v1}{v2}",
        listen = socket(LISTEN),
        tls = downstream_tls(variant),
        filter = filter(variant),
        v1 = cluster("v1", &origins[0]),
        v2 = cluster("v2", &origins[1]),
    )
}

fn filter(variant: Variant<'_>) -> String {
    if variant.wire == Wire::Tcp {
        return format!(
            "      - name: tcp
        typed_config: {{ \"@type\": {EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: bench, {SPLIT} }}
"
        );
    }
    format!(
        "      - name: http
        typed_config:
          \"@type\": {EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          http_filters:
          - name: router
            typed_config: {{ \"@type\": {EXTENSIONS}.filters.http.router.v3.Router }}
          route_config:
            name: bench
            virtual_hosts:
{}",
        virtual_hosts(variant)
    )
}

fn downstream_tls(variant: Variant<'_>) -> String {
    let dir = variant.folder.display();
    match variant.wire {
        Wire::Tls | Wire::Answered => format!(
            "transport_socket: {{ name: tls, typed_config: {{ '@type': \
             {EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ tls_params: {{ \
             tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}, tls_certificates: [ {{ \
             certificate_chain: {{ filename: {dir}/server.pem }}, private_key: {{ filename: {dir}/server.key }} }} ] }} }} \
             }}\n      "
        ),
        _ => String::new(),
    }
}

fn cluster_options(variant: Variant<'_>) -> String {
    let dir = variant.folder.display();
    match variant.wire {
        Wire::Tls => format!(
            "    transport_socket: {{ name: tls, typed_config: {{ '@type': \
             {EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext, sni: {SERVER_NAME}, common_tls_context: {{ \
             tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}, tls_certificates: [ {{ certificate_chain: {{ \
             filename: {dir}/client.pem }}, private_key: {{ filename: {dir}/client.key }} }} ], validation_context: {{ \
             trusted_ca: {{ filename: {dir}/ca.pem }}, match_typed_subject_alt_names: [ {{ san_type: DNS, matcher: {{ \
             exact: {SERVER_NAME} }} }} ] }} }} }} }}\n"
        ),
        Wire::Http2 => format!(
            "    typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ '@type': \
             {EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ http2_protocol_options: {{}} }} \
             }} }}\n"
        ),
        _ => String::new(),
    }
}

fn virtual_hosts(variant: Variant<'_>) -> String {
    let host = |name: &str, domain: &str, routes: &str| {
        format!("            - {{ name: {name}, domains: [\"{domain}\"], routes: [ {routes} ] }}\n")
    };
    let action = match variant.wire {
        Wire::Answered => "direct_response: { status: 200, body: { inline_string: answered } }".to_owned(),
        _ => format!("route: {{ {SPLIT} }}"),
    };
    let route = |path: &str, more: &str| format!("{{ match: {{ prefix: {path}{more} }}, {action} }}");
    let headers = |count: usize| {
        let condition =
            |i| format!(", headers: [ {{ name: x-header-{i}, string_match: {{ exact: \"yes\" }} }} ]");
        (0..count).map(|i| route("/", &condition(i)) + ", ").collect::<String>()
    };
    match variant.table {
        Table::Plain => host("all", "*", &route("/", "")),
        Table::Headers(count) => host("all", "*", &(headers(count) + &route("/", ""))),
        Table::Prefixes(count) => {
            let routes: Vec<_> = (0..count).map(|i| route(&format!("/service-{i}/"), "")).collect();
            host("all", "*", &routes.join(", "))
        }
        Table::Hosts(count) => (0..count)
            .map(|i| host(&format!("host-{i}"), &format!("host-{i}.example.com"), &route("/", "")))
            .collect(),
    }
}

//! The proxies that are compared, each configured for the same thing: a prefix route to a 95/5 split over two clusters,
//! one worker, keep-alive to the origin, no access log, circuit breakers out of the way.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{LISTEN, ORIGINS, UNIX_ORIGIN};
use crate::process::{Launch, find, version};
use crate::workload::{Table, Workload};

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// None: the origin itself.
    pub(crate) command: Option<Launch>,
}

/// nginx answering 1 KiB from memory, or this program's stand-in.
pub(crate) fn origin(folder: &Path) -> Launch {
    let Some(nginx) = find("nginx") else {
        let mut arguments = vec!["origin".to_owned()];
        arguments.extend(ORIGINS.map(|port| format!("127.0.0.1:{port}")));
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("benches"));
        return Launch { program, arguments };
    };
    let body = "x".repeat(1024);
    let _ = std::fs::write(folder.join("64k"), "x".repeat(64 << 10));
    let [first, second] = ORIGINS;
    let unix = folder.join(UNIX_ORIGIN);
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/origin.pid; error_log {0}/origin.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  server {{
    listen 127.0.0.1:{first} backlog=4096; listen 127.0.0.1:{second} backlog=4096; listen unix:{1};
    location / {{ default_type text/plain; return 200 \"{body}\"; }}
    location = /64k {{ alias {0}/64k; }}
  }}
}}
",
        folder.display(),
        unix.display(),
    );
    nginx_with(nginx, folder, "origin.conf", &config)
}

fn nginx_with(nginx: PathBuf, folder: &Path, file: &str, config: &str) -> Launch {
    let path = folder.join(file);
    let _ = std::fs::write(&path, config);
    Launch { program: nginx, arguments: vec!["-c".to_owned(), path.display().to_string()] }
}

/// Every peer that is installed; Weir first.
pub(crate) fn all(weir: &Path, folder: &Path, workload: Workload) -> Result<Vec<Peer>> {
    let table = workload.table();
    let workers = |name, count| Variant { name, workers: count, logs: false, table };
    let origins = ORIGINS.map(socket);
    let plain = weir_peer(weir, folder, &workers("weir", 1), &origins)?;
    if workload == Workload::Workers {
        let mut peers = vec![plain, weir_peer(weir, folder, &workers("weir, 2 workers", 2), &origins)?];
        for variant in [workers("1 worker", 1), workers("2 workers", 2)] {
            peers.extend(nginx(folder, &variant));
            peers.extend(haproxy(folder, &variant)?);
        }
        return Ok(peers);
    }
    let one = workers("", 1);
    let mut peers = vec![plain];
    if workload.logs() {
        let logging = Variant { name: "weir, logging", workers: 1, logs: true, table };
        peers.push(weir_peer(weir, folder, &logging, &origins)?);
        return Ok(peers);
    }
    if find("nginx").is_some() && workload != Workload::W7 {
        let unix = format!("{{ pipe: {{ path: {} }} }}", folder.join(UNIX_ORIGIN).display());
        peers.push(weir_peer(weir, folder, &workers("weir-unix", 1), &[unix.clone(), unix])?);
    }
    peers.extend(nginx(folder, &one));
    peers.extend(haproxy(folder, &one)?);
    peers.extend(envoy(folder, table)?);
    if workload == Workload::W7 {
        peers.push(Peer { name: "direct", version: String::new(), command: None });
    }
    Ok(peers)
}

/// One configuration of a peer.
#[derive(Debug)]
struct Variant {
    name: &'static str,
    workers: usize,
    logs: bool,
    table: Table,
}

fn socket(port: u16) -> String {
    format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}")
}

fn weir_peer(weir: &Path, folder: &Path, variant: &Variant, origins: &[String; 2]) -> Result<Peer> {
    let path = folder.join(format!("{}.yaml", variant.name.replace([' ', ','], "-")));
    let mut config = bootstrap(origins, BREAKERS, variant.table);
    if variant.logs {
        let log = LOG.replace("FILE", &folder.join("access.log").display().to_string());
        config = config.replace("stat_prefix: bench", &format!("stat_prefix: bench\n          {log}"));
    }
    std::fs::write(&path, config)?;
    let arguments = [
        "-c",
        &path.display().to_string(),
        "--concurrency",
        &variant.workers.to_string(),
        "--log-level",
        "error",
        "--drain-wait-s",
        "0",
        "--drain-time-s",
        "0",
    ];
    let command = Launch { program: weir.to_owned(), arguments: arguments.map(str::to_owned).to_vec() };
    let version = version(&weir.to_owned(), "--version");
    Ok(Peer { name: variant.name, version, command: Some(command) })
}

/// Out of the way, for Weir and Envoy alike.
const BREAKERS: &str = "circuit_breakers: { thresholds: [ { max_connections: 100000, max_pending_requests: 100000, \
                        max_requests: 100000, max_retries: 100000 } ] }";

/// Ten fields, as JSON.
const LOG: &str = "access_log: [ { name: file, typed_config: { '@type': \
                   type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: FILE, log_format: { \
                   json_format: { time: '%START_TIME%', method: '%REQ(:METHOD)%', authority: '%REQ(:AUTHORITY)%', path: \
                   '%REQ(:PATH)%', status: '%RESPONSE_CODE%', arm: '%WEIR_ARM%', cluster: '%UPSTREAM_CLUSTER%', endpoint: \
                   '%UPSTREAM_HOST%', flags: '%RESPONSE_FLAGS%', duration: '%DURATION%' } } } } ]";

fn envoy(folder: &Path, table: Table) -> Result<Option<Peer>> {
    let Some(envoy) = find("envoy") else { return Ok(None) };
    let path = folder.join("envoy.yaml");
    let config = bootstrap(&ORIGINS.map(socket), BREAKERS, table)
        .replace("stat_prefix: bench", "stat_prefix: bench\n          generate_request_id: false")
        .replace("v3.Router }", "v3.Router, dynamic_stats: false }");
    std::fs::write(&path, config)?;
    let arguments = [
        "-c",
        &path.display().to_string(),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "off",
    ];
    let command = Launch { program: envoy.clone(), arguments: arguments.map(str::to_owned).to_vec() };
    Ok(Some(Peer { name: "envoy", version: version(&envoy, "--version"), command: Some(command) }))
}

/// The same file for Weir and Envoy.
fn bootstrap(origins: &[String; 2], cluster_extra: &str, table: Table) -> String {
    let cluster = |name: &str, origin: &String| {
        format!(
            "  - name: {name}
    connect_timeout: 1s
    {cluster_extra}
    load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {origin} }} }} ] }} ] }}
"
        )
    };
    format!(
        "static_resources:
  listeners:
  - name: bench
    address: {listen}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          http_filters:
          - name: router
            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            name: bench
            virtual_hosts:
{hosts}  clusters:
{v1}{v2}",
        hosts = virtual_hosts(table),
        listen = socket(LISTEN),
        v1 = cluster("v1", &origins[0]),
        v2 = cluster("v2", &origins[1]),
    )
}

/// The routes of Weir and Envoy.
fn virtual_hosts(table: Table) -> String {
    const ACTION: &str =
        "route: { weighted_clusters: { clusters: [ { name: v1, weight: 95 }, { name: v2, weight: 5 } ] } }";
    let host = |name: &str, domain: &str, routes: &str| {
        format!("            - {{ name: {name}, domains: [\"{domain}\"], routes: [ {routes} ] }}\n")
    };
    let route = |path: &str, more: &str| format!("{{ match: {{ prefix: {path}{more} }}, {ACTION} }}");
    let headers = |count: usize| {
        let condition =
            |i| format!(", headers: [ {{ name: x-header-{i}, string_match: {{ exact: \"yes\" }} }} ]");
        (0..count).map(|i| route("/", &condition(i)) + ", ").collect::<String>()
    };
    match table {
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

/// The servers of nginx.
fn nginx_servers(table: Table) -> String {
    const PASS: &str = "proxy_pass http://$arm; proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let server = |name: &str, inside: &str| {
        format!("  server {{ listen 127.0.0.1:{LISTEN} backlog=4096;{name} {inside} }}\n")
    };
    let all = format!("location / {{ {PASS} }}");
    match table {
        Table::Plain => server("", &all),
        Table::Headers(count) => {
            let condition = |i| format!("if ($http_x_header_{i} = yes) {{ return 204; }} ");
            server("", &format!("{}{all}", (0..count).map(condition).collect::<String>()))
        }
        Table::Prefixes(count) => {
            let location = |i| format!("location /service-{i}/ {{ {PASS} }}\n");
            server("", &(0..count).map(location).collect::<String>())
        }
        Table::Hosts(count) => {
            let servers = (0..count).map(|i| format!("server_name host-{i}.example.com;"));
            let mut backlog = String::new();
            for (i, name) in servers.enumerate() {
                // Options of a socket are given once.
                let listen = if i == 0 { " backlog=4096" } else { "" };
                backlog
                    .push_str(&format!("  server {{ listen 127.0.0.1:{LISTEN}{listen}; {name} {all} }}\n"));
            }
            format!("  server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n{backlog}")
        }
    }
}

/// The rules of HAProxy before the split; patterns of many lie in a file.
fn haproxy_rules(folder: &Path, table: Table) -> Result<String> {
    const SPLIT: &str = "rand(100) lt 5";
    let listed = |lines: Vec<String>, condition: &str| -> Result<String> {
        let file = folder.join("patterns.lst");
        std::fs::write(&file, lines.join("\n") + "\n")?;
        let condition = format!("{condition} -f {}", file.display());
        Ok(format!(
            "  use_backend v2 if {{ {condition} }} {{ {SPLIT} }}\n  use_backend v1 if {{ {condition} }}\n"
        ))
    };
    match table {
        Table::Plain => Ok(format!("  use_backend v2 if {{ path_beg / }} {{ {SPLIT} }}\n")),
        Table::Headers(count) => {
            let rule = |i| format!("  use_backend v2 if {{ req.hdr(x-header-{i}) yes }}\n");
            let rules: String = (0..count).map(rule).collect();
            Ok(format!("{rules}  use_backend v2 if {{ path_beg / }} {{ {SPLIT} }}\n"))
        }
        Table::Prefixes(count) => listed((0..count).map(|i| format!("/service-{i}/")).collect(), "path_beg"),
        Table::Hosts(count) => {
            listed((0..count).map(|i| format!("host-{i}.example.com")).collect(), "req.hdr(host) -i")
        }
    }
}

fn nginx(folder: &Path, variant: &Variant) -> Option<Peer> {
    let nginx = find("nginx")?;
    let [first, second] = ORIGINS;
    let config = format!(
        "daemon off; worker_processes {workers}; pid {0}/nginx.pid; error_log {0}/nginx.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  split_clients \"$connection-$connection_requests\" $arm {{ 5% v2; * v1; }}
  upstream v1 {{ server 127.0.0.1:{first}; keepalive 1024; keepalive_requests 1000000000; }}
  upstream v2 {{ server 127.0.0.1:{second}; keepalive 1024; keepalive_requests 1000000000; }}
{servers}}}
",
        folder.display(),
        workers = variant.workers,
        servers = nginx_servers(variant.table),
    );
    let version = version(&nginx, "-v");
    let name = if variant.workers == 1 { "nginx" } else { "nginx, 2 workers" };
    let file = format!("nginx-{}.conf", variant.workers);
    Some(Peer { name, version, command: Some(nginx_with(nginx, folder, &file, &config)) })
}

fn haproxy(folder: &Path, variant: &Variant) -> Result<Option<Peer>> {
    let Some(haproxy) = find("haproxy") else { return Ok(None) };
    let [first, second] = ORIGINS;
    let config = format!(
        "global
  nbthread {}
  maxconn 8000
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend bench
  bind 127.0.0.1:{LISTEN}
{}  default_backend v1
backend v1
  server s 127.0.0.1:{first}
backend v2
  server s 127.0.0.1:{second}
",
        variant.workers,
        haproxy_rules(folder, variant.table)?
    );
    let path = folder.join(format!("haproxy-{}.cfg", variant.workers));
    std::fs::write(&path, config)?;
    let arguments = vec!["-db".to_owned(), "-f".to_owned(), path.display().to_string()];
    let version = version(&haproxy, "-v");
    let name = if variant.workers == 1 { "haproxy" } else { "haproxy, 2 threads" };
    Ok(Some(Peer { name, version, command: Some(Launch { program: haproxy, arguments }) }))
}

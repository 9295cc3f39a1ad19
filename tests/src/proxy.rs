//! A `weir-proxy` with one listener, made for one test.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::client::http_get;
use crate::process::{Process, eventually, free_port};

/// What a bootstrap says beyond the least that makes a proxy. Texts are YAML in flow style.
#[derive(Debug, Clone, Default)]
pub struct Setup<'a> {
    /// The routes; one that leads to the cluster `c` where empty.
    pub routes: &'a str,
    /// Fields of the HTTP connection manager.
    pub manager: &'a str,
    /// HTTP filters before the router.
    pub filters: &'a str,
    /// Fields of the listener.
    pub listener: &'a str,
    /// Names, addresses and further fields of clusters.
    pub clusters: Vec<(&'a str, SocketAddr, &'a str)>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// Where it serves.
    pub port: u16,
    /// Where it tells of itself.
    pub admin: u16,
    /// A folder of its own.
    pub folder: tempfile::TempDir,
}

impl<'a> Setup<'a> {
    /// One cluster, `c`.
    pub fn to(backend: SocketAddr) -> Self {
        Self { clusters: vec![("c", backend, "")], ..Self::default() }
    }

    /// With these fields of the HTTP connection manager.
    #[must_use]
    pub fn manager(self, manager: &'a str) -> Self {
        Self { manager, ..self }
    }

    /// With these routes.
    #[must_use]
    pub fn routes(self, routes: &'a str) -> Self {
        Self { routes, ..self }
    }

    /// The bootstrap's text.
    pub fn bootstrap(&self, port: u16, admin: u16) -> String {
        let routes = match self.routes {
            "" => "{ match: { prefix: / }, route: { cluster: c } }",
            routes => routes,
        };
        let lines = |text: &str, indent: usize| {
            let mut out = String::new();
            for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
                let _ = write!(out, "\n{:indent$}{line}", "");
            }
            out
        };
        let mut text = format!(
            "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
  listeners:
  - name: in
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}{}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in{}
          http_filters:{}
          - name: router
            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            name: r
            virtual_hosts:
            - {{ name: all, domains: [\"*\"], routes: [ {routes} ] }}
  clusters:\n",
            lines(self.listener, 4),
            lines(self.manager, 10),
            lines(self.filters, 10),
        );
        for (name, address, fields) in &self.clusters {
            let comma = if fields.is_empty() { "" } else { ", " };
            let _ = writeln!(
                text,
                "  - {{ name: {name}, connect_timeout: 1s{comma}{fields}, load_assignment: {{ cluster_name: {name}, endpoints: \
                 [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }} ] }} ] }} }}",
                address.ip(),
                address.port()
            );
        }
        text
    }

    /// Starts it, and waits until it serves.
    pub fn start(self) -> Proxy {
        let (port, admin) = (free_port(), free_port());
        let text = self.bootstrap(port, admin);
        Proxy::start(&text, port, admin, &self.arguments)
    }
}

impl Proxy {
    /// Starts one with this bootstrap, which must name these ports, and waits until it serves.
    pub fn start(bootstrap: &str, port: u16, admin: u16, arguments: &[String]) -> Self {
        let proxy = Self::start_unready(bootstrap, port, admin, arguments);
        eventually("the proxy is ready", || {
            http_get(admin, "/ready").filter(|response| response.status() == 200)
        });
        proxy
    }

    /// Starts one that may wait for its configuration.
    pub fn start_unready(bootstrap: &str, port: u16, admin: u16, arguments: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, bootstrap).expect("written");
        let file = file.display().to_string();
        let mut all = vec!["-c", &file, "--drain-wait-s", "0"];
        if !arguments.iter().any(|argument| argument == "--concurrency") {
            all.extend(["--concurrency", "2"]);
        }
        all.extend(arguments.iter().map(String::as_str));
        let process = Process::start("weir-proxy", &all);
        let mut proxy = Self { process, port, admin, folder };
        eventually("the admin port answers", || {
            assert!(proxy.process.is_running(), "it ended:\n{}", proxy.process.log());
            http_get(admin, "/ready")
        });
        proxy
    }

    /// A page of the admin port.
    pub fn page(&self, path: &str) -> String {
        http_get(self.admin, path).expect("a page").text().to_owned()
    }

    /// Waits until a series of `/metrics` has this value: a request is counted after its last byte has left, so that a
    /// client may ask before.
    pub fn settles(&self, series: &str, value: u64) {
        eventually(&format!("{series} is {value}"), || (self.metric(series) == value).then_some(()));
    }

    /// The value of a series of `/metrics`, by its full name with labels; 0 where it is not there.
    pub fn metric(&self, series: &str) -> u64 {
        let page = self.page("/metrics");
        let line = page.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series));
        line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

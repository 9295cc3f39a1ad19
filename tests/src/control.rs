//! A `weir-control` with a file of resources, and bootstraps for those who follow it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::api::Api;
use crate::client::http_get;
use crate::process::{Process, eventually, free_port};

/// A control plane and its file.
#[derive(Debug)]
pub struct Control {
    /// The process; none while it is down.
    pub process: Option<Process>,
    /// Where xDS is served.
    pub xds: u16,
    /// Where HTTP is served.
    pub http: u16,
    /// The port of the implicit gateway.
    pub gateway: u16,
    /// The file of resources.
    pub resources: PathBuf,
    config: String,
    /// The admin's token.
    token: Option<String>,
    /// A folder of its own.
    pub folder: tempfile::TempDir,
}

/// An `HTTPRoute`, `shop`, over these backends.
pub fn resources(arms: &[(&str, u32, SocketAddr)]) -> String {
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: shop }\nspec:\n  rules:\n  - backendRefs:\n".to_owned();
    for (name, weight, _) in arms {
        text += &format!("    - {{ name: {name}, weight: {weight} }}\n");
    }
    for (name, _, address) in arms {
        text += &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: {name} }}\nspec: {{ endpoints: [ {{ address: \"{address}\" }} ] }}\n"
        );
    }
    text
}

impl Control {
    /// Starts one with these resources, and waits until it answers. `more` are lines of its configuration.
    pub fn start(resources: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let (gateway, xds, http) = (free_port(), free_port(), free_port());
        std::fs::write(at("shop.yaml"), resources).expect("written");
        let config = format!(
            "xds: 127.0.0.1:{xds}\nhttp: 127.0.0.1:{http}\nsource: shop.yaml\ngateway: {{ port: {gateway} }}\n{more}"
        );
        std::fs::write(at("control.yaml"), config).expect("written");
        let config = at("control.yaml").display().to_string();
        let mut control = Self {
            process: None,
            xds,
            http,
            gateway,
            resources: at("shop.yaml"),
            config,
            token: None,
            folder,
        };
        control.restart();
        control
    }

    /// Starts it, again where it ran before, and waits until it answers.
    pub fn restart(&mut self) {
        drop(self.process.take());
        self.process = Some(Process::start("weir-control", &["--config", &self.config]));
        eventually("the control plane answers", || {
            let process = self.process.as_mut()?;
            assert!(process.is_running(), "it ended: {}", process.log());
            http_get(self.http, "/healthz")
        });
        let log = self.process.as_ref().map(Process::log).unwrap_or_default();
        let told = log.lines().find_map(|line| line.split_once("told this once: "));
        // It is told by the first process alone.
        self.token = told.map(|(_, token)| token.to_owned()).or_else(|| self.token.take());
    }

    /// Its REST interface, as an admin.
    pub fn api(&self) -> Api {
        Api { port: self.http, token: self.token.clone() }
    }

    /// Writes resources as an editor does: a new file in the old one's place.
    pub fn write(&self, text: &str) {
        let new = self.resources.with_extension("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, &self.resources).expect("renamed");
    }

    /// What it tells of the fleet.
    pub fn fleet(&self) -> Option<Value> {
        serde_json::from_str(http_get(self.http, "/fleet")?.text()).ok()
    }

    /// What it tells of one node.
    pub fn node(&self, id: &str) -> Option<Value> {
        self.fleet()?["nodes"].as_array()?.iter().find(|node| node["node"] == id).cloned()
    }

    /// A bootstrap that follows everything over ADS.
    pub fn bootstrap(&self, node: &str, admin: u16, form: &str) -> String {
        format!(
            "{}  lds_config: {{ resource_api_version: V3, ads: {{}} }}\n{}",
            self.head(node, admin, form),
            self.cluster()
        )
    }

    /// A bootstrap that follows routes and clusters over ADS, behind a listener of its own.
    pub fn bootstrap_listening(&self, node: &str, admin: u16, form: &str, port: u16) -> String {
        format!(
            "{}{}  listeners:
  - name: own
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: own
          rds: {{ route_config_name: weir, config_source: {{ resource_api_version: V3, ads: {{}} }} }}
          http_filters: [ {{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ]
",
            self.head(node, admin, form),
            self.cluster()
        )
    }

    fn head(&self, node: &str, admin: u16, form: &str) -> String {
        format!(
            "node: {{ id: {node}, cluster: edge }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
dynamic_resources:
  ads_config: {{ api_type: {form}, transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: control }} }} ] }}
  cds_config: {{ resource_api_version: V3, ads: {{}} }}
"
        )
    }

    fn cluster(&self) -> String {
        format!(
            "static_resources:
  clusters:
  - name: control
    typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ http2_protocol_options: {{}} }} }} }}
    load_assignment: {{ cluster_name: control, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }} ] }} ] }}
",
            self.xds
        )
    }
}

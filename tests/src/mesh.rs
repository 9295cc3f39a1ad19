//! Proxies whose listeners have filter chains, and whose connections are protected.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::pki::Leaf;
use crate::process::free_port;
use crate::proxy::Proxy;

/// What a listener has, chain by chain, and which clusters there are.
#[derive(Debug, Default)]
pub struct Mesh {
    chains: String,
    clusters: String,
    /// Fields of the listener.
    pub listener: String,
}

impl Mesh {
    /// A chain of requests. `matching` and `tls` may be empty; `rest` is of the connection manager.
    #[must_use]
    pub fn chain(mut self, name: &str, matching: &str, tls: &str, rest: &str) -> Self {
        let socket =
            if tls.is_empty() { String::new() } else { format!(", transport_socket: {}", downstream(tls)) };
        let _ = write!(
            self.chains,
            "\n    - {{ name: {name}, filter_chain_match: {{ {matching} }}{socket}, filters: [ {{ name: h, typed_config: {{ \
             '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: s, {rest} route_config: {{ name: r-{name}, virtual_hosts: [ {{ name: v, domains: ['*'], routes: [ \
             {{ match: {{ prefix: / }}, route: {{ cluster: c }} }} ] }} ] }}, http_filters: [ {{ name: router, typed_config: {{ \
             '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ] }} }} ] }}"
        );
        self
    }

    /// A chain of bytes.
    #[must_use]
    pub fn tcp(mut self, name: &str, matching: &str, fields: &str) -> Self {
        let _ = write!(
            self.chains,
            "\n    - {{ name: {name}, filter_chain_match: {{ {matching} }}, filters: [ {{ name: t, typed_config: {{ '@type': \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, {fields} }} }} ] }}"
        );
        self
    }

    /// A chain of bytes that are protected on their way here.
    #[must_use]
    pub fn protected_tcp(self, name: &str, tls: &str, fields: &str) -> Self {
        let mut mesh = self.tcp(name, "", fields);
        let end = mesh.chains.len() - " }".len();
        mesh.chains.insert_str(end, &format!(", transport_socket: {}", downstream(tls)));
        mesh
    }

    /// A cluster of one endpoint; `fields` end with a comma.
    #[must_use]
    pub fn cluster(mut self, name: &str, address: SocketAddr, fields: &str) -> Self {
        let (ip, port) = (address.ip(), address.port());
        let _ = write!(
            self.clusters,
            "\n  - {{ name: {name}, connect_timeout: 2s, {fields} load_assignment: {{ cluster_name: {name}, endpoints: [ {{ \
             lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }} ] }} ] }} }}"
        );
        self
    }

    /// The bootstrap.
    pub fn text(&self, port: u16, admin: u16) -> String {
        let Self { chains, clusters, listener } = self;
        format!(
            "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
  listeners:
  - name: in
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    {listener}
    filter_chains: {chains}
  clusters: {clusters}
"
        )
    }

    /// Starts it, and waits until it serves.
    pub fn start(&self) -> Proxy {
        self.start_with(&[])
    }

    /// The same with these arguments.
    pub fn start_with(&self, arguments: &[&str]) -> Proxy {
        let (port, admin) = (free_port(), free_port());
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Proxy::start(&self.text(port, admin), port, admin, &arguments)
    }
}

/// What protects a listener's connections.
pub fn downstream(fields: &str) -> String {
    format!(
        "{{ name: tls, typed_config: {{ '@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, {fields} }} }}"
    )
}

/// What protects a cluster's connections, as a field.
pub fn upstream(fields: &str) -> String {
    format!(
        "transport_socket: {{ name: tls, typed_config: {{ '@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, {fields} }} }},"
    )
}

/// A listener's side: one certificate, ALPN, nobody is asked for anything.
pub fn shown(leaf: &Leaf) -> String {
    format!(
        "common_tls_context: {{ alpn_protocols: [ h2, http/1.1 ], tls_certificates: [ {} ] }}",
        leaf.yaml()
    )
}

/// Both sides: our certificate, and who the peer must be.
pub fn mutual(leaf: &Leaf, ca: &Path, peer: &str) -> String {
    format!(
        "common_tls_context: {{ tls_certificates: [ {} ], validation_context: {{ trusted_ca: {{ filename: {} }}, \
         match_typed_subject_alt_names: [ {{ san_type: URI, matcher: {peer} }} ] }} }}",
        leaf.yaml(),
        ca.display()
    )
}

/// curl's answer, and what it has to say where there is none.
pub fn curl(ca: &Path, name: &str, port: u16, more: &[&str]) -> Result<String, String> {
    let output = Command::new("curl")
        .args(["-sS", "-m", "10", "--cacert", &ca.display().to_string()])
        .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
        .args(more)
        .arg(format!("https://{name}:{port}/"))
        .output()
        .expect("curl runs");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What `openssl s_client` says.
pub fn openssl(port: u16, more: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["10", "openssl", "s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

//! nginx. It speaks HTTP/1.1 to origins alone, and Debian's has no TCP proxy without a module.

use std::path::{Path, PathBuf};

use super::super::{LISTEN, ORIGINS};
use super::{Peer, Variant};
use crate::pki::SERVER_NAME;
use crate::process::{Launch, find, version};
use crate::workload::{Table, Wire};

/// None where it is not installed or cannot do what is measured.
pub(super) fn peer(variant: Variant<'_>) -> Option<Peer> {
    if matches!(variant.wire, Wire::Tcp | Wire::Http2) {
        return None;
    }
    let nginx = find("nginx")?;
    let [first, second] = ORIGINS;
    let dir = variant.folder.display();
    let config = format!(
        "daemon off; worker_processes {workers}; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  split_clients \"$connection-$connection_requests\" $arm {{ 5% v2; * v1; }}
  upstream v1 {{ server 127.0.0.1:{first}; keepalive 1024; keepalive_requests 1000000000; }}
  upstream v2 {{ server 127.0.0.1:{second}; keepalive 1024; keepalive_requests 1000000000; }}
{tls}{servers}}}
",
        workers = variant.workers,
        tls = tls(variant),
        servers = servers(variant),
    );
    let version = version(&nginx, "-v");
    let file = format!("nginx-{}.conf", variant.workers);
    Some(Peer { name: variant.name, version, command: Some(launch(nginx, variant.folder, &file, &config)) })
}

/// nginx with a configuration.
pub(super) fn launch(program: PathBuf, folder: &Path, file: &str, config: &str) -> Launch {
    let path = folder.join(file);
    let _ = std::fs::write(&path, config);
    Launch { program, arguments: vec!["-c".to_owned(), path.display().to_string()] }
}

fn tls(variant: Variant<'_>) -> String {
    let dir = variant.folder.display();
    let server = format!(
        "  ssl_protocols TLSv1.3; ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key; \
         ssl_session_cache shared:bench:10m;\n"
    );
    let client = format!(
        "  proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {dir}/client.pem; proxy_ssl_certificate_key \
         {dir}/client.key; proxy_ssl_trusted_certificate {dir}/ca.pem; proxy_ssl_verify on; proxy_ssl_name \
         {SERVER_NAME}; proxy_ssl_server_name on;\n"
    );
    match variant.wire {
        Wire::Tls => server + &client,
        Wire::Answered => server,
        _ => String::new(),
    }
}

fn servers(variant: Variant<'_>) -> String {
    let (pass, option) = match variant.wire {
        Wire::Tls => ("https", " ssl"),
        Wire::Http2To1 => ("http", " http2"),
        Wire::Answered => ("", " ssl"),
        _ => ("http", ""),
    };
    let pass = match variant.wire {
        Wire::Answered => "return 200 \"answered\";".to_owned(),
        _ => {
            format!("proxy_pass {pass}://$arm; proxy_http_version 1.1; proxy_set_header Connection \"\";")
        }
    };
    let server = |name: &str, inside: &str| {
        format!("  server {{ listen 127.0.0.1:{LISTEN}{option} backlog=4096;{name} {inside} }}\n")
    };
    let all = format!("location / {{ {pass} }}");
    match variant.table {
        Table::Plain => server("", &all),
        Table::Headers(count) => {
            let condition = |i| format!("if ($http_x_header_{i} = yes) {{ return 204; }} ");
            server("", &format!("{}{all}", (0..count).map(condition).collect::<String>()))
        }
        Table::Prefixes(count) => {
            let location = |i| format!("location /service-{i}/ {{ {pass} }}\n");
            server("", &(0..count).map(location).collect::<String>())
        }
        Table::Hosts(count) => {
            let mut servers =
                "  server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n".to_owned();
            for i in 0..count {
                // Options of a socket are given once.
                let listen = if i == 0 { " backlog=4096" } else { "" };
                servers.push_str(&format!(
                    "  server {{ listen 127.0.0.1:{LISTEN}{listen}; server_name host-{i}.example.com; {all} }}\n"
                ));
            }
            servers
        }
    }
}

//! Where the requests end: nginx answering 1 KiB from memory, or this program.

use std::path::{Path, PathBuf};

use super::super::ORIGINS;
use super::nginx;
use crate::process::{Launch, find};
use crate::workload::{Wire, Workload};

/// Of the folder: the origin's Unix socket.
pub(super) const UNIX: &str = "origin.sock";

pub(crate) fn launch(folder: &Path, workload: Workload) -> Launch {
    let own = |kind: &str| {
        let mut arguments = vec!["origin".to_owned(), "--kind".to_owned(), kind.to_owned()];
        arguments.extend(ORIGINS.map(|port| format!("127.0.0.1:{port}")));
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("benches"));
        Launch { program, arguments }
    };
    match (workload, find("nginx")) {
        (Workload::TcpRoundTrips, _) => own("echo"),
        (Workload::TcpStream, _) => own("flood"),
        (_, None) => own("http"),
        (_, Some(program)) => with_nginx(program, folder, workload.wire()),
    }
}

fn with_nginx(program: PathBuf, folder: &Path, wire: Wire) -> Launch {
    let body = "x".repeat(1024);
    let _ = std::fs::write(folder.join("64k"), "x".repeat(64 << 10));
    let [first, second] = ORIGINS;
    let dir = folder.display();
    let option = match wire {
        Wire::Tls => " ssl",
        Wire::Http2 => " http2",
        _ => "",
    };
    let tls = match wire {
        Wire::Tls => format!(
            "ssl_protocols TLSv1.3; ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key; \
             ssl_client_certificate {dir}/ca.pem; ssl_verify_client on;"
        ),
        _ => String::new(),
    };
    let config = format!(
        "daemon off; worker_processes 1; pid {dir}/origin.pid; error_log {dir}/origin.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  server {{
    listen 127.0.0.1:{first}{option} backlog=4096; listen 127.0.0.1:{second}{option} backlog=4096;
    listen unix:{dir}/{UNIX};
    {tls}
    location / {{ default_type text/plain; return 200 \"{body}\"; }}
    location = /64k {{ alias {dir}/64k; }}
  }}
}}
"
    );
    nginx::launch(program, folder, "origin.conf", &config)
}

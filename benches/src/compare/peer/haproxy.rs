//! HAProxy.

use std::path::Path;

use anyhow::Result;

use super::super::{LISTEN, ORIGINS};
use super::{Peer, Variant};
use crate::pki::SERVER_NAME;
use crate::process::{Launch, find, version};
use crate::workload::{Table, Wire};

/// None where it is not installed.
pub(super) fn peer(variant: Variant<'_>) -> Result<Option<Peer>> {
    let Some(haproxy) = find("haproxy") else { return Ok(None) };
    let [first, second] = ORIGINS;
    let dir = variant.folder.display();
    let bind = match variant.wire {
        Wire::Tls | Wire::Answered => format!(" ssl crt {dir}/server-all.pem"),
        Wire::Http2To1 | Wire::Http2 => " proto h2".to_owned(),
        Wire::Http1 | Wire::Tcp => String::new(),
    };
    let server = match variant.wire {
        Wire::Tls => format!(
            " ssl crt {dir}/client-all.pem ca-file {dir}/ca.pem verify required sni str({SERVER_NAME}) verifyhost \
             {SERVER_NAME}"
        ),
        Wire::Http2 => " proto h2".to_owned(),
        _ => String::new(),
    };
    let mode = if variant.wire == Wire::Tcp { "mode tcp" } else { "mode http\n  http-reuse always" };
    let config = format!(
        "global
  nbthread {}
  maxconn 8000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  {mode}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend bench
  bind 127.0.0.1:{LISTEN}{bind}
{}  default_backend v1
backend v1
  server s 127.0.0.1:{first}{server}
backend v2
  server s 127.0.0.1:{second}{server}
",
        variant.workers,
        rules(variant)?
    );
    let path = variant.folder.join(format!("haproxy-{}.cfg", variant.workers));
    std::fs::write(&path, config)?;
    let arguments = vec!["-db".to_owned(), "-f".to_owned(), path.display().to_string()];
    let version = version(&haproxy, "-v");
    Ok(Some(Peer { name: variant.name, version, command: Some(Launch { program: haproxy, arguments }) }))
}

const SPLIT: &str = "rand(100) lt 5";

/// The rules before the default; patterns of many lie in a file.
fn rules(variant: Variant<'_>) -> Result<String> {
    let anyone = format!("  use_backend v2 if {{ path_beg / }} {{ {SPLIT} }}\n");
    match (variant.wire, variant.table) {
        (Wire::Answered, _) => {
            Ok("  http-request return status 200 content-type text/plain string answered\n".to_owned())
        }
        (Wire::Tcp, _) => Ok(format!("  use_backend v2 if {{ {SPLIT} }}\n")),
        (_, Table::Plain) => Ok(anyone),
        (_, Table::Headers(count)) => {
            let rule = |i| format!("  use_backend v2 if {{ req.hdr(x-header-{i}) yes }}\n");
            Ok((0..count).map(rule).collect::<String>() + &anyone)
        }
        (_, Table::Prefixes(count)) => {
            let prefixes: Vec<_> = (0..count).map(|i| format!("/service-{i}/")).collect();
            listed(variant.folder, &prefixes, "path_beg")
        }
        (_, Table::Hosts(count)) => {
            let hosts: Vec<_> = (0..count).map(|i| format!("host-{i}.example.com")).collect();
            listed(variant.folder, &hosts, "req.hdr(host) -i")
        }
    }
}

fn listed(folder: &Path, lines: &[String], condition: &str) -> Result<String> {
    let file = folder.join("patterns.lst");
    std::fs::write(&file, lines.join("\n") + "\n")?;
    let condition = format!("{condition} -f {}", file.display());
    Ok(format!(
        "  use_backend v2 if {{ {condition} }} {{ {SPLIT} }}\n  use_backend v1 if {{ {condition} }}\n"
    ))
}

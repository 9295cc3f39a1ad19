//! W8: what a proxy holds when it is idle, with many connections that made one request, and after they closed.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::compare::{LISTEN, ORIGINS, peer};
use crate::process::{self, OTHER_CORE, PROXY_CORE, Running};
use crate::workload::Workload;

/// How memory is measured.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Connections held at once, one figure each.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    connections: Vec<usize>,
    /// The weir-proxy binary; built from this workspace where unset.
    #[arg(long)]
    weir: Option<PathBuf>,
}

/// How long after the connections closed a proxy is looked at again.
const SETTLED: Duration = Duration::from_secs(10);

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let weir = match &flags.weir {
        Some(path) => path.clone(),
        None => process::build("proxy", "weir-proxy")?,
    };
    let origin = peer::origin(folder.path(), Workload::W1).start(OTHER_CORE)?;
    process::wait_for_port(ORIGINS[0])?;
    println!(
        "| PSS | idle MiB | connections | MiB | KiB a connection | 10 s after close MiB |\n|---|---|---|---|---|---|"
    );
    for peer in peer::all(&weir, folder.path(), Workload::W1)? {
        // The Unix hop changes nothing about clients' connections.
        if peer.name == "weir-unix" {
            continue;
        }
        let Some(command) = &peer.command else { continue };
        for count in &flags.connections {
            let line = match measure(&command.start(PROXY_CORE)?, *count) {
                Ok(held) => held.line(*count),
                Err(error) => format!("- | {count} | {error} | - | -"),
            };
            println!("| {} {} | {line} |", peer.name, peer.version);
            process::wait_for_free(LISTEN, Duration::from_secs(10))?;
        }
    }
    drop(origin);
    Ok(())
}

struct Held {
    idle: u64,
    open: u64,
    closed: u64,
}

impl Held {
    fn line(&self, count: usize) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let each = self.open.saturating_sub(self.idle) as f64 / 1024.0 / count as f64;
        format!(
            "{:.1} | {count} | {:.1} | {each:.2} | {:.1}",
            mib(self.idle),
            mib(self.open),
            mib(self.closed)
        )
    }
}

fn measure(proxy: &Running, count: usize) -> Result<Held> {
    process::wait_for_port(LISTEN)?;
    std::thread::sleep(Duration::from_millis(500));
    let idle = proxy.pss()?;
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, LISTEN)).context("refused")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let mut buffer = [0; 4096];
        let mut read = 0;
        // The answer is 1 KiB and a head.
        while read < 1_100 {
            let bytes = stream.read(&mut buffer).context("no answer")?;
            anyhow::ensure!(bytes > 0, "closed");
            read += bytes;
        }
        clients.push(stream);
    }
    std::thread::sleep(Duration::from_millis(500));
    let open = proxy.pss()?;
    drop(clients);
    std::thread::sleep(SETTLED);
    Ok(Held { idle, open, closed: proxy.pss()? })
}

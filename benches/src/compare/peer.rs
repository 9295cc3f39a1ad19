//! The proxies that are compared, each configured for the same thing: a 95/5 split over two clusters, one worker,
//! keep-alive to the origin, no access log, circuit breakers out of the way.

mod bootstrap;
mod haproxy;
mod nginx;
mod origin;

use std::path::Path;

use anyhow::Result;

use super::ORIGINS;
use crate::process::{Launch, find};
use crate::workload::{Table, Wire, Workload};

pub(crate) use origin::launch as origin;

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// None: the origin itself.
    pub(crate) command: Option<Launch>,
}

/// One configuration of a peer.
#[derive(Debug, Clone, Copy)]
struct Variant<'a> {
    name: &'static str,
    workers: usize,
    logs: bool,
    table: Table,
    wire: Wire,
    /// Where configurations and certificates lie.
    folder: &'a Path,
}

/// Every peer that is installed and can do it; Weir first.
pub(crate) fn all(weir: &Path, folder: &Path, workload: Workload) -> Result<Vec<Peer>> {
    let wire = workload.wire();
    let variant =
        |name, workers| Variant { name, workers, logs: false, table: workload.table(), wire, folder };
    let origins = ORIGINS.map(bootstrap::socket);
    let mut peers = vec![bootstrap::weir(weir, variant("weir", 1), &origins)?];
    if workload == Workload::Workers {
        peers.push(bootstrap::weir(weir, variant("weir, 2 workers", 2), &origins)?);
        for (nginx, haproxy, count) in
            [("nginx", "haproxy", 1), ("nginx, 2 workers", "haproxy, 2 threads", 2)]
        {
            peers.extend(nginx::peer(variant(nginx, count)));
            peers.extend(haproxy::peer(variant(haproxy, count))?);
        }
        return Ok(peers);
    }
    if workload.logs() {
        let logging = Variant { logs: true, ..variant("weir, logging", 1) };
        peers.push(bootstrap::weir(weir, logging, &origins)?);
        return Ok(peers);
    }
    if wire == Wire::Http1 && find("nginx").is_some() && workload != Workload::W7 {
        let unix = format!("{{ pipe: {{ path: {} }} }}", folder.join(origin::UNIX).display());
        peers.push(bootstrap::weir(weir, variant("weir-unix", 1), &[unix.clone(), unix])?);
    }
    peers.extend(nginx::peer(variant("nginx", 1)));
    peers.extend(haproxy::peer(variant("haproxy", 1))?);
    peers.extend(bootstrap::envoy(variant("envoy", 1))?);
    if workload == Workload::W7 {
        peers.push(Peer { name: "direct", version: String::new(), command: None });
    }
    Ok(peers)
}

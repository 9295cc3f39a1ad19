//! One proxy at a time on core 0, origin and load on core 1; rounds interleaved, medians reported.

mod peer;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::process::{self, OTHER_CORE, PROXY_CORE, Running};
use crate::wrk::Loader;
use peer::Peer;
use report::{Report, Row};

/// How the comparison runs.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Rounds; each measures every peer once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement, after one second of warm-up.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// One short round: does everything start and answer?
    #[arg(long)]
    smoke: bool,
    /// The weir-proxy binary; built from this workspace where unset.
    #[arg(long)]
    weir: Option<PathBuf>,
    /// Folder for `compare.md` and `compare.svg`; printed only where unset.
    #[arg(long)]
    out: Option<PathBuf>,
}

const LISTEN: u16 = 18_100;
const ORIGINS: [u16; 2] = [18_101, 18_102];
const UNIX_ORIGIN: &str = "origin.sock";

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let (rounds, seconds, warm_up) =
        if flags.smoke { (1, 1, 0) } else { (flags.rounds.max(1), flags.seconds.max(1), 1) };
    let folder = tempfile::tempdir()?;
    let weir = match &flags.weir {
        Some(path) => path.clone(),
        None => process::build("proxy", "weir-proxy")?,
    };
    let origin = peer::origin(folder.path()).start(OTHER_CORE)?;
    process::wait_for_port(ORIGINS[0])?;
    let loader = Loader::find();
    let peers = peer::all(&weir, folder.path())?;
    let mut rows: Vec<Row> = peers.iter().map(|peer| Row::new(peer.name, &peer.version)).collect();
    for round in 1..=rounds {
        for (peer, row) in peers.iter().zip(&mut rows) {
            let sample = measure(peer, &loader, flags.connections, warm_up, seconds)
                .with_context(|| format!("{} in round {round}", peer.name))?;
            eprintln!(
                "round {round}/{rounds} {:<16} {:>6.2} µs a request, {:>5.2} of it user, {:>7.0}/s",
                peer.name,
                sample.cpu(),
                sample.user(),
                sample.requests as f64 / seconds as f64,
            );
            row.samples.push(sample);
        }
    }
    drop(origin);
    let report = Report { rows, connections: flags.connections, seconds, rounds, loader: loader.name() };
    println!("{}", report.to_markdown());
    if let Some(out) = &flags.out {
        std::fs::create_dir_all(out)?;
        std::fs::write(out.join("compare.md"), report.to_markdown())?;
        std::fs::write(out.join("compare.svg"), report.to_svg())?;
    }
    Ok(())
}

/// One measurement of one peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    requests: u64,
    errors: u64,
    user_ticks: u64,
    system_ticks: u64,
}

/// `/proc` counts in hundredths of a second.
const TICK_MICROS: f64 = 10_000.0;

impl Sample {
    fn cpu(&self) -> f64 {
        (self.user_ticks + self.system_ticks) as f64 * TICK_MICROS / self.requests as f64
    }

    fn user(&self) -> f64 {
        self.user_ticks as f64 * TICK_MICROS / self.requests as f64
    }
}

fn measure(peer: &Peer, loader: &Loader, connections: usize, warm_up: u64, seconds: u64) -> Result<Sample> {
    let running: Running = peer.command.start(PROXY_CORE)?;
    process::wait_for_port(LISTEN)?;
    if warm_up > 0 {
        loader.run(LISTEN, connections, warm_up)?;
    }
    let (user_before, system_before) = running.cpu_ticks()?;
    let load = loader.run(LISTEN, connections, seconds)?;
    let (user_after, system_after) = running.cpu_ticks()?;
    ensure!(load.requests > 0, "no request was answered");
    drop(running);
    process::wait_for_free(LISTEN, Duration::from_secs(10))?;
    Ok(Sample {
        requests: load.requests,
        errors: load.errors,
        user_ticks: user_after - user_before,
        system_ticks: system_after - system_before,
    })
}

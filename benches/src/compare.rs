//! One proxy at a time on core 0, origin and load on core 1; rounds interleaved, medians reported.

pub(crate) mod peer;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum as _};

use crate::loader::Loader;
use crate::pki;
use crate::process::{self, OTHER_CORE, PROXY_CORE, Running};
use crate::workload::{Wire, Workload};
use peer::Peer;
use report::{Report, Row};

/// How the comparison runs.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// What is measured.
    #[arg(long, value_enum, default_value_t = Workload::W1)]
    workload: Workload,
    /// Rounds; each measures every peer once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement, after one second of warm-up.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
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

pub(crate) const LISTEN: u16 = 18_100;
pub(crate) const ORIGINS: [u16; 2] = [18_101, 18_102];

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let (rounds, seconds, warm_up) =
        if flags.smoke { (1, 1, 0) } else { (flags.rounds.max(1), flags.seconds.max(1), 1) };
    let folder = tempfile::tempdir()?;
    let weir = match &flags.weir {
        Some(path) => path.clone(),
        None => process::build("proxy", "weir-proxy")?,
    };
    let workload = flags.workload;
    // Two workers against one: everybody may use both cores.
    let (proxy_cores, other_cores) = match workload {
        Workload::Workers => (format!("{PROXY_CORE},{OTHER_CORE}"), format!("{PROXY_CORE},{OTHER_CORE}")),
        _ => (PROXY_CORE.to_string(), OTHER_CORE.to_string()),
    };
    let loader = Loader::find(folder.path());
    if !loader.can(workload) {
        eprintln!("left out: it takes nginx as origin, and wrk or h2load");
        return Ok(());
    }
    if matches!(workload.wire(), Wire::Tls | Wire::Answered) {
        pki::write(folder.path())?;
    }
    let origin = peer::origin(folder.path(), workload).start_on(&other_cores)?;
    process::wait_for_port(ORIGINS[0])?;
    let peers = peer::all(&weir, folder.path(), workload)?;
    let mut rows: Vec<Row> = peers.iter().map(|peer| Row::new(peer.name, &peer.version)).collect();
    let unit = workload.unit();
    for round in 1..=rounds {
        for (peer, row) in peers.iter().zip(&mut rows) {
            let run =
                Run { workload, loader: &loader, warm_up, seconds, cores: [&proxy_cores, &other_cores] };
            let sample = run.measure(peer).with_context(|| format!("{} in round {round}", peer.name))?;
            eprintln!(
                "round {round}/{rounds} {:<16} {:>7.2} {}, {:>6.2} of it user, {:>7.0}/s",
                peer.name,
                sample.cpu() * unit.factor,
                unit.figure,
                sample.user() * unit.factor,
                sample.requests as f64 / seconds as f64,
            );
            row.samples.push(sample);
        }
    }
    drop(origin);
    let report = Report { rows, workload, seconds, rounds, loader: loader.name(workload) };
    println!("{}", report.to_markdown());
    if let Some(out) = &flags.out {
        std::fs::create_dir_all(out)?;
        let name = workload.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        std::fs::write(out.join(format!("{name}.md")), report.to_markdown())?;
        std::fs::write(out.join(format!("{name}.svg")), report.to_svg())?;
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
    /// Median, 99 % and 99.9 % of latencies in microseconds; 0 in a closed loop.
    latencies: [u64; 3],
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

/// How each peer is measured.
struct Run<'a> {
    workload: Workload,
    loader: &'a Loader,
    warm_up: u64,
    seconds: u64,
    /// Of the proxy, and of everything else.
    cores: [&'a str; 2],
}

impl Run<'_> {
    fn measure(&self, peer: &Peer) -> Result<Sample> {
        let [proxy_cores, other_cores] = self.cores;
        let Some(command) = &peer.command else {
            return self.direct(other_cores);
        };
        let running: Running = command.start_on(proxy_cores)?;
        process::wait_for_port(LISTEN)?;
        if self.warm_up > 0 {
            self.loader.run(LISTEN, self.workload, self.warm_up, other_cores)?;
        }
        let (user_before, system_before) = running.cpu_ticks()?;
        let load = self.loader.run(LISTEN, self.workload, self.seconds, other_cores)?;
        let (user_after, system_after) = running.cpu_ticks()?;
        ensure!(load.requests > 0, "no request was answered");
        drop(running);
        process::wait_for_free(LISTEN, Duration::from_secs(10))?;
        Ok(Sample {
            requests: load.requests,
            errors: load.errors,
            user_ticks: user_after - user_before,
            system_ticks: system_after - system_before,
            latencies: load.latencies,
        })
    }

    /// The origin without a proxy: what the latencies of the others start from.
    fn direct(&self, cores: &str) -> Result<Sample> {
        let load = self.loader.run(ORIGINS[0], self.workload, self.seconds, cores)?;
        ensure!(load.requests > 0, "no request was answered");
        let (requests, errors, latencies) = (load.requests, load.errors, load.latencies);
        Ok(Sample { requests, errors, user_ticks: 0, system_ticks: 0, latencies })
    }
}

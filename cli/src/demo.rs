//! `weir demo`: everything on one machine, in one process, over the real protocols.

mod backend;
mod client;
mod report;
mod watch;
mod weights;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use control::GatewayConfig;
use proxy::Options;

use crate::local::{Interrupted, Local, Places};
use report::Report;
use weights::Weights;

/// Flags of `weir demo`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// End after the report, without waiting for edits.
    #[arg(long)]
    once: bool,
    /// How many requests to split.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    requests: u64,
    /// Versions and their weights; each version gets a backend.
    #[arg(long, default_value = "v1=90,v2=10")]
    weights: Weights,
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Everything that runs.
struct Demo {
    local: Local,
    gateway: SocketAddr,
    file: PathBuf,
    /// Removed when the demo ends.
    _folder: tempfile::TempDir,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut interrupted = {
        let _context = runtime.enter();
        Interrupted::new()?
    };
    let demo = Demo::start(&flags.weights)?;
    runtime.block_on(async {
        tokio::select! {
            done = demo.show(flags) => done,
            () = interrupted.wait() => {
                eprintln!("draining");
                Ok(())
            }
        }
    })?;
    demo.local.stop();
    Ok(())
}

impl Demo {
    fn start(weights: &Weights) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("weir-demo-").tempdir()?;
        let file = folder.path().join("shop.yaml");
        let backends = weights.names().map(|name| Ok((name.to_owned(), backend::start(name)?)));
        let backends = backends.collect::<Result<Vec<_>>>()?;
        std::fs::write(&file, weights.to_yaml(&backends)).with_context(|| file.display().to_string())?;

        let gateway = free_address()?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let places = Places {
            source: file.clone(),
            gateway: GatewayConfig { address: gateway.ip(), port: gateway.port(), access_log: None },
            xds: loopback,
            http: loopback,
        };
        Ok(Self { local: Local::start(places, Options::default())?, gateway, file, _folder: folder })
    }

    /// The report, then every edit of the file.
    async fn show(&self, flags: &Flags) -> Result<()> {
        let report = self.report(flags).await?;
        match flags.output {
            Format::Table => print!("{report}"),
            Format::Json => println!("{:#}", report.to_json()),
        }
        if flags.once {
            return Ok(());
        }
        self.explain(flags.weights.last(), flags.output);
        watch::report_edits(self).await
    }

    /// Sends the requests and counts who answered.
    async fn report(&self, flags: &Flags) -> Result<Report> {
        let canary = flags.weights.last().to_owned();
        let with_header = (flags.requests / 10).max(1);
        let progress = indicatif::ProgressBar::new(flags.requests + with_header);
        let split = client::send(self.gateway, flags.requests, None, &progress).await?;
        let rule = client::send(self.gateway, with_header, Some(&canary), &progress).await?;
        progress.finish_and_clear();
        Ok(Report { weights: flags.weights.clone(), canary, split, rule })
    }

    fn explain(&self, canary: &str, format: Format) {
        let (gateway, http) = (self.gateway, self.local.plane.http);
        let lines = format!(
            "\nThe weights are in\n  {}\nEdit and save: the traffic follows, and this terminal says so. Or look:\n  \
             curl http://{gateway}/\n  curl -H 'x-canary: {canary}' http://{gateway}/\n  curl http://{http}/fleet\n\
             Or in another terminal:\n  weir split set shop {canary}=30\n  weir history\n  weir rollback\n\
             Ctrl-C drains and ends.",
            self.file.display(),
        );
        match format {
            Format::Table => println!("{lines}"),
            // The report on standard output stays JSON.
            Format::Json => eprintln!("{lines}"),
        }
    }
}

/// A port that is free now.
fn free_address() -> Result<SocketAddr> {
    let preferred = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080));
    let listener = preferred.or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?)
}

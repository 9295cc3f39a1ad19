//! `weir-proxy`: the data plane as a process.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use proxy::{Bootstrap, Options, Proxy};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Weir data plane. Starts from an Envoy v3 bootstrap and follows its control plane.
#[derive(Debug, Parser)]
#[command(name = "weir-proxy", version)]
struct Flags {
    /// The bootstrap file, YAML or JSON.
    #[arg(short = 'c', long)]
    config_path: PathBuf,
    /// Worker threads; one for each core where unset.
    #[arg(long)]
    concurrency: Option<usize>,
    /// What is logged: error, warn, info, debug, trace, or a filter by module.
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Seconds that SIGTERM waits for open connections to end.
    #[arg(long, default_value_t = 30)]
    drain_time_s: u64,
}

/// The configuration cannot be taken.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter = match EnvFilter::try_new(&flags.log_level) {
        Ok(filter) => filter,
        Err(error) => return fail(BAD_INPUT, &format!("--log-level {:?}: {error}", flags.log_level)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let bootstrap = match Bootstrap::from_file(&flags.config_path) {
        Ok(bootstrap) => bootstrap,
        Err(error) => return fail(BAD_INPUT, &error.to_string()),
    };
    for key in &bootstrap.warnings {
        tracing::warn!("{}: {key} is not known and has no effect", flags.config_path.display());
    }
    let mut options = Options::default();
    if let Some(workers) = flags.concurrency {
        options.workers = workers;
    }
    match run(bootstrap, options, Duration::from_secs(flags.drain_time_s)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error.to_string()),
    }
}

fn fail(code: u8, reason: &str) -> ExitCode {
    eprintln!("weir-proxy: {reason}");
    ExitCode::from(code)
}

/// Runs until SIGTERM or SIGINT, then drains; a second signal ends the process at once.
fn run(bootstrap: Bootstrap, options: Options, drain_time: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let proxy = Proxy::start(bootstrap, options)?;
    runtime.block_on(async {
        let mut next_signal = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next_signal().await;
        let drained = tokio::task::spawn_blocking(move || proxy.drain(drain_time));
        tokio::select! {
            _ = drained => {}
            () = next_signal() => std::process::exit(0),
        }
    });
    Ok(())
}

//! `weir-control`: the control plane as a process.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use control::{ControlConfig, ControlPlane, StartError};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Weir control plane: serves the resources of a file or folder to proxies over xDS.
#[derive(Debug, Parser)]
#[command(name = "weir-control", version)]
struct Flags {
    /// The control plane's configuration, YAML.
    #[arg(short, long)]
    config: PathBuf,
    /// What this process is.
    #[arg(long, value_enum, default_value_t = Mode::Controller)]
    mode: Mode,
    /// What is logged: error, warn, info, debug, trace, or a filter by module.
    #[arg(long, default_value = "info")]
    log_level: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Serves configuration.
    Controller,
    /// Asks the one that runs with this configuration whether it is alive, for container runtimes.
    Health,
}

/// The configuration cannot be taken.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let Flags { config, mode, log_level } = Flags::parse();
    let filter = match EnvFilter::try_new(&log_level) {
        Ok(filter) => filter,
        Err(error) => return fail(BAD_INPUT, &format!("--log-level {log_level:?}: {error}")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let config = match ControlConfig::from_file(&config) {
        Ok(config) => config,
        Err(error) => return fail(BAD_INPUT, &error.to_string()),
    };
    if matches!(mode, Mode::Health) {
        return match control::is_alive(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => fail(1, &reason),
        };
    }
    let plane = match ControlPlane::start(config) {
        Ok(plane) => plane,
        Err(error @ (StartError::Source(_) | StartError::Tls(_) | StartError::Store(_))) => {
            return fail(BAD_INPUT, &error.to_string());
        }
        Err(error) => return fail(1, &error.to_string()),
    };
    if let Some(token) = &plane.token {
        eprintln!("weir-control: the admin's token, told this once: {token}");
    }
    if let Err(error) = wait_for_signal() {
        return fail(1, &error.to_string());
    }
    drop(plane);
    ExitCode::SUCCESS
}

fn fail(code: u8, reason: &str) -> ExitCode {
    eprintln!("weir-control: {reason}");
    ExitCode::from(code)
}

fn wait_for_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

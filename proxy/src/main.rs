//! `weir-proxy`: the data plane as a process.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use proxy::{Bootstrap, BootstrapSources, Drain, Options, PrivilegedPort, Proxy, SetLogLevel};
use proxy_core::config::Address;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

mod allocator;

/// The Weir data plane. Starts from an Envoy v3 bootstrap and follows its control plane.
///
/// SIGTERM and SIGINT drain: `/ready` fails, after a wait no connection is accepted and each open one ends with its next
/// response; a second signal ends the process at once. SIGUSR1 opens every access-log file again. Exit codes: 0 ended as
/// asked, 1 failed, 2 bad input.
#[derive(Debug, Parser)]
#[command(name = "weir-proxy", version, verbatim_doc_comment)]
struct Flags {
    /// The bootstrap file, YAML or JSON.
    #[arg(short = 'c', long, required_unless_present = "config_yaml")]
    config_path: Option<PathBuf>,
    /// A bootstrap as text, merged over the file: lists are joined, single values replaced.
    #[arg(long)]
    config_yaml: Option<String>,
    /// Serve; or only say whether the configuration can be used; or ask the admin port that the bootstrap names whether the
    /// proxy is ready, for container runtimes.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// Worker threads; one for each core where unset.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// What is logged: trace, debug, info, warning, error, critical, off, or a filter by module.
    #[arg(short = 'l', long, default_value = "info")]
    log_level: String,
    /// The node's id, instead of the bootstrap's.
    #[arg(long)]
    service_node: Option<String>,
    /// The node's cluster, instead of the bootstrap's.
    #[arg(long)]
    service_cluster: Option<String>,
    /// A file that keeps the last accepted configuration, without private keys: served where the proxy starts and its control
    /// plane is away.
    #[arg(long)]
    xds_cache_path: Option<PathBuf>,
    /// Seconds that a drain waits for open connections to end.
    #[arg(long, default_value_t = 30)]
    drain_time_s: u64,
    /// Seconds for which `/ready` fails before a drain begins.
    #[arg(long, default_value_t = 1)]
    drain_wait_s: u64,
    /// Connections from clients at once; three quarters of the file descriptors where unset.
    #[arg(long)]
    max_connections: Option<usize>,
    /// MiB of memory at which work is refused: 92 % of it end keep-alive, 95 % refuse connections and requests.
    #[arg(long)]
    max_heap_mib: Option<u64>,
    /// End the process when a worker is stuck for ten seconds; it is logged in any case.
    #[arg(long)]
    abort_when_stuck: bool,
    /// A Unix socket for what changes something: /drain_listeners, /healthcheck/fail, /healthcheck/ok, /logging,
    /// /quitquitquit.
    #[arg(long, conflicts_with = "privileged_admin_address")]
    privileged_admin_path: Option<PathBuf>,
    /// The same on a TCP address; every request must bring the token.
    #[arg(long, requires = "privileged_admin_token_path")]
    privileged_admin_address: Option<SocketAddr>,
    /// A file with the token.
    #[arg(long)]
    privileged_admin_token_path: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Serve,
    Validate,
    Health,
}

/// The configuration cannot be taken.
const BAD_INPUT: u8 = 2;
/// Below this, a busy proxy runs out of file descriptors.
const FEW_DESCRIPTORS: u64 = 16_384;

fn main() -> ExitCode {
    let flags = Flags::parse();
    // A few hundred KiB would otherwise take whole huge pages of 2 MiB each, and none would ever be given back.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let filter = match log_filter(&flags.log_level) {
        Ok(filter) => filter,
        Err(reason) => return fail(BAD_INPUT, &format!("--log-level {reason}")),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let set_log_level: SetLogLevel = Arc::new(move |level: &str| {
        let filter = log_filter(level)?;
        handle.reload(filter).map_err(|error| error.to_string())
    });
    let bootstrap = match read(&flags) {
        Ok(bootstrap) => bootstrap,
        Err(reason) => return fail(BAD_INPUT, &reason),
    };
    match flags.mode {
        Mode::Validate => return validate(bootstrap),
        Mode::Health => return health(&bootstrap),
        Mode::Serve => {}
    }
    let options = match options(&flags, set_log_level) {
        Ok(options) => options,
        Err(reason) => return fail(BAD_INPUT, &reason),
    };
    let drain = Drain {
        wait: Duration::from_secs(flags.drain_wait_s),
        limit: Duration::from_secs(flags.drain_time_s),
    };
    match run(bootstrap, options, drain) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error.to_string()),
    }
}

/// Says whether the configuration can be used, and what in it is hardly meant: 0 where all is well, 1 where it warns.
/// Whether the proxy that runs with this bootstrap is ready.
fn health(bootstrap: &Bootstrap) -> ExitCode {
    match proxy::is_ready(bootstrap) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(1, &reason),
    }
}

fn validate(bootstrap: Bootstrap) -> ExitCode {
    let warnings = match bootstrap.offline() {
        Ok(offline) => offline.lint(),
        Err(error) => return fail(BAD_INPUT, &error.to_string()),
    };
    // Whoever reads it may have seen enough.
    let mut out = std::io::stdout().lock();
    let told = warnings.iter().try_for_each(|warning| writeln!(out, "{warning}"));
    let _ = told.and_then(|()| writeln!(out, "the configuration can be used"));
    if warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(code: u8, reason: &str) -> ExitCode {
    eprintln!("weir-proxy: {reason}");
    ExitCode::from(code)
}

/// Envoy's words, or a filter by module.
fn log_filter(level: &str) -> Result<EnvFilter, String> {
    let known = match level {
        "warning" => "warn",
        // There is nothing between an error and silence here.
        "critical" => "error",
        other => other,
    };
    EnvFilter::try_new(known).map_err(|error| format!("{level:?}: {error}"))
}

fn read(flags: &Flags) -> Result<Bootstrap, String> {
    let sources = BootstrapSources {
        path: flags.config_path.as_deref(),
        yaml: flags.config_yaml.as_deref(),
        node_id: flags.service_node.as_deref(),
        node_cluster: flags.service_cluster.as_deref(),
    };
    let bootstrap = Bootstrap::read(&sources).map_err(|error| error.to_string())?;
    bootstrap.validate().map_err(|error| error.to_string())?;
    for key in &bootstrap.warnings {
        tracing::warn!("{key} is not known and has no effect");
    }
    Ok(bootstrap)
}

fn options(flags: &Flags, set_log_level: SetLogLevel) -> Result<Options, String> {
    let mut options = Options::default();
    if let Some(workers) = flags.concurrency {
        options.workers = workers.into();
    }
    options.heap_limit = flags.max_heap_mib.map(|mib| mib.saturating_mul(1 << 20));
    options.aborts_when_stuck = flags.abort_when_stuck;
    options.release_memory = Some(allocator::release);
    options.cache.clone_from(&flags.xds_cache_path);
    options.max_connections = flags.max_connections.unwrap_or_else(default_max_connections);
    let token = match &flags.privileged_admin_token_path {
        None => None,
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let token = text.trim();
            if token.len() < 16 {
                return Err(format!("{}: a token has at least 16 characters", path.display()));
            }
            Some(token.into())
        }
    };
    let address = match (&flags.privileged_admin_path, flags.privileged_admin_address) {
        (Some(path), _) => Some(Address::Pipe(path.clone())),
        (None, address) => address.map(Address::Socket),
    };
    options.privileged =
        address.map(|address| PrivilegedPort { address, token, set_log_level: Some(set_log_level) });
    Ok(options)
}

/// Takes what file descriptors the process may have, and leaves a quarter of them for connections to endpoints, logs
/// and the control plane.
fn default_max_connections() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX);
    if limit < FEW_DESCRIPTORS {
        tracing::warn!(
            "the limit of open files is {limit}: at most {} clients can be connected at once; raise it with `ulimit -n` or LimitNOFILE=",
            limit / 4 * 3
        );
    }
    usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX)
}

/// Runs until SIGTERM, SIGINT or a request to quit, then drains; a second signal ends the process at once.
fn run(bootstrap: Bootstrap, options: Options, drain: Drain) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut reopen = signal(SignalKind::user_defined1())?;
    let proxy = Proxy::start(bootstrap, options)?;
    runtime.block_on(async {
        let mut quit = std::pin::pin!(proxy.quit_requested());
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = &mut quit => break,
                _ = reopen.recv() => proxy.reopen_logs(),
            }
        }
        let drained = tokio::task::spawn_blocking(move || proxy.drain(drain));
        tokio::select! {
            _ = drained => {}
            _ = terminate.recv() => std::process::exit(0),
            _ = interrupt.recv() => std::process::exit(0),
        }
    });
    Ok(())
}

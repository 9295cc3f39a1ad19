//! `weir`: the user's tool.

mod admin;
mod convert;
mod demo;
mod exit;
mod explain;
mod local;
mod progress;
mod resources;
mod run;
mod server;
mod split;
mod status;
mod table;
mod validate;
mod versions;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use exit::{BadInput, Exit};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Weighted routing: a proxy, a control plane, and this tool for both.
#[derive(Debug, Parser)]
#[command(name = "weir", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start backends, a control plane and a proxy on this machine, and watch a split at work.
    Demo(demo::Flags),
    /// Serve a file of resources: an `HTTPRoute` becomes a gateway at port 8080, and saving the file moves its traffic.
    Run(run::Flags),
    /// Show what each proxy is to have, has taken and serves, and what it refused.
    Status(status::Flags),
    /// Say where a request would go, and why: the virtual host, each route that is tried, the arm, the endpoints.
    Explain(explain::Flags),
    /// Say whether a proxy can use a file, and what in it is hardly meant.
    Validate(validate::Flags),
    /// Make or change the resources of files, as one version.
    Apply(resources::Apply),
    /// Show resources.
    Get(resources::Get),
    /// Take a resource away.
    Delete(resources::Delete),
    /// Show what is different between versions, or what files would change.
    Diff(versions::Diff),
    /// Show who changed what, when and why.
    History(versions::History),
    /// Make everything, or one resource, as it was; that is a new version.
    Rollback(versions::Rollback),
    /// Show and set the weights of a route.
    #[command(subcommand)]
    Split(split::Split),
    /// Write Istio's resources and `MCPRoute`s as Gateway API, to standard output.
    Import(convert::Import),
    /// Write a resource of the control plane to standard output.
    Export(convert::Export),
    /// Write what a control plane would send: to Envoy, to Weir's own proxy, to clients of gRPC.
    Convert(convert::Convert),
    /// Write what a shell needs to complete commands.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual, in the form that `man` reads.
    Man,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Writes to standard output. Whoever reads it may have seen enough.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn completion(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// The page of the tool, and those of its commands behind it.
fn manual() -> anyhow::Result<()> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut pages)?;
    for of in command.get_subcommands().filter(|of| of.get_name() != "help") {
        clap_mangen::Man::new(of.clone()).render(&mut pages)?;
    }
    print(&String::from_utf8_lossy(&pages))
}

fn main() -> ExitCode {
    // Quiet unless asked: the tool speaks for itself.
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = match Cli::parse().command {
        Command::Demo(flags) => demo::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Explain(flags) => explain::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Run(flags) => run::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Status(flags) => status::run(&flags).map(|()| ExitCode::SUCCESS),
        Command::Validate(flags) => validate::run(&flags),
        Command::Apply(flags) => resources::apply(&flags).map(|()| ExitCode::SUCCESS),
        Command::Get(flags) => resources::get(&flags).map(|()| ExitCode::SUCCESS),
        Command::Delete(flags) => resources::delete(&flags),
        Command::Diff(flags) => versions::diff(&flags),
        Command::History(flags) => versions::history(&flags).map(|()| ExitCode::SUCCESS),
        Command::Rollback(flags) => versions::rollback(&flags).map(|()| ExitCode::SUCCESS),
        Command::Split(command) => split::run(&command),
        Command::Import(flags) => convert::import(&flags).map(|()| ExitCode::SUCCESS),
        Command::Export(flags) => convert::export(&flags).map(|()| ExitCode::SUCCESS),
        Command::Convert(flags) => convert::convert(&flags).map(|()| ExitCode::SUCCESS),
        Command::Completion { shell } => completion(shell).map(|()| ExitCode::SUCCESS),
        Command::Man => manual().map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::from(exit::code(&error))
        }
    }
}

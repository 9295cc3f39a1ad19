//! Measurements of whole processes.

mod compare;
mod load;
mod origin;
mod process;
mod soak;
mod wrk;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "benches", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// W1: Weir beside whichever of nginx, HAProxy and Envoy is installed; Markdown and SVG.
    Compare(compare::Flags),
    /// Weights that change 20 times a second under load, and a control plane that dies: what is lost?
    Soak(soak::Flags),
    /// An origin that answers 1 KiB, where nginx is not installed.
    Origin(origin::Flags),
    /// A closed loop of requests, where wrk is not installed.
    Load(load::Flags),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Compare(flags) => compare::run(&flags),
        Command::Soak(flags) => soak::run(&flags),
        Command::Origin(flags) => origin::run(&flags),
        Command::Load(flags) => load::run(&flags),
    }
}

//! Measurements of whole processes.

mod bytes;
mod compare;
mod fleet;
mod handshake;
mod load;
mod loader;
mod memory;
mod open;
mod origin;
mod pki;
mod process;
mod publish;
mod replace;
mod soak;
mod workload;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "benches", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One workload: Weir beside whichever of nginx, HAProxy and Envoy is installed; Markdown and SVG.
    Compare(compare::Flags),
    /// W8: memory, idle and with many connections.
    Memory(memory::Flags),
    /// W9: all routes replaced under load, from a file: what is lost, and how soon is it served?
    Replace(replace::Flags),
    /// From a saved file to moved traffic, with Weir and Envoy under one control plane.
    Publish(publish::Flags),
    /// One control plane and many proxies: when has each heard of a change, and what does it cost?
    Fleet(fleet::Flags),
    /// Weights that change 20 times a second under load, and a control plane that dies: what is lost?
    Soak(soak::Flags),
    /// An origin that answers 1 KiB, where nginx is not installed.
    Origin(origin::Flags),
    /// A closed loop of requests, where wrk is not installed.
    Load(load::Flags),
    /// An open loop of requests at a fixed rate.
    Open(open::Flags),
    /// Bytes over TCP, there and back or one way.
    Bytes(bytes::Flags),
    /// Connections of TLS, full or resumed, one request each.
    Handshake(handshake::Flags),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Compare(flags) => compare::run(&flags),
        Command::Memory(flags) => memory::run(&flags),
        Command::Replace(flags) => replace::run(&flags),
        Command::Publish(flags) => publish::run(&flags),
        Command::Fleet(flags) => fleet::run(&flags),
        Command::Open(flags) => open::run(&flags),
        Command::Soak(flags) => soak::run(&flags),
        Command::Origin(flags) => origin::run(&flags),
        Command::Load(flags) => load::run(&flags),
        Command::Bytes(flags) => bytes::run(&flags),
        Command::Handshake(flags) => handshake::run(&flags),
    }
}

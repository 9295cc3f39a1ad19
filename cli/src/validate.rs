//! `weir validate`: whether a file can be used, and what in it is hardly meant.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use proxy::{Bootstrap, Warning, check_resources, holds_resources};
use serde_json::json;

use crate::{BadInput, Format, print};

/// Flags of `weir validate`. Exit codes: 0 all is well, 1 there are warnings, 2 it cannot be used.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// A proxy's bootstrap, or a file of resources (`resources:` with listeners, routes, clusters or endpoints).
    file: PathBuf,
    /// How the warnings are printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    let warnings = warnings(flags).map_err(BadInput)?;
    let text = match flags.output {
        Format::Text => {
            let lines = warnings.iter().map(|warning| format!("{warning}\n"));
            format!("{}{} can be used\n", lines.collect::<String>(), flags.file.display())
        }
        Format::Json => {
            let warnings: Vec<_> = warnings.iter().map(json_of).collect();
            format!("{:#}\n", json!({ "warnings": warnings }))
        }
    };
    print(&text)?;
    Ok(if warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn warnings(flags: &Flags) -> Result<Vec<Warning>, String> {
    let path = flags.file.display().to_string();
    let text = std::fs::read_to_string(&flags.file).map_err(|error| format!("{path}: {error}"))?;
    if holds_resources(&text) {
        return check_resources(&path, text);
    }
    let bootstrap = Bootstrap::from_text(&path, text).map_err(|error| error.to_string())?;
    for key in &bootstrap.warnings {
        eprintln!("weir: {path}: {key} is not known and has no effect");
    }
    Ok(bootstrap.offline().map_err(|error| error.to_string())?.lint())
}

fn json_of(warning: &Warning) -> serde_json::Value {
    let Warning { place, spot, what, advice } = warning;
    json!({
        "place": place,
        "route_configuration": spot.configuration.as_str(),
        "listener": spot.listener.as_ref().map(|listener| listener.as_str()),
        "path": spot.path,
        "what": what,
        "advice": advice,
    })
}

//! `weir validate`: whether a file can be used, and what in it is hardly meant.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use control_core::ir::{ImplicitGateway, Inputs, build};
use control_core::lower::{Dialect, Lowering};
use control_core::model::{Document, Memory, Objects, read};
use control_core::preview::Preview;
use proxy::{Bootstrap, Warning, check_resources, holds_resources};
use proxy_core::config::Address;
use serde_json::json;

use crate::progress::Progress;
use crate::{BadInput, Format, print};

/// Flags of `weir validate`. Exit codes: 0 all is well, 1 there are warnings, 2 it cannot be used.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// A proxy's bootstrap, a file of xDS resources (`resources:` with listeners, routes, clusters or endpoints), or a file of
    /// resources of a control plane (Gateway API, `weir.dev/v1`).
    file: PathBuf,
    /// How the warnings are printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    let path = flags.file.display();
    let progress = Progress::of(format!("looking at {path}"));
    // Once: it may be a pipe.
    let text = std::fs::read_to_string(&flags.file).map_err(|error| BadInput(format!("{path}: {error}")))?;
    if is_of_a_control_plane(&text) {
        return control_plane(flags, &text, progress);
    }
    let warnings = warnings(flags, text).map_err(BadInput)?;
    drop(progress);
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

/// Whether documents say of what kind they are, as those of a control plane do.
fn is_of_a_control_plane(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("apiVersion:") || line.starts_with("kind:"))
}

fn control_plane(flags: &Flags, text: &str, progress: Progress) -> Result<ExitCode> {
    let path: Arc<str> = flags.file.display().to_string().into();
    let mut objects = Objects::default();
    let mut places = BTreeMap::new();
    for Document { origin, content } in read(&path, text, &mut Memory::default()) {
        let resource = content.map_err(|refused| BadInput(refused.to_string()))?;
        let key = resource.key();
        if let Some(first) = places.insert(key.clone(), origin.clone()) {
            return Err(BadInput(format!("{origin}: {key} is already defined in {first}")).into());
        }
        objects.put(resource);
    }
    let address = Address::Socket((Ipv4Addr::LOCALHOST, 8_080).into());
    let gateway = ImplicitGateway { address, access_log: None };
    let built = build(Inputs { objects: &objects, instances: &BTreeMap::new(), gateway: &gateway });
    let mut warnings = Vec::new();
    for (key, status) in &*built.statuses {
        let place = places.get(key).map_or_else(|| path.to_string(), ToString::to_string);
        warnings.extend(status.complaints().map(|complaint| format!("{place}: warning: {key}: {complaint}")));
    }
    let unusable = |error: String| BadInput(format!("{path}: {error}"));
    let lowering = Lowering::of(&built.ir).map_err(|error| unusable(error.to_string()))?;
    let preview = Preview::new(&built.ir, lowering.set(Dialect::Weir), Instant::now()).map_err(unusable)?;
    warnings.extend(preview.warnings().into_iter().map(|warning| format!("{path}: warning: {warning}")));
    warnings.dedup();
    drop(progress);
    print(&match flags.output {
        Format::Text => {
            let lines: String = warnings.iter().map(|warning| format!("{warning}\n")).collect();
            format!("{lines}{path} can be used\n")
        }
        Format::Json => format!("{:#}\n", json!({ "warnings": warnings })),
    })?;
    Ok(if warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn warnings(flags: &Flags, text: String) -> Result<Vec<Warning>, String> {
    let path = flags.file.display().to_string();
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

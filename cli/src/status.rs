//! `weir status`: what each proxy is to have, has taken and serves, and what it refused.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::server::Server;
use crate::table::Format;

/// How often `--watch` asks again.
const INTERVAL: Duration = Duration::from_millis(500);

/// Flags of `weir status`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    server: Server,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print it again whenever it has changed.
    #[arg(short, long)]
    watch: bool,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let mut last = None;
    loop {
        let fleet = flags.server.get("/fleet")?;
        let shown = show(&fleet, flags.output)?;
        if last.as_ref() != Some(&shown) {
            let between = if last.is_some() { "\n" } else { "" };
            crate::print(&format!("{between}{shown}"))?;
            last = Some(shown);
        }
        if !flags.watch {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
}

fn show(fleet: &Value, format: Format) -> Result<String> {
    Ok(match format {
        Format::Table => table(fleet),
        Format::Json => format!("{fleet:#}\n"),
        Format::Yaml => serde_saphyr::to_string(fleet)?,
    })
}

fn table(fleet: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut out = format!("wanted: version {}", text(&fleet["wanted"]));
    if let (Some(author), Some(reason)) =
        (fleet["version"]["author"].as_str(), fleet["version"]["reason"].as_str())
    {
        let _ = write!(out, " by {author}: {reason}");
    }
    out.push('\n');
    if let Some(reason) = fleet["source"]["refusal"]["reason"].as_str() {
        let _ = writeln!(out, "the source was refused: {reason}");
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for drift in list(&fleet["source"]["drift"]) {
        let _ = writeln!(out, "drift: {} says something else than the source", text(&drift));
    }
    for complaint in list(&fleet["complaints"]) {
        let _ = writeln!(out, "{}", text(&complaint));
    }
    let nodes = fleet["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut rows = vec![["NODE", "ACKNOWLEDGED", "SERVED", "CONNECTED", "AGENT"].map(str::to_owned)];
    for node in nodes {
        let connected = if node["connected"] == true { "yes" } else { "no" }.to_owned();
        // Who does not report serves nobody knows what.
        rows.push([
            text(&node["node"]),
            text(&node["acknowledged"]),
            text(&node["served"]),
            connected,
            text(&node["userAgent"]),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    for row in &rows {
        let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for node in nodes {
        let types = node["types"].as_object().into_iter().flatten();
        for (kind, of_type) in types.filter(|(_, of_type)| !of_type["refusal"].is_null()) {
            let refusal = &of_type["refusal"];
            let _ = writeln!(
                out,
                "{} refused version {} of {kind}: {}",
                text(&node["node"]),
                text(&refusal["configVersion"]),
                text(&refusal["reason"])
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_node_and_a_line_for_each_refusal() {
        let fleet = json!({
            "wanted": 3,
            "version": { "author": "ann", "reason": "more for v2" },
            "source": { "refusal": null },
            "nodes": [
                { "node": "edge-1", "acknowledged": 3, "served": 2, "connected": true, "userAgent": "weir", "types": {} },
                { "node": "e", "acknowledged": null, "served": null, "connected": false, "userAgent": "envoy", "types": {
                    "Listener": { "refusal": { "configVersion": 3, "reason": "in use" } } } },
            ],
        });
        assert_eq!(
            table(&fleet),
            "wanted: version 3 by ann: more for v2\n\
             NODE    ACKNOWLEDGED  SERVED  CONNECTED  AGENT\n\
             edge-1  3             2       yes        weir\n\
             e       -             -       no         envoy\n\
             e refused version 3 of Listener: in use\n"
        );
    }
}

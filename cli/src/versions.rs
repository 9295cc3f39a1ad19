//! `weir history`, `diff`, `rollback`: how it came to be so, and the way back.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::resources::{Why, documents, outcome};
use crate::server::Server;
use crate::table::{Format, cell, table, value};
use crate::{BadInput, print};

/// A resource, or the whole.
#[derive(Debug, Clone, Args)]
pub(crate) struct Of {
    /// The kind; of the whole configuration where it is left out.
    #[arg(requires = "name")]
    kind: Option<String>,
    /// The name.
    name: Option<String>,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Of {
    fn path(&self, whole: &str, of_one: &str) -> String {
        match (&self.kind, &self.name) {
            (Some(kind), Some(name)) => {
                format!("/api/v1/namespaces/{}/{kind}/{name}/{of_one}", self.namespace)
            }
            _ => format!("/api/v1/{whole}"),
        }
    }
}

/// Flags of `weir history`.
#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    of: Of,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn history(flags: &History) -> Result<()> {
    let answer = flags.server.get(&flags.of.path("versions", "history"))?;
    if flags.output != Format::Table {
        return print(&value(&answer, flags.output)?);
    }
    let row = |version: &Value| {
        let changes = version["changes"].as_array().cloned().unwrap_or_default();
        let change = |c: &Value| format!("{} {} {}", cell(&c["kind"]), cell(&c["name"]), cell(&c["action"]));
        let said = match changes.as_slice() {
            [] => String::new(),
            [one] => change(one),
            [first, rest @ ..] => format!("{}, {} more", change(first), rest.len()),
        };
        let time = cell(&version["time"]);
        [cell(&version["number"]), time, cell(&version["author"]), said, cell(&version["reason"])]
    };
    let versions = answer["versions"].as_array().cloned().unwrap_or_default();
    let rows: Vec<_> = versions.iter().map(row).collect();
    print(&table(["VERSION", "TIME", "AUTHOR", "CHANGES", "REASON"], &rows))
}

/// Flags of `weir diff`. Exit codes: 0 nothing is different, 3 something is.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    of: Of,
    /// The older version; the one before `--to` where unset.
    #[arg(long)]
    from: Option<u64>,
    /// The newer version; the newest where unset.
    #[arg(long)]
    to: Option<u64>,
    /// Instead: what applying these files would change.
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with_all = ["from", "to", "kind"])]
    files: Vec<PathBuf>,
    /// Requests, one a line, as JSON (`{"host":"shop","path":"/cart","headers":[["x-user","7"]]}`) or as `GET
    /// http://shop/cart`: tell which of them would go elsewhere.
    #[arg(long, value_name = "FILE")]
    impact: Option<PathBuf>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn diff(flags: &Diff) -> Result<ExitCode> {
    if let Some(requests) = &flags.impact {
        return impact(flags, requests);
    }
    let answer = if flags.files.is_empty() {
        let mut path = flags.of.path("diff", "diff");
        let numbers = [("from", flags.from), ("to", flags.to)];
        for (name, number) in numbers.iter().filter_map(|(name, number)| Some((name, (*number)?))) {
            path.push_str(&format!("{}{name}={number}", if path.contains('?') { '&' } else { '?' }));
        }
        flags.server.get(&path)?
    } else {
        flags.server.ask(Method::POST, "/api/v1/preview", Some(documents(&flags.files)?))?
    };
    let resources = answer["resources"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
    let texts: Vec<&str> = resources.iter().filter_map(|of| of["text"].as_str()).collect();
    match flags.output {
        Format::Table => print(&texts.concat())?,
        format => print(&value(&answer, format)?)?,
    }
    let is_same = texts.iter().all(|text| text.is_empty());
    Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// A request as a line has it.
fn request(line: &str) -> Result<Value> {
    if line.starts_with('{') {
        return serde_json::from_str(line)
            .with_context(|| line.to_owned())
            .map_err(|e| BadInput(format!("{e:#}")).into());
    }
    let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    Ok(json!({ "method": method, "host": host, "path": path }))
}

fn impact(flags: &Diff, requests: &PathBuf) -> Result<ExitCode> {
    let text = std::fs::read_to_string(requests)
        .map_err(|error| BadInput(format!("{}: {error}", requests.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let asked = lines.map(request).collect::<Result<Vec<_>>>()?;
    let count = asked.len();
    let documents = if flags.files.is_empty() { None } else { Some(documents(&flags.files)?) };
    let body = json!({ "requests": asked, "documents": documents, "from": flags.from, "to": flags.to });
    let answer = flags.server.ask(Method::POST, "/api/v1/impact", Some(body.to_string()))?;
    let impacts = answer["impacts"].as_array().cloned().unwrap_or_default();
    match flags.output {
        Format::Table => {
            let way = |way: &Value| match way {
                Value::Null => "-".to_owned(),
                way => {
                    let timeout = way["timeout"].as_u64().map(|ms| format!(", {ms} ms")).unwrap_or_default();
                    format!("{} ({}{timeout})", cell(&way["arm"]), cell(&way["route"]))
                }
            };
            let row = |i: &Value| [cell(&i["request"]), way(&i["from"]), way(&i["to"])];
            let rows: Vec<_> = impacts.iter().map(row).collect();
            if !rows.is_empty() {
                print(&table(["REQUEST", "NOW", "THEN"], &rows))?;
            }
            print(&format!("{} of {count} requests would fare otherwise\n", impacts.len()))?;
        }
        format => print(&value(&answer, format)?)?,
    }
    Ok(if impacts.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// Flags of `weir rollback`.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    of: Of,
    /// The version to go back to; the one before the last change where unset.
    #[arg(long)]
    to: Option<u64>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn rollback(flags: &Rollback) -> Result<()> {
    let path = format!("{}{}", flags.of.path("rollback", "rollback"), flags.why.query());
    let body = json!({ "to": flags.to }).to_string();
    let answer = flags.server.ask_with(Method::POST, &path, Some(body), &flags.why.headers())?;
    print(&outcome(&answer.body))
}

//! `weir apply`, `get`, `delete`: the resources of a control plane.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::server::Server;
use crate::table::{Format, cell, table, value};
use crate::{BadInput, print};

/// Which resource.
#[derive(Debug, Clone, Args)]
pub(crate) struct Named {
    /// The kind, such as `httproute`, `backend` or `gateway`.
    pub(crate) kind: String,
    /// The name.
    pub(crate) name: String,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

impl Named {
    pub(crate) fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/{}/{}", self.namespace, self.kind, self.name)
    }
}

/// Why something is changed.
#[derive(Debug, Clone, Args)]
pub(crate) struct Why {
    /// Why; it stands in the history and in the audit.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Why {
    pub(crate) fn query(&self) -> &'static str {
        if self.dry_run { "?dryRun=true" } else { "" }
    }

    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        match self.reason.as_str() {
            "" => Vec::new(),
            // Header lines have one line.
            reason => vec![("x-change-reason", reason.replace(['\r', '\n'], " "))],
        }
    }
}

/// Flags of `weir apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A file of resources, a folder of such files, or `-` for standard input. All of it becomes one version.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    server: Server,
}

/// The documents of files, folders and standard input.
pub(crate) fn documents(files: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    let mut add = |more: &str| {
        if !text.is_empty() {
            text.push_str("\n---\n");
        }
        text.push_str(more);
    };
    for file in files {
        if file == Path::new("-") {
            let mut input = String::new();
            std::io::stdin().read_to_string(&mut input).context("standard input")?;
            add(&input);
            continue;
        }
        let read = |file: &Path| {
            std::fs::read_to_string(file).map_err(|error| BadInput(format!("{}: {error}", file.display())))
        };
        if !file.is_dir() {
            add(&read(file)?);
            continue;
        }
        let entries = std::fs::read_dir(file).with_context(|| file.display().to_string())?;
        let mut within: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        within.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
        within.sort();
        for file in within {
            add(&read(&file)?);
        }
    }
    Ok(text)
}

/// What came of a change, a line each.
pub(crate) fn outcome(answer: &Value) -> String {
    let mut out = String::new();
    let lines = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
    for change in lines("changes") {
        out.push_str(&cell(&change));
        out.push('\n');
    }
    for warning in lines("warnings") {
        out.push_str(&format!("warning: {}\n", cell(&warning)));
    }
    out.push_str(&match (answer["version"].as_u64(), answer["dryRun"] == true) {
        (Some(version), false) => format!("version {version}\n"),
        (Some(version), true) => format!("would be version {version}\n"),
        (None, _) => "nothing is different\n".to_owned(),
    });
    out
}

pub(crate) fn apply(flags: &Apply) -> Result<()> {
    let path = format!("/api/v1/apply{}", flags.why.query());
    let text = documents(&flags.files)?;
    let answer = flags.server.ask_with(Method::POST, &path, Some(text), &flags.why.headers());
    let first = flags.files.first().map(|file| file.display().to_string()).unwrap_or_default();
    let answer = match answer {
        // The place is one in the file, if there is one file.
        Err(error) if flags.files.len() == 1 && crate::exit::code(&error) == 2 => {
            return Err(BadInput(format!("{first}:{error}")).into());
        }
        other => other?,
    };
    print(&outcome(&answer.body))
}

/// Flags of `weir get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The kind, such as `httproute`, `backend` or `gateway`; all of them where it is left out.
    kind: Option<String>,
    /// The name; all of the kind where it is left out.
    name: Option<String>,
    /// The namespace; `_` is every one.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// As it was in this version.
    #[arg(long, requires = "name")]
    revision: Option<u64>,
    /// Go on with what changes, a line each.
    #[arg(short, long)]
    watch: bool,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn get(flags: &Get) -> Result<()> {
    let base = format!("/api/v1/namespaces/{}", flags.namespace);
    let answer = match (&flags.kind, &flags.name) {
        (None, _) => flags.server.get("/api/v1/resources")?,
        (Some(kind), None) => flags.server.get(&format!("{base}/{kind}"))?,
        (Some(kind), Some(name)) => {
            let revision = flags.revision.map(|number| format!("?revision={number}")).unwrap_or_default();
            flags.server.get(&format!("{base}/{kind}/{name}{revision}"))?
        }
    };
    match flags.output {
        Format::Table => {
            let items = answer["items"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
            print(&rows(&items))?;
        }
        format => print(&value(&answer, format)?)?,
    }
    if !flags.watch {
        return Ok(());
    }
    let from = answer["metadata"]["resourceVersion"].as_str().filter(|_| flags.name.is_none());
    let from = from.map(|version| format!("&from={version}")).unwrap_or_default();
    let path = match &flags.kind {
        Some(kind) => format!("{base}/{kind}?watch=1{from}"),
        None => "/api/v1/watch?watch=1".to_owned(),
    };
    flags.server.lines(&path, |event| {
        if flags.name.as_ref().is_some_and(|name| event["name"] != name.as_str()) {
            return Ok(());
        }
        match flags.output {
            Format::Table => {
                let line = format!(
                    "version {}: {} {} {}",
                    event["version"],
                    cell(&event["kind"]),
                    cell(&event["name"]),
                    cell(&event["action"])
                );
                let says = if event["object"].is_object() { says(&event["object"]) } else { String::new() };
                print(format!("{line}  {says}").trim_end())?;
                print("\n")
            }
            Format::Json => print(&format!("{event}\n")),
            Format::Yaml => print(&format!("---\n{}", serde_saphyr::to_string(&event)?)),
        }
    })
}

fn rows(items: &[Value]) -> String {
    let row = |item: &Value| {
        let namespace = item["metadata"]["namespace"].as_str().unwrap_or("-");
        [
            cell(&item["kind"]),
            namespace.to_owned(),
            cell(&item["metadata"]["name"]),
            cell(&item["metadata"]["resourceVersion"]),
            says(item),
            state(item),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(["KIND", "NAMESPACE", "NAME", "VERSION", "SAYS", "STATE"], &rows)
}

/// In a few words, what a resource says.
fn says(item: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rule = |rule: &Value| {
        let arms = list(&rule["backendRefs"]);
        let arm = |arm: &Value| match arms.len() {
            1 => cell(&arm["name"]),
            _ => format!("{}={}", cell(&arm["name"]), arm["weight"]),
        };
        arms.iter().map(arm).collect::<Vec<_>>().join(",")
    };
    let spec = &item["spec"];
    match item["kind"].as_str().unwrap_or_default() {
        kind if kind.ends_with("Route") => {
            list(&spec["rules"]).iter().map(rule).collect::<Vec<_>>().join(" | ")
        }
        "Backend" => {
            let endpoints = list(&spec["endpoints"]);
            endpoints.iter().map(|endpoint| cell(&endpoint["address"])).collect::<Vec<_>>().join(",")
        }
        "Gateway" => {
            let listeners = list(&spec["listeners"]);
            let one = |l: &Value| format!("{}:{}", cell(&l["protocol"]), l["port"]);
            listeners.iter().map(one).collect::<Vec<_>>().join(",")
        }
        "TrafficPolicy" => {
            format!("{} {}", cell(&spec["targetRef"]["kind"]), cell(&spec["targetRef"]["name"]))
        }
        _ => String::new(),
    }
}

/// What is not as it should be, or that all is.
fn state(item: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let status = &item["status"];
    let mut conditions = list(&status["conditions"]);
    for within in ["parents", "listeners"] {
        conditions.extend(list(&status[within]).iter().flat_map(|of| list(&of["conditions"])));
    }
    let is_good = |condition: &Value| match condition["type"].as_str() {
        Some("Conflicted" | "PartiallyInvalid") => condition["status"] != "True",
        _ => condition["status"] == "True",
    };
    match conditions.iter().find(|condition| !is_good(condition)) {
        Some(bad) => format!("{}: {}", cell(&bad["reason"]), cell(&bad["message"])),
        None if conditions.is_empty() => "-".to_owned(),
        None => "ok".to_owned(),
    }
}

/// Flags of `weir delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn delete(flags: &Delete) -> Result<ExitCode> {
    let path = format!("{}{}", flags.named.path(), flags.why.query());
    let answer = flags.server.ask_with(Method::DELETE, &path, None, &flags.why.headers())?;
    print(&outcome(&answer.body))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_is_told_in_a_row() {
        let route = json!({ "kind": "HTTPRoute", "metadata": { "name": "shop", "namespace": "default", "resourceVersion": "3" },
            "spec": { "rules": [{ "backendRefs": [{ "name": "v1", "weight": 90 }, { "name": "v2", "weight": 10 }] }, { "backendRefs": [{ "name": "v2", "weight": 1 }] }] },
            "status": { "parents": [{ "conditions": [{ "type": "Accepted", "status": "True" }, { "type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "there is no Backend v3" }] }] } });
        assert_eq!(
            rows(&[route]),
            "KIND       NAMESPACE  NAME  VERSION  SAYS             STATE\n\
             HTTPRoute  default    shop  3        v1=90,v2=10 | v2  BackendNotFound: there is no Backend v3\n"
                .replace("SAYS             STATE", "SAYS              STATE")
        );
    }
}

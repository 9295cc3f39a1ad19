//! Gateway API's conformance, restated: a file for each of its cases, under its name. What a file holds is in
//! `conformance/README.md`. What is judged is our own reading of the specification; official conformance needs a cluster.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "any start of time does; a file that is not there fails"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use control_core::ir::{
    Action, BackendName, Built, ChainAction, Condition, Host, ImplicitGateway, Inputs, Ir, PathChange, Plain,
    Route, Speaks, Truth, build,
};
use control_core::lower::{Dialect, Lowering};
use control_core::model::{Kind, Memory, ObjectKey, Objects, read};
use control_core::preview::{Preview, Question};
use control_core::registry::Instances;
use proxy_core::config::Address;

/// The cases of Gateway API 1.5.1 that are not among the files, each with the reason.
const LEFT_OUT: &str = include_str!("conformance/left-out.txt");
/// All of its cases.
const ALL: &str = include_str!("conformance/all-cases.txt");

struct Case<'a> {
    name: String,
    built: &'a Built,
    preview: &'a Preview<'a>,
}

#[test]
fn the_cases_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut wrong = Vec::new();
    let mut left: Vec<&str> = ALL.lines().collect();
    let all = left.len();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let known = left.iter().position(|case| *case == name);
        left.remove(known.unwrap_or_else(|| panic!("{name} is no case")));
        wrong.extend(judge(&name, &text));
    }
    let with_reason: Vec<&str> =
        LEFT_OUT.lines().filter_map(|line| line.split_once(": ")).map(|(c, _)| c).collect();
    println!(
        "{} of {all} cases of Gateway API 1.5.1 hold, {} are left out with reasons",
        files.len(),
        with_reason.len()
    );
    assert!(wrong.is_empty(), "{} expectations do not hold\n{}", wrong.len(), wrong.join("\n"));
    assert!(files.len() >= 100, "at least 100 cases are restated");
    assert_eq!(left, with_reason, "every case is a file or has a reason");
}

/// What does not hold of a case, a line each.
fn judge(name: &str, text: &str) -> Vec<String> {
    let (documents, expectations) = text.split_once("\n=== expect\n").expect(name);
    let mut objects = Objects::default();
    let mut wrong = Vec::new();
    let expectations: Vec<&str> = expectations
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(!expectations.is_empty(), "{name} expects nothing");
    let mut refusals = Vec::new();
    for document in read(&name.into(), documents, &mut Memory::default()) {
        match document.content {
            Ok(resource) => drop(objects.put(resource)),
            Err(refused) => refusals.push(refused.to_string()),
        }
    }
    let gateway =
        ImplicitGateway { address: Address::Socket((Ipv4Addr::LOCALHOST, 8_080).into()), access_log: None };
    let instances = Instances::new();
    let built = build(Inputs { objects: &objects, instances: &instances, gateway: &gateway });
    let lowering = Lowering::of(&built.ir).unwrap_or_else(|error| panic!("{name}: {error}"));
    let preview = Preview::new(&built.ir, lowering.set(Dialect::Weir), Instant::now())
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let case = Case { name: name.to_owned(), built: &built, preview: &preview };
    for refused in &refusals {
        let is_expected = expectations
            .iter()
            .any(|line| line.strip_prefix("refused: ").is_some_and(|words| refused.contains(words)));
        if !is_expected {
            wrong.push(format!("{name}: {refused}"));
        }
    }
    for line in expectations {
        let found = match line.strip_prefix("refused: ") {
            Some(words) if refusals.iter().any(|refused| refused.contains(words)) => Ok(()),
            Some(_) => Err(format!("nothing like it was refused: {refusals:?}")),
            None => case.holds(line),
        };
        if let Err(why) = found {
            wrong.push(format!("{name}: {line}\n    {why}"));
        }
    }
    wrong
}

impl Case<'_> {
    fn holds(&self, line: &str) -> Result<(), String> {
        let (subject, rest) = line.split_once(' ').ok_or("not an expectation")?;
        match subject {
            "status" => {
                let (what, wanted) = rest.split_once(": ").ok_or("`status Kind name: …` is wanted")?;
                let status = self.built.statuses.get(&self.key(what)?);
                let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
                all_hold(conditions, wanted)
            }
            "parent" => {
                let (what, wanted) =
                    rest.split_once(": ").ok_or("`parent Kind name @ parent: …` is wanted")?;
                let (what, parent) = what.split_once(" @ ").ok_or("a parent is wanted")?;
                let status = self.built.statuses.get(&self.key(what)?).ok_or("it has no status")?;
                let (parent, section) = match parent.split_once('#') {
                    Some((parent, section)) => (parent, Some(section)),
                    None => (parent, None),
                };
                let of_parent = status.parents.iter().find(|p| {
                    p.parent_ref.name == parent
                        && section.is_none_or(|section| p.parent_ref.section_name.as_deref() == Some(section))
                });
                all_hold(&of_parent.ok_or("it has no such parent")?.conditions, wanted)
            }
            "listener" => {
                let (what, wanted) =
                    rest.split_once(": ").ok_or("`listener Kind name#listener: …` is wanted")?;
                let (what, listener) = what.split_once('#').ok_or("a listener is wanted")?;
                let status = self.built.statuses.get(&self.key(what)?).ok_or("it has no status")?;
                let listener =
                    status.listeners.iter().find(|l| l.name == listener).ok_or("no such listener")?;
                for word in wanted.split_whitespace() {
                    if let Some(number) = word.strip_prefix("attached=") {
                        if listener.attached_routes.to_string() != number {
                            return Err(format!("{} are attached", listener.attached_routes));
                        }
                    } else if let Some(kinds) = word.strip_prefix("kinds=") {
                        let found: Vec<_> =
                            listener.supported_kinds.iter().map(|kind| kind["kind"]).collect();
                        if found.join(",") != kinds {
                            return Err(format!("it supports {found:?}"));
                        }
                    } else {
                        all_hold(&listener.conditions, word)?;
                    }
                }
                Ok(())
            }
            "connect" => self.connection(rest),
            _ => self.request(line),
        }
    }

    /// `Kind namespace/name`, or `Kind name` in the namespace `default` or in none.
    fn key(&self, text: &str) -> Result<ObjectKey, String> {
        let (kind, name) =
            text.split_once(' ').ok_or(format!("{}: a kind and a name are wanted", self.name))?;
        let kind = Kind::by_name(kind).ok_or("not a kind")?;
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Ok(ObjectKey::new(kind, namespace, name))
    }

    /// `METHOD http://host[:port]/path [name: value]… => outcome`
    fn request(&self, line: &str) -> Result<(), String> {
        let (asked, wanted) = line.split_once(" => ").ok_or("an outcome is wanted")?;
        let (target, headers) = match asked.split_once(" [") {
            Some((target, headers)) => (target, format!("[{headers}")),
            None => (asked, String::new()),
        };
        let (method, url) = target.split_once(' ').ok_or("a method and an address are wanted")?;
        let (url, gateway) = match url.split_once('@') {
            Some((gateway, url)) => (url, Some(gateway)),
            None => (url, None),
        };
        let (is_tls, rest) = match url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("http://").ok_or("http:// or https:// is wanted")?),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| "not a port")?),
            None => (authority, if is_tls { 443 } else { 80 }),
        };
        let header =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers: Vec<_> = headers
            .split(['[', ']'])
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .filter_map(header)
            .collect();
        let question = Question {
            method: method.to_owned(),
            host: authority.to_owned(),
            path: format!("/{path}"),
            headers,
            peer: Ipv4Addr::LOCALHOST.into(),
            draw: 0,
            unknown: std::collections::BTreeSet::new(),
        };
        let Some(table) = self.table(gateway, port, host) else {
            return match wanted {
                "nobody" => Ok(()),
                _ => Err(format!("nothing is served there; there are {:?}", self.ports())),
            };
        };
        let Some((_, outcome, text)) = self.preview.way(&question, &table) else {
            return Err(format!("{table} is not asked"));
        };
        let mut words = wanted.split(" ; ");
        let first = words.next().unwrap_or_default();
        let arm = match outcome.arm.strip_prefix("answered with ") {
            Some(status) => format!("status {status}"),
            None => match outcome.arm.strip_prefix("redirected with ") {
                Some(redirect) => format!("redirect {}", redirect.replace(" to ", " ")),
                None => outcome.arm.clone(),
            },
        };
        if arm != first {
            return Err(format!("it is {arm:?}\n{text}"));
        }
        let route = outcome.route.as_deref().and_then(|route| self.route(&table, route));
        for word in words {
            let route = route.ok_or("there is no route")?;
            if !changes(route).iter().any(|change| change == word) {
                return Err(format!("its changes are {:?}", changes(route)));
            }
        }
        if !wanted.contains(" ; ") && !first.starts_with("redirect") {
            let changes = route.map(changes).unwrap_or_default();
            if !changes.is_empty() {
                return Err(format!("it changes {changes:?}"));
            }
        }
        Ok(())
    }

    fn ports(&self) -> BTreeMap<&String, String> {
        let ir = &self.built.ir;
        ir.listeners.iter().map(|(name, listener)| (name, listener.address.to_string())).collect()
    }

    /// The table of the listener at a port; of one that speaks TLS, by the name that is asked for.
    fn table(&self, gateway: Option<&str>, port: u16, host: &str) -> Option<String> {
        let listener = self.built.ir.listeners.values().find(|listener| {
            matches!(&listener.address, Address::Socket(address) if address.port() == port)
                && gateway.is_none_or(|gateway| listener.gateway == gateway)
        })?;
        match &listener.speaks {
            Speaks::Plain(Plain::Http(table)) => Some(table.clone()),
            Speaks::Tls(chains, _) => match &chain(chains, host)?.then {
                ChainAction::Http(_, table) => Some(table.clone()),
                ChainAction::Tcp(..) | ChainAction::Pass(_) => None,
            },
            Speaks::Plain(Plain::Tcp(_)) => None,
        }
    }

    fn route(&self, table: &str, label: &str) -> Option<&Route> {
        let ir: &Ir = &self.built.ir;
        let hosts: &[Host] = &ir.tables.get(table)?.hosts;
        let rest = label.strip_prefix(table)?.strip_prefix('/')?;
        let host = hosts.iter().find(|host| rest.starts_with(&format!("{}/", host.hostname)))?;
        let name = rest.strip_prefix(&host.hostname)?.strip_prefix('/')?;
        host.routes.iter().find(|route| route.name == name).map(Arc::as_ref)
    }

    /// `tls://name:port => backend`, `tls://name:port => certificate namespace/name`, `tcp://:port => backend`
    fn connection(&self, line: &str) -> Result<(), String> {
        let (asked, wanted) = line.split_once(" => ").ok_or("an outcome is wanted")?;
        let (scheme, authority) = asked.split_once("://").ok_or("tls:// or tcp:// is wanted")?;
        let (name, port) = authority.rsplit_once(':').ok_or("a port is wanted")?;
        let port: u16 = port.parse().map_err(|_| "not a port")?;
        let listener =
            self.built.ir.listeners.values().find(
                |listener| matches!(&listener.address, Address::Socket(address) if address.port() == port),
            );
        let found = match (scheme, listener.map(|listener| &listener.speaks)) {
            ("tcp", Some(Speaks::Plain(Plain::Tcp(arms)))) => backends(arms),
            ("tls", Some(Speaks::Tls(chains, _))) => match chain(chains, name).map(|chain| &chain.then) {
                Some(ChainAction::Pass(arms)) => backends(arms),
                Some(ChainAction::Tcp(termination, arms)) => {
                    format!("certificate {}, {}", termination.certificates.join(" "), backends(arms))
                }
                Some(ChainAction::Http(termination, _)) => match &termination.clients {
                    None => format!("certificate {}", termination.certificates.join(" ")),
                    Some(clients) => format!(
                        "certificate {}, clients {}",
                        termination.certificates.join(" "),
                        if clients.is_optional { "may show one" } else { "must show one" }
                    ),
                },
                None => "nobody".to_owned(),
            },
            (_, None) => "nobody".to_owned(),
            _ => "another protocol".to_owned(),
        };
        let of_backend = || {
            let tls = self.built.ir.backends.iter().filter_map(|(name, b)| Some((name, b.tls.as_ref()?)));
            tls.map(|(name, tls)| format!("{name} as {}", tls.server_name)).collect::<Vec<_>>().join(", ")
        };
        let found = if scheme == "backends" { of_backend() } else { found };
        (found == wanted).then_some(()).ok_or(format!("it is {found:?}"))
    }
}

fn backends(arms: &[control_core::ir::Arm]) -> String {
    let name =
        |backend: &Option<BackendName>| backend.as_ref().map_or("unresolved".to_owned(), ToString::to_string);
    match arms {
        [only] => name(&only.backend),
        arms => arms
            .iter()
            .map(|arm| format!("{} {}", name(&arm.backend), arm.weight))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// The chain whose name fits best, as TLS inspectors choose.
fn chain<'c>(chains: &'c [control_core::ir::TlsChain], name: &str) -> Option<&'c control_core::ir::TlsChain> {
    let mut wanted = vec![name.to_owned()];
    let mut rest = name;
    while let Some((_, parent)) = rest.split_once('.') {
        wanted.push(format!("*.{parent}"));
        rest = parent;
    }
    let by_name =
        wanted.iter().find_map(|name| chains.iter().find(|chain| chain.server_names.contains(name)));
    by_name.or_else(|| chains.iter().find(|chain| chain.server_names.is_empty()))
}

fn all_hold(conditions: &[Condition], wanted: &str) -> Result<(), String> {
    for word in wanted.split_whitespace() {
        let (kind, value) = word.split_once('=').ok_or(format!("{word:?} is not Type=Status"))?;
        let (truth, reason) = value.split_once('/').map_or((value, None), |(t, r)| (t, Some(r)));
        let found = conditions.iter().find(|condition| condition.kind == kind);
        let Some(found) = found else { return Err(format!("{kind} is not said: {conditions:?}")) };
        let is = match found.status {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        };
        if is != truth || reason.is_some_and(|reason| reason != found.reason) {
            return Err(format!("{kind}={is}/{}: {}", found.reason, found.message));
        }
    }
    Ok(())
}

/// What a route changes on the way, in words.
fn changes(route: &Route) -> Vec<String> {
    let mut words = Vec::new();
    let mut edits = |of: &str, edits: &control_core::ir::HeaderEdits| {
        words.extend(edits.set.iter().map(|(name, value)| format!("{of} set {name}={value}")));
        words.extend(edits.add.iter().map(|(name, value)| format!("{of} add {name}={value}")));
        words.extend(edits.remove.iter().map(|name| format!("{of} remove {name}")));
    };
    edits("request", &route.request);
    edits("response", &route.response);
    let Action::Forward(forward) = &route.action else { return words };
    for arm in &forward.arms {
        let of = arm.backend.as_ref().map_or("unresolved".to_owned(), ToString::to_string);
        edits(&format!("{of} request"), &arm.request);
        edits(&format!("{of} response"), &arm.response);
    }
    words.extend(forward.host.as_ref().map(|host| format!("host {host}")));
    words.extend(forward.path.as_ref().map(|path| match path {
        PathChange::Full(path) => format!("path {path}"),
        PathChange::Prefix(prefix) => format!("prefix {prefix}"),
    }));
    words.extend(forward.timeout.map(|timeout| format!("timeout {}ms", timeout.as_millis())));
    words
}

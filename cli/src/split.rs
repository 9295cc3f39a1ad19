//! `weir split`: the weights of a route.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::resources::{Why, outcome};
use crate::server::Server;
use crate::table::{cell, table};
use crate::{BadInput, print};

/// Flags of `weir split`.
#[derive(Debug, Subcommand)]
pub(crate) enum Split {
    /// Show the weights of a route's rules.
    Get(Route),
    /// Set weights: `v2=30` gives v2 30 of 100 and divides the rest among the others as they were; all of them named, they
    /// are meant as they stand.
    Set(Set),
}

/// Which route.
#[derive(Debug, Args)]
pub(crate) struct Route {
    /// The route's name.
    route: String,
    /// Its kind.
    #[arg(long, default_value = "httproute")]
    kind: String,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    server: Server,
}

/// Flags of `weir split set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    route: Route,
    /// Backends and their weights. `v2` also means a backend whose name ends in `-v2`.
    #[arg(required = true, value_name = "BACKEND=WEIGHT")]
    weights: Vec<Weight>,
    /// Only the rule of this name, or at this place from 0.
    #[arg(long)]
    rule: Option<String>,
    #[command(flatten)]
    why: Why,
}

/// A backend and its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weight {
    name: String,
    weight: u64,
}

impl std::str::FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, weight) = text.split_once('=').ok_or("BACKEND=WEIGHT is wanted")?;
        let weight =
            weight.trim_end_matches('%').parse().map_err(|_| format!("{weight:?} is not a whole number"))?;
        match (name.is_empty(), weight) {
            (true, _) => Err("a backend is wanted".to_owned()),
            (_, 0..=1_000_000) => Ok(Self { name: name.to_owned(), weight }),
            _ => Err(format!("{weight} is more than 1000000")),
        }
    }
}

impl Weight {
    fn means(&self, backend: &str) -> bool {
        backend == self.name || backend.ends_with(&format!("-{}", self.name))
    }
}

pub(crate) fn run(command: &Split) -> Result<ExitCode> {
    match command {
        Split::Get(route) => {
            let found = route.server.get(&route.path())?;
            print(&shown(&found))?;
        }
        Split::Set(flags) => set(flags)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Route {
    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/{}/{}", self.namespace, self.kind, self.route)
    }
}

fn set(flags: &Set) -> Result<()> {
    let path = flags.route.path();
    let mut found = flags.route.server.get(&path)?;
    let version = cell(&found["metadata"]["resourceVersion"]);
    change(&mut found, &flags.weights, flags.rule.as_deref())?;
    let mut headers = flags.why.headers();
    // Whoever changed it meanwhile is not written over.
    headers.push(("if-match", format!("\"{version}\"")));
    if flags.why.reason.is_empty() {
        let weights = flags.weights.iter().map(|w| format!("{}={}", w.name, w.weight));
        headers.push(("x-change-reason", format!("split {}", weights.collect::<Vec<_>>().join(" "))));
    }
    let path = format!("{path}{}", flags.why.query());
    let answer = flags.route.server.ask_with(Method::PUT, &path, Some(found.to_string()), &headers)?;
    print(&shown(&found))?;
    print(&outcome(&answer.body))
}

/// Puts weights into the rules that have all of these backends, and others beside them.
fn change(route: &mut Value, weights: &[Weight], only: Option<&str>) -> Result<()> {
    let name = cell(&route["metadata"]["name"]);
    let Some(rules) = route["spec"]["rules"].as_array_mut() else { bail!("{name} has no rules") };
    let mut changed = 0;
    for (i, rule) in rules.iter_mut().enumerate() {
        let is_it = only.is_none_or(|only| rule["name"] == only || only == i.to_string());
        let Some(arms) = rule["backendRefs"].as_array_mut().filter(|arms| is_it && arms.len() > 1) else {
            continue;
        };
        let names: Vec<String> = arms.iter().map(|arm| cell(&arm["name"])).collect();
        let has = |weight: &Weight| names.iter().filter(|name| weight.means(name)).count();
        if weights.iter().any(|weight| has(weight) > 1) {
            bail!(BadInput(format!("a weight means several of {}", names.join(", "))));
        }
        if weights.iter().any(|weight| has(weight) == 0) {
            continue;
        }
        let before: Vec<u64> = arms.iter().map(|arm| arm["weight"].as_u64().unwrap_or(1)).collect();
        for (arm, weight) in arms.iter_mut().zip(divided(&names, &before, weights)?) {
            arm["weight"] = json!(weight);
        }
        changed += 1;
    }
    if changed == 0 {
        let wanted: Vec<&str> = weights.iter().map(|weight| weight.name.as_str()).collect();
        bail!(BadInput(format!("no rule of {name} divides its requests over {}", wanted.join(" and "))));
    }
    Ok(())
}

/// The new weights. Where not all are named, they are parts of 100, and the others share what is left as they did before.
fn divided(names: &[String], before: &[u64], weights: &[Weight]) -> Result<Vec<u64>> {
    let named: Vec<Option<u64>> =
        names.iter().map(|name| weights.iter().find(|w| w.means(name)).map(|w| w.weight)).collect();
    if named.iter().all(Option::is_some) {
        return Ok(named.into_iter().flatten().collect());
    }
    let taken: u64 = named.iter().flatten().sum();
    let Some(left) = 100_u64.checked_sub(taken) else {
        bail!(BadInput(format!("{taken} is more than 100; name every backend to say otherwise")));
    };
    let others = || named.iter().zip(before).filter(|(named, _)| named.is_none());
    let sum: u64 = others().map(|(_, weight)| weight).sum();
    let count = others().count() as u64;
    // Exact: everything is multiplied by what the rest is divided by, and then reduced.
    let scale = if sum == 0 { count } else { sum };
    let exact: Vec<u64> = named
        .iter()
        .zip(before)
        .map(|(named, before)| match (named, sum) {
            (Some(weight), _) => weight * scale,
            (None, 0) => left,
            (None, _) => left * before,
        })
        .collect();
    let divisor = exact.iter().copied().fold(0, gcd).max(1);
    // A sum of 100 is what people read best, where it says the same.
    let reduced: Vec<u64> = exact.iter().map(|weight| weight / divisor).collect();
    let total: u64 = reduced.iter().sum();
    let factor = if total > 0 && 100 % total == 0 { 100 / total } else { 1 };
    let weights: Vec<u64> = reduced.iter().map(|weight| weight * factor).collect();
    match weights.iter().all(|weight| *weight <= 1_000_000) {
        true => Ok(weights),
        false => {
            bail!(BadInput("the weights have no common scale below 1000000; name every backend".to_owned()))
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn shown(route: &Value) -> String {
    let mut rows = Vec::new();
    let rules = route["spec"]["rules"].as_array().cloned().unwrap_or_default();
    for (i, rule) in rules.iter().enumerate() {
        let name = rule["name"].as_str().map_or_else(|| i.to_string(), str::to_owned);
        let arms = rule["backendRefs"].as_array().cloned().unwrap_or_default();
        let sum: u64 = arms.iter().filter_map(|arm| arm["weight"].as_u64()).sum();
        for arm in &arms {
            let weight = arm["weight"].as_u64().unwrap_or(1);
            let share = if sum == 0 { 0.0 } else { weight as f64 * 100.0 / sum as f64 };
            rows.push([name.clone(), cell(&arm["name"]), weight.to_string(), format!("{share:.4} %")]);
        }
    }
    table(["RULE", "BACKEND", "WEIGHT", "SHARE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(texts: &[&str]) -> Vec<Weight> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    fn new(before: &[(&str, u64)], set: &[&str]) -> Result<Vec<u64>> {
        let names: Vec<String> = before.iter().map(|(name, _)| (*name).to_owned()).collect();
        let before: Vec<u64> = before.iter().map(|(_, weight)| *weight).collect();
        divided(&names, &before, &weights(set))
    }

    #[test]
    fn one_named_weight_is_a_share_and_the_others_keep_theirs() {
        assert_eq!(new(&[("v1", 90), ("v2", 10)], &["v2=30"]).ok(), Some(vec![70, 30]));
        assert_eq!(new(&[("v1", 90), ("v2", 10)], &["v2=100"]).ok(), Some(vec![0, 100]));
        assert_eq!(new(&[("a", 3), ("b", 1), ("c", 0)], &["c=20"]).ok(), Some(vec![60, 20, 20]));
        assert_eq!(new(&[("a", 0), ("b", 5)], &["b=40"]).ok(), Some(vec![60, 40]));
        // Thirds have no hundredths: the scale is another, the shares are exact.
        assert_eq!(new(&[("a", 2), ("b", 1), ("c", 0)], &["c=10"]).ok(), Some(vec![60, 30, 10]));
        assert_eq!(new(&[("a", 1), ("b", 1)], &["a=1", "b=3"]).ok(), Some(vec![1, 3]));
        assert!(new(&[("a", 1), ("b", 1)], &["b=101"]).is_err());
    }

    #[test]
    fn only_rules_that_divide_over_it_are_changed() {
        let mut route = json!({ "metadata": { "name": "shop" }, "spec": { "rules": [
            { "backendRefs": [{ "name": "shop-v2", "weight": 1 }] },
            { "backendRefs": [{ "name": "shop-v1", "weight": 95 }, { "name": "shop-v2", "weight": 5 }] } ] } });
        change(&mut route, &weights(&["v2=30"]), None).expect("changed");
        assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["weight"], 1);
        assert_eq!(route["spec"]["rules"][1]["backendRefs"][0]["weight"], 70);
        let error = change(&mut route, &weights(&["v9=30"]), None).expect_err("nowhere").to_string();
        assert_eq!(error, "no rule of shop divides its requests over v9");
    }
}

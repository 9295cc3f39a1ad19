//! "Where would this request go?", as `/explain` and `weir explain` ask it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use proxy_core::config::{ClusterName, Serves};
use proxy_core::explain::{ArmAnswer, Decision, Explanation, Forwarding, Question, Verdict, explain};
use proxy_core::snapshot::Snapshot;
use serde_json::{Value, json};

/// What is asked, as the parameters of a query: `method`, `host`, `path`, `header` (`name: value`, any number of them),
/// `source` (the client's address), `listener` (its name; all of them where it is not given), `draw` (the request's random
/// number) and `format` (`text` or `json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    question: Question,
    listener: Option<String>,
    is_json: bool,
}

impl Ask {
    /// Reads a query string.
    ///
    /// # Errors
    /// One sentence about the parameter that is wrong.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut ask = Self {
            question: Question {
                method: "GET".to_owned(),
                host: String::new(),
                path: "/".to_owned(),
                headers: Vec::new(),
                peer: Ipv4Addr::LOCALHOST.into(),
                draw: 0,
                unknown: BTreeSet::new(),
            },
            listener: None,
            is_json: false,
        };
        let question = &mut ask.question;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "method" => question.method = value.into_owned(),
                "host" => question.host = value.into_owned(),
                "path" => question.path = value.into_owned(),
                "header" => {
                    let parts = value.split_once(':');
                    let (name, value) =
                        parts.ok_or_else(|| format!("header={value}: a header is written name: value"))?;
                    question.headers.push((name.to_owned(), value.trim().to_owned()));
                }
                "source" => {
                    question.peer =
                        value.parse::<IpAddr>().map_err(|_| format!("source={value}: not an IP address"))?;
                }
                "draw" => {
                    question.draw = value.parse().map_err(|_| format!("draw={value}: not a whole number"))?;
                }
                "listener" => ask.listener = Some(value.into_owned()),
                "format" => {
                    ask.is_json = match &*value {
                        "json" => true,
                        "text" => false,
                        _ => return Err(format!("format={value}: text or json")),
                    };
                }
                _ => {
                    let known = "method, host, path, header, source, draw, listener and format";
                    return Err(format!("there is no parameter {name}; there are {known}"));
                }
            }
        }
        if question.host.is_empty() {
            return Err("host= is missing: which host would the request be for?".to_owned());
        }
        Ok(ask)
    }

    /// Whether the answer is wanted as JSON.
    pub const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Says that the endpoints of these clusters are not known here.
    pub fn without_endpoints_of(&mut self, clusters: BTreeSet<ClusterName>) {
        self.question.unknown = clusters;
    }

    /// The answers of the listeners that are asked, as text or as JSON.
    ///
    /// # Errors
    /// No listener has the name.
    pub fn answer(&self, snapshot: &Snapshot) -> Result<String, String> {
        let asked = |name: &str| self.listener.as_deref().is_none_or(|wanted| wanted == name);
        let listeners = snapshot.live_listeners().filter(|(_, listener)| asked(listener.name.as_str()));
        let chains =
            listeners.flat_map(|(_, listener)| listener.chains.iter().map(move |chain| (listener, chain)));
        let of_requests = chains.filter(|(_, chain)| chain.chain.serves == Serves::Http);
        let answers: Vec<_> =
            of_requests.map(|(listener, chain)| explain(snapshot, listener, chain, &self.question)).collect();
        if answers.is_empty() {
            return Err(match &self.listener {
                Some(name) => format!("there is no listener {name:?}"),
                None => "no listener is served yet".to_owned(),
            });
        }
        if self.is_json {
            let answers: Vec<_> = answers.iter().map(json_of).collect();
            return Ok(format!("{:#}\n", json!({ "explanations": answers })));
        }
        Ok(answers.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }
}

fn json_of(explanation: &Explanation) -> Value {
    let tried = explanation.tried.iter().map(|tried| {
        json!({ "route": tried.route.to_string(), "matches": tried.mismatch.is_none(), "why_not": tried.mismatch })
    });
    json!({
        "listener": explanation.listener.as_str(),
        "filter_chain": &*explanation.chain,
        "address": explanation.address.to_string(),
        "route_configuration": explanation.configuration.as_str(),
        "request": { "method": explanation.method, "host": explanation.host, "path": explanation.path },
        "virtual_host": explanation.virtual_host.as_ref().map(|(name, domain)| json!({ "name": &**name, "domain": domain })),
        "tried": tried.collect::<Vec<_>>(),
        "route": explanation.route().map(ToString::to_string),
        "outcome": outcome(&explanation.verdict),
    })
}

fn outcome(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Refused { status, why } => json!({ "kind": "refused", "status": status, "why": why }),
        Verdict::Redirected { status, location, .. } => {
            json!({ "kind": "redirected", "status": status, "location": location })
        }
        Verdict::Answered { status, .. } => json!({ "kind": "answered", "status": status }),
        Verdict::Forwarded(forwarding) => forwarded(forwarding),
    }
}

fn forwarded(forwarding: &Forwarding) -> Value {
    let kind = match &forwarding.decision {
        Decision::Only => "only",
        Decision::Override(_) => "override",
        Decision::User(_) => "user",
        Decision::Draining => "draining",
        Decision::Number { .. } => "number",
        Decision::Turn(_) => "turn",
    };
    json!({
        "kind": "forwarded",
        "decided_by": { "kind": kind, "words": forwarding.decision.to_string() },
        "spilled_from": forwarding.spilled_from.as_ref().map(|arm| arm.as_str()),
        "makes_cookie": forwarding.makes_cookie,
        "arms": forwarding.arms.iter().map(arm).collect::<Vec<_>>(),
    })
}

fn arm(arm: &ArmAnswer) -> Value {
    let endpoints = arm
        .endpoints
        .iter()
        .map(|candidate| json!({ "address": candidate.address.to_string(), "share": candidate.share }));
    json!({
        "name": arm.name.as_str(),
        "cluster": arm.cluster,
        "cluster_exists": arm.has_cluster,
        "weight": arm.weight.0,
        "share": arm.share,
        "part": arm.part,
        "panic": arm.is_panic,
        "endpoints_known": arm.is_known,
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

//! Where a request would go, and why: the answer to [`Question`].
//!
//! The question is written as the bytes of a request and goes the way of one: parsed, its path normalised, its headers
//! sanitised, matched, divided. Nothing is decided here that the request path does not decide by the same code.

mod answer;
mod text;

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::{Action, ClusterName, ClusterRef, Forward, Split, SplitBy, Unavailable};
use crate::hop;
use crate::http1::{Method, RequestHead, parse_request};
use crate::path::{self, TargetError};
use crate::rewrite::{self, Here};
use crate::route::{Asked, Caller, Choice, CompiledRoute, HeadView, NoRoute, RequestView, Trail, Way};
use crate::snapshot::{ChainTable, ListenerTable, Snapshot};

pub use answer::{ArmAnswer, Candidate, Decision, Explanation, Forwarding, RouteAnswer, Verdict};

/// A request as somebody describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The method's token.
    pub method: String,
    /// Host, with a port if the client would send one.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Further header lines: name and value.
    pub headers: Vec<(String, String)>,
    /// The address of whoever connects.
    pub peer: IpAddr,
    /// The random number of this request, for routes that take a share, and for cookies that are made.
    pub draw: u64,
    /// Clusters whose endpoints are not known here, as only a running proxy asks for them. They count as usable.
    pub unknown: BTreeSet<ClusterName>,
}

impl Question {
    /// The head that such a client sends.
    fn head(&self) -> Vec<u8> {
        let Self { method, host, path, headers, .. } = self;
        let target = if method == "CONNECT" { host } else { path };
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in headers {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// What a filter chain of a listener does with a request. Cost: as a request, and a look at every route of its virtual host.
pub fn explain(
    snapshot: &Snapshot,
    listener: &ListenerTable,
    chain: &ChainTable,
    question: &Question,
) -> Explanation {
    let mut explanation = Explanation {
        listener: listener.name.clone(),
        address: listener.address.clone(),
        chain: chain.chain.name.clone(),
        configuration: chain.routes.name.clone(),
        method: question.method.clone(),
        host: question.host.clone(),
        path: question.path.clone(),
        virtual_host: None,
        tried: Vec::new(),
        verdict: Verdict::Refused { status: 400, why: String::new() },
    };
    let http = &chain.http;
    let mut buffer = question.head();
    let mut head = RequestHead::default();
    let whole = match parse_request(&buffer, &http.requests, &mut head) {
        Ok(complete) => complete && head.len == buffer.len(),
        Err(error) => {
            explanation.verdict = Verdict::Refused { status: error.status(), why: error.to_string() };
            return explanation;
        }
    };
    if !whole {
        let why = "a line break within a name or value makes this another request".to_owned();
        explanation.verdict = Verdict::Refused { status: 400, why };
        return explanation;
    }
    let normal = path::normalize_target(&mut buffer, &mut head, &http.paths);
    explanation.path = String::from_utf8_lossy(head.path.slice(&buffer)).into_owned();
    match normal {
        Ok(()) => {}
        Err(TargetError::Redirect) => {
            explanation.verdict =
                Verdict::Redirected { status: 307, location: explanation.path.clone(), route: None };
            return explanation;
        }
        Err(TargetError::Refused(error)) => {
            explanation.verdict = Verdict::Refused { status: error.status(), why: error.to_string() };
            return explanation.for_grpc(head.is_grpc);
        }
    }
    let peer = question.peer.to_string();
    let mut added = Vec::new();
    hop::apply(
        &http.hop,
        hop::Peer { is_tls: chain.chain.tls.is_some(), ..hop::Peer::plain(&peer) },
        &buffer,
        &mut head,
        || hop::request_id(0, question.draw),
        &mut added,
    );
    let request = Asked {
        head: HeadView { head: &head, buffer: &buffer, added: &added, default_host: &http.default_host },
        caller: Caller {
            address: hop::client_address(&http.hop, &peer, &buffer, &head).parse().ok(),
            labels: &snapshot.source_labels,
            draw: question.draw,
        },
    };
    let trail = chain.routes.explain(&request);
    explanation.tell(chain, &trail);
    explanation.verdict = verdict(snapshot, chain, &trail, &request, &question.unknown);
    explanation.for_grpc(head.is_grpc)
}

fn verdict(
    snapshot: &Snapshot,
    chain: &ChainTable,
    trail: &Trail<'_>,
    request: &Asked<'_>,
    unknown: &BTreeSet<ClusterName>,
) -> Verdict {
    let table = &chain.routes;
    let HeadView { head, buffer, .. } = request.head;
    let here = Here { scheme: request.scheme(), authority: request.authority(), target: request.path() };
    let refused = |status, why: &str| Verdict::Refused { status, why: why.to_owned() };
    let route = match &trail.found {
        Ok((_, route)) => *route,
        Err(NoRoute::TlsRequired) => {
            let location = String::from_utf8_lossy(&rewrite::to_tls(&here)).into_owned();
            return Verdict::Redirected { status: 301, location, route: None };
        }
        Err(_) if head.method == Method::Connect => return refused(405, "no route takes this CONNECT"),
        Err(NoRoute::NoVirtualHost) => return refused(404, "no virtual host serves this host"),
        Err(NoRoute::NoMatch { .. }) => return refused(404, "no route of the virtual host matches"),
    };
    let config = table.route_config(route);
    match &config.action {
        Action::Redirect(redirect) => {
            let mut location = Vec::new();
            rewrite::location(redirect, &config.path, &here, &mut location);
            let location = String::from_utf8_lossy(&location).into_owned();
            Verdict::Redirected { status: redirect.status, location, route: Some(route.label.clone()) }
        }
        Action::Respond(response) => {
            Verdict::Answered { status: response.status, route: route.label.clone() }
        }
        Action::Forward(forward) => {
            let allowed = |protocol: &[u8]| chain.http.allows_upgrade(protocol, &forward.options.upgrades);
            if head.method == Method::Connect && !allowed(b"connect") {
                return refused(405, "CONNECT is not enabled here");
            }
            if head.upgrade.is_some_and(|protocol| !allowed(protocol.slice(buffer))) {
                return refused(403, "no upgrade to this protocol is enabled here");
            }
            Verdict::Forwarded(Box::new(forwarding(snapshot, route, forward, request, unknown)))
        }
    }
}

/// The arms of a route with what each has to offer, and which of them takes the request.
fn forwarding(
    snapshot: &Snapshot,
    route: &CompiledRoute,
    forward: &Forward,
    request: &impl RequestView,
    unknown: &BTreeSet<ClusterName>,
) -> Forwarding {
    let split = &forward.split;
    let mut arms: Vec<_> = split
        .arms
        .iter()
        .zip(&route.targets)
        .map(|(arm, target)| {
            let (name, slot) = match (&arm.cluster, target.slot) {
                (ClusterRef::Name(name), slot) => (name.to_string(), slot),
                (ClusterRef::Header(header), _) => {
                    let value = request.header(header.as_bytes()).next().unwrap_or_default();
                    let value = String::from_utf8_lossy(value).into_owned();
                    let slot = snapshot.cluster_slot(&value);
                    (value, slot)
                }
            };
            let table = slot.and_then(|slot| snapshot.cluster(slot));
            let is_known = !unknown.contains(name.as_str());
            ArmAnswer { is_known, ..ArmAnswer::new(arm, name, table.map(|table| &**table)) }
        })
        .collect();
    let chosen = route.choose(split, request);
    let usable: Vec<_> = arms.iter().map(ArmAnswer::is_usable).collect();
    let takes: Vec<_> = match chosen.arm {
        Some(arm) => vec![(arm, 1)],
        None => split.arms.iter().map(|arm| u64::from(arm.weight.0)).enumerate().collect(),
    };
    let spills = split.unavailable == Unavailable::Spill && split.arms.len() > 1;
    let mut spilled_from = None;
    let takes = match takes.as_slice() {
        [(arm, _)] if spills && !usable[*arm] => {
            let by_turn = || split.arms.iter().map(|arm| u64::from(arm.weight.0)).enumerate();
            let others: Vec<_> = match route.spill(split, &chosen, |arm| usable[arm]) {
                Some(other) => vec![(other, 1)],
                None => by_turn().filter(|(arm, weight)| *weight > 0 && usable[*arm]).collect(),
            };
            if others.is_empty() {
                takes
            } else {
                spilled_from = Some(split.arms[*arm].name.clone());
                others
            }
        }
        many if spills && many.iter().any(|(arm, _)| usable[*arm]) => {
            many.iter().copied().filter(|(arm, _)| usable[*arm]).collect()
        }
        _ => takes,
    };
    let total: u64 = takes.iter().map(|(_, weight)| weight).sum();
    for (arm, weight) in takes {
        arms[arm].share = weight as f64 / total.max(1) as f64;
    }
    Forwarding {
        route: route.label.clone(),
        decision: decision(split, &route.choice, chosen.way),
        makes_cookie: !chosen.cookies.is_empty(),
        spilled_from,
        cluster_not_found: forward.cluster_not_found,
        arms,
    }
}

fn decision(split: &Split, choice: &Choice, way: Way) -> Decision {
    match way {
        Way::Only => Decision::Only,
        Way::Override => Decision::Override(split.override_header.clone().unwrap_or_default()),
        Way::User => Decision::User(split.by.to_string()),
        Way::Draining => Decision::Draining,
        Way::Number(number) => {
            let total: u64 = split.arms.iter().map(|arm| u64::from(arm.weight.0)).sum();
            Decision::Number { by: split.by.to_string(), number, point: number % total.max(1), total }
        }
        Way::Turn if matches!(choice, Choice::Sequence) || split.by == SplitBy::Turn => Decision::Turn(None),
        Way::Turn => Decision::Turn(Some(split.by.to_string())),
    }
}

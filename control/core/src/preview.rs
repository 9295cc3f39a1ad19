//! What would be served, asked by the matcher of the data plane: nothing is opened, nobody is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use proxy_core::config::{Config, Serves};
use proxy_core::explain::{ArmAnswer, Explanation, Verdict, explain};
use proxy_core::lint::lint;
use proxy_core::snapshot::Snapshot;
use proxy_core::xds::{AdsClient, Origin, Resources, Subscriptions, Update};
use serde::Serialize;
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::DiscoveryResponse;
use xds_proto::type_url;

pub use proxy_core::explain::Question;

use crate::ir::{Action, Ir, Route};
use crate::lower::ResourceSet;

/// A configuration as a proxy would have it.
#[derive(Debug)]
pub struct Preview<'a> {
    ir: &'a Ir,
    config: Config,
    snapshot: Snapshot,
}

/// What becomes of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The route that takes it.
    pub route: Option<String>,
    /// The backend that gets it, or what it is answered.
    pub arm: String,
    /// How long the response may take, in milliseconds, where the route says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// A request that would fare otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Impact {
    /// The listener.
    pub listener: String,
    /// The request, as `GET shop.example.com/cart`.
    pub request: String,
    /// What becomes of it.
    pub from: Option<Outcome>,
    /// What would.
    pub to: Option<Outcome>,
}

impl<'a> Preview<'a> {
    /// What a proxy would make of a configuration, lowered for it.
    ///
    /// # Errors
    /// It would refuse it: a bug of the lowering.
    pub fn new(ir: &'a Ir, set: &ResourceSet, now: Instant) -> Result<Self, String> {
        let node = Node { id: "preview".to_owned(), ..Node::default() };
        let subscriptions = Subscriptions {
            listeners: Some(Origin::Ads),
            clusters: Some(Origin::Ads),
            ..Subscriptions::default()
        };
        let mut client = AdsClient::new(node, subscriptions, Resources::default());
        let _ = client.connected(now);
        let mut config = Config::default();
        for of_type in [
            type_url::CLUSTER,
            type_url::CLUSTER_LOAD_ASSIGNMENT,
            type_url::LISTENER,
            type_url::SECRET,
            type_url::ROUTE_CONFIGURATION,
        ] {
            let response = DiscoveryResponse {
                version_info: "1".to_owned(),
                resources: set.of_type(of_type).values().map(|resource| (*resource.any).clone()).collect(),
                type_url: of_type.to_owned(),
                nonce: of_type.to_owned(),
                ..DiscoveryResponse::default()
            };
            let review = client.review(Update::from(response), now);
            config = review.config().clone();
            let conclusion = client.conclude(review, now);
            if let Some(refusal) = conclusion.requests.iter().find_map(|request| request.refusal()) {
                return Err(refusal.message.clone());
            }
        }
        let snapshot = Snapshot::default().next(&config, |_| false).map_err(|error| error.to_string())?;
        Ok(Self { ir, config, snapshot })
    }

    /// What can be served and is hardly meant, a sentence each: routes that never match, arms that nobody sees or that nobody
    /// serves. A route that stands in several hosts is told of if it is so in all of them.
    pub fn warnings(&self) -> Vec<String> {
        let mut told: BTreeMap<(String, String), usize> = BTreeMap::new();
        for finding in lint(&self.config, false) {
            let route = self.route_at(finding.spot.configuration.as_str(), &finding.spot.path);
            let about = route.map_or_else(|| finding.spot.path.clone(), |route| route.name.clone());
            // The names of hosts and neighbours differ from place to place.
            *told.entry((about, finding.advice)).or_default() += 1;
        }
        let hosts = |name: &str| {
            let all = self.ir.tables.values().flat_map(|table| &table.hosts);
            all.filter(|host| host.routes.iter().any(|route| route.name == *name)).count()
        };
        let everywhere = told.into_iter().filter(|((about, _), count)| *count >= hosts(about));
        let mut warnings: Vec<String> = everywhere
            .map(|((about, advice), _)| format!("{about}: never has an effect as it stands; {advice}"))
            .collect();
        warnings.extend(self.arms_without_endpoints());
        warnings
    }

    fn route_at(&self, configuration: &str, path: &str) -> Option<&Route> {
        let number = |list: &str| -> Option<usize> {
            path.split_once(&format!("{list}["))?.1.split_once(']')?.0.parse().ok()
        };
        let host = self.ir.tables.get(configuration)?.hosts.get(number("virtual_hosts")?)?;
        host.routes.get(number("routes")?).map(Arc::as_ref)
    }

    fn arms_without_endpoints(&self) -> BTreeSet<String> {
        let routes = self.ir.tables.values().flat_map(|table| &table.hosts).flat_map(|host| &host.routes);
        let mut found = BTreeSet::new();
        for route in routes {
            let Action::Forward(forward) = &route.action else { continue };
            for arm in forward.arms.iter().filter(|arm| arm.weight > 0) {
                let Some(name) = &arm.backend else { continue };
                if self.ir.backends.get(name).is_some_and(|backend| backend.endpoints.is_empty()) {
                    found.insert(format!(
                        "{}: {name} has no endpoints yet; its requests are answered with 503",
                        route.name
                    ));
                }
            }
        }
        found
    }

    /// What becomes of a request at each listener, with the way as text.
    pub fn ways(&self, question: &Question) -> Vec<(String, Outcome, String)> {
        let mut ways = Vec::new();
        for (_, listener) in self.snapshot.live_listeners() {
            for chain in listener.chains.iter().filter(|chain| chain.chain.serves == Serves::Http) {
                let explanation = explain(&self.snapshot, listener, chain, question);
                let name = listener.name.as_str().to_owned();
                ways.push((name, self.outcome(&explanation), explanation.to_string()));
            }
        }
        ways
    }

    /// What becomes of a request that goes by a table.
    pub fn way(&self, question: &Question, table: &str) -> Option<(String, Outcome, String)> {
        let listeners = self.snapshot.live_listeners();
        let chains =
            listeners.flat_map(|(_, listener)| listener.chains.iter().map(move |chain| (listener, chain)));
        let mut by_table = chains
            .filter(|(_, chain)| chain.chain.serves == Serves::Http && chain.routes.name.as_str() == table);
        let (listener, chain) = by_table.next()?;
        let explanation = explain(&self.snapshot, listener, chain, question);
        Some((listener.name.as_str().to_owned(), self.outcome(&explanation), explanation.to_string()))
    }

    fn outcome(&self, explanation: &Explanation) -> Outcome {
        let route = explanation.route().map(ToString::to_string);
        let arm = match &explanation.verdict {
            Verdict::Refused { status, .. } | Verdict::Answered { status, .. } => {
                format!("answered with {status}")
            }
            Verdict::Redirected { status, location, .. } => format!("redirected with {status} to {location}"),
            Verdict::Forwarded(forwarding) => {
                let taking: Vec<_> = forwarding.arms.iter().filter(|arm| arm.share > 0.0).collect();
                match taking.as_slice() {
                    [] => "nobody".to_owned(),
                    [only] => only.cluster.clone(),
                    several => {
                        let share = |arm: &&ArmAnswer| format!("{} {:.4}", arm.cluster, arm.share);
                        several.iter().map(share).collect::<Vec<_>>().join(", ")
                    }
                }
            }
        };
        let timeout = route.as_deref().and_then(|route| self.timeout(explanation, route));
        Outcome { route, arm, timeout }
    }

    fn timeout(&self, explanation: &Explanation, route: &str) -> Option<u64> {
        let table = self.ir.tables.get(explanation.configuration.as_str())?;
        let (virtual_host, _) = explanation.virtual_host.as_ref()?;
        let host = table.hosts.iter().find(|host| host.hostname == **virtual_host)?;
        let found = host.routes.iter().find(|r| route.ends_with(&r.name))?;
        match &found.action {
            Action::Forward(forward) => forward.timeout.and_then(|t| u64::try_from(t.as_millis()).ok()),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }
}

/// The requests that would fare otherwise.
pub fn impact(before: &Preview<'_>, after: &Preview<'_>, questions: &[Question]) -> Vec<Impact> {
    let mut impacts = Vec::new();
    for question in questions {
        let outcomes = |preview: &Preview<'_>| -> Vec<_> {
            preview.ways(question).into_iter().map(|(listener, outcome, _)| (listener, outcome)).collect()
        };
        let (from, to) = (outcomes(before), outcomes(after));
        let find = |ways: &[(String, Outcome)], listener: &str| {
            ways.iter().find(|(l, _)| l == listener).map(|(_, outcome)| outcome.clone())
        };
        let mut listeners: Vec<_> = from.iter().chain(&to).map(|(listener, _)| listener.clone()).collect();
        listeners.sort();
        listeners.dedup();
        for listener in listeners {
            let (from, to) = (find(&from, &listener), find(&to, &listener));
            if from != to {
                let request = format!("{} {}{}", question.method, question.host, question.path);
                impacts.push(Impact { listener, request, from, to });
            }
        }
    }
    impacts
}

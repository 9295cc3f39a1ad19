//! What an explanation holds.

use std::sync::Arc;

use crate::config::{Address, Arm, ArmName, ListenerName, RouteConfigName, Weight};
use crate::grpc;
use crate::lb;
use crate::route::{NoRoute, RouteLabel, Trail};
use crate::snapshot::{ChainTable, ClusterTable};

/// Where a request goes, and every step of the way. As text it is for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The listener that takes it.
    pub listener: ListenerName,
    /// Where that listens.
    pub address: Address,
    /// The filter chain; empty where it has no name.
    pub chain: Box<str>,
    /// The route configuration.
    pub configuration: RouteConfigName,
    /// The method.
    pub method: String,
    /// The host, as it was sent.
    pub host: String,
    /// The path, as it is matched.
    pub path: String,
    /// The virtual host, and its domain that covers the host.
    pub virtual_host: Option<(Arc<str>, String)>,
    /// Its routes in their order, up to the one that takes the request.
    pub tried: Vec<RouteAnswer>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// A route that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAnswer {
    /// The route.
    pub route: Arc<RouteLabel>,
    /// Whether its condition on the path holds.
    pub path_fits: bool,
    /// Why it does not take the request; nothing if it does.
    pub mismatch: Option<String>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The proxy answers that it cannot be served.
    Refused {
        /// The status.
        status: u16,
        /// Why.
        why: String,
    },
    /// The client is sent elsewhere.
    Redirected {
        /// The status.
        status: u16,
        /// Where to.
        location: String,
        /// The route that says so, if it is one.
        route: Option<Arc<RouteLabel>>,
    },
    /// The route is an answer.
    Answered {
        /// The status.
        status: u16,
        /// The route.
        route: Arc<RouteLabel>,
    },
    /// An endpoint gets it.
    Forwarded(Box<Forwarding>),
}

/// How a route divides its requests, and where this one goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Forwarding {
    /// The route.
    pub route: Arc<RouteLabel>,
    /// What decides which arm takes it.
    pub decision: Decision,
    /// The arm that should have taken it, and has no usable endpoint.
    pub spilled_from: Option<ArmName>,
    /// Whether the response brings a cookie that names the user.
    pub makes_cookie: bool,
    /// The status where the arm's cluster does not exist.
    pub cluster_not_found: u16,
    /// All arms, in their order.
    pub arms: Vec<ArmAnswer>,
}

/// What decides which arm takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// There is only one that takes requests.
    Only,
    /// This header named it.
    Override(Box<str>),
    /// Who asks, as named here.
    User(String),
    /// The user's cookie names an arm that is being drained.
    Draining,
    /// A number of the request, over the running sum of weights.
    Number {
        /// Where it comes from.
        by: String,
        /// The number.
        number: u64,
        /// Its place in the sum.
        point: u64,
        /// The sum.
        total: u64,
    },
    /// The exact sequence; in spite of this key, which the request does not bring.
    Turn(Option<String>),
}

/// An arm of a split, as this request sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmAnswer {
    /// Its name.
    pub name: ArmName,
    /// Its cluster's name.
    pub cluster: String,
    /// Its weight.
    pub weight: Weight,
    /// How likely it takes this request, from 0 to 1.
    pub share: f64,
    /// Whether the cluster exists.
    pub has_cluster: bool,
    /// Which part of the cluster, in words; empty where it is all of it.
    pub part: &'static str,
    /// Whether endpoints are used that are not well, as too few are.
    pub is_panic: bool,
    /// Whether anybody here knows its endpoints.
    pub is_known: bool,
    /// The endpoints that may get the request. None: it fails.
    pub endpoints: Vec<Candidate>,
}

/// An endpoint that may get the request.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Where it is.
    pub address: Address,
    /// Its part of the arm's requests, from 0 to 1.
    pub share: f64,
}

impl Explanation {
    /// Takes over how the search went.
    /// The same, for a client that reads no status but gRPC's.
    pub(super) fn for_grpc(mut self, is_grpc: bool) -> Self {
        if let Verdict::Refused { status, why } = &mut self.verdict
            && is_grpc
        {
            *why = format!("{why} (grpc-status {})", grpc::status_of(*status));
            *status = 200;
        }
        self
    }

    pub(super) fn tell(&mut self, chain: &ChainTable, trail: &Trail<'_>) {
        let hosts = &chain.routes.config.virtual_hosts;
        self.virtual_host =
            trail.virtual_host.map(|(number, domain)| (hosts[number].name.clone(), domain.to_string()));
        if matches!(trail.found, Err(NoRoute::TlsRequired)) {
            return;
        }
        self.tried = trail
            .tried
            .iter()
            .map(|tried| RouteAnswer {
                route: tried.route.label.clone(),
                path_fits: !matches!(tried.mismatch, Some(crate::route::Mismatch::Path(_))),
                mismatch: tried.mismatch.as_ref().map(ToString::to_string),
            })
            .collect();
    }

    /// The route that takes it.
    pub fn route(&self) -> Option<&RouteLabel> {
        match &self.verdict {
            Verdict::Refused { .. } => None,
            Verdict::Redirected { route, .. } => route.as_deref(),
            Verdict::Answered { route, .. } => Some(route),
            Verdict::Forwarded(forwarding) => Some(&forwarding.route),
        }
    }
}

impl ArmAnswer {
    pub(super) fn new(arm: &Arm, cluster: String, table: Option<&ClusterTable>) -> Self {
        let mut answer = Self {
            name: arm.name.clone(),
            cluster,
            weight: arm.weight,
            share: 0.0,
            has_cluster: table.is_some(),
            part: "",
            is_panic: false,
            is_known: true,
            endpoints: Vec::new(),
        };
        let Some(table) = table else { return answer };
        let (choices, way) = table.choices.of(arm.subset.as_deref());
        answer.part = match way {
            lb::Way::All => "",
            lb::Way::Subset => "the subset of its labels",
            lb::Way::Fallback => "what stands in for a subset",
        };
        answer.is_panic = choices.is_panic();
        let candidate = |(index, share): (usize, f64)| {
            Some(Candidate { address: table.endpoints.get(index)?.address.clone(), share })
        };
        answer.endpoints = choices.shares().into_iter().filter_map(candidate).collect();
        answer
    }

    /// Whether it has an endpoint for the request.
    pub const fn is_usable(&self) -> bool {
        !self.is_known || !self.endpoints.is_empty()
    }
}

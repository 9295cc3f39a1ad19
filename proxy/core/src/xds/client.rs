//! The client of one aggregated stream, in either form.
//!
//! ```text
//!   connected ─► subscribe ──► response ──► review ──► (sockets, compilation) ──► conclude ─► ACK or NACK
//!       ▲                          ▲                                                 │
//!       └───── disconnected ◄──────┴─────────────────────────────────────────────────┘
//! ```
//! Versions outlive the stream, nonces do not. The valid resources of a refused response are applied (gRFC A46). Losing
//! the control plane changes nothing about what is served.

mod merge;
mod review;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use xds_proto::gate::IgnoredField;
use xds_proto::google::rpc::Status;
use xds_proto::type_url;

use super::kind::Kind;
use super::resources::Absence;
use super::translate;
use super::{Rejection, Resources, Verdicts};
use crate::config::{ClusterName, Config, DnsTargets, LoadAssignment};
use merge::Merge;
pub use review::Review;
pub use wire::{Delivered, Request, Update, Variant};

/// `INVALID_ARGUMENT` of google.rpc.Code.
const INVALID_ARGUMENT: i32 = 3;
/// Resources of one response; more is refused before any is looked at.
const MAX_RESOURCES: usize = 1_000_000;
/// Bytes of a NACK's text: control planes log it whole.
const MAX_REASON_BYTES: usize = 4 << 10;
/// What a node must say for resources to come with a time to live.
const SUPPORTS_TTL: &str = "xds.config.supports-resource-ttl";

/// Where the bootstrap has the wildcard types come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// `dynamic_resources.lds_config`
    pub listeners: Option<Origin>,
    /// `dynamic_resources.cds_config`
    pub clusters: Option<Origin>,
    /// The form of the stream.
    pub variant: Variant,
}

/// Where resources come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The aggregated stream.
    Ads,
    /// A file.
    File(Arc<str>),
}

/// One type's subscription.
#[derive(Debug, Default)]
struct Channel {
    /// Of the last response that was accepted whole. Survives reconnection.
    version: String,
    /// Of the last response on this stream.
    nonce: String,
    /// Whether anything of a response was ever taken, even if another part of it was refused.
    answered: bool,
    /// The names last asked for on this stream.
    requested: Option<Arc<BTreeSet<String>>>,
    /// What is held is of another server: the next response says what there is, and what it lacks goes.
    is_foreign: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct AdsClient {
    node: Node,
    subscriptions: Subscriptions,
    channels: [Channel; 5],
    resources: Resources,
    node_sent: bool,
    /// When what is asked for by name, and has not come, counts as absent. Empty while there is no stream.
    overdue: BTreeMap<(Kind, String), Instant>,
    /// When what came with a time to live is gone.
    expiries: BTreeMap<(Kind, String), Instant>,
}

/// A response that was answered.
#[derive(Debug)]
pub struct Conclusion {
    /// What to send, in this order.
    pub requests: Vec<Request>,
    /// The response's type.
    pub type_url: String,
    /// The response's version.
    pub version: String,
    /// What was refused; empty means ACK.
    pub rejections: Vec<Rejection>,
    /// Fields that were set and are not acted upon.
    pub ignored: BTreeSet<IgnoredField>,
}

fn rejection(type_url: &str, resource: Option<&str>, reason: String) -> Rejection {
    Rejection {
        type_name: type_url::message_name(type_url).to_owned(),
        resource: resource.map(str::to_owned),
        path: String::new(),
        reason,
    }
}

impl AdsClient {
    /// A client that has never been connected. `resources` are those of the bootstrap.
    pub fn new(mut node: Node, subscriptions: Subscriptions, mut resources: Resources) -> Self {
        resources.settle();
        if !node.client_features.iter().any(|feature| feature == SUPPORTS_TTL) {
            node.client_features.push(SUPPORTS_TTL.to_owned());
        }
        Self {
            node,
            subscriptions,
            channels: Default::default(),
            resources,
            node_sent: false,
            overdue: BTreeMap::new(),
            expiries: BTreeMap::new(),
        }
    }

    /// What is held.
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The last accepted version of a type.
    pub fn version(&self, type_url: &str) -> &str {
        Kind::of(type_url).map_or("", |kind| &self.channels[kind as usize].version)
    }

    /// The last accepted version of each type that was answered.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        let of = |kind: Kind| (kind.type_url(), self.channels[kind as usize].version.clone());
        Kind::ALL.into_iter().filter(|kind| self.channels[*kind as usize].answered).map(of).collect()
    }

    /// Whether the control plane ever answered for a type with something that was taken.
    pub fn is_answered(&self, type_url: &str) -> bool {
        Kind::of(type_url).is_some_and(|kind| self.channels[kind as usize].answered)
    }

    /// A stream is open. Returns the first requests.
    pub fn connected(&mut self, now: Instant) -> Vec<Request> {
        self.disconnected();
        self.resources.awaits_routes =
            self.subscriptions.listeners == Some(Origin::Ads) || !self.resources.named.routes.is_empty();
        self.resources.touch();
        self.subscribe(now)
    }

    /// The next stream leads to another server, to which the versions of the last one say nothing. What was accepted stays
    /// until that server has spoken.
    pub fn forget_versions(&mut self) {
        for channel in &mut self.channels {
            channel.version.clear();
            channel.is_foreign = true;
        }
    }

    /// The stream is gone. Everything that was accepted stays.
    pub fn disconnected(&mut self) {
        self.node_sent = false;
        // Nobody can say that something does not exist who cannot be asked.
        self.overdue.clear();
        for channel in &mut self.channels {
            channel.nonce.clear();
            channel.requested = None;
        }
    }

    /// When [`AdsClient::review_overdue`] has something to say, if nothing comes before.
    pub fn deadline(&self) -> Option<Instant> {
        self.overdue.values().chain(self.expiries.values()).min().copied()
    }

    /// Looks at a response without answering it yet.
    pub fn review(&self, update: impl Into<Update>, now: Instant) -> Review {
        self.review_from(&Origin::Ads, update.into(), now)
    }

    /// Looks at what an earlier process accepted, before there is a stream.
    pub fn review_kept(&self, update: impl Into<Update>, now: Instant) -> Review {
        let review = self.review_from(&Origin::Ads, update.into(), now);
        Review { origin: None, ..review }
    }

    /// What was accepted, as responses that bring it, in the order in which it can be taken. What holds a private key is left
    /// out.
    pub fn accepted(&self) -> Vec<DeltaDiscoveryResponse> {
        let of = |kind: Kind| DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            system_version_info: self.channels[kind as usize].version.clone(),
            resources: self.resources.shareable(kind),
            ..DeltaDiscoveryResponse::default()
        };
        let is_followed = |kind: &Kind| self.channels[*kind as usize].answered;
        Kind::ALL.into_iter().filter(is_followed).map(of).collect()
    }

    /// The files that are followed, each with the type of what is wanted of it.
    pub fn wanted_files(&self) -> BTreeSet<(&'static str, Arc<str>)> {
        let mut files = self.resources.wanted_files();
        if let Some(Origin::File(path)) = &self.subscriptions.listeners {
            files.insert((type_url::LISTENER, path.clone()));
        }
        if let Some(Origin::File(path)) = &self.subscriptions.clusters {
            files.insert((type_url::CLUSTER, path.clone()));
        }
        files
    }

    /// Looks at what a file holds, as at a response. A file that is not followed for this type is refused.
    pub fn review_file(&self, path: &Arc<str>, update: impl Into<Update>, now: Instant) -> Review {
        self.review_from(&Origin::File(path.clone()), update.into(), now)
    }

    /// Looks at the endpoints that the names of a cluster have now.
    pub fn review_resolved(
        &self,
        cluster: ClusterName,
        targets: Arc<DnsTargets>,
        endpoints: LoadAssignment,
    ) -> Review {
        let mut candidate = self.resources.clone();
        candidate.resolve(cluster, targets, endpoints);
        Review::own(candidate, type_url::CLUSTER_LOAD_ASSIGNMENT)
    }

    /// Looks at what is served with what active checks say of the endpoints of clusters.
    pub fn review_checked(&self, found: impl IntoIterator<Item = (ClusterName, Arc<Verdicts>)>) -> Review {
        let mut candidate = self.resources.clone();
        found.into_iter().for_each(|(cluster, verdicts)| candidate.check(cluster, verdicts));
        Review::own(candidate, type_url::CLUSTER_LOAD_ASSIGNMENT)
    }

    /// Looks at what is gone, or counts as absent, now that [`AdsClient::deadline`] has come.
    pub fn review_overdue(&mut self, now: Instant) -> Review {
        let mut candidate = self.resources.clone();
        let mut type_url = type_url::CLUSTER_LOAD_ASSIGNMENT;
        for (timers, absence) in
            [(&mut self.overdue, Absence::Overdue), (&mut self.expiries, Absence::Expired)]
        {
            timers.retain(|(kind, name), at| {
                if *at > now {
                    return true;
                }
                type_url = kind.type_url();
                candidate.lose(*kind, name, absence);
                false
            });
        }
        Review::own(candidate, type_url)
    }

    fn follows(&self, kind: Kind, origin: &Origin) -> bool {
        match origin {
            Origin::Ads => self.wanted(kind).is_some(),
            Origin::File(path) => self.wanted_files().contains(&(kind.type_url(), path.clone())),
        }
    }

    fn review_from(&self, origin: &Origin, update: Update, now: Instant) -> Review {
        let Update { type_url, version, nonce, resources, removed } = update;
        let mut review = Review {
            kind: Kind::of(&type_url).filter(|kind| self.follows(*kind, origin)),
            origin: Some(origin.clone()),
            type_url,
            version,
            nonce,
            candidate: self.resources.clone(),
            config: Config::default(),
            rejections: Vec::new(),
            refused_whole: false,
            ignored: BTreeSet::new(),
            expiries: BTreeMap::new(),
        };
        if resources.len() > MAX_RESOURCES {
            review.refuse(format!("{} resources are more than the {MAX_RESOURCES} allowed", resources.len()));
        } else {
            self.apply(&mut review, origin, resources, removed.as_ref(), now);
        }
        // The routes of this stream are here; inline ones come with their listeners. (A second response of clusters is no
        // sign that they are near: the simulation has a server whose configuration changes before it comes to the routes.)
        review.candidate.name_again();
        let inline = review.candidate.named.routes.is_empty();
        let of_stream = *origin == Origin::Ads || self.subscriptions.listeners != Some(Origin::Ads);
        if of_stream && (review.kind == Some(Kind::Routes) || (review.kind == Some(Kind::Listener) && inline))
        {
            review.candidate.awaits_routes = false;
        }
        review.config =
            if review.refused_whole { self.resources.config() } else { review.candidate.settle() };
        review
    }

    fn apply(
        &self,
        review: &mut Review,
        origin: &Origin,
        resources: Vec<Delivered>,
        removed: Option<&BTreeSet<String>>,
        now: Instant,
    ) {
        let Review { kind, candidate, .. } = review;
        let Some(kind) = *kind else {
            review.refuse("this type was not asked for".to_owned());
            return;
        };
        let removed = removed.filter(|_| !(kind.is_wildcard() && self.channels[kind as usize].is_foreign));
        let merge = Merge { resources, removed, absence_deletes: kind.is_wildcard(), now };
        let is_of_endpoints = kind == Kind::Endpoints && *origin == Origin::Ads;
        if !is_of_endpoints {
            candidate.touch();
        }
        let outcome = match (kind, origin) {
            (Kind::Listener, _) => {
                let taken = |name: &str| self.resources.is_static_listener(name);
                merge.into(&mut candidate.listeners, translate::listener, taken)
            }
            (Kind::Cluster, _) => {
                let taken = |name: &str| self.resources.is_static_cluster(name);
                merge.into(&mut candidate.clusters, translate::cluster, taken)
            }
            (Kind::Secret, _) => merge.into(&mut candidate.secrets, translate::secret, |_| false),
            (Kind::Routes, Origin::Ads) => {
                merge.into(&mut candidate.routes, translate::route_configuration, |_| false)
            }
            (Kind::Endpoints, Origin::Ads) => {
                merge.into(&mut candidate.endpoints, translate::load_assignment, |_| false)
            }
            (Kind::Routes, Origin::File(path)) => {
                let file = candidate.files.entry(path.clone()).or_default();
                merge.into(&mut file.routes, translate::route_configuration, |_| false)
            }
            (Kind::Endpoints, Origin::File(path)) => {
                let file = candidate.files.entry(path.clone()).or_default();
                merge.into(&mut file.endpoints, translate::load_assignment, |_| false)
            }
        };
        if is_of_endpoints {
            candidate.touch_endpoints(outcome.expiries.keys().chain(removed.into_iter().flatten()).cloned());
        }
        review.ignored = outcome.ignored;
        match outcome.duplicate {
            Some(name) => review.refuse(format!("two resources are named {name:?}")),
            None => {
                review.rejections = outcome.rejections;
                if *origin == Origin::Ads {
                    review.expiries = outcome.expiries;
                    review.expiries.keys().for_each(|name| review.candidate.find(kind, name));
                }
            }
        }
    }

    /// Answers a response: takes over what it brought, and returns the ACK or NACK and any changed subscription.
    pub fn conclude(&mut self, review: Review, now: Instant) -> Conclusion {
        let Review {
            origin,
            type_url,
            kind,
            version,
            nonce,
            candidate,
            rejections,
            refused_whole,
            ignored,
            expiries,
            config: _,
        } = review;
        if !refused_whole {
            self.resources = candidate;
            if let Some(kind) = kind {
                self.renew(kind, expiries);
            }
        }
        let mut requests = Vec::new();
        let is_kept = origin.is_none();
        match (origin, kind) {
            // Nobody waits for an answer; but the names that are asked of the control plane may be others now.
            (None | Some(Origin::File(_)), kind) => {
                if let Some(kind) = kind {
                    let channel = &mut self.channels[kind as usize];
                    channel.answered |= !refused_whole;
                    if is_kept && rejections.is_empty() {
                        channel.version.clone_from(&version);
                    }
                }
                if self.node_sent {
                    requests.extend(self.subscribe(now));
                }
            }
            (Some(Origin::Ads), None) => requests.push(self.stranger(&type_url, nonce, status(&rejections))),
            (Some(Origin::Ads), Some(kind)) => {
                let channel = &mut self.channels[kind as usize];
                channel.nonce = nonce;
                channel.answered |= !refused_whole;
                channel.is_foreign &= refused_whole;
                if rejections.is_empty() {
                    channel.version.clone_from(&version);
                }
                let answer = self.request(kind, now);
                requests.push(match rejections.is_empty() {
                    true => answer,
                    false => answer.refusing(status(&rejections)),
                });
                requests.extend(self.subscribe(now));
            }
        }
        Conclusion { requests, type_url, version, rejections, ignored }
    }

    /// What came is no longer overdue, and has as much time to live as it says.
    fn renew(&mut self, kind: Kind, expiries: BTreeMap<String, Option<Instant>>) {
        for (name, expiry) in expiries {
            let key = (kind, name);
            self.overdue.remove(&key);
            match expiry {
                Some(at) => self.expiries.insert(key, at),
                None => self.expiries.remove(&key),
            };
        }
        let resources = &self.resources;
        self.expiries.retain(|(kind, name), _| resources.holds(*kind, name));
    }

    /// A request for each type whose wanted names are not those last asked for.
    fn subscribe(&mut self, now: Instant) -> Vec<Request> {
        let changed = Kind::ALL.into_iter().filter(|kind| {
            let requested = &self.channels[*kind as usize].requested;
            match (self.wanted(*kind), requested) {
                (None, _) => false,
                // Naming nothing in a first request would mean "everything".
                (Some(names), None) => !names.is_empty() || kind.is_wildcard(),
                (Some(names), Some(requested)) => !Arc::ptr_eq(&names, requested) && names != *requested,
            }
        });
        changed.collect::<Vec<_>>().into_iter().map(|kind| self.request(kind, now)).collect()
    }

    /// The names of a type that are wanted; none given for the wildcard types.
    fn wanted(&self, kind: Kind) -> Option<Arc<BTreeSet<String>>> {
        match kind {
            Kind::Cluster => (self.subscriptions.clusters == Some(Origin::Ads)).then(Arc::default),
            Kind::Listener => (self.subscriptions.listeners == Some(Origin::Ads)).then(Arc::default),
            Kind::Endpoints => Some(self.resources.named.endpoints.clone()),
            Kind::Routes => Some(self.resources.named.routes.clone()),
            Kind::Secret => Some(self.resources.named.secrets.clone()),
        }
    }

    /// What a stream is told of a type: what is wanted, and what was made of the last response.
    fn request(&mut self, kind: Kind, now: Instant) -> Request {
        let names = self.wanted(kind).unwrap_or_default();
        self.expect(kind, &names, now);
        let node = (!std::mem::replace(&mut self.node_sent, true)).then(|| self.node.clone());
        let channel = &mut self.channels[kind as usize];
        let before = channel.requested.replace(names.clone());
        match self.subscriptions.variant {
            Variant::StateOfTheWorld => Request::State(DiscoveryRequest {
                version_info: channel.version.clone(),
                node,
                resource_names: names.iter().cloned().collect(),
                type_url: kind.type_url().to_owned(),
                response_nonce: channel.nonce.clone(),
                error_detail: None,
            }),
            Variant::Delta => {
                let is_first = before.is_none();
                let before = before.unwrap_or_default();
                let other = |a: &Arc<BTreeSet<String>>, b: &Arc<BTreeSet<String>>| match Arc::ptr_eq(a, b) {
                    true => Vec::new(),
                    false => a.difference(b).cloned().collect(),
                };
                Request::Delta(DeltaDiscoveryRequest {
                    node,
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: other(&names, &before),
                    resource_names_unsubscribe: other(&before, &names),
                    initial_resource_versions: match is_first && !channel.is_foreign {
                        true => self.resources.versions(kind),
                        false => Default::default(),
                    },
                    response_nonce: channel.nonce.clone(),
                    error_detail: None,
                })
            }
        }
    }

    /// Refuses a response of a type that nobody asked for.
    fn stranger(&self, type_url: &str, nonce: String, reason: Status) -> Request {
        let type_url = type_url.to_owned();
        match self.subscriptions.variant {
            Variant::StateOfTheWorld => Request::State(DiscoveryRequest {
                type_url,
                response_nonce: nonce,
                error_detail: Some(reason),
                ..DiscoveryRequest::default()
            }),
            Variant::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url,
                response_nonce: nonce,
                error_detail: Some(reason),
                ..DeltaDiscoveryRequest::default()
            }),
        }
    }

    /// What is asked for by name and is not there must come in time, from when it was asked for on this stream.
    fn expect(&mut self, kind: Kind, names: &BTreeSet<String>, now: Instant) {
        if self.resources.holds_all(kind) {
            self.overdue.retain(|(of, _), _| *of != kind);
            return;
        }
        self.overdue.retain(|(of, name), _| *of != kind || names.contains(name));
        for name in names {
            if let Some(patience) = self.resources.patience(kind, name) {
                self.overdue.entry((kind, name.clone())).or_insert(now + patience);
            }
        }
    }
}

fn status(rejections: &[Rejection]) -> Status {
    let mut message = String::new();
    for rejection in rejections {
        let text = rejection.to_string();
        if message.len() + text.len() > MAX_REASON_BYTES {
            message.push_str("; and more");
            break;
        }
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&text);
    }
    Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
}

#[cfg(test)]
mod tests;

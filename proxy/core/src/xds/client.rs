//! The client of one aggregated stream, state of the world.
//!
//! ```text
//!   connected ─► subscribe ──► response ──► review ──► (sockets, compilation) ──► conclude ─► ACK or NACK
//!       ▲                          ▲                                                 │
//!       └───── disconnected ◄──────┴─────────────────────────────────────────────────┘
//! ```
//! Versions outlive the stream, nonces do not. The valid resources of a refused response are applied (gRFC A46). Losing
//! the control plane changes nothing about what is served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use xds_proto::gate::IgnoredField;
use xds_proto::google::rpc::Status;
use xds_proto::prost_types::Any;
use xds_proto::type_url;

use super::translate::{self, Accepted};
use super::{Held, Rejection, Resources};
use crate::config::{ClusterName, Config, DnsTargets, LoadAssignment};

/// `INVALID_ARGUMENT` of google.rpc.Code.
const INVALID_ARGUMENT: i32 = 3;
/// Resources of one response; more is refused before any is looked at.
const MAX_RESOURCES: usize = 1_000_000;
/// Bytes of a NACK's text: control planes log it whole.
const MAX_REASON_BYTES: usize = 4 << 10;

/// The four resource types, in the order in which they are asked for: what is referred to comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes];

    const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoints => type_url::CLUSTER_LOAD_ASSIGNMENT,
            Self::Listener => type_url::LISTENER,
            Self::Routes => type_url::ROUTE_CONFIGURATION,
        }
    }

    fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

/// Where the bootstrap has the wildcard types come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// `dynamic_resources.lds_config`
    pub listeners: Option<Origin>,
    /// `dynamic_resources.cds_config`
    pub clusters: Option<Origin>,
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
    requested: Option<BTreeSet<String>>,
}

/// The state machine.
#[derive(Debug)]
pub struct AdsClient {
    node: Node,
    subscriptions: Subscriptions,
    channels: [Channel; 4],
    resources: Resources,
    node_sent: bool,
}

/// A response that was looked at and not yet answered. Whoever opens sockets and compiles may still refuse parts of it.
#[derive(Debug)]
pub struct Review {
    origin: Origin,
    type_url: String,
    kind: Option<Kind>,
    version: String,
    nonce: String,
    candidate: Resources,
    config: Config,
    rejections: Vec<Rejection>,
    refused_whole: bool,
    ignored: BTreeSet<IgnoredField>,
}

impl Review {
    /// What will be served if nobody objects.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// All resources that will be held if nobody objects.
    pub const fn resources(&self) -> &Resources {
        &self.candidate
    }

    /// Refuses a listener that cannot be opened; the one that it would replace stays.
    pub fn refuse_listener(&mut self, current: &Resources, name: &str, reason: String) {
        self.candidate.restore_listener(name, current);
        self.rejections.push(rejection(type_url::LISTENER, Some(name), reason));
        self.config = self.candidate.settle();
    }

    /// Refuses a cluster that cannot be used; the one that it would replace stays.
    pub fn refuse_cluster(&mut self, current: &Resources, name: &str, reason: String) {
        self.candidate.restore_cluster(name, current);
        self.rejections.push(rejection(type_url::CLUSTER, Some(name), reason));
        self.config = self.candidate.settle();
    }

    /// Refuses the response as a whole: nothing of it is applied.
    pub fn refuse(&mut self, reason: String) {
        self.refused_whole = true;
        self.rejections.push(rejection(&self.type_url, None, reason));
    }
}

/// A response that was answered.
#[derive(Debug)]
pub struct Conclusion {
    /// What to send, in this order.
    pub requests: Vec<DiscoveryRequest>,
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
    pub fn new(node: Node, subscriptions: Subscriptions, mut resources: Resources) -> Self {
        resources.settle();
        Self { node, subscriptions, channels: Default::default(), resources, node_sent: false }
    }

    /// What is held.
    pub const fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The last accepted version of a type.
    pub fn version(&self, type_url: &str) -> &str {
        Kind::of(type_url).map_or("", |kind| &self.channels[kind as usize].version)
    }

    /// Whether the control plane ever answered for a type with something that was taken.
    pub fn is_answered(&self, type_url: &str) -> bool {
        Kind::of(type_url).is_some_and(|kind| self.channels[kind as usize].answered)
    }

    /// A stream is open. Returns the first requests.
    pub fn connected(&mut self) -> Vec<DiscoveryRequest> {
        self.disconnected();
        self.resources.awaits_routes =
            self.subscriptions.listeners == Some(Origin::Ads) || !self.resources.wanted_routes().is_empty();
        self.subscribe()
    }

    /// The stream is gone. Everything that was accepted stays.
    pub fn disconnected(&mut self) {
        self.node_sent = false;
        for channel in &mut self.channels {
            channel.nonce.clear();
            channel.requested = None;
        }
    }

    /// Looks at a response without answering it yet.
    pub fn review(&self, response: DiscoveryResponse) -> Review {
        self.review_from(Origin::Ads, response)
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
    pub fn review_file(&self, path: &Arc<str>, response: DiscoveryResponse) -> Review {
        self.review_from(Origin::File(path.clone()), response)
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
        let config = candidate.settle();
        Review {
            origin: Origin::File("".into()),
            kind: None,
            type_url: type_url::CLUSTER_LOAD_ASSIGNMENT.to_owned(),
            version: String::new(),
            nonce: String::new(),
            candidate,
            config,
            rejections: Vec::new(),
            refused_whole: false,
            ignored: BTreeSet::new(),
        }
    }

    fn follows(&self, kind: Kind, origin: &Origin) -> bool {
        match origin {
            Origin::Ads => self.wanted(kind).is_some(),
            Origin::File(path) => self.wanted_files().contains(&(kind.type_url(), path.clone())),
        }
    }

    fn review_from(&self, origin: Origin, response: DiscoveryResponse) -> Review {
        let DiscoveryResponse { version_info, resources, type_url, nonce, control_plane: _ } = response;
        let mut review = Review {
            kind: Kind::of(&type_url).filter(|kind| self.follows(*kind, &origin)),
            origin,
            type_url,
            version: version_info,
            nonce,
            candidate: self.resources.clone(),
            config: Config::default(),
            rejections: Vec::new(),
            refused_whole: false,
            ignored: BTreeSet::new(),
        };
        if resources.len() > MAX_RESOURCES {
            review.refuse(format!("{} resources are more than the {MAX_RESOURCES} allowed", resources.len()));
        } else {
            self.apply(&mut review, resources);
        }
        // The routes of this stream are here; inline ones come with their listeners. (A second response of clusters is no
        // sign that they are near: the simulation has a server whose configuration changes before it comes to the routes.)
        let inline = review.candidate.wanted_routes().is_empty();
        let of_stream = review.origin == Origin::Ads || self.subscriptions.listeners != Some(Origin::Ads);
        if of_stream && (review.kind == Some(Kind::Routes) || (review.kind == Some(Kind::Listener) && inline))
        {
            review.candidate.awaits_routes = false;
        }
        review.config =
            if review.refused_whole { self.resources.config() } else { review.candidate.settle() };
        review
    }

    fn apply(&self, review: &mut Review, resources: Vec<Any>) {
        let version = review.version.clone();
        let Review { kind, candidate, origin, .. } = review;
        let (routes, endpoints) = match origin {
            Origin::Ads => (&mut candidate.routes, &mut candidate.endpoints),
            Origin::File(path) => {
                let file = candidate.files.entry(path.clone()).or_default();
                (&mut file.routes, &mut file.endpoints)
            }
        };
        let outcome = match *kind {
            None => {
                review.refuse("this type was not asked for".to_owned());
                return;
            }
            Some(Kind::Listener) => {
                let taken = |name: &str| self.resources.is_static_listener(name);
                merge(&mut candidate.listeners, resources, &version, translate::listener, true, taken)
            }
            Some(Kind::Cluster) => {
                let taken = |name: &str| self.resources.is_static_cluster(name);
                merge(&mut candidate.clusters, resources, &version, translate::cluster, true, taken)
            }
            Some(Kind::Routes) => {
                merge(routes, resources, &version, translate::route_configuration, false, |_| false)
            }
            Some(Kind::Endpoints) => {
                merge(endpoints, resources, &version, translate::load_assignment, false, |_| false)
            }
        };
        review.ignored = outcome.ignored;
        match outcome.duplicate {
            Some(name) => review.refuse(format!("two resources are named {name:?}")),
            None => review.rejections = outcome.rejections,
        }
    }

    /// Answers a response: takes over what it brought, and returns the ACK or NACK and any changed subscription.
    pub fn conclude(&mut self, review: Review) -> Conclusion {
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
            ..
        } = review;
        if !refused_whole {
            self.resources = candidate;
        }
        let mut requests = Vec::new();
        if let Origin::File(_) = origin {
            // Nobody waits for an answer; but the names that are asked of the control plane may be others now.
            if let Some(kind) = kind {
                self.channels[kind as usize].answered |= !refused_whole;
            }
            if self.node_sent {
                requests.extend(self.subscribe());
            }
            return Conclusion { requests, type_url, version, rejections, ignored };
        }
        match kind {
            None => requests.push(DiscoveryRequest {
                type_url: type_url.clone(),
                response_nonce: nonce,
                error_detail: Some(status(&rejections)),
                ..DiscoveryRequest::default()
            }),
            Some(kind) => {
                self.channels[kind as usize].nonce = nonce;
                self.channels[kind as usize].answered |= !refused_whole;
                if rejections.is_empty() {
                    self.channels[kind as usize].version.clone_from(&version);
                }
                let mut answer = self.request(kind);
                if !rejections.is_empty() {
                    answer.error_detail = Some(status(&rejections));
                }
                requests.push(answer);
                requests.extend(self.subscribe());
            }
        }
        Conclusion { requests, type_url, version, rejections, ignored }
    }

    /// A request for each type whose wanted names are not those last asked for.
    fn subscribe(&mut self) -> Vec<DiscoveryRequest> {
        let changed = Kind::ALL.into_iter().filter(|kind| {
            let requested = &self.channels[*kind as usize].requested;
            match (self.wanted(*kind), requested) {
                (None, _) => false,
                // Naming nothing in a first request would mean "everything".
                (Some(names), None) => !names.is_empty() || matches!(kind, Kind::Cluster | Kind::Listener),
                (Some(names), Some(requested)) => names != *requested,
            }
        });
        changed.collect::<Vec<_>>().into_iter().map(|kind| self.request(kind)).collect()
    }

    /// The names of a type that are wanted; none given for the wildcard types.
    fn wanted(&self, kind: Kind) -> Option<BTreeSet<String>> {
        match kind {
            Kind::Cluster => (self.subscriptions.clusters == Some(Origin::Ads)).then(BTreeSet::new),
            Kind::Listener => (self.subscriptions.listeners == Some(Origin::Ads)).then(BTreeSet::new),
            Kind::Endpoints => Some(self.resources.wanted_endpoints()),
            Kind::Routes => Some(self.resources.wanted_routes()),
        }
    }

    fn request(&mut self, kind: Kind) -> DiscoveryRequest {
        let names = self.wanted(kind).unwrap_or_default();
        let node = (!std::mem::replace(&mut self.node_sent, true)).then(|| self.node.clone());
        let channel = &mut self.channels[kind as usize];
        channel.requested = Some(names.clone());
        DiscoveryRequest {
            version_info: channel.version.clone(),
            node,
            resource_names: names.into_iter().collect(),
            type_url: kind.type_url().to_owned(),
            response_nonce: channel.nonce.clone(),
            error_detail: None,
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

#[derive(Default)]
struct Merged {
    rejections: Vec<Rejection>,
    ignored: BTreeSet<IgnoredField>,
    duplicate: Option<String>,
}

/// Takes a response's resources into `held`. With `absence_deletes`, names that the response lacks go; one that is there
/// and refused keeps its predecessor.
fn merge<T>(
    held: &mut BTreeMap<String, Held<T>>,
    resources: Vec<Any>,
    version: &str,
    translate: fn(&Any) -> Result<Accepted<T>, Rejection>,
    absence_deletes: bool,
    is_static: impl Fn(&str) -> bool,
) -> Merged {
    let mut merged = Merged::default();
    let mut present = BTreeSet::new();
    let mut nameless = false;
    let mut fresh = Vec::new();
    for raw in resources {
        // A resource that is the same byte for byte was accepted before: keep its value, and every `Arc` made of it.
        let unchanged = known_name(&raw).filter(|name| held.get(name).is_some_and(|old| *old.raw == raw));
        let name = match unchanged {
            Some(name) => name,
            None => match translate(&raw) {
                Ok(accepted) if is_static(&accepted.name) => {
                    let reason = "the bootstrap has a static resource of that name".to_owned();
                    merged.rejections.push(rejection(&raw.type_url, Some(&accepted.name), reason));
                    accepted.name
                }
                Ok(Accepted { name, value, ignored }) => {
                    merged.ignored.extend(ignored);
                    fresh.push((
                        name.clone(),
                        Held { raw: Arc::new(raw), version: version.to_owned(), value: Arc::new(value) },
                    ));
                    name
                }
                Err(refused) => {
                    let name = refused.resource.clone();
                    merged.rejections.push(refused);
                    let Some(name) = name else {
                        nameless = true;
                        continue;
                    };
                    name
                }
            },
        };
        if !present.insert(name.clone()) {
            merged.duplicate = Some(name);
            return merged;
        }
    }
    // Whose absence would a resource without a readable name hide? Nobody can say, so nothing is deleted.
    if absence_deletes && !nameless {
        held.retain(|name, _| present.contains(name));
    }
    held.extend(fresh);
    merged
}

/// The name of a resource, read without decoding it: field 1 of all four types.
fn known_name(resource: &Any) -> Option<String> {
    xds_proto::gate::resource_name(&resource.value)
}

#[cfg(test)]
mod tests;

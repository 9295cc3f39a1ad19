//! One aggregated stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xds_proto::envoy::config::core::v3::{ControlPlane, Node};
use xds_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use xds_proto::prost_types::Any;
use xds_proto::type_url;
use xxhash_rust::xxh3::Xxh3;

use crate::lower::{Dialect, ResourceSet};

/// How long listeners and routes wait for a client to ask for the endpoints of a new cluster. One that never asks, as it
/// needs none of them, is not left without routes.
const HOLD: Duration = Duration::from_secs(2);
/// Unknown types that are remembered, so as to tell each once.
const MAX_UNKNOWN_TYPES: usize = 64;
/// Names in one subscription.
const MAX_NAMES: usize = 100_000;

/// A version of the configuration in every dialect.
#[derive(Debug, Default)]
pub struct Published {
    /// The version's number.
    pub version: u64,
    /// For Weir.
    pub weir: ResourceSet,
    /// For everybody else.
    pub standard: ResourceSet,
}

impl Published {
    const fn for_dialect(&self, dialect: Dialect) -> &ResourceSet {
        match dialect {
            Dialect::Weir => &self.weir,
            Dialect::Standard => &self.standard,
        }
    }
}

/// What happened on a stream, for logs and the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first request said who this is.
    Connected {
        /// `node.id`
        id: String,
        /// `node.cluster`
        cluster: String,
        /// `node.user_agent_name`
        user_agent: String,
    },
    /// A type that this server does not have was asked for. Told once a stream.
    UnknownType {
        /// The type.
        type_url: String,
    },
    /// A response was taken.
    Acknowledged {
        /// The type.
        type_url: &'static str,
        /// Its `version_info`.
        version: String,
        /// The configuration it came from.
        config_version: u64,
    },
    /// A response was refused.
    Refused {
        /// The type.
        type_url: &'static str,
        /// The client's text.
        reason: String,
        /// The resources of the response that the text names.
        resources: Vec<String>,
        /// The configuration it came from.
        config_version: u64,
    },
}

/// What a request or a new configuration leads to.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent in this order.
    pub responses: Vec<DiscoveryResponse>,
    /// To be recorded in this order.
    pub events: Vec<Event>,
}

/// A request that ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The first request lacks a node.
    #[error("the first request has no node.id")]
    NoNode,
    /// Too many names.
    #[error("more than {MAX_NAMES} resource names")]
    TooManyNames,
}

/// The types in the order in which they are sent.
const ORDER: [&str; 4] =
    [type_url::CLUSTER, type_url::CLUSTER_LOAD_ASSIGNMENT, type_url::LISTENER, type_url::ROUTE_CONFIGURATION];
const CLUSTERS: usize = 0;
const ENDPOINTS: usize = 1;
const LISTENERS: usize = 2;
const ROUTES: usize = 3;

#[derive(Debug, Default)]
struct Subscription {
    wanted: Wanted,
    /// The last response, if there was one.
    sent: Option<Sent>,
    /// Whether the client ever named a resource, `*` included.
    named: bool,
    /// The client waits for an answer whatever its content: its first request, a new name, or a re-warming cluster.
    owed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Everything,
    Named(BTreeSet<String>),
}

#[derive(Debug)]
struct Sent {
    nonce: String,
    version: String,
    config_version: u64,
    names: BTreeSet<String>,
    answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Acknowledged,
    Refused,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Stream {
    identifier: Arc<str>,
    dialect: Option<Dialect>,
    config: Arc<Published>,
    subscriptions: [Option<Subscription>; 4],
    /// Clusters, and their endpoints, that the configuration no longer has and the client's routes may still lead to.
    lingering: [BTreeMap<String, Any>; 2],
    /// Clusters were sent after the client last asked for endpoints: its next request wants an answer.
    clusters_since_endpoints: bool,
    held_since: Option<Instant>,
    /// The response of clusters for which the wait is over.
    waited_for: Option<String>,
    nonces: u64,
    /// Types that were asked for and that this server does not have.
    unknown_types: BTreeSet<String>,
}

impl Stream {
    /// A stream that has just opened. `identifier` is this server's name in its responses.
    pub fn new(identifier: Arc<str>, config: Arc<Published>) -> Self {
        Self {
            identifier,
            dialect: None,
            config,
            subscriptions: Default::default(),
            lingering: Default::default(),
            clusters_since_endpoints: false,
            held_since: None,
            waited_for: None,
            nonces: 0,
            unknown_types: BTreeSet::new(),
        }
    }

    /// Takes a request.
    ///
    /// # Errors
    /// The stream must end with this reason.
    pub fn on_request(&mut self, request: DiscoveryRequest, now: Instant) -> Result<Output, StreamError> {
        let mut output = Output::default();
        self.introduce(request.node.as_ref(), &mut output)?;
        let Some(kind) = ORDER.iter().position(|url| *url == request.type_url) else {
            // Envoy may ask for secrets or runtime on the same stream. It waits for them in vain, and has the rest.
            if self.unknown_types.len() < MAX_UNKNOWN_TYPES
                && self.unknown_types.insert(request.type_url.clone())
            {
                output.events.push(Event::UnknownType { type_url: request.type_url });
            }
            return Ok(output);
        };
        if request.resource_names.len() > MAX_NAMES {
            return Err(StreamError::TooManyNames);
        }
        self.answered(kind, &request, &mut output);
        self.flush(now, &mut output);
        Ok(output)
    }

    /// Takes a new configuration.
    pub fn on_config(&mut self, config: Arc<Published>, now: Instant) -> Output {
        self.keep_removed_clusters(&config);
        self.config = config;
        self.release_removed_clusters();
        let mut output = Output::default();
        self.flush(now, &mut output);
        output
    }

    /// The time of [`Stream::deadline`] has come.
    pub fn on_deadline(&mut self, now: Instant) -> Output {
        let mut output = Output::default();
        self.flush(now, &mut output);
        output
    }

    /// When to call [`Stream::on_deadline`], if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.held_since.map(|since| since + HOLD)
    }

    fn introduce(&mut self, node: Option<&Node>, output: &mut Output) -> Result<(), StreamError> {
        if self.dialect.is_some() {
            return Ok(());
        }
        let node = node.filter(|node| !node.id.is_empty()).ok_or(StreamError::NoNode)?;
        self.dialect = Some(Dialect::of(&node.user_agent_name));
        output.events.push(Event::Connected {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            user_agent: node.user_agent_name.clone(),
        });
        Ok(())
    }

    /// Reads a request as the ACK, NACK or subscription that it is.
    fn answered(&mut self, kind: usize, request: &DiscoveryRequest, output: &mut Output) {
        let first = self.subscriptions[kind].is_none();
        let rewarming = kind == ENDPOINTS && self.clusters_since_endpoints;
        let subscription = self.subscriptions[kind].get_or_insert_with(Subscription::default);
        let mut answers = false;
        if let Some(sent) = &mut subscription.sent {
            if !request.response_nonce.is_empty() && request.response_nonce != sent.nonce {
                // Of an older response: the client will answer the newer one, too.
                return;
            }
            answers = sent.answer == Answer::Awaited && request.response_nonce == sent.nonce;
            if answers {
                output.events.push(sent.take_answer(kind, request));
            }
        }
        subscription.named |= !request.resource_names.is_empty();
        let wanted = wanted(kind, subscription.named, &request.resource_names);
        let news = subscription.wanted != wanted;
        let asks_again = rewarming && !answers;
        if kind == ENDPOINTS && !answers {
            self.clusters_since_endpoints = false;
        }
        subscription.owed |= first || news && wants_more(&subscription.wanted, &wanted) || asks_again;
        subscription.wanted = wanted;
        if kind == ROUTES {
            self.release_removed_clusters();
        }
    }

    /// Sends what is due, in order.
    fn flush(&mut self, now: Instant, output: &mut Output) {
        for kind in [CLUSTERS, ENDPOINTS, LISTENERS, ROUTES] {
            if matches!(kind, LISTENERS | ROUTES) && self.is_held(now) {
                return;
            }
            if let Some(response) = self.due(kind) {
                output.responses.push(response);
            }
        }
    }

    /// Whether listeners and routes must wait for endpoints that the client has yet to ask for.
    fn is_held(&mut self, now: Instant) -> bool {
        let unserved = || {
            let clusters = self.subscriptions[CLUSTERS].as_ref()?;
            let sent = clusters.sent.as_ref().filter(|_| clusters.wanted == Wanted::Everything)?;
            // One that refused the clusters has others. (An ACK says nothing: Envoy gives it when the clusters are warm,
            // others as soon as they have read them.)
            if sent.answer == Answer::Refused || self.waited_for.as_ref() == Some(&sent.nonce) {
                return None;
            }
            let endpoints = self.subscriptions[ENDPOINTS].as_ref().and_then(|s| s.sent.as_ref());
            sent.names.iter().find(|name| endpoints.is_none_or(|e| !e.names.contains(*name)))
        };
        if unserved().is_none() {
            self.held_since = None;
            return false;
        }
        let since = *self.held_since.get_or_insert(now);
        if now.saturating_duration_since(since) < HOLD {
            return true;
        }
        let clusters = self.subscriptions[CLUSTERS].as_ref().and_then(|s| s.sent.as_ref());
        self.waited_for = clusters.map(|sent| sent.nonce.clone());
        self.held_since = None;
        false
    }

    fn due(&mut self, kind: usize) -> Option<DiscoveryResponse> {
        let dialect = self.dialect?;
        let config = self.config.clone();
        let all = config.for_dialect(dialect).of_type(ORDER[kind]);
        let lingering = self.lingering.get(kind).into_iter().flatten();
        let subscription = self.subscriptions[kind].as_ref()?;
        let resources: BTreeMap<&String, &Any> = match &subscription.wanted {
            Wanted::Everything => lingering.chain(all).collect(),
            Wanted::Named(names) => lingering.chain(all).filter(|(name, _)| names.contains(*name)).collect(),
        };
        let version = content_version(&resources);
        let current = subscription.sent.as_ref().is_some_and(|sent| sent.version == version);
        if current && !subscription.owed {
            return None;
        }
        let response = DiscoveryResponse {
            version_info: version.clone(),
            resources: resources.values().map(|any| (*any).clone()).collect(),
            type_url: ORDER[kind].to_owned(),
            nonce: self.nonces.to_string(),
            control_plane: Some(ControlPlane { identifier: self.identifier.to_string() }),
        };
        let sent = Sent {
            nonce: response.nonce.clone(),
            version,
            config_version: config.version,
            names: resources.into_keys().cloned().collect(),
            answer: Answer::Awaited,
        };
        self.nonces += 1;
        if kind == CLUSTERS {
            self.clusters_since_endpoints = true;
        }
        let subscription = self.subscriptions[kind].as_mut()?;
        subscription.owed = false;
        subscription.sent = Some(sent);
        Some(response)
    }

    /// Clusters that a new configuration lacks stay until the client has routes that do not lead to them.
    fn keep_removed_clusters(&mut self, next: &Published) {
        let (Some(dialect), Some(_)) = (self.dialect, &self.subscriptions[ROUTES]) else {
            return;
        };
        for kind in [CLUSTERS, ENDPOINTS] {
            let next = next.for_dialect(dialect).of_type(ORDER[kind]);
            let current = self.config.for_dialect(dialect).of_type(ORDER[kind]);
            let removed = current.iter().filter(|(name, _)| !next.contains_key(*name));
            self.lingering[kind].extend(removed.map(|(name, any)| (name.clone(), any.clone())));
            self.lingering[kind].retain(|name, _| !next.contains_key(name));
        }
    }

    /// The client took the current routes: nothing leads to the removed clusters any more.
    fn release_removed_clusters(&mut self) {
        let taken =
            self.subscriptions[ROUTES].as_ref().and_then(|routes| routes.sent.as_ref()).is_some_and(|sent| {
                sent.answer == Answer::Acknowledged && sent.config_version == self.config.version
            });
        if taken || self.routes_are_current() {
            self.lingering.iter_mut().for_each(BTreeMap::clear);
        }
    }

    /// The client acknowledged routes that say the same as the current ones.
    fn routes_are_current(&self) -> bool {
        let Some(dialect) = self.dialect else { return false };
        let Some(Subscription { wanted, sent: Some(sent), .. }) = &self.subscriptions[ROUTES] else {
            return false;
        };
        let all = self.config.for_dialect(dialect).of_type(type_url::ROUTE_CONFIGURATION);
        let current = all.iter().filter(|(name, _)| match wanted {
            Wanted::Everything => true,
            Wanted::Named(names) => names.contains(*name),
        });
        sent.answer == Answer::Acknowledged && sent.version == content_version(&current.collect())
    }
}

impl Sent {
    fn take_answer(&mut self, kind: usize, request: &DiscoveryRequest) -> Event {
        match &request.error_detail {
            None => {
                self.answer = Answer::Acknowledged;
                Event::Acknowledged {
                    type_url: ORDER[kind],
                    version: self.version.clone(),
                    config_version: self.config_version,
                }
            }
            Some(status) => {
                self.answer = Answer::Refused;
                let named = self.names.iter().filter(|name| status.message.contains(name.as_str()));
                Event::Refused {
                    type_url: ORDER[kind],
                    reason: status.message.clone(),
                    resources: named.cloned().collect(),
                    config_version: self.config_version,
                }
            }
        }
    }
}

/// What a request asks for. No names means everything for the wildcard types, for as long as none was ever named.
fn wanted(kind: usize, ever_named: bool, names: &[String]) -> Wanted {
    let wildcard = matches!(kind, CLUSTERS | LISTENERS);
    if wildcard && (!ever_named || names.iter().any(|name| name == "*")) {
        Wanted::Everything
    } else {
        Wanted::Named(names.iter().cloned().collect())
    }
}

/// Whether `after` asks for something that `before` did not.
fn wants_more(before: &Wanted, after: &Wanted) -> bool {
    match (before, after) {
        (Wanted::Everything, Wanted::Everything | Wanted::Named(_)) => false,
        (Wanted::Named(_), Wanted::Everything) => true,
        (Wanted::Named(before), Wanted::Named(after)) => !after.is_subset(before),
    }
}

/// A version that depends on content alone: what says the same has the same version, whoever serves it.
fn content_version(resources: &BTreeMap<&String, &Any>) -> String {
    let mut hash = Xxh3::new();
    for (name, any) in resources {
        for part in [name.as_bytes(), &any.value] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    format!("{:016x}", hash.digest())
}

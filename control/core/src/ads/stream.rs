//! One aggregated stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xds_proto::envoy::config::core::v3::Node;

use super::kind::Kind;
use super::subscription::{Frame, Standing, Subscription};
use super::wire::{Ask, Names, Response};
use crate::lower::{Audience, Dialect, ResourceSet, Resources};

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
    /// For each kind of node, in the order of [`Dialect::ALL`].
    pub sets: [ResourceSet; Dialect::ALL.len()],
}

impl Published {
    /// The resources for one kind of node.
    pub const fn for_dialect(&self, dialect: Dialect) -> &ResourceSet {
        &self.sets[dialect as usize]
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
    /// A configuration says of a type what the client has taken already.
    Current {
        /// The type.
        type_url: &'static str,
        /// The configuration.
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
    pub responses: Vec<Response>,
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

/// What is for one node alone.
#[derive(Debug, Default)]
struct Own {
    listeners: Option<Arc<Resources>>,
    endpoints: Option<Arc<Resources>>,
}

impl Own {
    const fn of_type(&self, kind: Kind) -> Option<&Arc<Resources>> {
        match kind {
            Kind::Listeners => self.listeners.as_ref(),
            Kind::Endpoints => self.endpoints.as_ref(),
            Kind::Clusters | Kind::Secrets | Kind::Routes => None,
        }
    }
}

/// The state of one stream.
#[derive(Debug)]
pub struct Stream {
    identifier: Arc<str>,
    dialect: Option<Dialect>,
    /// What the node says of itself.
    audience: Audience,
    /// The listeners and the load assignments that are for the node, where they are not everybody's.
    own: Own,
    is_delta: bool,
    config: Arc<Published>,
    subscriptions: [Option<Subscription>; 5],
    /// Clusters, and their endpoints, that the configuration no longer has and the client's routes may still lead to.
    lingering: [Resources; 2],
    /// Clusters were sent after the client last asked for endpoints: its next request wants an answer.
    clusters_since_endpoints: bool,
    held_since: Option<Instant>,
    /// When the first request came.
    opened: Option<Instant>,
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
            audience: Audience::default(),
            own: Own::default(),
            is_delta: false,
            config,
            subscriptions: Default::default(),
            lingering: Default::default(),
            clusters_since_endpoints: false,
            held_since: None,
            opened: None,
            waited_for: None,
            nonces: 0,
            unknown_types: BTreeSet::new(),
        }
    }

    /// Takes a request.
    ///
    /// # Errors
    /// The stream must end with this reason.
    pub fn on_request(&mut self, request: impl Into<Ask>, now: Instant) -> Result<Output, StreamError> {
        let mut ask = request.into();
        let mut output = Output::default();
        self.opened.get_or_insert(now);
        self.introduce(ask.node.as_ref(), &mut output)?;
        self.is_delta = matches!(ask.names, Names::Change { .. });
        let Some(kind) = Kind::of(&ask.type_url) else {
            // Envoy may ask for runtime on the same stream. It waits for that in vain, and has the rest.
            if self.unknown_types.len() < MAX_UNKNOWN_TYPES && self.unknown_types.insert(ask.type_url.clone())
            {
                output.events.push(Event::UnknownType { type_url: ask.type_url });
            }
            return Ok(output);
        };
        if ask.names.count() > MAX_NAMES {
            return Err(StreamError::TooManyNames);
        }
        self.read(kind, &mut ask, &mut output);
        self.flush(now, &mut output);
        Ok(output)
    }

    /// Takes a new configuration.
    pub fn on_config(&mut self, config: Arc<Published>, now: Instant) -> Output {
        self.keep_removed_clusters(&config);
        self.config = config;
        self.own = self.own_of(&self.config);
        self.release_removed_clusters();
        let mut output = Output::default();
        self.flush(now, &mut output);
        let config_version = self.config.version;
        let current = Kind::ALL.into_iter().filter(|kind| self.has_taken(*kind));
        output
            .events
            .extend(current.map(|kind| Event::Current { type_url: kind.type_url(), config_version }));
        output
    }

    /// Whether the client has taken what the configuration says of a type.
    fn has_taken(&self, kind: Kind) -> bool {
        self.subscription(kind).is_some_and(|subscription| subscription.is_current(self.all(kind)))
    }

    /// The time of [`Stream::deadline`] has come.
    pub fn on_deadline(&mut self, now: Instant) -> Output {
        let mut output = Output::default();
        self.flush(now, &mut output);
        output
    }

    /// When to call [`Stream::on_deadline`], if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let held = self.held_since.map(|since| since + HOLD);
        let kept = self.opened.filter(|_| self.has_foreign()).map(|opened| opened + HOLD);
        [held, kept].into_iter().flatten().min()
    }

    /// Whether a client that was here before has clusters that there are no more.
    fn has_foreign(&self) -> bool {
        let kinds = [Kind::Clusters, Kind::Endpoints];
        self.is_delta
            && kinds.into_iter().any(|kind| {
                let lingering = &self.lingering[kind as usize];
                self.subscription(kind).is_some_and(|held| held.has_foreign(self.all(kind), lingering))
            })
    }

    /// Whether the routes that a client has of an earlier stream may still lead to such clusters. Not for ever: it may have
    /// no routes.
    fn keeps_removed(&self, kind: Kind, now: Instant) -> bool {
        matches!(kind, Kind::Clusters | Kind::Endpoints)
            && self.opened.is_some_and(|opened| now.saturating_duration_since(opened) < HOLD)
            && !self.has_taken(Kind::Routes)
    }

    fn introduce(&mut self, node: Option<&Node>, output: &mut Output) -> Result<(), StreamError> {
        if self.dialect.is_some() {
            return Ok(());
        }
        let node = node.filter(|node| !node.id.is_empty()).ok_or(StreamError::NoNode)?;
        self.dialect = Some(Dialect::of(&node.user_agent_name));
        self.audience = Audience::of(node);
        self.own = self.own_of(&self.config);
        output.events.push(Event::Connected {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            user_agent: node.user_agent_name.clone(),
        });
        Ok(())
    }

    /// Reads a request as the ACK, NACK or subscription that it is.
    fn read(&mut self, kind: Kind, ask: &mut Ask, output: &mut Output) {
        let is_first = self.subscriptions[kind as usize].is_none();
        let rewarming = kind == Kind::Endpoints && self.clusters_since_endpoints;
        let subscription = self.subscriptions[kind as usize].get_or_insert_with(|| Subscription::new(kind));
        let standing = subscription.read_answer(ask, &mut output.events);
        // What is wanted in all is what is wanted after the last response; a change is one whatever it follows.
        if standing == Standing::Stale && !self.is_delta {
            return;
        }
        let answers = standing == Standing::Answer;
        subscription.read_names(std::mem::take(&mut ask.names), is_first, rewarming && !answers);
        if kind == Kind::Endpoints && !answers {
            self.clusters_since_endpoints = false;
        }
        if kind == Kind::Routes {
            self.release_removed_clusters();
        }
    }

    /// Sends what is due, in order.
    fn flush(&mut self, now: Instant, output: &mut Output) {
        for kind in Kind::ALL {
            if kind.leads_to_clusters() && self.is_held(now) {
                return;
            }
            if let Some(response) = self.due(kind, now) {
                output.responses.push(response);
            }
        }
    }

    /// What of a configuration is for the node alone.
    fn own_of(&self, config: &Published) -> Own {
        let set = config.for_dialect(self.dialect.unwrap_or(Dialect::Standard));
        Own { listeners: set.listeners_for(&self.audience), endpoints: set.endpoints_for(&self.audience) }
    }

    fn all(&self, kind: Kind) -> &Arc<Resources> {
        self.own.of_type(kind).unwrap_or_else(|| {
            let dialect = self.dialect.unwrap_or(Dialect::Standard);
            self.config.for_dialect(dialect).of_type(kind.type_url())
        })
    }

    fn subscription(&self, kind: Kind) -> Option<&Subscription> {
        self.subscriptions[kind as usize].as_ref()
    }

    /// Whether listeners and routes must wait for endpoints that the client has yet to ask for.
    fn is_held(&mut self, now: Instant) -> bool {
        let unserved = || {
            let clusters =
                self.subscription(Kind::Clusters).filter(|clusters| clusters.wants_everything())?;
            let (nonce, is_refused) = clusters.last()?;
            // One that refused the clusters has others. (An ACK says nothing: Envoy gives it when the clusters are warm,
            // others as soon as they have read them.)
            if is_refused || self.waited_for.as_deref() == Some(nonce) {
                return None;
            }
            let endpoints = self.subscription(Kind::Endpoints);
            let has_endpoints = |name: &str| {
                self.all(Kind::Endpoints).contains_key(name) || self.lingering[1].contains_key(name)
            };
            let is_told = |name: &str| endpoints.is_some_and(|endpoints| endpoints.has_told(name));
            clusters.held().find(|name| has_endpoints(name) && !is_told(name))
        };
        if unserved().is_none() {
            self.held_since = None;
            return false;
        }
        let since = *self.held_since.get_or_insert(now);
        if now.saturating_duration_since(since) < HOLD {
            return true;
        }
        let last = self.subscription(Kind::Clusters).and_then(Subscription::last);
        self.waited_for = last.map(|(nonce, _)| nonce.to_owned());
        self.held_since = None;
        false
    }

    fn due(&mut self, kind: Kind, now: Instant) -> Option<Response> {
        self.dialect?;
        let keeps_removed = self.is_delta && self.keeps_removed(kind, now);
        let all = self.all(kind).clone();
        let none = Resources::default();
        let lingering = self.lingering.get(kind as usize).unwrap_or(&none);
        let frame = Frame {
            config_version: self.config.version,
            nonce: self.nonces,
            identifier: &self.identifier,
            is_delta: self.is_delta,
            keeps_removed,
        };
        let response = self.subscriptions[kind as usize].as_mut()?.due(&all, lingering, &frame)?;
        self.nonces += 1;
        if kind == Kind::Clusters {
            self.clusters_since_endpoints = true;
        }
        Some(response)
    }

    /// Clusters that a new configuration lacks stay until the client has routes that do not lead to them.
    fn keep_removed_clusters(&mut self, next: &Published) {
        let (Some(dialect), Some(_)) = (self.dialect, self.subscription(Kind::Routes)) else {
            return;
        };
        let own = self.own_of(next);
        for kind in [Kind::Clusters, Kind::Endpoints] {
            let of_all = || next.for_dialect(dialect).of_type(kind.type_url());
            let next = own.of_type(kind).unwrap_or_else(of_all);
            let current = self.all(kind).clone();
            if Arc::ptr_eq(next, &current) {
                continue;
            }
            let removed = current.iter().filter(|(name, _)| !next.contains_key(*name));
            self.lingering[kind as usize].extend(removed.map(|(name, any)| (name.clone(), any.clone())));
            self.lingering[kind as usize].retain(|name, _| !next.contains_key(name));
        }
    }

    /// The client took the current routes: nothing leads to the removed clusters any more.
    fn release_removed_clusters(&mut self) {
        let routes = self.subscription(Kind::Routes);
        if routes.is_some_and(|routes| routes.is_current(self.all(Kind::Routes))) {
            self.lingering.iter_mut().for_each(Resources::clear);
        }
    }
}

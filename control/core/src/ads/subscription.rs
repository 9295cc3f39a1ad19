//! What one client wants of one type, and what it has been told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use xds_proto::envoy::config::core::v3::ControlPlane;
use xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use xds_proto::prost_types::Any;
use xxhash_rust::xxh3::Xxh3;

use super::kind::Kind;
use super::wire::{Names, Response};
use super::{Ask, Event};
use crate::lower::{Lowered, Resources};

/// Responses whose answers are waited for. A client answers each, so that more are a client that does not.
const MAX_UNANSWERED: usize = 64;

/// One type's subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    kind: Kind,
    /// All that there is, whatever its name.
    everything: bool,
    names: BTreeSet<Arc<str>>,
    /// Whether the client ever named a resource, `*` included: no names mean nothing from then on.
    named: bool,
    /// What the client has been told, and in which version; in none where it was told that there is nothing.
    told: BTreeMap<Arc<str>, Option<Arc<str>>>,
    /// What the client waits for, whatever is known of it: a name that it has just asked for.
    owed: BTreeSet<Arc<str>>,
    /// The client waits for a response, even an empty one.
    owes_any: bool,
    /// Responses that were not answered yet, the oldest first, and the last one that was.
    sent: VecDeque<Sent>,
    answered: Option<Sent>,
    /// All resources of the type, as they were when the client was told last.
    seen: Option<Arc<Resources>>,
}

/// A response.
#[derive(Debug, Clone)]
struct Sent {
    nonce: String,
    version: String,
    config_version: u64,
    /// Names that its refusal may mean.
    names: Vec<Arc<str>>,
    is_refused: bool,
}

/// What a response is made of beside the resources.
pub(super) struct Frame<'a> {
    pub(super) config_version: u64,
    pub(super) nonce: u64,
    pub(super) identifier: &'a str,
    pub(super) is_delta: bool,
    /// What the client has and should not have may still be in use: it is told later.
    pub(super) keeps_removed: bool,
}

impl Subscription {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            everything: false,
            names: BTreeSet::new(),
            named: false,
            told: BTreeMap::new(),
            owed: BTreeSet::new(),
            owes_any: true,
            sent: VecDeque::new(),
            answered: None,
            seen: None,
        }
    }

    /// Reads a request as the ACK or NACK that it may be; whether it is one, and whether it speaks of the present.
    pub(super) fn read_answer(&mut self, ask: &Ask, events: &mut Vec<Event>) -> Standing {
        // Nothing was said yet: a nonce is of another stream.
        if ask.nonce.is_empty() || (self.sent.is_empty() && self.answered.is_none()) {
            return Standing::Fresh;
        }
        let Some(at) = self.sent.iter().position(|sent| sent.nonce == ask.nonce) else {
            let is_last = self.answered.as_ref().is_some_and(|sent| sent.nonce == ask.nonce);
            return if is_last && self.sent.is_empty() { Standing::Fresh } else { Standing::Stale };
        };
        let is_last = at + 1 == self.sent.len();
        if matches!(ask.names, Names::All(_)) && !is_last {
            // Of an older response: the client will answer the newer one, too.
            return Standing::Stale;
        }
        // What came before it was answered with it.
        let Some(mut sent) = self.sent.drain(..=at).next_back() else { return Standing::Stale };
        let type_url = self.kind.type_url();
        events.push(match &ask.refusal {
            None => Event::Acknowledged {
                type_url,
                version: sent.version.clone(),
                config_version: sent.config_version,
            },
            Some(status) => {
                sent.is_refused = true;
                let named = sent.names.iter().filter(|name| status.message.contains(&***name));
                Event::Refused {
                    type_url,
                    reason: status.message.clone(),
                    resources: named.map(ToString::to_string).collect(),
                    config_version: sent.config_version,
                }
            }
        });
        self.answered = Some(sent);
        Standing::Answer
    }

    /// Reads what a request asks for. `asks_again`: the names that it repeats are asked for anew.
    pub(super) fn read_names(&mut self, names: Names, is_first: bool, asks_again: bool) {
        match names {
            Names::All(names) => {
                self.named |= !names.is_empty();
                let everything =
                    self.kind.is_wildcard() && (!self.named || names.iter().any(|name| name == "*"));
                let names: BTreeSet<Arc<str>> =
                    names.into_iter().filter(|name| name != "*").map(Arc::from).collect();
                let wants_more =
                    (everything && !self.everything) || (!everything && !names.is_subset(&self.names));
                self.owes_any |= is_first || wants_more || asks_again;
                self.everything = everything;
                self.names = names;
                self.forget_unwanted();
                self.seen = None;
            }
            Names::Change { subscribe, unsubscribe, held } => {
                if is_first && subscribe.is_empty() && self.kind.is_wildcard() {
                    self.everything = true;
                }
                self.owes_any |= is_first && self.kind.is_wildcard();
                if is_first {
                    self.told = held.into_iter().map(|(n, v)| (Arc::from(n), Some(Arc::from(v)))).collect();
                }
                if subscribe.is_empty() && unsubscribe.is_empty() && !is_first {
                    return;
                }
                for name in subscribe {
                    if name == "*" {
                        self.everything = true;
                        self.owes_any = true;
                        continue;
                    }
                    let name: Arc<str> = name.into();
                    // Asked for again, it is sent again: the client may have lost it.
                    self.owed.insert(name.clone());
                    self.names.insert(name);
                }
                for name in unsubscribe {
                    match &*name {
                        "*" => self.everything = false,
                        name => {
                            self.names.remove(name);
                            self.owed.remove(name);
                        }
                    }
                }
                self.forget_unwanted();
                self.seen = None;
            }
        }
    }

    fn forget_unwanted(&mut self) {
        if !self.everything {
            let names = &self.names;
            self.told.retain(|name, _| names.contains(name));
        }
    }

    /// Whether all that there is is wanted.
    pub(super) const fn wants_everything(&self) -> bool {
        self.everything
    }

    /// The names of what the client has.
    pub(super) fn held(&self) -> impl Iterator<Item = &Arc<str>> {
        self.told.iter().filter(|(_, version)| version.is_some()).map(|(name, _)| name)
    }

    /// Whether the client has something of an earlier stream that there is no more.
    pub(super) fn has_foreign(&self, all: &Resources, lingering: &Resources) -> bool {
        self.held().any(|name| !all.contains_key(name) && !lingering.contains_key(name))
    }

    /// Whether the client was told of a name, or that there is nothing of it.
    pub(super) fn has_told(&self, name: &str) -> bool {
        self.told.contains_key(name)
    }

    /// The nonce of the last response, and whether it was refused.
    pub(super) fn last(&self) -> Option<(&str, bool)> {
        let sent = self.sent.back().or(self.answered.as_ref())?;
        Some((&sent.nonce, sent.is_refused))
    }

    /// Whether the last response was taken, and says what `all` says.
    pub(super) fn is_current(&self, all: &Resources) -> bool {
        // In delta a client may have all of it from an earlier stream, and be sent nothing.
        let is_taken = self.sent.is_empty()
            && match &self.answered {
                Some(sent) => !sent.is_refused,
                None => !self.told.is_empty(),
            };
        is_taken && self.changes(all, &Resources::default()).is_none()
    }

    /// What the client lacks or has in another version, and what it has and should not; none where there is neither.
    fn changes<'a>(&self, all: &'a Resources, lingering: &'a Resources) -> Option<Changes<'a>> {
        let mut changes = Changes { changed: Vec::new(), removed: Vec::new() };
        let mut weigh = |name: &Arc<str>, resource: Option<&'a Lowered>, name_of: Option<&'a Arc<str>>| {
            let told = self.told.get(name);
            let is_owed = self.owed.contains(name);
            match (resource, name_of) {
                (Some(resource), Some(name)) => {
                    let is_same = told.is_some_and(|told| told.as_ref() == Some(&resource.version));
                    if !is_same || is_owed {
                        changes.changed.push((name, resource));
                    }
                }
                _ if is_owed || !told.is_some_and(Option::is_none) => changes.removed.push(name.clone()),
                _ => {}
            }
        };
        let find = |name: &Arc<str>| all.get_key_value(name).or_else(|| lingering.get_key_value(name));
        if self.everything {
            for (name, resource) in all.iter().chain(lingering) {
                weigh(name, Some(resource), Some(name));
            }
            for name in self.told.keys().chain(&self.names).filter(|name| find(name).is_none()) {
                weigh(name, None, None);
            }
        } else {
            for name in &self.names {
                match find(name) {
                    Some((own, resource)) => weigh(name, Some(resource), Some(own)),
                    None => weigh(name, None, None),
                }
            }
        }
        changes.removed.sort_unstable();
        changes.removed.dedup();
        (!changes.changed.is_empty() || !changes.removed.is_empty()).then_some(changes)
    }

    /// The response that is due, if one is.
    pub(super) fn due(
        &mut self,
        all: &Arc<Resources>,
        lingering: &Resources,
        frame: &Frame<'_>,
    ) -> Option<Response> {
        let nothing_new =
            lingering.is_empty() && self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, all));
        if nothing_new && !self.owes_any && self.owed.is_empty() {
            return None;
        }
        let response = match frame.is_delta {
            true => self.due_delta(all, lingering, frame),
            false => self.due_state(all, lingering, frame),
        };
        // What lingers, or is kept, goes without `all` being another one.
        self.seen = (lingering.is_empty() && !frame.keeps_removed).then(|| all.clone());
        response
    }

    fn due_state(&mut self, all: &Resources, lingering: &Resources, frame: &Frame<'_>) -> Option<Response> {
        let wanted: BTreeMap<&Arc<str>, &Lowered> = match self.everything {
            true => all.iter().chain(lingering).collect(),
            false => {
                let of = |name| all.get_key_value(name).or_else(|| lingering.get_key_value(name));
                self.names.iter().filter_map(of).collect()
            }
        };
        let version = content_version(&wanted);
        let last = self.sent.back().or(self.answered.as_ref());
        if last.is_some_and(|last| last.version == version) && !self.owes_any {
            return None;
        }
        let resources: Vec<Any> = wanted.values().map(|resource| (*resource.any).clone()).collect();
        let mut told: BTreeMap<_, _> = wanted
            .into_iter()
            .map(|(name, resource)| (name.clone(), Some(resource.version.clone())))
            .collect();
        for name in &self.names {
            told.entry(name.clone()).or_insert(None);
        }
        let names = told.keys().cloned().collect();
        self.told = told;
        self.owes_any = false;
        let sent = self.send(version, names, frame);
        Some(Response::State(DiscoveryResponse {
            version_info: sent.version.clone(),
            resources,
            type_url: self.kind.type_url().to_owned(),
            nonce: sent.nonce,
            control_plane: Some(ControlPlane { identifier: frame.identifier.to_owned() }),
        }))
    }

    fn due_delta(&mut self, all: &Resources, lingering: &Resources, frame: &Frame<'_>) -> Option<Response> {
        let Changes { changed, mut removed } = self.changes(all, lingering).unwrap_or_default();
        if frame.keeps_removed {
            // What it never had it may be told of at once.
            removed.retain(|name| !self.told.get(name).is_some_and(Option::is_some));
        }
        if changed.is_empty() && removed.is_empty() && !self.owes_any {
            return None;
        }
        let resource = |(name, resource): &(&Arc<str>, &Lowered)| Resource {
            version: resource.version.to_string(),
            resource: Some((*resource.any).clone()),
            name: name.to_string(),
            ..Resource::default()
        };
        let resources: Vec<_> = changed.iter().map(resource).collect();
        let names = changed.iter().map(|(name, _)| (*name).clone()).chain(removed.iter().cloned()).collect();
        for (name, resource) in changed {
            self.told.insert(name.clone(), Some(resource.version.clone()));
        }
        for name in &removed {
            match self.names.contains(name) {
                true => drop(self.told.insert(name.clone(), None)),
                false => drop(self.told.remove(name)),
            }
        }
        self.owed.clear();
        self.owes_any = false;
        let version = state_version(&self.told);
        let sent = self.send(version, names, frame);
        Some(Response::Delta(DeltaDiscoveryResponse {
            system_version_info: sent.version.clone(),
            resources,
            type_url: self.kind.type_url().to_owned(),
            nonce: sent.nonce,
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            control_plane: Some(ControlPlane { identifier: frame.identifier.to_owned() }),
        }))
    }

    fn send(&mut self, version: String, names: Vec<Arc<str>>, frame: &Frame<'_>) -> Sent {
        let sent = Sent {
            nonce: frame.nonce.to_string(),
            version,
            config_version: frame.config_version,
            names,
            is_refused: false,
        };
        if self.sent.len() == MAX_UNANSWERED {
            self.sent.pop_front();
        }
        self.sent.push_back(sent.clone());
        sent
    }
}

/// What a request says of the responses before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It answers one.
    Answer,
    /// It answers none, and knows the last one.
    Fresh,
    /// It does not know of the last one.
    Stale,
}

#[derive(Default)]
struct Changes<'a> {
    changed: Vec<(&'a Arc<str>, &'a Lowered)>,
    removed: Vec<Arc<str>>,
}

/// A version that depends on content alone: what says the same has the same version, whoever serves it.
fn content_version(resources: &BTreeMap<&Arc<str>, &Lowered>) -> String {
    hash(resources.iter().map(|(name, resource)| (&***name, &*resource.version)))
}

fn state_version(told: &BTreeMap<Arc<str>, Option<Arc<str>>>) -> String {
    hash(told.iter().filter_map(|(name, version)| Some((&**name, &**version.as_ref()?))))
}

fn hash<'a>(parts: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut hash = Xxh3::new();
    for (name, version) in parts {
        for part in [name, version] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    format!("{:016x}", hash.digest())
}

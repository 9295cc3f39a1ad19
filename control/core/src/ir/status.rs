//! What became of each resource, in the words of Gateway API: conditions with a reason.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::ParentRef;

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody has looked.
    Unknown,
}

/// Something that is said of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Conflicted`, `PartiallyInvalid`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Truth,
    /// One word.
    pub reason: &'static str,
    /// One sentence; empty where the word says it all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Condition {
    pub(super) const fn holds(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, status: Truth::True, reason, message: String::new() }
    }

    pub(super) fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Truth::False, reason, message: message.into() }
    }
}

/// What became of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// Of the resource itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Of a gateway's listeners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
    /// Of a route, at each of its parents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
}

impl ObjectStatus {
    /// A condition by its name.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Everything that is not as it should be, a sentence each.
    pub fn complaints(&self) -> impl Iterator<Item = String> + '_ {
        let good = |c: &Condition| match c.kind {
            "Conflicted" | "PartiallyInvalid" => c.status == Truth::False,
            _ => c.status == Truth::True,
        };
        let of_parents = self.parents.iter().flat_map(|parent| &parent.conditions);
        let of_listeners = self.listeners.iter().flat_map(|listener| {
            listener
                .conditions
                .iter()
                .map(move |condition| (format!("listener {}: ", listener.name), condition))
        });
        let own = self.conditions.iter().chain(of_parents).map(|condition| (String::new(), condition));
        own.chain(of_listeners)
            .filter(move |(_, condition)| !good(condition))
            .map(|(at, c)| format!("{at}{}: {}", c.reason, c.message))
    }
}

/// What became of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that can attach.
    pub supported_kinds: Vec<BTreeMap<&'static str, &'static str>>,
    /// How many have.
    pub attached_routes: usize,
    /// What is said of it.
    pub conditions: Vec<Condition>,
}

impl ListenerStatus {
    /// A condition by its name.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// What became of a route at one of its parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent, as the route names it.
    pub parent_ref: ParentRef,
    /// Who says so.
    pub controller_name: &'static str,
    /// What is said.
    pub conditions: Vec<Condition>,
}

impl ParentStatus {
    /// A condition by its name.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

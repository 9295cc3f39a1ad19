//! For whom a resource is: by what a node says of itself, it is told some listeners and not others, and the endpoints near it
//! first.

use std::collections::BTreeMap;
use std::sync::Arc;

use xds_proto::envoy::config::core::v3::{self as core_proto, Node};
use xds_proto::prost_types::{Struct, Value, value};

use super::Resources;
use crate::ir::Place;

/// What a node says of itself, as far as it decides what the node is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audience {
    /// `labels` (or `LABELS`) of its metadata.
    pub labels: BTreeMap<String, String>,
    /// `namespace` (or `NAMESPACE`) of its metadata. A node of a namespace gets the gateways of that one alone.
    pub namespace: Option<String>,
    /// Where it runs.
    pub place: Place,
}

impl Audience {
    /// What this node says.
    pub fn of(node: &Node) -> Self {
        let field = |names: [&str; 2]| {
            let metadata = node.metadata.as_ref()?;
            names.into_iter().find_map(|name| metadata.fields.get(name))?.kind.as_ref()
        };
        let labels = match field(["labels", "LABELS"]) {
            Some(value::Kind::StructValue(labels)) => texts(labels),
            _ => BTreeMap::new(),
        };
        let namespace = match field(["namespace", "NAMESPACE"]) {
            Some(value::Kind::StringValue(namespace)) => Some(namespace.clone()),
            _ => None,
        };
        let core_proto::Locality { region, zone, .. } = node.locality.clone().unwrap_or_default();
        Self { labels, namespace, place: Place { region, zone } }
    }
}

fn texts(labels: &Struct) -> BTreeMap<String, String> {
    let text = |(key, value): (&String, &Value)| match &value.kind {
        Some(value::Kind::StringValue(text)) => Some((key.clone(), text.clone())),
        _ => None,
    };
    labels.fields.iter().filter_map(text).collect()
}

/// Who gets a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A node has all of these labels.
    pub(super) labels: BTreeMap<String, String>,
    /// A node is of no namespace, or of this one.
    pub(super) namespace: Option<String>,
    /// A node of no namespace is told of another listener instead.
    pub(super) yields: bool,
}

impl Wanted {
    pub(super) fn is(&self, audience: &Audience) -> bool {
        let same = match (&self.namespace, &audience.namespace) {
            (Some(wanted), Some(own)) => wanted == own,
            (Some(_), None) => !self.yields,
            (None, _) => true,
        };
        same && self.labels.iter().all(|(key, value)| audience.labels.get(key) == Some(value))
    }
}

/// Load assignments as they look from a place, where they do not look the same from everywhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Views(pub(super) BTreeMap<Place, Arc<Resources>>);

impl Views {
    /// What is seen from a place: from its zone, by its whole name or by the zone's alone, else from its region.
    pub(super) fn from(&self, place: &Place) -> Option<&Arc<Resources>> {
        let zone = Place { region: String::new(), zone: place.zone.clone() };
        self.0.get(place).or_else(|| self.0.get(&zone)).or_else(|| self.0.get(&place.region()))
    }
}

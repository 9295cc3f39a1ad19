//! For whom a resource is: by what a node says of itself, it is told some listeners and not others, and the endpoints near it
//! first.

use std::collections::{BTreeMap, BTreeSet};
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
pub(super) struct Views {
    /// Regions that any endpoint is in whose near ones are preferred.
    pub(super) regions: BTreeSet<String>,
    pub(super) from: BTreeMap<Place, Arc<Resources>>,
}

/// The region of whoever is in none that an endpoint is in. No region has this name.
const ELSEWHERE: &str = "\0";

impl Views {
    /// The places from which endpoints in these look different: each zone, seen from the regions that it may be in, and each
    /// region.
    pub(super) fn places(endpoints: &BTreeSet<Place>) -> (BTreeSet<String>, BTreeSet<Place>) {
        let regions: BTreeSet<String> =
            endpoints.iter().map(|place| place.region.clone()).filter(|region| !region.is_empty()).collect();
        let place = |region: &str, zone: &str| Place { region: region.to_owned(), zone: zone.to_owned() };
        let mut places: BTreeSet<_> = regions.iter().map(|region| place(region, "")).collect();
        for Place { region, zone } in endpoints.iter().filter(|place| !place.zone.is_empty()) {
            places.insert(place("", zone));
            match region.as_str() {
                "" => {
                    places.insert(place(ELSEWHERE, zone));
                    places.extend(regions.iter().map(|region| place(region, zone)));
                }
                region => drop(places.insert(place(region, zone))),
            }
        }
        (regions, places)
    }

    /// What is seen from a place; what everybody sees where unset.
    pub(super) fn seen_from(&self, place: &Place) -> Option<&Arc<Resources>> {
        let region = match place.region.as_str() {
            known if known.is_empty() || self.regions.contains(known) => known,
            _ => ELSEWHERE,
        };
        let at = |zone: &str| self.from.get(&Place { region: region.to_owned(), zone: zone.to_owned() });
        at(&place.zone).or_else(|| at(""))
    }
}

//! Taking a response's resources over into what is held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use xds_proto::gate::{IgnoredField, resource_name};
use xds_proto::prost_types::Any;

use super::{Delivered, rejection};
use crate::xds::resources::HeldMap;
use crate::xds::translate::Accepted;
use crate::xds::{Held, Rejection};

/// The resources of a response.
pub(super) struct Merge<'a> {
    pub(super) resources: Vec<Delivered>,
    /// What is gone by name; none where what did not come is.
    pub(super) removed: Option<&'a BTreeSet<String>>,
    /// Whether names that a response of the state of the world lacks go.
    pub(super) absence_deletes: bool,
    pub(super) now: Instant,
}

/// What became of them.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) rejections: Vec<Rejection>,
    pub(super) ignored: BTreeSet<IgnoredField>,
    pub(super) duplicate: Option<String>,
    /// What came, and when it is gone again.
    pub(super) expiries: BTreeMap<String, Option<Instant>>,
}

/// One resource, judged.
enum Judged<T> {
    Fresh(String, Held<T>),
    /// It is held already, byte for byte; its version may be another one.
    Known(String),
    Refused(Option<String>),
}

impl Merge<'_> {
    /// Takes them into `held`. One that is there and refused keeps its predecessor.
    pub(super) fn into<T>(
        self,
        shared: &mut HeldMap<T>,
        translate: fn(&Any) -> Result<Accepted<T>, Rejection>,
        is_static: impl Fn(&str) -> bool,
    ) -> Merged {
        let held = &**shared;
        let Self { resources, removed, absence_deletes, now } = self;
        let mut merged = Merged::default();
        let mut present = BTreeSet::new();
        let mut nameless = false;
        let mut fresh = Vec::new();
        let mut renamed = Vec::new();
        for delivered in resources {
            // Longer than any clock runs is for good.
            let ends = delivered.ttl.and_then(|ttl| now.checked_add(ttl));
            let version = delivered.version.clone();
            let name = match merged.judge(delivered, held, translate, &is_static) {
                Judged::Fresh(name, value) => {
                    fresh.push((name.clone(), value));
                    merged.expiries.insert(name.clone(), ends);
                    name
                }
                Judged::Known(name) => {
                    merged.expiries.insert(name.clone(), ends);
                    renamed.push((name.clone(), version));
                    name
                }
                Judged::Refused(Some(name)) => name,
                Judged::Refused(None) => {
                    nameless = true;
                    continue;
                }
            };
            if !present.insert(name.clone()) {
                merged.duplicate = Some(name);
                return merged;
            }
        }
        // What stays as it is is not copied.
        match removed {
            Some(removed) => {
                for name in removed.iter().filter(|name| !present.contains(*name)) {
                    if shared.contains_key(name) {
                        Arc::make_mut(shared).remove(name);
                    }
                }
            }
            // Whose absence would a resource without a readable name hide? Nobody can say, so nothing is deleted.
            None if absence_deletes && !nameless && shared.keys().any(|name| !present.contains(name)) => {
                Arc::make_mut(shared).retain(|name, _| present.contains(name));
            }
            None => {}
        }
        for (name, version) in renamed {
            let is_other = shared.get(&name).is_some_and(|held| held.version != version);
            if removed.is_some()
                && is_other
                && let Some(held) = Arc::make_mut(shared).get_mut(&name)
            {
                held.version = version;
            }
        }
        if !fresh.is_empty() {
            Arc::make_mut(shared).extend(fresh);
        }
        merged
    }
}

impl Merged {
    fn judge<T>(
        &mut self,
        delivered: Delivered,
        held: &BTreeMap<String, Held<T>>,
        translate: fn(&Any) -> Result<Accepted<T>, Rejection>,
        is_static: &impl Fn(&str) -> bool,
    ) -> Judged<T> {
        let Delivered { name: told, version, body, ttl: _ } = delivered;
        let Some(raw) = body else {
            // It says that what is held holds for longer.
            return match told {
                Some(name) if held.contains_key(&name) => Judged::Known(name),
                told => Judged::Refused(told),
            };
        };
        // A resource that is the same byte for byte was accepted before: keep its value, and every `Arc` made of it.
        let own = resource_name(&raw.value);
        if let (Some(told), Some(own)) = (&told, &own)
            && told != own
        {
            let reason = format!("comes under another name, {told:?}");
            self.rejections.push(rejection(&raw.type_url, Some(own), reason));
            return Judged::Refused(Some(told.clone()));
        }
        if let Some(name) = own.filter(|name| held.get(name).is_some_and(|old| *old.raw == raw)) {
            return Judged::Known(name);
        }
        match translate(&raw) {
            Ok(accepted) if is_static(&accepted.name) => {
                let reason = "the bootstrap has a static resource of that name".to_owned();
                self.rejections.push(rejection(&raw.type_url, Some(&accepted.name), reason));
                Judged::Refused(Some(accepted.name))
            }
            Ok(Accepted { name, value, ignored }) => {
                self.ignored.extend(ignored);
                Judged::Fresh(name, Held { raw: Arc::new(raw), version, value: Arc::new(value) })
            }
            Err(refused) => {
                let name = refused.resource.clone().or(told);
                self.rejections.push(refused);
                Judged::Refused(name)
            }
        }
    }
}

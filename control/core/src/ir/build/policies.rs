//! `TrafficPolicy`: what it says, by what it is about.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::by_age;
use crate::ir::{Condition, ObjectStatus, Split, SplitKey};
use crate::model::{
    self, Kind, ObjectKey, Objects, SplitSpec, TrafficPolicySpec, UserGroupSpec, WhenUnavailable, duration,
};

/// Policies and the groups that they name.
pub(super) struct Policies<'a> {
    by_target: BTreeMap<ObjectKey, &'a TrafficPolicySpec>,
    objects: &'a Objects,
}

impl<'a> Policies<'a> {
    pub(super) fn of(objects: &'a Objects, statuses: &mut BTreeMap<ObjectKey, ObjectStatus>) -> Self {
        let mut by_target = BTreeMap::new();
        for policy in by_age(objects.traffic_policies()) {
            let namespace = &policy.metadata.namespace;
            let target = &policy.spec.target_ref;
            let kind = Kind::by_name(&target.kind).unwrap_or(Kind::HttpRoute);
            let key = ObjectKey::new(kind, namespace, &target.name);
            let missing_group = policy.spec.groups.iter().find(|split| {
                objects.get(&ObjectKey::new(Kind::UserGroup, namespace, &split.group)).is_none()
            });
            let is_there = objects.get(&key).is_some();
            let condition = match by_target.entry(key) {
                Entry::Vacant(place) if !is_there => {
                    Condition::fails("Accepted", "TargetNotFound", format!("there is no {}", place.key()))
                }
                Entry::Occupied(taken) => {
                    let message = format!("an older TrafficPolicy is about {}", taken.key());
                    Condition::fails("Accepted", "Conflicted", message)
                }
                Entry::Vacant(place) => {
                    place.insert(&policy.spec);
                    match missing_group {
                        Some(split) => {
                            let message = format!("there is no UserGroup {:?}; nobody is in it", split.group);
                            Condition::fails("ResolvedRefs", "GroupNotFound", message)
                        }
                        None => Condition::holds("Accepted", "Accepted"),
                    }
                }
            };
            let key = ObjectKey::new(Kind::TrafficPolicy, namespace, &policy.metadata.name);
            statuses.entry(key).or_default().conditions.push(condition);
        }
        Self { by_target, objects }
    }

    /// Nothing is said of anything.
    pub(super) const fn none(objects: &'a Objects) -> Self {
        Self { by_target: BTreeMap::new(), objects }
    }

    pub(super) fn about(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a TrafficPolicySpec> {
        self.by_target.get(&ObjectKey::new(kind, namespace, name)).copied()
    }

    pub(super) fn group(&self, namespace: &str, name: &str) -> Option<&'a UserGroupSpec> {
        let found = self.objects.get(&ObjectKey::new(Kind::UserGroup, namespace, name))?;
        match &**found {
            model::Resource::UserGroup(group) => Some(&group.spec),
            _ => None,
        }
    }
}

/// What a policy says of the choice of arms.
pub(super) fn split(spec: &SplitSpec) -> Split {
    let key = spec.key.as_ref().and_then(|key| {
        let header = key.header.as_ref().map(|name| SplitKey::Header(name.to_ascii_lowercase()));
        let cookie = || {
            key.cookie.as_ref().map(|cookie| SplitKey::Cookie {
                name: cookie.name.clone(),
                ttl: cookie.ttl.as_deref().and_then(duration),
                path: cookie.path.clone().unwrap_or_default(),
            })
        };
        let parameter = || key.query_param.clone().map(SplitKey::QueryParameter);
        header.or_else(cookie).or_else(parameter).or_else(|| key.source_ip.map(|_| SplitKey::SourceIp))
    });
    Split {
        key,
        salt: spec.salt.clone(),
        override_header: spec.override_header.as_ref().map(|name| name.to_ascii_lowercase()),
        spills: spec.when_unavailable == WhenUnavailable::Spill,
        draining: spec.draining.clone(),
    }
}

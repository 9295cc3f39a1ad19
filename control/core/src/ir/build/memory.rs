//! What routes came to at the last build: one of which nothing changed is not put together again, and its entries are the very
//! same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::backends::{Backends, Unresolved};
use super::grants::From;
use super::http::{Entry, Outcome};
use super::policies::Policies;
use crate::ir::BackendName;
use crate::model::{BackendRef, ObjectKey, Resource, TrafficPolicySpec, UserGroupSpec};

/// What a reference names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

impl Target {
    pub(super) fn of(reference: &BackendRef) -> Self {
        let BackendRef { group, kind, namespace, name, port, weight: _, filters: _ } = reference;
        Self {
            group: group.clone(),
            kind: kind.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            port: *port,
        }
    }
}

/// What each reference of a route led to.
pub(super) type Targets = BTreeMap<Target, Result<BackendName, Unresolved>>;

/// A route, everything that it was put together from, and what came of it.
#[derive(Debug, Clone)]
struct Known {
    route: Arc<Resource>,
    policy: Option<TrafficPolicySpec>,
    groups: Vec<Option<UserGroupSpec>>,
    outcome: Arc<Outcome<Entry>>,
}

/// What routes came to, by their names.
#[derive(Debug, Clone, Default)]
pub struct KnownRoutes(HashMap<ObjectKey, Known>);

/// The memory of the last build, and of the one that is going on.
pub(super) struct Memory<'a> {
    pub(super) before: &'a KnownRoutes,
    pub(super) now: KnownRoutes,
}

impl Memory<'_> {
    /// What a route comes to; it is put together if anything is different that it depends on.
    pub(super) fn outcome<'a>(
        &mut self,
        key: &ObjectKey,
        route: &Arc<Resource>,
        backends: &mut Backends<'a>,
        policies: &Policies<'_>,
        put_together: impl FnOnce(&mut Backends<'a>) -> Outcome<Entry>,
    ) -> Arc<Outcome<Entry>> {
        let policy = policies.about(key.kind, &key.namespace, &key.name);
        let groups = || {
            let named = policy.into_iter().flat_map(|policy| &policy.groups);
            named.map(|split| policies.group(&key.namespace, &split.group))
        };
        let from = From { kind: key.kind, namespace: &key.namespace };
        let before = self.before.0.get(key).filter(|known| {
            Arc::ptr_eq(&known.route, route)
                && known.policy.as_ref() == policy
                && known.groups.iter().map(Option::as_ref).eq(groups())
                && known.outcome.targets.iter().all(|(target, led)| backends.resolve(from, target) == *led)
        });
        let known = before.cloned().unwrap_or_else(|| Known {
            route: route.clone(),
            policy: policy.cloned(),
            groups: groups().map(Option::<&_>::cloned).collect(),
            outcome: Arc::new(put_together(backends)),
        });
        let outcome = known.outcome.clone();
        self.now.0.insert(key.clone(), known);
        outcome
    }
}

//! `FlowRule`: routes that come before all others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backends::Backends;
use super::grants::From;
use super::memory::Target;
use crate::ir::{
    Action, Arm, BackendName, Condition, Conditions, Forward, HeaderEdits, ObjectStatus, Path, Route,
    ValueCondition,
};
use crate::model::{BackendRef, FlowAction, FlowRule, Kind, ObjectKey, Objects};

/// The routes of each namespace's rules, in their order. They come before those of hosts that its routes serve.
pub(super) type FlowRoutes = BTreeMap<String, Vec<Arc<Route>>>;

pub(super) fn routes(
    objects: &Objects,
    backends: &mut Backends<'_>,
    statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
) -> FlowRoutes {
    let mut rules: Vec<&FlowRule> = objects.flow_rules().collect();
    rules.sort_by_key(|rule| (std::cmp::Reverse(rule.spec.priority), &rule.metadata.name));
    let mut routes = FlowRoutes::new();
    for rule in rules {
        let namespace = &rule.metadata.namespace;
        let (route, condition) = route(rule, backends);
        let key = ObjectKey::new(Kind::FlowRule, namespace, &rule.metadata.name);
        statuses.entry(key).or_default().conditions.push(condition);
        routes.entry(namespace.clone()).or_default().push(Arc::new(route));
    }
    routes
}

fn route(rule: &FlowRule, backends: &mut Backends<'_>) -> (Route, Condition) {
    let (namespace, name) = (&rule.metadata.namespace, &rule.metadata.name);
    let mut resolved = Condition::holds("ResolvedRefs", "ResolvedRefs");
    let action = match (rule.spec.action, &rule.spec.target) {
        (FlowAction::Forward, Some(target)) => {
            let from = From { kind: Kind::FlowRule, namespace };
            let reference = BackendRef { name: target.clone(), ..BackendRef::default() };
            match backends.resolve(from, &Target::of(&reference)) {
                Ok(backend) => {
                    let arm = Arm {
                        backend: Some(backend),
                        weight: 1,
                        request: HeaderEdits::default(),
                        response: HeaderEdits::default(),
                        host: None,
                    };
                    Action::Forward(Forward {
                        arms: vec![arm],
                        split: None,
                        host: None,
                        path: None,
                        timeout: None,
                        idle_timeout: None,
                        fault: None,
                    })
                }
                Err((reason, message)) => {
                    resolved = Condition::fails("ResolvedRefs", reason, message);
                    Action::Respond(500)
                }
            }
        }
        _ => Action::Respond(403),
    };
    let mut conditions = Conditions {
        path: Path::Prefix(String::new()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        is_grpc: false,
    };
    for (field, value) in &rule.spec.conditions {
        match field.as_str() {
            ":path" => conditions.path = Path::Exact(value.clone()),
            ":method" => conditions.method = Some(value.clone()),
            _ => conditions.headers.push(ValueCondition {
                name: field.to_ascii_lowercase(),
                value: value.clone(),
                is_regex: false,
            }),
        }
    }
    let object = BackendName::new(namespace, name).to_string();
    let route = Route {
        name: format!("flow/{object}"),
        object,
        conditions,
        action,
        request: HeaderEdits::default(),
        response: HeaderEdits::default(),
    };
    (route, resolved)
}

//! From resources to the intermediate representation.
//!
//! Nothing fails here: what does not fit together is said in the status of the resource that it is wrong with, and the
//! rest is served. The words of the conditions are Gateway API's.

mod attach;
mod backends;
mod connections;
mod flow;
mod gateways;
mod grants;
mod grpc;
mod hosts;
mod http;
mod memory;
mod policies;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ImplicitGateway, Ir, ObjectStatus};
use crate::model::{Kind, Metadata, ObjectKey, Objects, Resource};
use crate::registry::Instances;
use attach::Attachments;
use backends::Backends;
use gateways::Ports;
use grants::Grants;
pub(crate) use http::literal;
pub use memory::KnownRoutes;
use memory::Memory;
use policies::Policies;

/// Who says what became of a resource.
pub(super) const CONTROLLER: &str = "weir.dev/gateway";

/// What is put together.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What people wrote.
    pub objects: &'a Objects,
    /// Who is there.
    pub instances: &'a Instances,
    /// The listener of routes that name no gateway. Its address is that of gateways that give none.
    pub gateway: &'a ImplicitGateway,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// What is served.
    pub ir: Arc<Ir>,
    /// What became of each resource.
    pub statuses: Arc<BTreeMap<ObjectKey, ObjectStatus>>,
    /// For the next time: [`build_after`].
    pub routes: KnownRoutes,
}

/// Puts the resources together.
pub fn build(inputs: Inputs<'_>) -> Built {
    build_after(inputs, &KnownRoutes::default())
}

/// Puts the resources together after another build. Routes of which nothing changed are shared with it.
pub fn build_after(inputs: Inputs<'_>, before: &KnownRoutes) -> Built {
    let Inputs { objects, instances, gateway } = inputs;
    let mut statuses = BTreeMap::new();
    let grants = Grants::of(objects);
    let policies = Policies::of(objects, &mut statuses);
    let mut backends = Backends::of(objects, instances, &grants, &policies, &mut statuses);
    let mut ports = Ports::of(objects, gateway, &grants, &mut statuses);
    let mut memory = Memory { before, now: KnownRoutes::default() };
    let mut attachments =
        Attachments { objects, ports: &mut ports, statuses: &mut statuses, memory: &mut memory };
    attachments.http(&mut backends, &policies);
    attachments.grpc(&mut backends, &policies);
    attachments.other_services(&mut backends);
    attachments.tls(&mut backends);
    attachments.tcp(&mut backends);
    let flow_rules = flow::routes(objects, &mut backends, &mut statuses);
    let (listeners, tables, certificates) = ports.finish(gateway, &flow_rules, &mut statuses);
    let access_log = gateway.access_log.clone();
    let ir = Ir { listeners, tables, backends: backends.finish(), certificates, access_log };
    Built { ir: Arc::new(ir), statuses: Arc::new(statuses), routes: memory.now }
}

/// Of two that want the same, the one with the smaller age has it: the older, then the first by namespace and name.
fn age(metadata: &Metadata) -> (&str, &str, &str) {
    (metadata.creation_timestamp.as_deref().unwrap_or(""), &metadata.namespace, &metadata.name)
}

/// All of a kind, in the order of [`age`].
fn all_by_age(objects: &Objects, kind: Kind) -> Vec<(&ObjectKey, &Arc<Resource>)> {
    let mut sorted: Vec<_> = objects.of_kind(kind).collect();
    sorted.sort_by_key(|(_, resource)| age(resource.metadata()));
    sorted
}

/// In the order of [`age`].
fn by_age<'a, S>(
    objects: impl Iterator<Item = &'a crate::model::Object<S>>,
) -> Vec<&'a crate::model::Object<S>> {
    let mut sorted: Vec<_> = objects.collect();
    sorted.sort_by_key(|object| age(&object.metadata));
    sorted
}

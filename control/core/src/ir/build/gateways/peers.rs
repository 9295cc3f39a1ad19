//! `PeerAuthentication`: what the ports of sidecars take.

use std::collections::BTreeMap;

use super::super::by_age;
use crate::ir::{Condition, ObjectStatus};
use crate::model::{Kind, Metadata, ObjectKey, Objects, PeerAuthentication, PeerMode, WorkloadSelector};

/// The class of gateways that are the inbound side of a service.
pub(super) const SIDECAR: &str = "weir-sidecar";

/// All of them, the oldest first.
pub(super) struct Peers<'a>(Vec<&'a PeerAuthentication>);

impl<'a> Peers<'a> {
    pub(super) fn of(objects: &'a Objects, statuses: &mut BTreeMap<ObjectKey, ObjectStatus>) -> Self {
        let mut peers: Vec<&PeerAuthentication> = Vec::new();
        for policy in by_age(objects.peer_authentications()) {
            let (namespace, selector) = (&policy.metadata.namespace, labels(policy));
            let older = peers.iter().find(|p| p.metadata.namespace == *namespace && labels(p) == selector);
            let about = |gateway: &&crate::model::Gateway| {
                gateway.spec.gateway_class_name == SIDECAR && is_about(policy, &gateway.metadata)
            };
            let condition = match older {
                Some(older) => {
                    let message = format!("the older {} is about the same gateways", older.metadata.name);
                    Condition::fails("Accepted", "Conflicted", message)
                }
                None if objects.gateways().any(|gateway| about(&gateway)) => {
                    Condition::holds("Accepted", "Accepted")
                }
                None => {
                    let message = format!("no gateway of the class {SIDECAR} is meant");
                    Condition::fails("Accepted", "TargetNotFound", message)
                }
            };
            if older.is_none() {
                peers.push(policy);
            }
            let key = ObjectKey::new(Kind::PeerAuthentication, namespace, &policy.metadata.name);
            statuses.entry(key).or_default().conditions.push(condition);
        }
        Self(peers)
    }

    /// What a port of a sidecar takes, and who says so: of the port, then of the gateways with its labels, then of the
    /// namespace.
    pub(super) fn mode(&self, gateway: &Metadata, port: u16) -> Option<(PeerMode, &'a str)> {
        let about = self.0.iter().copied().filter(|policy| is_about(policy, gateway));
        let (chosen, wide): (Vec<&PeerAuthentication>, Vec<_>) =
            about.partition(|policy| !labels(policy).is_empty());
        // Of several that choose it, the oldest counts.
        let chosen = chosen.get(..1).unwrap_or_default();
        let of_port =
            chosen.iter().filter_map(|policy| Some((policy, policy.spec.port_level_mtls.get(&port)?)));
        let of_all =
            chosen.iter().chain(&wide).filter_map(|policy| Some((policy, policy.spec.mtls.as_ref()?)));
        let said = of_port.chain(of_all).map(|(policy, mtls)| (mtls.mode, policy.metadata.name.as_str()));
        said.into_iter().find(|(mode, _)| *mode != PeerMode::Unset)
    }
}

fn labels(policy: &PeerAuthentication) -> &BTreeMap<String, String> {
    static NONE: WorkloadSelector = WorkloadSelector { match_labels: BTreeMap::new() };
    &policy.spec.selector.as_ref().unwrap_or(&NONE).match_labels
}

fn is_about(policy: &PeerAuthentication, gateway: &Metadata) -> bool {
    policy.metadata.namespace == gateway.namespace
        && labels(policy).iter().all(|(key, value)| gateway.labels.get(key) == Some(value))
}

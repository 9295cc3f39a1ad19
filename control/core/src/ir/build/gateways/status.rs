//! What became of gateways and their listeners.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Port, Ports, ip};
use crate::ir::{Condition, ListenerStatus, ObjectStatus};
use crate::model::{Kind, ObjectKey};

impl Ports<'_> {
    pub(super) fn report(&self, statuses: &mut BTreeMap<ObjectKey, ObjectStatus>) {
        for owner in self.owners.iter().filter(|owner| !owner.is_implicit) {
            self.report_listeners(&owner.key, owner.refused.as_ref(), statuses);
        }
        for set in &self.sets {
            self.report_listeners(set, None, statuses);
        }
    }

    fn report_listeners(
        &self,
        of: &ObjectKey,
        refused: Option<&Condition>,
        statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
    ) {
        let status = statuses.entry(of.clone()).or_default();
        let ports: Vec<_> = self.ports.iter().filter(|port| port.parent == *of).collect();
        status.listeners = ports.iter().map(|port| listener_status(port)).collect();
        let served = ports.iter().filter(|port| port.is_served()).count();
        let bad = |kind| {
            let reason = if kind == Kind::ListenerSet { "ListenersNotValid" } else { "Invalid" };
            Condition::fails("Programmed", reason, "no listener can be served")
        };
        let invalid = "not every listener can be served";
        let of_owner = self.owners.iter().find(|owner| owner.key == *of);
        let unusable =
            of_owner.and_then(|owner| owner.addresses.iter().filter_map(ip).find(IpAddr::is_multicast));
        let (accepted, programmed) = match refused {
            Some(refused) => (refused.clone(), Condition { kind: "Programmed", ..refused.clone() }),
            None if unusable.is_some() => {
                let message =
                    unusable.map(|ip| format!("{ip} is no address to listen on")).unwrap_or_default();
                let programmed = Condition::fails("Programmed", "AddressNotUsable", message);
                (Condition::holds("Accepted", "Accepted"), programmed)
            }
            None if served == ports.len() => {
                (Condition::holds("Accepted", "Accepted"), Condition::holds("Programmed", "Programmed"))
            }
            None if served == 0 => {
                (Condition::fails("Accepted", "ListenersNotValid", "no listener can be served"), bad(of.kind))
            }
            None => {
                let accepted = Condition::holds("Accepted", "ListenersNotValid");
                (
                    Condition { message: invalid.to_owned(), ..accepted },
                    Condition::holds("Programmed", "Programmed"),
                )
            }
        };
        status.conditions.extend([accepted, programmed]);
    }
}

fn listener_status(port: &Port<'_>) -> ListenerStatus {
    let (accepted, conflicted) = match &port.conflict {
        Some((reason, message)) => (
            Condition::fails("Accepted", reason, message.clone()),
            Condition { message: message.clone(), ..Condition::holds("Conflicted", reason) },
        ),
        None => (port.accepted.clone(), Condition::fails("Conflicted", "NoConflicts", "")),
    };
    let programmed = match (&port.conflict, port.is_served()) {
        (_, true) => Condition::holds("Programmed", "Programmed"),
        (Some((reason, message)), false) => Condition::fails("Programmed", reason, message.clone()),
        (None, false) => Condition::fails("Programmed", "Invalid", "what it refers to cannot be used"),
    };
    let kinds = port.kinds.iter();
    ListenerStatus {
        name: port.name.to_owned(),
        supported_kinds: kinds
            .map(|k| BTreeMap::from([("group", k.group()), ("kind", k.as_str())]))
            .collect(),
        attached_routes: port.attached,
        conditions: vec![accepted, programmed, port.resolved.clone(), conflicted],
    }
}

pub(super) fn refuse_set(
    set: ObjectKey,
    reason: &'static str,
    message: &str,
    statuses: &mut BTreeMap<ObjectKey, ObjectStatus>,
) {
    let conditions = ["Accepted", "Programmed"].map(|kind| Condition::fails(kind, reason, message));
    statuses.entry(set).or_default().conditions.extend(conditions);
}

//! Listeners that cannot both be served.

use super::{Port, Ports, ip};
use crate::model::Protocol;

impl Ports<'_> {
    /// Listeners that want the same port in ways that exclude each other. Of one gateway's own both lose, so that nobody is
    /// served by chance; otherwise the one that was there first stays.
    pub(super) fn find_conflicts(&mut self) {
        // Whoever lost to another object is no longer in anybody's way.
        for are_siblings in [false, true] {
            for i in 0..self.ports.len() {
                for j in 0..i {
                    let (earlier, later) = (&self.ports[j], &self.ports[i]);
                    let is_pair = (earlier.parent == later.parent) == are_siblings;
                    let has_lost = |port: &Port<'_>| port.conflict.is_some() && !port.lost_to_sibling;
                    if !is_pair || has_lost(earlier) || has_lost(later) {
                        continue;
                    }
                    let Some(conflict) = self.conflict(earlier, later) else { continue };
                    let (one, other) = (&self.owners[earlier.gateway], &self.owners[later.gateway]);
                    // The implicit gateway is of no namespace.
                    if one.key.namespace != other.key.namespace && !one.is_implicit && !other.is_implicit {
                        // Proxies that say of which namespace they are never hear of both; and who is not there at the others
                        // is in nobody's way.
                        if !earlier.yields {
                            self.ports[i].yields_to(&conflict.1);
                        }
                        continue;
                    }
                    self.ports[i].lose(&conflict, are_siblings);
                    if are_siblings {
                        self.ports[j].lose(&conflict, true);
                    }
                }
            }
        }
    }

    fn conflict(&self, earlier: &Port<'_>, later: &Port<'_>) -> Option<(&'static str, String)> {
        if earlier.number != later.number {
            return None;
        }
        let (one, other) = (&self.owners[earlier.gateway], &self.owners[later.gateway]);
        if earlier.gateway != later.gateway {
            // No node can have both.
            let differs = |(key, value)| other.node_labels.get(key).is_some_and(|of_other| of_other != value);
            let apart = one.node_labels.iter().any(differs);
            let shared = one.addresses.iter().any(|a| other.addresses.iter().any(|b| ip(a) == ip(b)));
            let message = format!("{} has the port {} already", one.key, later.number);
            return (!apart && shared).then_some(("PortUnavailable", message));
        }
        let family = |port: &Port<'_>| match port.protocol {
            Protocol::Https | Protocol::Tls => 0,
            Protocol::Http => 1,
            Protocol::Tcp => 2,
            Protocol::Udp => 3,
        };
        if family(earlier) != family(later) {
            let message = format!("the listener {} speaks another protocol on this port", earlier.name);
            return Some(("ProtocolConflict", message));
        }
        let message = format!("the listener {} has the same port and hostname", earlier.name);
        (earlier.hostname == later.hostname).then_some(("HostnameConflict", message))
    }
}

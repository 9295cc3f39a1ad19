//! What a socket speaks, and the tables behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::flow::FlowRoutes;
use super::super::http::Entry;
use super::Port;
use crate::ir::{Action, ChainAction, Host, Listener, Plain, Redirect, Route, Speaks, Table, TlsChain};
use crate::model::{Kind, Protocol};

/// What a socket speaks: everything that its ports do. None where nothing can come of it.
pub(super) fn speaks(
    name: &str,
    ports: &[&Port<'_>],
    flow: &FlowRoutes,
    tables: &mut BTreeMap<String, Table>,
) -> Option<Speaks> {
    let table = |ports: &[&Port<'_>]| {
        let hosts = ports.iter().flat_map(|port| port.hosts.finish(|routes| first(flow, routes)));
        let mut hosts: Vec<_> = hosts.collect();
        if let Some(port) = ports.first() {
            complete_redirects(&mut hosts, port);
        }
        Table { hosts }
    };
    let in_clear: Vec<_> = ports.iter().copied().filter(|port| port.takes_plaintext()).collect();
    let plain = in_clear.first().and_then(|first| {
        if first.protocol == Protocol::Https {
            tables.insert(name.to_owned(), table(&in_clear));
            return Some(Plain::Http(name.to_owned()));
        }
        in_clear.iter().find_map(|port| port.connections.first()).map(Plain::Tcp)
    });
    if ports.iter().any(|port| port.is_tls()) {
        let mut chains = Vec::new();
        for port in ports.iter().filter(|port| port.is_tls()) {
            let server_names = match port.hostname.as_str() {
                "" => Vec::new(),
                hostname => vec![hostname.to_owned()],
            };
            // A listener of a set may be called as one of the gateway's own.
            let label = match port.parent.kind {
                Kind::ListenerSet => format!("{}/{}/{}", port.parent.namespace, port.parent.name, port.name),
                _ => port.name.to_owned(),
            };
            match &port.termination {
                Some(termination) if port.protocol == Protocol::Https => {
                    let table_name = format!("{name}/{label}");
                    tables.insert(table_name.clone(), table(&[port]));
                    let then = ChainAction::Http(termination.clone(), table_name);
                    chains.push(TlsChain { name: label, server_names, then });
                }
                termination => chains.extend(port.connections.chains(&label, termination.as_ref())),
            }
        }
        return (!chains.is_empty() || plain.is_some()).then_some(Speaks::Tls(chains, plain));
    }
    if let Some(plain) = plain {
        return Some(Speaks::Plain(plain));
    }
    if ports.iter().any(|port| port.protocol == Protocol::Tcp) {
        let arms = ports.iter().find_map(|port| port.connections.first());
        return arms.map(|arms| Speaks::Plain(Plain::Tcp(arms)));
    }
    if ports.iter().any(|port| port.protocol == Protocol::Tls) {
        return None;
    }
    tables.insert(name.to_owned(), table(ports));
    Some(Speaks::Plain(Plain::Http(name.to_owned())))
}

/// The flow rules of the namespaces whose routes are for a host itself.
fn first(flow: &FlowRoutes, entries: &[Entry]) -> Vec<Arc<Route>> {
    if flow.is_empty() {
        return Vec::new();
    }
    let namespace = |entry: &Entry| {
        entry.route.object.split_once('/').map_or("default".to_owned(), |(namespace, _)| namespace.to_owned())
    };
    let namespaces: BTreeSet<String> = entries.iter().map(namespace).collect();
    namespaces.iter().filter_map(|namespace| flow.get(namespace)).flatten().cloned().collect()
}

/// Where a redirect says no port, it is that of its scheme, or of the listener (Gateway API, HTTPRequestRedirectFilter.port).
/// Default ports are not written.
fn complete_redirects(hosts: &mut [Host], port: &Port<'_>) {
    let default = if port.protocol == Protocol::Https { 443 } else { 80 };
    if port.number == default {
        return;
    }
    for route in hosts.iter_mut().flat_map(|host| &mut host.routes) {
        let Action::Redirect(Redirect { port: None, scheme, host, .. }) = &route.action else { continue };
        let number = match (scheme.as_deref(), host) {
            // A host that is named comes without a port.
            (Some(_), Some(_)) => continue,
            (Some("http"), None) => 80,
            (Some(_), None) => 443,
            (None, _) => port.number,
        };
        if let Action::Redirect(redirect) = &mut Arc::make_mut(route).action {
            redirect.port = Some(number);
        }
    }
}

/// The certificates that any listener shows.
pub(super) fn certificates_of(listeners: &BTreeMap<String, Listener>) -> BTreeSet<String> {
    let chains = listeners.values().filter_map(|listener| match &listener.speaks {
        Speaks::Tls(chains, _) => Some(chains),
        Speaks::Plain(_) => None,
    });
    let terminations = chains.flatten().filter_map(|chain| match &chain.then {
        ChainAction::Http(termination, _) | ChainAction::Tcp(termination, _) => Some(termination),
        ChainAction::Pass(_) => None,
    });
    terminations.flat_map(|termination| termination.certificates.iter().cloned()).collect()
}

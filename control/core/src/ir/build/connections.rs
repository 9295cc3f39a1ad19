//! Connections that attached to a listener: `TLSRoute` and `TCPRoute`.

use std::collections::BTreeSet;

use crate::ir::{Arm, ChainAction, Termination, TlsChain};

/// Routes of connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections {
    routes: Vec<(String, Vec<String>, Vec<Arm>)>,
}

impl Connections {
    /// A route, and the names that it is for; every name where empty.
    pub(super) fn add(&mut self, name: String, server_names: Vec<String>, arms: Vec<Arm>) {
        self.routes.push((name, server_names, arms));
    }

    /// Where connections go that ask for nothing.
    pub(super) fn first(&self) -> Option<Vec<Arm>> {
        self.routes.first().map(|(_, _, arms)| arms.clone())
    }

    /// A chain for each route. Of two that want a name, the older one has it.
    pub(super) fn chains(&self, listener: &str, termination: Option<&Termination>) -> Vec<TlsChain> {
        let mut taken = BTreeSet::new();
        let mut chains = Vec::new();
        for (name, server_names, arms) in &self.routes {
            let wanted = if server_names.is_empty() { vec![String::new()] } else { server_names.clone() };
            let free: Vec<String> = wanted.into_iter().filter(|name| taken.insert(name.clone())).collect();
            if free.is_empty() {
                continue;
            }
            let then = match termination {
                Some(termination) => ChainAction::Tcp(termination.clone(), arms.clone()),
                None => ChainAction::Pass(arms.clone()),
            };
            let server_names = if free.iter().any(String::is_empty) { Vec::new() } else { free };
            chains.push(TlsChain { name: format!("{listener}/{name}"), server_names, then });
        }
        chains
    }
}

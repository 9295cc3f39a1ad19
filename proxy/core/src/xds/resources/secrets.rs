//! Secrets of the stream: who names them, and what has them in the places of their names. A rotation is a configuration like
//! any other from there on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Held, Resources};
use crate::config::{
    Cluster, CommonTls, DownstreamTls, FilterChain, Listener, Secret, ServedCluster, ServedListener,
    UpstreamTls, UpstreamTransport,
};

impl Resources {
    /// Secrets of the stream, by name.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &Held<Secret>)> {
        self.secrets.iter().map(|(name, held)| (name.as_str(), held))
    }

    /// The secrets that are wanted of the stream.
    pub(super) fn named_secrets_now(&self) -> BTreeSet<String> {
        let servers = self.listeners().flat_map(|held| &held.value.chains);
        let servers = servers.filter_map(|chain| Some(&chain.tls.as_ref()?.common));
        let clients = self.clusters().flat_map(|held| held.value.transports());
        let clients = clients.filter_map(|transport| Some(&transport.tls.as_ref()?.common));
        servers.chain(clients).flat_map(CommonTls::streamed_secrets).map(str::to_owned).collect()
    }

    /// Puts a secret back as it is in `current`.
    pub(in crate::xds) fn restore_secret(&mut self, name: &str, current: &Self) {
        self.touch();
        match current.secrets.get(name) {
            Some(held) => drop(Arc::make_mut(&mut self.secrets).insert(name.to_owned(), held.clone())),
            None => drop(Arc::make_mut(&mut self.secrets).remove(name)),
        }
    }

    /// A listener with the secrets that its chains name; none while one of them is missing. What says the same as before is
    /// the same.
    pub(super) fn protected_listener(
        &self,
        held: &Arc<Listener>,
        before: Option<&ServedListener>,
    ) -> Option<Arc<Listener>> {
        let names =
            |chain: &FilterChain| chain.tls.as_ref().is_some_and(|tls| tls.common.names_streamed_secrets());
        if !held.chains.iter().any(names) {
            return Some(held.clone());
        }
        let mut listener = Listener::clone(held);
        for chain in &mut listener.chains {
            if let Some(tls) = &mut chain.tls {
                let common = tls.common.with_secrets(|name| self.secret(name))?;
                *tls = Arc::new(DownstreamTls { common, ..DownstreamTls::clone(tls) });
            }
        }
        let same = before.filter(|before| *before.listener == listener);
        Some(same.map_or_else(|| Arc::new(listener), |before| before.listener.clone()))
    }

    /// The same for a cluster.
    pub(super) fn protected_cluster(
        &self,
        held: &Arc<Cluster>,
        before: Option<&ServedCluster>,
    ) -> Option<Arc<Cluster>> {
        let names = |transport: &UpstreamTransport| {
            transport.tls.as_ref().is_some_and(|tls| tls.common.names_streamed_secrets())
        };
        if !held.transports().any(names) {
            return Some(held.clone());
        }
        let mut cluster = Cluster::clone(held);
        for transport in cluster.transports_mut() {
            if let Some(tls) = &mut transport.tls {
                let common = tls.common.with_secrets(|name| self.secret(name))?;
                *tls = Arc::new(UpstreamTls { common, ..UpstreamTls::clone(tls) });
            }
        }
        let same = before.filter(|before| *before.cluster == cluster);
        Some(same.map_or_else(|| Arc::new(cluster), |before| before.cluster.clone()))
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).map(|held| &*held.value)
    }
}

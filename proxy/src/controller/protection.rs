//! Keys and certificates of what is served: judged before anything is published, kept for as long as it is served, and read
//! again when their files change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy_core::config::{Cluster, Listener, Secret, UpstreamTls};
use proxy_core::snapshot::{ClusterTable, Snapshot};
use proxy_core::xds::{Held, Review};
use xds_proto::type_url;

use super::Controller;
use crate::tls::{self, InUse};
use crate::upstream::contexts_of;

impl Controller {
    /// Makes what a listener's handshakes need.
    pub(super) fn protect(&self, listener: &Listener) -> Result<(), String> {
        let chains = listener.chains.iter().enumerate();
        for (number, chain) in chains {
            // What names secrets of the control plane is looked at once they are there.
            if let Some(tls) = chain.tls.as_ref().filter(|tls| !tls.common.names_streamed_secrets())
                && let Err(error) = self.tls.server(tls).check()
            {
                return Err(format!("filter_chains[{number}].transport_socket: {error}"));
            }
        }
        Ok(())
    }

    /// Secrets that cannot be used stay as they were: a key that is not its chain's, a certificate that has ended.
    pub(super) fn check_secrets(&self, review: &mut Review) {
        let current: HashMap<_, _> = self.client.resources().secrets().collect();
        let is_new = |name: &str, held: &Held<Secret>| {
            current.get(name).is_none_or(|known| !Arc::ptr_eq(&known.value, &held.value))
        };
        let refused: Vec<_> = review
            .resources()
            .secrets()
            .filter(|(name, held)| is_new(name, held))
            .filter_map(|(name, held)| {
                Some((name.to_owned(), tls::check_secret(&held.value).err()?.to_string()))
            })
            .collect();
        for (name, reason) in refused {
            review.refuse_secret(self.client.resources(), &name, reason);
        }
    }

    /// What is protected by secrets of the control plane is looked at now that they are in their places. A listener or cluster
    /// that cannot be used is refused; where it was taken before, and waited, what it waited for is.
    pub(super) fn protect_with_secrets(&self, review: &mut Review) {
        let current = self.client.resources();
        // Each round refuses one that this response brought, or the response.
        loop {
            if let Some((name, reason)) = self.unprotected_listener(review) {
                if review.brings(current, type_url::LISTENER, &name) {
                    review.refuse_listener(current, &name, reason);
                    continue;
                }
                return review.refuse_whole(current, format!("listener {name:?}: {reason}"));
            }
            let Some((name, reason)) = self.unprotected_cluster(review) else { return };
            if !review.brings(current, type_url::CLUSTER, &name) {
                return review.refuse_whole(current, format!("cluster {name:?}: {reason}"));
            }
            review.refuse_cluster(current, &name, reason);
        }
    }

    /// A listener that would be served and cannot be protected, and why.
    fn unprotected_listener(&self, review: &Review) -> Option<(String, String)> {
        let current = self.client.resources().served_listeners();
        let known: HashSet<_> = current.map(|served| Arc::as_ptr(&served.listener)).collect();
        let listeners = review.config().listeners.iter().map(|served| &served.listener);
        let mut fresh = listeners.filter(|listener| !known.contains(&Arc::as_ptr(listener)));
        fresh.find_map(|listener| Some((listener.name.to_string(), self.protect(listener).err()?)))
    }

    /// The same of clusters.
    fn unprotected_cluster(&self, review: &Review) -> Option<(String, String)> {
        let known = self.client.resources().served_clusters();
        // Both are in the order of their names, and mostly the same.
        let mut known = known.iter().peekable();
        let mut fresh = review.config().clusters.iter().filter(|(name, served)| {
            while known.next_if(|(other, _)| other < name).is_some() {}
            let old = known.next_if(|(other, _)| other == name);
            !old.is_some_and(|(_, old)| Arc::ptr_eq(&old.cluster, &served.cluster))
        });
        fresh.find_map(|(name, served)| Some((name.to_string(), self.unusable(&served.cluster)?)))
    }

    /// Clusters whose keys or certificates cannot be used stay as they were.
    pub(super) fn protect_clusters(&self, review: &mut Review) {
        if review.resources().has_clusters_of(self.client.resources()) {
            return;
        }
        let current = self.client.resources().clusters();
        let known: HashSet<_> = current.map(|held| Arc::as_ptr(&held.value)).collect();
        let refused: Vec<_> = review
            .resources()
            .clusters()
            .filter(|held| !known.contains(&Arc::as_ptr(&held.value)))
            .filter_map(|held| Some((held.value.name.to_string(), self.unusable(&held.value)?)))
            .collect();
        for (name, reason) in refused {
            review.refuse_cluster(self.client.resources(), &name, reason);
        }
    }

    /// What of a cluster's transport sockets cannot be used.
    pub(super) fn unusable(&self, cluster: &Cluster) -> Option<String> {
        let waits = |tls: &Arc<UpstreamTls>| tls.common.names_streamed_secrets();
        if cluster.transports().any(|transport| transport.tls.as_ref().is_some_and(waits)) {
            return None;
        }
        contexts_of(&self.tls, cluster)
            .into_iter()
            .find_map(|(at, context)| Some(format!("{at}: {}", context.check().err()?)))
    }

    /// Keeps what the handshakes of a snapshot need, until the next one.
    pub(super) fn keep_contexts(&mut self, snapshot: &Snapshot) {
        let chains = snapshot.listeners().flat_map(|(_, listener)| &listener.chains);
        let servers = chains.filter_map(|chain| Some(self.tls.server(chain.chain.tls.as_ref()?))).collect();
        let is_protected = |table: &ClusterTable| table.cluster.transports().any(|t| t.tls.is_some());
        let clients = snapshot
            .clusters()
            .filter(|(_, table)| is_protected(table))
            .flat_map(|(_, table)| contexts_of(&self.tls, &table.cluster))
            .map(|(_, context)| context)
            .collect();
        self.contexts = (servers, clients);
        self.tell_certificates();
    }

    pub(super) fn tell_certificates(&self) {
        let shown = self.tls.in_use().into_iter();
        self.registry.set_certificates(shown.map(|shown| (shown.origin, shown.identity.not_after)).collect());
    }

    /// Takes new keys and certificates from files that have changed.
    pub(crate) fn refresh_tls(&self) {
        let mut has_changed = false;
        self.tls.refresh(|outcome| match outcome {
            Ok(()) => {
                has_changed = true;
                tracing::info!("certificates were read again");
                self.registry.tls_reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(%error, "certificates cannot be used; those before them stay");
                self.registry.tls_reload_failures.fetch_add(1, Ordering::Relaxed);
            }
        });
        if has_changed {
            self.tell_certificates();
        }
    }

    /// The certificates that are shown.
    pub(crate) fn certificates(&self) -> Vec<InUse> {
        self.tls.in_use()
    }
}

//! The types of resources, in the order in which they are sent.

use xds_proto::type_url;

/// What is referred to comes before what refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Clusters,
    Endpoints,
    Secrets,
    Listeners,
    Routes,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Clusters, Self::Endpoints, Self::Secrets, Self::Listeners, Self::Routes];

    pub(super) const fn type_url(self) -> &'static str {
        match self {
            Self::Clusters => type_url::CLUSTER,
            Self::Endpoints => type_url::CLUSTER_LOAD_ASSIGNMENT,
            Self::Secrets => type_url::SECRET,
            Self::Listeners => type_url::LISTENER,
            Self::Routes => type_url::ROUTE_CONFIGURATION,
        }
    }

    pub(super) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Whether all resources of the type are meant where none is named.
    pub(super) const fn is_wildcard(self) -> bool {
        matches!(self, Self::Clusters | Self::Listeners)
    }

    /// Whether it may lead to clusters, so that it waits for theirs.
    pub(super) const fn leads_to_clusters(self) -> bool {
        matches!(self, Self::Listeners | Self::Routes)
    }
}

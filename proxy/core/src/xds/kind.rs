//! The types of resources.

use xds_proto::type_url;

/// The resource types, in the order in which they are asked for: what is referred to comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Cluster,
    Endpoints,
    Secret,
    Listener,
    Routes,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Cluster, Self::Endpoints, Self::Secret, Self::Listener, Self::Routes];

    pub(crate) const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoints => type_url::CLUSTER_LOAD_ASSIGNMENT,
            Self::Secret => type_url::SECRET,
            Self::Listener => type_url::LISTENER,
            Self::Routes => type_url::ROUTE_CONFIGURATION,
        }
    }

    pub(crate) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Whether all resources of the type are meant where none is named; what is not delivered does not exist then.
    pub(crate) const fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

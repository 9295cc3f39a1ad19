//! The two forms of an aggregated stream, behind one.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::{Message as _, Name as _};
use xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use xds_proto::gate::resource_name;
use xds_proto::google::rpc::Status;
use xds_proto::prost_types::Any;
use xds_proto::type_url;

/// How responses say what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Variant {
    /// Each holds everything that is wanted (`GRPC`).
    #[default]
    StateOfTheWorld,
    /// Each holds what changed (`DELTA_GRPC`).
    Delta,
}

/// What a client says: a subscription, an ACK or a NACK.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// On a stream of the state of the world.
    State(DiscoveryRequest),
    /// On a stream of changes.
    Delta(DeltaDiscoveryRequest),
}

impl Request {
    /// Why a response is refused; none of what is no NACK.
    pub const fn refusal(&self) -> Option<&Status> {
        match self {
            Self::State(request) => request.error_detail.as_ref(),
            Self::Delta(request) => request.error_detail.as_ref(),
        }
    }

    /// The same request as a NACK.
    #[must_use]
    pub fn refusing(self, reason: Status) -> Self {
        match self {
            Self::State(request) => Self::State(DiscoveryRequest { error_detail: Some(reason), ..request }),
            Self::Delta(request) => {
                Self::Delta(DeltaDiscoveryRequest { error_detail: Some(reason), ..request })
            }
        }
    }
}

/// What a response says, whatever its form.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// The type of its resources.
    pub type_url: String,
    /// Its version.
    pub version: String,
    /// What the answer must repeat.
    pub nonce: String,
    /// What came.
    pub resources: Vec<Delivered>,
    /// What is gone by name; none where what did not come is.
    pub removed: Option<BTreeSet<String>>,
}

/// A resource on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivered {
    /// Its name, where it is told beside it.
    pub name: Option<String>,
    /// Its version.
    pub version: String,
    /// What it says; nothing where it is only to be kept for longer.
    pub body: Option<Any>,
    /// How long it holds unless it is renewed; for good where unset.
    pub ttl: Option<Duration>,
}

impl Update {
    /// The names of what it brings or takes away, as far as they can be read.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let of = |resource: &Delivered| {
            let own = || resource.body.as_ref().and_then(|body| resource_name(&body.value));
            resource.name.clone().or_else(own)
        };
        self.resources.iter().filter_map(of).chain(self.removed.iter().flatten().cloned())
    }
}

impl From<DiscoveryResponse> for Update {
    fn from(response: DiscoveryResponse) -> Self {
        let DiscoveryResponse { version_info, resources, type_url, nonce, control_plane: _ } = response;
        let deliver = |body: Any| match type_url::message_name(&body.type_url) == Resource::full_name() {
            // What is not one is left as it is, and refused as what it is not.
            true => match Resource::decode(body.value.as_slice()) {
                Ok(resource) => Delivered { version: version_info.clone(), ..resource.into() },
                Err(_) => Delivered::plain(body, &version_info),
            },
            false => Delivered::plain(body, &version_info),
        };
        Self {
            resources: resources.into_iter().map(deliver).collect(),
            version: version_info,
            type_url,
            nonce,
            removed: None,
        }
    }
}

impl From<DeltaDiscoveryResponse> for Update {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        let DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            nonce,
            removed_resources,
            control_plane: _,
        } = response;
        Self {
            type_url,
            version: system_version_info,
            nonce,
            resources: resources.into_iter().map(Delivered::from).collect(),
            removed: Some(removed_resources.into_iter().collect()),
        }
    }
}

impl Delivered {
    fn plain(body: Any, version: &str) -> Self {
        Self { name: None, version: version.to_owned(), body: Some(body), ttl: None }
    }
}

impl From<Resource> for Delivered {
    fn from(resource: Resource) -> Self {
        let Resource { version, resource, name, aliases: _, ttl } = resource;
        let ttl = ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        Self { name: (!name.is_empty()).then_some(name), version, body: resource, ttl }
    }
}

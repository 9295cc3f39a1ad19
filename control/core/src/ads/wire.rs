//! The two forms of a stream, behind one.

use std::collections::HashMap;

use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use xds_proto::google::rpc::Status;

/// What a client says: a subscription, an ACK or a NACK.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Who it is; in the first request at the least.
    pub node: Option<Node>,
    /// The type that it is about.
    pub type_url: String,
    /// The response that it answers; empty where it answers none.
    pub nonce: String,
    /// Why it refuses that response.
    pub refusal: Option<Status>,
    /// What it wants.
    pub(super) names: Names,
}

/// What a client wants of a type.
#[derive(Debug, Clone)]
pub(super) enum Names {
    /// All that it wants.
    All(Vec<String>),
    /// What it wants from now on, and no longer.
    Change { subscribe: Vec<String>, unsubscribe: Vec<String>, held: HashMap<String, String> },
}

impl Default for Names {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl Names {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::All(names) => names.len(),
            Self::Change { subscribe, unsubscribe, held } => {
                subscribe.len().max(unsubscribe.len()).max(held.len())
            }
        }
    }
}

impl From<DiscoveryRequest> for Ask {
    fn from(request: DiscoveryRequest) -> Self {
        let DiscoveryRequest {
            // What a client holds is told by the nonces that it repeats.
            version_info: _,
            node,
            resource_names,
            type_url,
            response_nonce,
            error_detail,
        } = request;
        Self {
            node,
            type_url,
            nonce: response_nonce,
            refusal: error_detail,
            names: Names::All(resource_names),
        }
    }
}

impl From<DeltaDiscoveryRequest> for Ask {
    fn from(request: DeltaDiscoveryRequest) -> Self {
        let DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: held,
            response_nonce,
            error_detail,
        } = request;
        let names = Names::Change { subscribe, unsubscribe, held };
        Self { node, type_url, nonce: response_nonce, refusal: error_detail, names }
    }
}

/// What a server says.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// Everything that is wanted.
    State(DiscoveryResponse),
    /// What has changed.
    Delta(DeltaDiscoveryResponse),
}

impl Response {
    /// The type of its resources.
    pub fn type_url(&self) -> &str {
        match self {
            Self::State(response) => &response.type_url,
            Self::Delta(response) => &response.type_url,
        }
    }

    /// What its answer repeats.
    pub fn nonce(&self) -> &str {
        match self {
            Self::State(response) => &response.nonce,
            Self::Delta(response) => &response.nonce,
        }
    }

    /// On a stream of the state of the world.
    pub fn into_state(self) -> Option<DiscoveryResponse> {
        match self {
            Self::State(response) => Some(response),
            Self::Delta(_) => None,
        }
    }

    /// On a stream of changes.
    pub fn into_delta(self) -> Option<DeltaDiscoveryResponse> {
        match self {
            Self::Delta(response) => Some(response),
            Self::State(_) => None,
        }
    }
}

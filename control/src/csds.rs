//! What this control plane knows of its clients, in the words of `envoy.service.status.v3`: which resources each should have,
//! and which of them it has taken or refused.

use std::sync::Arc;

use control_core::fleet::{NodeStatus, TypeStatus};
use control_core::lower::Dialect;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xds_proto::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use xds_proto::envoy::config::core::v3::Node;
use xds_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use xds_proto::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryService;
use xds_proto::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use xds_proto::type_url;

use crate::hub::Hub;

pub(crate) struct ClientStatus(Arc<Hub>);

impl ClientStatus {
    pub(crate) const fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatus {
    type StreamClientStatusStream = ReceiverStream<Result<ClientStatusResponse, Status>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let mut questions = request.into_inner();
        let (answers, outgoing) = mpsc::channel(1);
        let hub = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(question)) = questions.message().await {
                if answers.send(Ok(answer(&hub, &question))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        Ok(Response::new(answer(&self.0, request.get_ref())))
    }
}

/// All clients, or the one that is asked for by its id.
fn answer(hub: &Hub, question: &ClientStatusRequest) -> ClientStatusResponse {
    let ClientStatusRequest { node, exclude_resource_contents } = question;
    let asked = node.as_ref().map(|node| node.id.as_str()).filter(|id| !id.is_empty());
    let published = hub.follow().borrow().clone();
    let of = |id: &String, status: &NodeStatus| {
        let set = published.for_dialect(Dialect::of(&status.user_agent));
        let mut configs = Vec::new();
        for type_url in type_url::ALL {
            // What it has not asked for it does not need.
            let Some(of_type) = status.types.get(type_url::short_name(type_url)) else { continue };
            let shows = !*exclude_resource_contents && type_url != type_url::SECRET;
            configs.extend(set.of_type(type_url).iter().map(|(name, resource)| GenericXdsConfig {
                type_url: type_url.to_owned(),
                name: name.to_string(),
                version_info: resource.version.to_string(),
                xds_config: shows.then(|| (*resource.any).clone()),
                ..standing(of_type, published.version, name)
            }));
        }
        ClientConfig {
            node: Some(Node { id: id.clone(), cluster: status.cluster.clone(), ..Node::default() }),
            generic_xds_configs: configs,
        }
    };
    let config = hub.fleet(|fleet| {
        let wanted = fleet.nodes().filter(|(id, _)| asked.is_none_or(|asked| asked == id.as_str()));
        wanted.map(|(id, status)| of(id, status)).collect()
    });
    ClientStatusResponse { config }
}

/// What a client made of a resource of the current configuration.
fn standing(of_type: &TypeStatus, current: u64, name: &str) -> GenericXdsConfig {
    let refusal = of_type.refusal.as_ref().filter(|refusal| {
        refusal.resources.is_empty() || refusal.resources.iter().any(|refused| refused == name)
    });
    let (config_status, client_status) = match refusal {
        Some(_) => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        None if of_type.config_version == Some(current) => {
            (ConfigStatus::Synced, ClientResourceStatus::Acked)
        }
        None if of_type.config_version.is_some() => (ConfigStatus::Stale, ClientResourceStatus::Acked),
        None => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
    };
    GenericXdsConfig {
        config_status: config_status as i32,
        client_status: client_status as i32,
        error_state: refusal.map(|refusal| UpdateFailureState {
            last_update_attempt: Some(refusal.at.into()),
            details: refusal.reason.clone(),
            ..UpdateFailureState::default()
        }),
        ..GenericXdsConfig::default()
    }
}

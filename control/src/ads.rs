//! The ADS service: each stream is a task around a state machine of `control-core`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use control_core::ads::{Ask, Event, Output, Published, Response as Said, Stream as Machine};
use control_core::fleet::Refusal;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

use crate::hub::Hub;

/// Responses that wait for one slow client. Beyond that its stream waits, and no other.
const QUEUE: usize = 16;

pub(crate) struct Ads {
    hub: Arc<Hub>,
    identifier: Arc<str>,
}

impl Ads {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, identifier: concat!("weir-control/", env!("CARGO_PKG_VERSION")).into() }
    }

    /// Serves one stream in a task of its own, which ends when the client is gone, or with the runtime.
    fn serve<Q, R>(
        &self,
        requests: Streaming<Q>,
        form: fn(Said) -> Option<R>,
    ) -> Response<ReceiverStream<Result<R, Status>>>
    where
        Q: Into<Ask> + Send + 'static,
        R: Send + 'static,
    {
        let config = self.hub.follow();
        let machine = Machine::new(self.identifier.clone(), config.borrow().clone());
        let (responses, outgoing) = mpsc::channel(QUEUE);
        let client = Client { hub: self.hub.clone(), machine, responses, form, id: None };
        tokio::spawn(client.serve(requests, config));
        Response::new(ReceiverStream::new(outgoing))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.serve(request.into_inner(), Said::into_state))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.serve(request.into_inner(), Said::into_delta))
    }
}

/// One stream.
struct Client<R> {
    hub: Arc<Hub>,
    machine: Machine,
    responses: mpsc::Sender<Result<R, Status>>,
    form: fn(Said) -> Option<R>,
    id: Option<String>,
}

/// The stream is over.
struct Gone;

impl<R: Send + 'static> Client<R> {
    async fn serve<Q: Into<Ask> + Send + 'static>(
        mut self,
        mut requests: Streaming<Q>,
        mut config: watch::Receiver<Arc<Published>>,
    ) {
        loop {
            let deadline = self.machine.deadline();
            let output = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => match self.machine.on_request(request, Instant::now()) {
                        Ok(output) => output,
                        Err(error) => {
                            tracing::warn!(node = self.id, %error, "a stream was ended");
                            let _ = self.responses.send(Err(Status::invalid_argument(error.to_string()))).await;
                            break;
                        }
                    },
                    Ok(None) | Err(_) => break,
                },
                changed = config.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let current = config.borrow_and_update().clone();
                    self.machine.on_config(current, Instant::now())
                }
                () = until(deadline) => self.machine.on_deadline(Instant::now()),
            };
            if self.act(output).await.is_err() {
                break;
            }
        }
        if let Some(id) = &self.id {
            self.hub.fleet(|fleet| fleet.disconnected(id));
            tracing::info!(node = id, "disconnected");
        }
    }

    async fn act(&mut self, output: Output) -> Result<(), Gone> {
        for event in output.events {
            self.record(event);
        }
        for response in output.responses.into_iter().filter_map(self.form) {
            self.responses.send(Ok(response)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn record(&mut self, event: Event) {
        match event {
            Event::Connected { id, cluster, user_agent } => {
                tracing::info!(node = id, user_agent, "connected");
                self.hub.fleet(|fleet| fleet.connected(&id, &cluster, &user_agent));
                self.id = Some(id);
            }
            Event::UnknownType { type_url } => {
                tracing::warn!(
                    node = self.id,
                    type_url,
                    "asked for a type that this control plane does not have"
                );
            }
            Event::Acknowledged { type_url, version, config_version } => {
                let Some(id) = &self.id else { return };
                tracing::debug!(node = id, type_url, version, config_version, "acknowledged");
                self.hub.fleet(|fleet| fleet.acknowledged(id, type_url, &version, config_version));
            }
            Event::Current { type_url, config_version } => {
                let Some(id) = &self.id else { return };
                self.hub.fleet(|fleet| fleet.current(id, type_url, config_version));
            }
            Event::Refused { type_url, reason, resources, config_version } => {
                let Some(id) = &self.id else { return };
                tracing::warn!(node = id, ?resources, config_version, "refused: {reason}");
                let refusal = Refusal { resources, reason, config_version, at: SystemTime::now() };
                self.hub.fleet(|fleet| fleet.refused(id, type_url, refusal));
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

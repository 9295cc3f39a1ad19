//! The stream to the control plane: bytes in, bytes out. What they mean is decided in `proxy-core`.

mod channel;

use std::sync::Arc;
use std::time::Duration;

use proxy_core::config::Cluster;
use proxy_core::xds::{Backoff, Request, Update, Variant};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use crate::controller::SharedController;
use crate::fleet;
pub(crate) use channel::Channel;
use channel::ConnectError;

/// Bytes of one response: a state of the world can be large.
const MAX_MESSAGE: usize = 256 << 20;

/// The control planes, and how they are spoken to.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlPlane {
    /// The clusters that lead there, the one that is preferred first. They serve no traffic.
    pub(crate) servers: Vec<Arc<Cluster>>,
    pub(crate) variant: Variant,
}

/// Follows the control plane for as long as the process lives. Losing it changes nothing about what is served.
///
/// A server that answers is followed until it is lost; then all are tried again in their order (gRFC A71). Each one's
/// configuration is taken as a whole.
pub(crate) async fn follow(controller: SharedController, control_plane: ControlPlane, seed: u64) {
    let ControlPlane { servers, variant } = control_plane;
    let mut backoff = Backoff::new(seed);
    let mut followed = None;
    let mut attempts = 0;
    loop {
        let number = attempts % servers.len();
        let server = &servers[number];
        if followed.is_some_and(|followed| followed != number) {
            controller.borrow_mut().another_server();
        }
        followed = Some(number);
        // Each time round, the next of its endpoints.
        let mut stream =
            Stream { controller: &controller, backoff: &mut backoff, has_answered: false, refused: None };
        let end = match stream.run(server, attempts / servers.len(), variant).await {
            Ok(()) => "the control plane closed the stream".to_owned(),
            Err(error) => error.to_string(),
        };
        attempts = if stream.has_answered { 0 } else { attempts.wrapping_add(1) };
        controller.borrow_mut().disconnected();
        let delay = backoff.next_delay();
        tracing::warn!(server = %server.name, retry_in = ?delay, "control plane lost: {end}");
        tokio::time::sleep(delay).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("no connection: {0}")]
    Connect(#[from] ConnectError),
    #[error("{}", .0.message())]
    Stream(#[from] tonic::Status),
}

/// One stream, in either form.
struct Stream<'a> {
    controller: &'a SharedController,
    backoff: &'a mut Backoff,
    /// An answer, not a mere connection, shows that a control plane is there.
    has_answered: bool,
    /// When the next refusal may leave.
    refused: Option<Duration>,
}

impl Stream<'_> {
    async fn run(&mut self, server: &Cluster, turn: usize, variant: Variant) -> Result<(), StreamError> {
        let tls = self.controller.borrow().tls.clone();
        let channel = Channel::connect(&tls, server, turn).await?;
        let origin = channel.origin();
        let mut client = AggregatedDiscoveryServiceClient::with_origin(channel.clone(), origin)
            .max_decoding_message_size(MAX_MESSAGE);
        let (requests, outgoing) = mpsc::unbounded_channel();
        let outgoing = UnboundedReceiverStream::new(outgoing);
        self.controller.borrow_mut().connected().into_iter().for_each(|request| drop(requests.send(request)));
        match variant {
            Variant::StateOfTheWorld => {
                let outgoing = outgoing.filter_map(|request| match request {
                    Request::State(request) => Some(request),
                    Request::Delta(_) => None,
                });
                let responses = client.stream_aggregated_resources(outgoing).await?.into_inner();
                let _reports = Reports::start(self.controller, channel);
                self.obey(server, responses.map(|response| response.map(Update::from)), &requests).await
            }
            Variant::Delta => {
                let outgoing = outgoing.filter_map(|request| match request {
                    Request::Delta(request) => Some(request),
                    Request::State(_) => None,
                });
                let responses = client.delta_aggregated_resources(outgoing).await?.into_inner();
                let _reports = Reports::start(self.controller, channel);
                self.obey(server, responses.map(|response| response.map(Update::from)), &requests).await
            }
        }
    }

    async fn obey(
        &mut self,
        server: &Cluster,
        mut updates: impl tokio_stream::Stream<Item = Result<Update, tonic::Status>> + Unpin,
        requests: &mpsc::UnboundedSender<Request>,
    ) -> Result<(), StreamError> {
        tracing::info!(server = %server.name, "following the control plane");
        let wake = self.controller.borrow().wake();
        loop {
            let update = tokio::select! {
                update = updates.next() => match update {
                    Some(update) => update?,
                    None => return Ok(()),
                },
                // A file, a name or a clock brought something that asks for other resources.
                () = wake.notified() => {
                    let pending = self.controller.borrow_mut().pending_requests();
                    pending.into_iter().for_each(|request| drop(requests.send(request)));
                    continue;
                }
            };
            self.has_answered = true;
            self.backoff.reset();
            let answers = self.controller.borrow_mut().receive(update);
            let delay = self.controller.borrow().refusal_delay();
            self.refused = (!delay.is_zero()).then_some(delay);
            for answer in answers {
                self.answer(answer, requests);
            }
        }
    }

    fn answer(&self, answer: Request, requests: &mpsc::UnboundedSender<Request>) {
        match self.refused.filter(|_| answer.refusal().is_some()) {
            // Only the refusal waits; what else there is to say goes on. Ends with the stream.
            Some(delay) => {
                let requests = requests.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(delay).await;
                    drop(requests.send(answer));
                });
            }
            None => drop(requests.send(answer)),
        }
    }
}

/// Reports beside a stream; they end with it.
struct Reports(AbortHandle);

impl Reports {
    fn start(controller: &SharedController, channel: Channel) -> Self {
        Self(tokio::task::spawn_local(fleet::report(controller.clone(), channel)).abort_handle())
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Notices what has not come in time, and what has come for a time.
pub(crate) async fn keep_time(controller: SharedController) {
    let changed = controller.borrow().changed();
    loop {
        let deadline = controller.borrow().client.deadline();
        let overdue = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = overdue => controller.borrow_mut().expire(),
            () = changed.notified() => {}
        }
    }
}

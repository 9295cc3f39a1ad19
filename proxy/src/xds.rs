//! The stream to the control plane: bytes in, bytes out. What they mean is decided in `proxy-core`.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use proxy_core::config::Address;
use proxy_core::xds::Backoff;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use crate::controller::SharedController;

/// Bytes of one response: a state of the world can be large.
const MAX_MESSAGE: usize = 256 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A half-open connection is noticed after this and the time-out that follows.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Follows the control plane for as long as the process lives. Losing it changes nothing about what is served.
pub(crate) async fn follow(controller: SharedController, addresses: Vec<Address>, seed: u64) {
    let mut backoff = Backoff::new(seed);
    for address in addresses.iter().cycle() {
        let end = match stream(&controller, address, &mut backoff).await {
            Ok(()) => "the control plane closed the stream".to_owned(),
            Err(error) => error.to_string(),
        };
        controller.borrow_mut().disconnected();
        let delay = backoff.next_delay();
        tracing::warn!(%address, retry_in = ?delay, "control plane lost: {end}");
        tokio::time::sleep(delay).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Stream(#[from] tonic::Status),
}

async fn stream(
    controller: &SharedController,
    address: &Address,
    backoff: &mut Backoff,
) -> Result<(), StreamError> {
    let channel = connect(address).await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (requests, outgoing) = mpsc::unbounded_channel();
    let send = |request| drop(requests.send(request));
    controller.borrow_mut().connected().into_iter().for_each(send);
    let mut responses =
        client.stream_aggregated_resources(UnboundedReceiverStream::new(outgoing)).await?.into_inner();
    tracing::info!(%address, "following the control plane");
    let wake = controller.borrow().wake();
    loop {
        let response = tokio::select! {
            response = responses.message() => match response? {
                Some(response) => response,
                None => break,
            },
            // A file or a name brought something that asks for other resources.
            () = wake.notified() => {
                controller.borrow_mut().pending_requests().into_iter().for_each(send);
                continue;
            }
        };
        // An answer, not a mere connection, shows that the control plane is back.
        backoff.reset();
        let answers = controller.borrow_mut().receive(response);
        let delay = controller.borrow().refusal_delay();
        for answer in answers {
            if answer.error_detail.is_some() && !delay.is_zero() {
                // Only the refusal waits; what else there is to say goes on. Ends with the stream.
                let requests = requests.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(delay).await;
                    drop(requests.send(answer));
                });
            } else {
                send(answer);
            }
        }
    }
    Ok(())
}

async fn connect(address: &Address) -> Result<Channel, tonic::transport::Error> {
    let uri = match address {
        Address::Socket(address) => format!("http://{address}"),
        Address::Pipe(_) => "http://localhost".to_owned(),
    };
    let endpoint = Endpoint::from_shared(uri)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    match address {
        Address::Socket(_) => endpoint.connect().await,
        Address::Pipe(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connector).await
        }
    }
}

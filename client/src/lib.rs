//! For services: an instance that says of itself that it is there, as long as it is.
//!
//! ```text
//!   Idle ── start ──► Reconnecting ◄──► Connected
//!     └──────────── close ─────┴────────────┴──► Closed
//! ```
//! A [`Registration`] registers over gRPC (`weir.control.v1`), and beats three times within its time to live. A connection that
//! breaks, and a lease that ended meanwhile, are made good, with pauses that grow; the application needs to do nothing, and can
//! follow the [`State`].

use std::collections::HashMap;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use xds_proto::weir::control::v1::control_service_client::ControlServiceClient;
use xds_proto::weir::control::v1::{InstanceRequest, Registration as Registered};

/// Where a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not been started.
    Idle,
    /// The control plane knows the instance.
    Connected,
    /// It is being registered, for the first time or again.
    Reconnecting,
    /// It is over, and was taken away where the control plane could be reached.
    Closed,
}

/// Who registers where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The control plane's xDS port, as `http://127.0.0.1:18000`. Required.
    pub endpoint: String,
    /// A token that may write in the namespace. Required.
    pub token: String,
    /// `default` where unset.
    pub namespace: String,
    /// The service. Required.
    pub service: String,
    /// Unique in the service. Required.
    pub id: String,
    /// Where the instance is reached, `IP:port`. Required.
    pub address: String,
    /// What selectors look at.
    pub labels: HashMap<String, String>,
    /// Its part among the instances, 1 to 10,000.
    pub weight: u32,
    /// It is gone when nobody hears of it for this long, 1 s to 1 h.
    pub ttl: Duration,
    /// How long a connection, or an answer, may take.
    pub timeout: Duration,
    /// The first pause after a failure. Each is twice the one before it, up to `longest_pause`, and up to a fifth shorter, so
    /// that many clients do not come at once.
    pub first_pause: Duration,
    /// See [`Options::first_pause`].
    pub longest_pause: Duration,
}

impl Options {
    /// With a weight of 1, 30 s to live, 5 s for a connection, and pauses from 100 ms to 10 s.
    pub fn new(endpoint: &str, token: &str, service: &str, id: &str, address: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            token: token.to_owned(),
            namespace: String::new(),
            service: service.to_owned(),
            id: id.to_owned(),
            address: address.to_owned(),
            labels: HashMap::new(),
            weight: 1,
            ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
        }
    }
}

/// Options that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A field is missing or wrong.
    #[error("{0}: {1}")]
    Field(&'static str, String),
}

/// An instance of a service. Dropping it is as if the process had ended: the lease runs out by itself.
#[derive(Debug)]
pub struct Registration {
    endpoint: Endpoint,
    token: MetadataValue<Ascii>,
    options: Options,
    state: watch::Sender<State>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Registration {
    /// An instance of which nobody knows yet.
    ///
    /// # Errors
    /// Which option cannot be used.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        let empty = |name, text: &str| match text.is_empty() {
            true => Err(OptionsError::Field(name, "required".to_owned())),
            false => Ok(()),
        };
        empty("service", &options.service)?;
        empty("id", &options.id)?;
        empty("address", &options.address)?;
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&options.ttl) {
            return Err(OptionsError::Field("ttl", format!("{:?} is not from 1s to 1h", options.ttl)));
        }
        let endpoint = Endpoint::from_shared(options.endpoint.clone())
            .map_err(|error| OptionsError::Field("endpoint", error.to_string()))?
            .connect_timeout(options.timeout)
            .timeout(options.timeout);
        let token = format!("Bearer {}", options.token).parse();
        let token = token.map_err(|_| OptionsError::Field("token", "it is no header value".to_owned()))?;
        Ok(Self { endpoint, token, options, state: watch::Sender::new(State::Idle), running: None })
    }

    /// Registers, and stays registered until [`Registration::close`]. Must be called on a tokio runtime; a second call does
    /// nothing.
    pub fn start(&mut self) {
        if *self.state.borrow() != State::Idle {
            return;
        }
        self.state.send_replace(State::Reconnecting);
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper {
            endpoint: self.endpoint.clone(),
            token: self.token.clone(),
            options: self.options.clone(),
            state: self.state.clone(),
        };
        self.running = Some((stop, tokio::spawn(keeper.keep(stopped))));
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Where it stands, now and from now on.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Takes the instance away, if the control plane can be reached, and ends.
    pub async fn close(mut self) {
        if let Some((stop, task)) = self.running.take() {
            drop(stop);
            let _ = task.await;
        }
        self.state.send_replace(State::Closed);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
            self.state.send_replace(State::Closed);
        }
    }
}

/// Keeps an instance registered.
struct Keeper {
    endpoint: Endpoint,
    token: MetadataValue<Ascii>,
    options: Options,
    state: watch::Sender<State>,
}

impl Keeper {
    async fn keep(self, mut stopped: oneshot::Receiver<()>) {
        let mut pause = self.options.first_pause;
        loop {
            let failed = tokio::select! {
                never = self.stay(&mut pause) => match never {
                    Ok(never) => match never {},
                    Err(status) => status,
                },
                _ = &mut stopped => return self.leave().await,
            };
            self.state.send_replace(State::Reconnecting);
            tracing::warn!(service = self.options.service, id = self.options.id, "registers again: {failed}");
            let shorter = rand::rng().random_range(0.8..=1.0);
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(shorter)) => {}
                _ = &mut stopped => return self.leave().await,
            }
            pause = pause.saturating_mul(2).min(self.options.longest_pause);
        }
    }

    /// Registers and beats until something fails.
    async fn stay(&self, pause: &mut Duration) -> Result<std::convert::Infallible, Status> {
        let mut client = self.connect().await?;
        self.register(&mut client).await?;
        self.state.send_replace(State::Connected);
        *pause = self.options.first_pause;
        loop {
            tokio::time::sleep(self.options.ttl / 3).await;
            match client.heartbeat(self.call(self.instance())).await {
                Ok(_) => {}
                // Its lease ended: the connection is fine.
                Err(status) if status.code() == Code::NotFound => self.register(&mut client).await?,
                Err(status) => return Err(status),
            }
        }
    }

    async fn connect(&self) -> Result<ControlServiceClient<Channel>, Status> {
        let channel = self.endpoint.connect().await;
        channel.map(ControlServiceClient::new).map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn register(&self, client: &mut ControlServiceClient<Channel>) -> Result<(), Status> {
        let registration = Registered {
            instance: Some(self.instance()),
            address: self.options.address.clone(),
            labels: self.options.labels.clone(),
            weight: self.options.weight,
            ttl: format!("{}ms", self.options.ttl.as_millis()),
        };
        client.register(self.call(registration)).await.map(drop)
    }

    async fn leave(&self) {
        let left = async {
            let mut client = self.connect().await?;
            client.deregister(self.call(self.instance())).await.map(drop)
        };
        if let Err(status) = left.await {
            tracing::warn!(service = self.options.service, "its lease runs out by itself: {status}");
        }
    }

    fn instance(&self) -> InstanceRequest {
        InstanceRequest {
            namespace: self.options.namespace.clone(),
            service: self.options.service.clone(),
            id: self.options.id.clone(),
        }
    }

    fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }
}

//! What this proxy holds of each resource, in the words of `envoy.service.status.v3.ClientStatusDiscoveryService`: only it
//! knows what became of the parts of a response that was refused (gRFC A40, A46).

use std::collections::BTreeMap;
use std::time::SystemTime;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response};
use prost::Message as _;
use proxy_core::xds::{Held, holds_private_key};
use tokio_stream::wrappers::ReceiverStream;
use xds_proto::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use xds_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use xds_proto::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use xds_proto::prost_types::Timestamp;
use xds_proto::type_url;

use super::{Stream, grpc};
use crate::controller::{Controller, SharedController};

const SERVICE: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/";
/// What a question may hold.
const MAX_QUESTION: usize = 64 << 10;

/// Whether a call is for this service.
pub(super) fn is_call(path: &str) -> bool {
    path.starts_with(SERVICE)
}

/// Answers each question of a call, in its order.
pub(super) fn answer(controller: SharedController, request: Request<Incoming>) -> Response<Stream> {
    match request.uri().path().strip_prefix(SERVICE) {
        Some("StreamClientStatus" | "FetchClientStatus") => {}
        _ => return grpc::reply(grpc::UNIMPLEMENTED, Bytes::new()),
    }
    let (answers, outgoing) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_local(async move {
        let mut body = request.into_body();
        let mut bytes = Vec::new();
        let mut status = grpc::OK;
        'asked: while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            bytes.extend_from_slice(&data);
            if bytes.len() > MAX_QUESTION {
                status = grpc::INVALID_ARGUMENT;
                break;
            }
            while let Some(question) = grpc::take_message(&mut bytes) {
                let Ok(ClientStatusRequest { node: _, exclude_resource_contents }) =
                    ClientStatusRequest::decode(question.as_slice())
                else {
                    status = grpc::INVALID_ARGUMENT;
                    break 'asked;
                };
                let config = client_config(&controller.borrow(), exclude_resource_contents);
                let message = ClientStatusResponse { config: vec![config] }.encode_to_vec();
                if answers.send(Ok(Frame::data(grpc::message(&message)))).await.is_err() {
                    return;
                }
            }
        }
        let _ = answers.send(Ok(Frame::trailers(grpc::trailers(status)))).await;
    });
    grpc::call(Box::pin(StreamBody::new(ReceiverStream::new(outgoing))))
}

fn client_config(controller: &Controller, excludes_contents: bool) -> ClientConfig {
    let resources = controller.client.resources();
    let mut configs = BTreeMap::new();
    let mut show = |type_url: &'static str, name: &str, version: &str, raw: &xds_proto::prost_types::Any| {
        let taken = controller.ledger.taken_at(type_url, name);
        // Keys stay here.
        let is_shown = !excludes_contents && !holds_private_key(raw) && type_url != type_url::SECRET;
        let config = GenericXdsConfig {
            type_url: type_url.to_owned(),
            name: name.to_owned(),
            version_info: version.to_owned(),
            xds_config: is_shown.then(|| raw.clone()),
            last_updated: taken.map(timestamp),
            config_status: ConfigStatus::Synced as i32,
            client_status: ClientResourceStatus::Acked as i32,
            error_state: None,
            is_static_resource: version.is_empty() && taken.is_none(),
        };
        configs.insert((type_url, name.to_owned()), config);
    };
    fn each<'a, T: 'a>(
        held: impl Iterator<Item = &'a Held<T>>,
        name: impl Fn(&T) -> String,
        mut show: impl FnMut(&str, &Held<T>),
    ) {
        held.for_each(|held| show(&name(&held.value), held));
    }
    each(resources.clusters(), |c| c.name.to_string(), |n, h| show(type_url::CLUSTER, n, &h.version, &h.raw));
    each(
        resources.listeners(),
        |l| l.name.to_string(),
        |n, h| show(type_url::LISTENER, n, &h.version, &h.raw),
    );
    for (name, held) in resources.named_endpoints() {
        show(type_url::CLUSTER_LOAD_ASSIGNMENT, name, &held.version, &held.raw);
    }
    for (name, held) in resources.named_routes() {
        show(type_url::ROUTE_CONFIGURATION, name, &held.version, &held.raw);
    }
    for (name, held) in resources.secrets() {
        show(type_url::SECRET, name, &held.version, &held.raw);
    }
    let lacking = |type_url: &'static str, name: &str, status: ClientResourceStatus| GenericXdsConfig {
        type_url: type_url.to_owned(),
        name: name.to_owned(),
        config_status: ConfigStatus::NotSent as i32,
        client_status: status as i32,
        ..GenericXdsConfig::default()
    };
    for (type_url, name) in resources.wanted() {
        let key = (type_url, name.clone());
        configs.entry(key).or_insert_with(|| lacking(type_url, &name, ClientResourceStatus::Requested));
    }
    for (type_url, name) in resources.absent() {
        let config = lacking(type_url, name, ClientResourceStatus::DoesNotExist);
        configs.insert((type_url, name.to_owned()), config);
    }
    let mut configs: BTreeMap<(String, String), _> =
        configs.into_iter().map(|((type_url, name), config)| ((type_url.to_owned(), name), config)).collect();
    for (type_url, name, refused) in controller.ledger.refused() {
        let config = configs.entry((type_url.to_owned(), name.to_owned())).or_insert_with(|| {
            GenericXdsConfig { type_url: type_url.to_owned(), name: name.to_owned(), ..Default::default() }
        });
        config.config_status = ConfigStatus::Error as i32;
        config.client_status = ClientResourceStatus::Nacked as i32;
        config.error_state = Some(UpdateFailureState {
            failed_configuration: None,
            last_update_attempt: Some(timestamp(refused.at)),
            details: refused.reason.clone(),
            version_info: refused.version.clone(),
        });
    }
    ClientConfig { node: Some(controller.node.clone()), generic_xds_configs: configs.into_values().collect() }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

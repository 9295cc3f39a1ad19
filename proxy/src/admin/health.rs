//! The proxy's own health in the words of gRPC (`grpc.health.v1.Health`), for probes that speak it.

use std::time::Duration;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response};

use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::IntervalStream;

use super::{Stream, grpc};
use crate::controller::{Phase, SharedController};

const SERVICE: &str = "/grpc.health.v1.Health/";
/// The field `status` of an answer, a number.
const STATUS: u8 = 0x08;
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;
const SERVICE_UNKNOWN: u8 = 3;

/// The most that a question may hold: the name of a service.
const MAX_QUESTION: usize = 1 << 10;
/// How late a watcher may learn of a change.
const WATCHED_EVERY: Duration = Duration::from_millis(200);

/// Whether a request is a call of gRPC.
pub(super) fn is_call(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a call. The proxy as a whole is the only service that there is.
pub(super) async fn answer(controller: SharedController, request: Request<Incoming>) -> Response<Stream> {
    let Some(method) = request.uri().path().strip_prefix(SERVICE).map(str::to_owned) else {
        return grpc::reply(grpc::UNIMPLEMENTED, Bytes::new());
    };
    let question = http_body_util::Limited::new(request.into_body(), MAX_QUESTION).collect().await;
    // A message without a name: five bytes that frame nothing.
    let asks_all = question.is_ok_and(|question| question.to_bytes().get(5..).is_none_or(<[u8]>::is_empty));
    match method.as_str() {
        "Check" if !asks_all => grpc::reply(grpc::NOT_FOUND, Bytes::new()),
        "Check" => grpc::reply(grpc::OK, grpc::message(&status(&controller))),
        "List" => {
            // A map of one entry: the empty name, and its status.
            let [key, value] = status(&controller);
            grpc::reply(grpc::OK, grpc::message(&[0x0a, 6, 0x0a, 0, 0x12, 2, key, value]))
        }
        "Watch" => watch(controller, asks_all),
        _ => grpc::reply(grpc::UNIMPLEMENTED, Bytes::new()),
    }
}

/// Tells the status now and whenever it is another one, until the caller goes.
fn watch(controller: SharedController, asks_all: bool) -> Response<Stream> {
    let mut last = None;
    let changes = IntervalStream::new(tokio::time::interval(WATCHED_EVERY)).filter_map(move |_| {
        let now = if asks_all { status(&controller) } else { [STATUS, SERVICE_UNKNOWN] };
        (last.replace(now) != Some(now)).then(|| Ok(Frame::data(grpc::message(&now))))
    });
    grpc::call(Box::pin(StreamBody::new(changes)))
}

/// The field that says whether the proxy serves.
fn status(controller: &SharedController) -> [u8; 2] {
    let controller = controller.borrow();
    let is_serving = controller.phase == Phase::Live && !controller.health_failed;
    [STATUS, if is_serving { SERVING } else { NOT_SERVING }]
}

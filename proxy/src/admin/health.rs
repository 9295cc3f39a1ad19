//! The proxy's own health in the words of gRPC (`grpc.health.v1.Health`), for probes that speak it.

use std::convert::Infallible;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};

use crate::controller::{Controller, Phase};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;
const NOT_FOUND: u8 = 5;
const UNIMPLEMENTED: u8 = 12;

/// The most that a question may hold: the name of a service.
const MAX_QUESTION: usize = 1 << 10;

/// Whether a request is a call of gRPC.
pub(super) fn is_call(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a call. The proxy as a whole is the only service that there is.
pub(super) async fn answer(
    is_serving: bool,
    request: Request<Incoming>,
) -> Response<BoxBody<Bytes, Infallible>> {
    if request.uri().path() != CHECK {
        return reply(UNIMPLEMENTED, Bytes::new());
    }
    let question = http_body_util::Limited::new(request.into_body(), MAX_QUESTION).collect().await;
    // A message without a name: five bytes that frame nothing.
    let asks_all = question.is_ok_and(|question| question.to_bytes().get(5..).is_none_or(<[u8]>::is_empty));
    if !asks_all {
        return reply(NOT_FOUND, Bytes::new());
    }
    let status = if is_serving { SERVING } else { NOT_SERVING };
    reply(0, Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, status]))
}

pub(super) fn is_serving(controller: &Controller) -> bool {
    controller.phase == Phase::Live && !controller.health_failed
}

fn reply(status: u8, message: Bytes) -> Response<BoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(status)));
    let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(BoxBody::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

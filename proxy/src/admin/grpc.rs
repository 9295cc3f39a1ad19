//! Calls of gRPC, as far as the admin port answers them.

use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::Stream;

/// What a call may end with.
pub(super) const OK: u8 = 0;
pub(super) const INVALID_ARGUMENT: u8 = 3;
pub(super) const NOT_FOUND: u8 = 5;
pub(super) const UNIMPLEMENTED: u8 = 12;

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A message, framed.
pub(super) fn message(bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], bytes].concat().into()
}

/// Takes the first message out of what has come, if it is whole.
pub(super) fn take_message(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length: [u8; 4] = bytes.get(1..PREFIX)?.try_into().ok()?;
    let end = PREFIX.checked_add(u32::from_be_bytes(length) as usize)?;
    if bytes.len() < end {
        return None;
    }
    let message = bytes[PREFIX..end].to_vec();
    bytes.drain(..end);
    Some(message)
}

/// How a call ended.
pub(super) fn trailers(status: u8) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(status)));
    trailers
}

/// A whole answer.
pub(super) fn reply(status: u8, message: Bytes) -> Response<Stream> {
    call(Box::pin(Full::new(message).with_trailers(async move { Some(Ok(trailers(status))) })))
}

/// An answer that goes on.
pub(super) fn call(body: Stream) -> Response<Stream> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

//! Replies of the proxy itself.

use proxy_core::access::Record;
use proxy_core::config::HttpOptions;
use proxy_core::http1::{LocalReply, Method, ResponseEdits, write_local_reply};

/// Writes the reply to a request that ended as `record` says into `out`, as the listener's `local_reply_config` wants it.
/// Returns its status and the bytes of its body.
pub(crate) fn local_reply(
    http: &HttpOptions,
    record: &Record<'_>,
    text: &str,
    method: Method,
    edits: &ResponseEdits<'_>,
    out: &mut Vec<u8>,
) -> (u16, u64) {
    let mut reply = http.local_replies.reply(record, text);
    reply.headers.extend_from_slice(edits.added);
    let edits = ResponseEdits { added: &reply.headers, ..*edits };
    let is_head = method == Method::Head || matches!(reply.status, 204 | 304);
    let written =
        LocalReply { status: reply.status, content_type: &reply.content_type, body: &reply.body, is_head };
    out.clear();
    write_local_reply(out, &written, &edits);
    (reply.status, if is_head { 0 } else { reply.body.len() as u64 })
}

//! Replies of the proxy itself.

use proxy_core::http1::{Method, ResponseEdits, write_local_reply};
use tokio::io::AsyncWriteExt as _;

use crate::socket::Socket;

/// Sends a short text. A client that is gone does not get it; nothing else follows from that.
pub(crate) async fn local_reply(
    client: &mut Socket,
    out: &mut Vec<u8>,
    status: u16,
    text: &str,
    edits: ResponseEdits,
    method: Method,
) {
    out.clear();
    write_local_reply(out, status, reason_phrase(status), text, edits, method == Method::Head);
    let _ = client.write_all(out).await;
}

const fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

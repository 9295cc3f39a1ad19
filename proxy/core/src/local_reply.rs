//! What the proxy says where it answers itself (`LocalReplyConfig` of Envoy's HTTP connection manager).

use std::sync::Arc;

use crate::access::{Filter, Format, Record};

/// How replies of the proxy's own look. The first mapper that holds decides; then the common form.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalReplies {
    /// In the order in which they are tried.
    pub mappers: Vec<Mapper>,
    /// The form of bodies; plain text with the reason where unset.
    pub body: Option<BodyFormat>,
}

/// What becomes of some replies.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapper {
    /// Which.
    pub filter: Filter,
    /// The status instead.
    pub status: Option<u16>,
    /// The reason's text instead.
    pub text: Option<Box<str>>,
    /// The form instead of the common one.
    pub body: Option<BodyFormat>,
    /// Further lines.
    pub headers: Vec<HeaderLine>,
}

/// The form of a body.
#[derive(Debug, Clone, PartialEq)]
pub struct BodyFormat {
    /// Operators and text; `%LOCAL_REPLY_BODY%` is the reason's text.
    pub format: Arc<Format>,
    /// Of the result.
    pub content_type: Box<str>,
}

/// A line that is added to a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderLine {
    /// In lower case; never one that frames the message.
    pub name: Box<str>,
    /// With operators.
    pub value: Arc<Format>,
}

/// A reply, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub status: u16,
    /// All of it.
    pub body: Vec<u8>,
    /// Of the body.
    pub content_type: Box<str>,
    /// Whole lines, each with its end.
    pub headers: Vec<u8>,
}

impl LocalReplies {
    /// Whether a mapper or the common form has something to say about a reply.
    pub fn changes(&self, record: &Record<'_>) -> bool {
        self.body.is_some() || self.mappers.iter().any(|mapper| mapper.filter.holds(record))
    }

    /// The reply to a request that ended as `record` says. Allocates: such replies are rare.
    pub fn reply(&self, record: &Record<'_>, text: &str) -> Reply {
        let mapper = self.mappers.iter().find(|mapper| mapper.filter.holds(record));
        let status = mapper.and_then(|mapper| mapper.status).unwrap_or(record.status);
        let text = mapper.and_then(|mapper| mapper.text.as_deref()).unwrap_or(text);
        let record = Record { status, local_body: text.as_bytes(), ..*record };
        let form = mapper.and_then(|mapper| mapper.body.as_ref()).or(self.body.as_ref());
        let (mut body, mut content_type) = match form {
            None => ([text.as_bytes(), b"\n"].concat(), "text/plain".into()),
            Some(form) => {
                let mut body = Vec::new();
                form.format.write(&record, &mut body);
                (body, form.content_type.clone())
            }
        };
        if text.is_empty() && form.is_none() {
            body.clear();
            content_type = "".into();
        }
        let mut headers = Vec::new();
        for HeaderLine { name, value } in mapper.map(|mapper| mapper.headers.as_slice()).unwrap_or_default() {
            let mut line = Vec::new();
            value.write(&record, &mut line);
            if &**name == "content-type" {
                content_type = String::from_utf8_lossy(&line).into();
                continue;
            }
            for part in [name.as_bytes(), b": ", &line, b"\r\n"] {
                headers.extend_from_slice(part);
            }
        }
        Reply { status, body, content_type, headers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Comparison, JsonValue};

    const REFUSED: Record<'static> = Record {
        status: 503,
        flag: "UH",
        request: None,
        added: b"",
        rewritten: b"",
        response: None,
        route: None,
        arm: "",
        spilled_from: "",
        cluster: "shop",
        endpoint: "",
        attempts: 0,
        reason: "the cluster has no usable endpoint",
        details: "no_endpoint",
        local_body: b"",
        started: 0,
        duration: 0,
        request_end: None,
        response_begin: None,
        bytes_received: 0,
        bytes_sent: 0,
        connection_id: 0,
        peer: "",
        peer_port: 0,
        client: "",
        local_address: "",
        is_http2: false,
        tls: crate::access::TlsFacts {
            version: "",
            cipher: "",
            server_name: "",
            peer_uri: "",
            peer_subject: "",
        },
    };

    #[test]
    fn without_configuration_the_reason_is_the_body() {
        let reply = LocalReplies::default().reply(&REFUSED, "no such thing");
        assert_eq!((reply.status, reply.body.as_slice()), (503, &b"no such thing\n"[..]));
        assert_eq!(&*reply.content_type, "text/plain");
    }

    #[test]
    fn the_first_mapper_that_holds_decides() {
        let document = JsonValue::Object(vec![
            ("status".into(), JsonValue::Text("%RESPONSE_CODE%".into())),
            ("message".into(), JsonValue::Text("%LOCAL_REPLY_BODY%".into())),
        ]);
        let format = Arc::new(Format::json(&document, false).expect("valid"));
        let value = Arc::new(Format::text("%RESPONSE_FLAGS%", false).expect("valid"));
        let mapper = |filter, status, text: Option<&str>| Mapper {
            filter,
            status,
            text: text.map(Into::into),
            body: None,
            headers: vec![HeaderLine { name: "x-flag".into(), value: value.clone() }],
        };
        let replies = LocalReplies {
            mappers: vec![
                mapper(Filter::Status(Comparison::Equal, 404), Some(410), None),
                mapper(Filter::Flags(vec!["UH".into()]), Some(529), Some("try later")),
                mapper(Filter::Status(Comparison::Equal, 503), Some(500), None),
            ],
            body: Some(BodyFormat { format, content_type: "application/json".into() }),
        };
        let reply = replies.reply(&REFUSED, "no such thing");
        assert_eq!(reply.status, 529);
        assert_eq!(String::from_utf8_lossy(&reply.body), "{\"status\":529,\"message\":\"try later\"}\n");
        assert_eq!(&*reply.content_type, "application/json");
        assert_eq!(reply.headers, b"x-flag: UH\r\n");
    }
}

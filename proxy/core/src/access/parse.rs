//! Formats as Envoy writes them: text with `%OPERATOR(arguments):length%`, or a JSON document of such texts.

use std::sync::Arc;

use super::format::{FieldRef, Format, Operator, Part, TimePart, TimePoint};

/// A format that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No operator has this name.
    #[error("%{operator}% is not an operator that this version knows{hint}")]
    Unknown {
        /// As written.
        operator: String,
        /// The nearest one that is, as a half sentence.
        hint: String,
    },
    /// Its arguments make no sense.
    #[error("%{operator}%: {reason}")]
    Arguments {
        /// As written.
        operator: String,
        /// What is wrong.
        reason: String,
    },
    /// A percent sign that starts an operator and does not end it.
    #[error("an operator that starts at byte {0} has no end; a plain percent sign is written %%")]
    Unterminated(usize),
}

/// A document whose texts may hold operators (`google.protobuf.Struct`).
#[derive(Debug, Clone, PartialEq)]
pub enum JsonValue {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as its text.
    Number(String),
    /// A text; one that is a single operator keeps that operator's type.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object, in the order in which it is written.
    Object(Vec<(String, Self)>),
}

/// The line of a log without a format: what decided, where it went, how it ended and how long it took.
const DEFAULT: &str = "%START_TIME% %REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(:PATH)% %RESPONSE_CODE% \
                       route=%WEIR_ROUTE% arm=%WEIR_ARM% spilled_from=%WEIR_SPILLED_FROM% cluster=%UPSTREAM_CLUSTER% endpoint=%UPSTREAM_HOST% \
                       attempt=%UPSTREAM_REQUEST_ATTEMPT_COUNT% flag=%RESPONSE_FLAGS% reason=\"%WEIR_REASON%\" \
                       received=%BYTES_RECEIVED% sent=%BYTES_SENT% \
                       first_byte_us=%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)% \
                       duration_us=%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%\n";

impl Default for Format {
    fn default() -> Self {
        Self::text(DEFAULT, false).expect("the default format is valid; a test writes it")
    }
}

impl Format {
    /// The default, shared.
    pub fn standard() -> Arc<Self> {
        static STANDARD: std::sync::OnceLock<Arc<Format>> = std::sync::OnceLock::new();
        STANDARD.get_or_init(Arc::default).clone()
    }

    /// A line of text; it ends where it says so. `omits_empty`: a missing value is nothing instead of `-`.
    ///
    /// # Errors
    /// The operator that is not one.
    pub fn text(text: &str, omits_empty: bool) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        pieces(text, |piece| {
            match piece {
                Piece::Text(text) => push_literal(&mut parts, text.as_bytes()),
                Piece::Operator(operator, limit) => parts.push(Part::Field { operator, limit, json: false }),
            }
            Ok(())
        })?;
        Ok(Self::of(parts, omits_empty))
    }

    /// A JSON document on a line of its own.
    ///
    /// # Errors
    /// The operator that is not one.
    pub fn json(document: &JsonValue, omits_empty: bool) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        write_json(document, &mut parts)?;
        push_literal(&mut parts, b"\n");
        Ok(Self::of(parts, omits_empty))
    }

    fn of(parts: Vec<Part>, omits_empty: bool) -> Self {
        let wants_phases = parts.iter().any(|part| match part {
            Part::Literal(_) => false,
            Part::Field { operator, .. } | Part::Value { operator, .. } => operator.wants_phases(),
        });
        Self { parts, missing: if omits_empty { "" } else { "-" }, escapes: true, wants_phases }
    }

    /// The same for the body of a reply, where values stand as they are.
    #[must_use]
    pub fn unescaped(self) -> Self {
        Self { escapes: false, ..self }
    }
}

impl Operator {
    const fn wants_phases(&self) -> bool {
        match self {
            Self::RequestDuration | Self::ResponseDuration | Self::ResponseTxDuration => true,
            Self::CommonDuration { from, to, .. } => {
                !matches!((from, to), (TimePoint::Start | TimePoint::End, TimePoint::Start | TimePoint::End))
            }
            _ => false,
        }
    }
}

fn push_literal(parts: &mut Vec<Part>, text: &[u8]) {
    if let Some(Part::Literal(last)) = parts.last_mut() {
        *last = [last, text].concat().into();
    } else if !text.is_empty() {
        parts.push(Part::Literal(text.into()));
    }
}

fn write_json(value: &JsonValue, parts: &mut Vec<Part>) -> Result<(), FormatError> {
    match value {
        JsonValue::Null => push_literal(parts, b"null"),
        JsonValue::Bool(value) => push_literal(parts, if *value { b"true" } else { b"false" }),
        JsonValue::Number(text) => push_literal(parts, text.as_bytes()),
        JsonValue::Text(text) => write_json_text(text, parts)?,
        JsonValue::List(values) => {
            push_literal(parts, b"[");
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    push_literal(parts, b",");
                }
                write_json(value, parts)?;
            }
            push_literal(parts, b"]");
        }
        JsonValue::Object(members) => {
            push_literal(parts, b"{");
            for (i, (key, value)) in members.iter().enumerate() {
                if i > 0 {
                    push_literal(parts, b",");
                }
                push_literal(parts, json_escaped(key).as_bytes());
                push_literal(parts, b":");
                write_json(value, parts)?;
            }
            push_literal(parts, b"}");
        }
    }
    Ok(())
}

fn write_json_text(text: &str, parts: &mut Vec<Part>) -> Result<(), FormatError> {
    let mut found = Vec::new();
    pieces(text, |piece| {
        found.push(piece);
        Ok(())
    })?;
    if let [Piece::Operator(operator, limit)] = found.as_slice() {
        parts.push(Part::Value { operator: operator.clone(), limit: *limit });
        return Ok(());
    }
    push_literal(parts, b"\"");
    for piece in found {
        match piece {
            Piece::Text(text) => {
                let quoted = json_escaped(&text);
                push_literal(parts, &quoted.as_bytes()[1..quoted.len() - 1]);
            }
            Piece::Operator(operator, limit) => parts.push(Part::Field { operator, limit, json: true }),
        }
    }
    push_literal(parts, b"\"");
    Ok(())
}

fn json_escaped(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

enum Piece {
    Text(String),
    Operator(Operator, Option<usize>),
}

/// Takes a text apart. `%%` is a percent sign.
fn pieces(text: &str, mut take: impl FnMut(Piece) -> Result<(), FormatError>) -> Result<(), FormatError> {
    let mut plain = String::new();
    let mut at = 0;
    while let Some(percent) = text[at..].find('%').map(|found| at + found) {
        plain.push_str(&text[at..percent]);
        let rest = &text[percent + 1..];
        if rest.starts_with('%') {
            plain.push('%');
            at = percent + 2;
            continue;
        }
        let name = rest
            .find(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (name, mut after) = rest.split_at(name);
        let unterminated = || FormatError::Unterminated(percent);
        let mut arguments = None;
        if let Some(inner) = after.strip_prefix('(') {
            // Percent signs may stand in the arguments, as in START_TIME(%Y).
            let end = inner.find(')').ok_or_else(unterminated)?;
            arguments = Some(&inner[..end]);
            after = &inner[end + 1..];
        }
        let mut limit = None;
        if let Some(digits) = after.strip_prefix(':') {
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            limit = Some(digits[..end].parse().map_err(|_| unterminated())?);
            after = &digits[end..];
        }
        after = after.strip_prefix('%').ok_or_else(unterminated)?;
        if !plain.is_empty() {
            take(Piece::Text(std::mem::take(&mut plain)))?;
        }
        take(Piece::Operator(operator(name, arguments)?, limit))?;
        at = text.len() - after.len();
    }
    plain.push_str(&text[at..]);
    if plain.is_empty() { Ok(()) } else { take(Piece::Text(plain)) }
}

/// All operators, for whoever misspelt one.
const OPERATORS: &str = "
    BYTES_RECEIVED BYTES_SENT COMMON_DURATION CONNECTION_ID DOWNSTREAM_DIRECT_REMOTE_ADDRESS
    DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_LOCAL_ADDRESS
    DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_PORT DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_URI_SAN
    DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_VERSION REQUESTED_SERVER_NAME
    DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT DURATION LOCAL_REPLY_BODY PROTOCOL REQ
    REQUEST_DURATION RESP RESPONSE_CODE RESPONSE_CODE_DETAILS RESPONSE_DURATION RESPONSE_FLAGS RESPONSE_TX_DURATION
    ROUTE_NAME START_TIME UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_HOST UPSTREAM_REMOTE_ADDRESS
    UPSTREAM_REQUEST_ATTEMPT_COUNT VIRTUAL_HOST_NAME WEIR_ARM WEIR_REASON WEIR_ROUTE WEIR_SPILLED_FROM";

fn operator(name: &str, arguments: Option<&str>) -> Result<Operator, FormatError> {
    let wrong =
        |reason: &str| FormatError::Arguments { operator: name.to_owned(), reason: reason.to_owned() };
    let plain = |operator: Operator| match arguments {
        None | Some("") => Ok(operator),
        Some(_) => Err(wrong("takes no arguments")),
    };
    let headers = || {
        let (first, second) = match arguments.unwrap_or_default().split_once('?') {
            Some((first, second)) => (first, Some(second)),
            None => (arguments.unwrap_or_default(), None),
        };
        if first.is_empty() || second == Some("") {
            return Err(wrong("needs the name of a header, or two with `?` between them"));
        }
        Ok((first.to_ascii_lowercase(), second.map(str::to_ascii_lowercase)))
    };
    Ok(match name {
        "START_TIME" => Operator::StartTime(match arguments {
            None | Some("") => None,
            Some(format) => Some(time_parts(format).map_err(|reason| wrong(&reason))?),
        }),
        "REQ" => {
            let (first, second) = headers()?;
            Operator::RequestHeader { first: field_ref(&first), second: second.as_deref().map(field_ref) }
        }
        "RESP" => {
            let (first, second) = headers()?;
            Operator::ResponseHeader { first: first.into(), second: second.map(Into::into) }
        }
        "COMMON_DURATION" => {
            common_duration(arguments.unwrap_or_default()).map_err(|reason| wrong(&reason))?
        }
        "PROTOCOL" => plain(Operator::Protocol)?,
        "RESPONSE_CODE" => plain(Operator::ResponseCode)?,
        "RESPONSE_CODE_DETAILS" => plain(Operator::ResponseCodeDetails)?,
        "RESPONSE_FLAGS" => plain(Operator::ResponseFlags)?,
        "BYTES_RECEIVED" => plain(Operator::BytesReceived)?,
        "BYTES_SENT" => plain(Operator::BytesSent)?,
        "DURATION" => plain(Operator::Duration)?,
        "REQUEST_DURATION" => plain(Operator::RequestDuration)?,
        "RESPONSE_DURATION" => plain(Operator::ResponseDuration)?,
        "RESPONSE_TX_DURATION" => plain(Operator::ResponseTxDuration)?,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => plain(Operator::UpstreamHost)?,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => plain(Operator::UpstreamCluster)?,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => plain(Operator::AttemptCount)?,
        "DOWNSTREAM_REMOTE_ADDRESS" => plain(Operator::ClientAddressWithPort)?,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => plain(Operator::ClientAddress)?,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => plain(Operator::PeerAddressWithPort)?,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => plain(Operator::PeerAddress)?,
        "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => plain(Operator::PeerPort)?,
        "DOWNSTREAM_LOCAL_ADDRESS" => plain(Operator::LocalAddress)?,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => plain(Operator::LocalAddressWithoutPort)?,
        "DOWNSTREAM_LOCAL_PORT" => plain(Operator::LocalPort)?,
        "ROUTE_NAME" => plain(Operator::RouteName)?,
        "VIRTUAL_HOST_NAME" => plain(Operator::VirtualHostName)?,
        "CONNECTION_ID" => plain(Operator::ConnectionId)?,
        "LOCAL_REPLY_BODY" => plain(Operator::LocalReplyBody)?,
        "WEIR_ROUTE" => plain(Operator::Route)?,
        "WEIR_ARM" => plain(Operator::Arm)?,
        "WEIR_SPILLED_FROM" => plain(Operator::SpilledFrom)?,
        "WEIR_REASON" => plain(Operator::Reason)?,
        "DOWNSTREAM_TLS_VERSION" => plain(Operator::TlsVersion)?,
        "DOWNSTREAM_TLS_CIPHER" => plain(Operator::TlsCipher)?,
        "REQUESTED_SERVER_NAME" => plain(Operator::ServerName)?,
        "DOWNSTREAM_PEER_URI_SAN" => plain(Operator::PeerUri)?,
        "DOWNSTREAM_PEER_SUBJECT" => plain(Operator::PeerSubject)?,
        unknown => {
            return Err(FormatError::Unknown {
                operator: unknown.to_owned(),
                hint: xds_proto::json::did_you_mean(unknown, OPERATORS.split_whitespace()),
            });
        }
    })
}

fn field_ref(name: &str) -> FieldRef {
    match name {
        ":method" => FieldRef::Method,
        ":path" => FieldRef::Path,
        "x-envoy-original-path" => FieldRef::OriginalPath,
        ":authority" | "host" => FieldRef::Authority,
        ":scheme" => FieldRef::Scheme,
        other => FieldRef::Header(other.into()),
    }
}

fn common_duration(arguments: &str) -> Result<Operator, String> {
    let [from, to, unit] = *arguments.split(':').collect::<Vec<_>>() else {
        return Err("needs START:END:UNIT".to_owned());
    };
    let point = |name: &str| match name {
        "DS_RX_BEG" => Ok(TimePoint::Start),
        "DS_RX_END" | "US_TX_END" => Ok(TimePoint::RequestEnd),
        "US_RX_BEG" | "DS_TX_BEG" => Ok(TimePoint::ResponseBegin),
        "US_RX_END" | "DS_TX_END" => Ok(TimePoint::End),
        other => Err(format!("{other:?} is not a point in time that is measured")),
    };
    let unit = match unit {
        "us" => 1,
        "ms" => 1_000,
        other => return Err(format!("{other:?} is not a unit; us and ms are")),
    };
    Ok(Operator::CommonDuration { from: point(from)?, to: point(to)?, unit })
}

/// `strftime` as far as logs use it, and Envoy's `%3f` for fractions of a second.
fn time_parts(format: &str) -> Result<Vec<TimePart>, String> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        if at > 0 {
            parts.push(TimePart::Text(rest[..at].into()));
        }
        let mut specifier = rest[at + 1..].chars();
        let text = |text: &str| TimePart::Text(text.into());
        match specifier.next() {
            Some('Y') => parts.push(TimePart::Year),
            Some('y') => parts.push(TimePart::ShortYear),
            Some('m') => parts.push(TimePart::Month),
            Some('b' | 'h') => parts.push(TimePart::MonthName),
            Some('d') => parts.push(TimePart::Day),
            Some('e') => parts.push(TimePart::PaddedDay),
            Some('a') => parts.push(TimePart::Weekday),
            Some('H') => parts.push(TimePart::Hour),
            Some('M') => parts.push(TimePart::Minute),
            Some('S') => parts.push(TimePart::Second),
            Some('s') => parts.push(TimePart::Unix),
            Some('z') => parts.push(TimePart::Offset),
            Some('Z') => parts.push(TimePart::Zone),
            Some('F') => {
                parts.extend([TimePart::Year, text("-"), TimePart::Month, text("-"), TimePart::Day]);
            }
            Some('T') => {
                parts.extend([TimePart::Hour, text(":"), TimePart::Minute, text(":"), TimePart::Second]);
            }
            Some('f') => parts.push(TimePart::Fraction(9)),
            Some(digit @ '1'..='9') if specifier.next() == Some('f') => {
                parts.push(TimePart::Fraction(u32::from(digit) - u32::from('0')));
            }
            other => return Err(format!("%{} is not known", other.map(String::from).unwrap_or_default())),
        }
        rest = specifier.as_str();
    }
    if !rest.is_empty() {
        parts.push(TimePart::Text(rest.into()));
    }
    Ok(parts)
}

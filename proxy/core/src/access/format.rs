//! A line's form, compiled: literal text between operators. Writing a line is a walk over both.

use super::Record;
use super::time::{MONTHS, Moment, WEEKDAYS, push_digits, push_rfc3339};
use crate::http1::{HeaderSpan, Version};
use crate::route::HeadView;

/// A compiled access-log format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub(super) parts: Vec<Part>,
    /// What stands for a value that is not there, in text.
    pub(super) missing: &'static str,
    /// Whether values are escaped, so that none ends the line. A body of a reply has no lines to protect.
    pub(super) escapes: bool,
    /// Whether a time between first and last byte is asked for: only then clocks are read for it.
    pub(super) wants_phases: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(Box<[u8]>),
    /// In a line of text, or within the quotes of a JSON string.
    Field {
        operator: Operator,
        limit: Option<usize>,
        json: bool,
    },
    /// All of a JSON value: a number, a quoted string, or null.
    Value {
        operator: Operator,
        limit: Option<usize>,
    },
}

/// A command operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operator {
    StartTime(Option<Vec<TimePart>>),
    RequestHeader {
        first: FieldRef,
        second: Option<FieldRef>,
    },
    ResponseHeader {
        first: Box<str>,
        second: Option<Box<str>>,
    },
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTxDuration,
    /// Between two points, in the unit of so many microseconds.
    CommonDuration {
        from: TimePoint,
        to: TimePoint,
        unit: u64,
    },
    UpstreamHost,
    UpstreamCluster,
    AttemptCount,
    ClientAddress,
    ClientAddressWithPort,
    PeerAddress,
    PeerAddressWithPort,
    PeerPort,
    LocalAddress,
    LocalAddressWithoutPort,
    LocalPort,
    RouteName,
    VirtualHostName,
    ConnectionId,
    LocalReplyBody,
    Route,
    Arm,
    SpilledFrom,
    Reason,
    TlsVersion,
    TlsCipher,
    ServerName,
    PeerUri,
    PeerSubject,
}

/// What of a request stands for a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FieldRef {
    Method,
    /// As it left.
    Path,
    /// As it came.
    OriginalPath,
    Authority,
    Scheme,
    Header(Box<str>),
}

/// A moment of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimePoint {
    Start,
    RequestEnd,
    ResponseBegin,
    End,
}

/// A piece of a time format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimePart {
    Text(Box<str>),
    Year,
    ShortYear,
    Month,
    MonthName,
    Day,
    PaddedDay,
    Weekday,
    Hour,
    Minute,
    Second,
    Unix,
    Fraction(u32),
    Offset,
    Zone,
}

/// A value on its way into a line.
enum Value<'a> {
    Missing,
    Text(&'a str),
    /// What a peer sent: anything but a line end.
    Bytes(&'a [u8]),
    Number(u64),
}

impl Format {
    /// Whether any operator asks for a time between first and last byte.
    pub const fn wants_phases(&self) -> bool {
        self.wants_phases
    }

    /// Appends the record in this form. No line end is added; control bytes in values are escaped.
    ///
    /// Cost: a copy of the line; no allocation once `out` has grown.
    pub fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Field { operator, limit, json } => self.field(operator, *limit, *json, record, out),
                Part::Value { operator, limit } => json_value(operator, *limit, record, out),
            }
        }
    }

    fn field(
        &self,
        operator: &Operator,
        limit: Option<usize>,
        json: bool,
        record: &Record<'_>,
        out: &mut Vec<u8>,
    ) {
        if write_composed(operator, record, out) {
            return;
        }
        match operator.value(record) {
            Value::Missing => out.extend_from_slice(self.missing.as_bytes()),
            Value::Number(number) => push_digits(out, number, 1),
            Value::Text(text) => self.push(out, cut(text.as_bytes(), limit), json),
            Value::Bytes(bytes) => self.push(out, cut(bytes, limit), json),
        }
    }

    fn push(&self, out: &mut Vec<u8>, bytes: &[u8], json: bool) {
        if self.escapes || json {
            push_escaped(out, bytes, json);
        } else {
            out.extend_from_slice(bytes);
        }
    }
}

fn json_value(operator: &Operator, limit: Option<usize>, record: &Record<'_>, out: &mut Vec<u8>) {
    let quoted = out.len();
    out.push(b'"');
    if write_composed(operator, record, out) {
        out.push(b'"');
        return;
    }
    out.truncate(quoted);
    match operator.value(record) {
        Value::Missing => out.extend_from_slice(b"null"),
        Value::Number(number) => push_digits(out, number, 1),
        Value::Text(text) => quote(out, cut(text.as_bytes(), limit)),
        Value::Bytes(bytes) => quote(out, cut(bytes, limit)),
    }
}

fn quote(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    push_escaped(out, text, true);
    out.push(b'"');
}

fn cut(bytes: &[u8], limit: Option<usize>) -> &[u8] {
    &bytes[..limit.unwrap_or(bytes.len()).min(bytes.len())]
}

/// Values that are put together rather than found. Whether the operator is one of those, and has a value.
fn write_composed(operator: &Operator, record: &Record<'_>, out: &mut Vec<u8>) -> bool {
    match operator {
        Operator::StartTime(None) => push_rfc3339(out, record.started),
        Operator::StartTime(Some(parts)) => push_time(out, record.started, parts),
        Operator::Route if record.route.is_some() => {
            let Some(route) = record.route else { return false };
            push_escaped(out, route.config.as_str().as_bytes(), true);
            out.push(b'/');
            push_escaped(out, route.virtual_host.as_bytes(), true);
            out.push(b'/');
            push_escaped(out, route.route.as_bytes(), true);
        }
        Operator::PeerAddressWithPort if !record.peer.is_empty() => {
            push_socket_address(out, record.peer, record.peer_port);
        }
        // The port is known of the peer only; Envoy writes 0 for an address that a header named.
        Operator::ClientAddressWithPort if !record.client.is_empty() => {
            let port = if record.client == record.peer { record.peer_port } else { 0 };
            push_socket_address(out, record.client, port);
        }
        _ => return false,
    }
    true
}

fn push_socket_address(out: &mut Vec<u8>, ip: &str, port: u16) {
    let is_v6 = ip.contains(':');
    if is_v6 {
        out.push(b'[');
    }
    out.extend_from_slice(ip.as_bytes());
    if is_v6 {
        out.push(b']');
    }
    out.push(b':');
    push_digits(out, u64::from(port), 1);
}

impl Operator {
    fn value<'a>(&self, record: &Record<'a>) -> Value<'a> {
        let text = |text: &'a str| if text.is_empty() { Value::Missing } else { Value::Text(text) };
        let bytes = |found: Option<&'a [u8]>| found.map_or(Value::Missing, Value::Bytes);
        let millis = |micros: Option<u64>| micros.map_or(Value::Missing, |m| Value::Number(m / 1_000));
        match self {
            Self::StartTime(_) | Self::Route | Self::PeerAddressWithPort | Self::ClientAddressWithPort => {
                Value::Missing
            }
            Self::RequestHeader { first, second } => {
                let Some((head, buffer)) = record.request else { return Value::Missing };
                let view = HeadView { head, buffer, added: record.added, default_host: "" };
                let find = |field: &FieldRef| match field {
                    FieldRef::Path if !record.rewritten.is_empty() => Some(record.rewritten),
                    field => field.find(view),
                };
                bytes(find(first).or_else(|| second.as_ref().and_then(find)))
            }
            Self::ResponseHeader { first, second } => {
                let Some((head, buffer)) = record.response else { return Value::Missing };
                let find = |name: &str| header(&head.headers, buffer, name.as_bytes());
                bytes(find(first).or_else(|| second.as_deref().and_then(find)))
            }
            Self::Protocol if record.is_http2 => Value::Text("HTTP/2"),
            Self::Protocol => match record.request {
                Some((head, _)) => Value::Text(match head.version {
                    Version::Http10 => "HTTP/1.0",
                    Version::Http11 => "HTTP/1.1",
                }),
                None => Value::Missing,
            },
            Self::ResponseCode => Value::Number(u64::from(record.status)),
            Self::ResponseCodeDetails => match (record.details, record.status) {
                ("", 0) => Value::Missing,
                ("", _) => Value::Text("via_upstream"),
                (details, _) => Value::Text(details),
            },
            // Envoy writes a dash here in JSON as well.
            Self::ResponseFlags => Value::Text(if record.flag.is_empty() { "-" } else { record.flag }),
            Self::BytesReceived => Value::Number(record.bytes_received),
            Self::BytesSent => Value::Number(record.bytes_sent),
            Self::Duration => millis(Some(record.duration)),
            Self::RequestDuration => millis(record.request_end),
            Self::ResponseDuration => millis(record.response_begin),
            Self::ResponseTxDuration => {
                millis(record.response_begin.map(|begin| record.duration.saturating_sub(begin)))
            }
            Self::CommonDuration { from, to, unit } => {
                let at = |point: TimePoint| match point {
                    TimePoint::Start => Some(0),
                    TimePoint::RequestEnd => record.request_end,
                    TimePoint::ResponseBegin => record.response_begin,
                    TimePoint::End => Some(record.duration),
                };
                match (at(*from), at(*to)) {
                    (Some(from), Some(to)) => Value::Number(to.saturating_sub(from) / unit),
                    _ => Value::Missing,
                }
            }
            Self::UpstreamHost => text(record.endpoint),
            Self::UpstreamCluster => text(record.cluster),
            Self::AttemptCount => Value::Number(u64::from(record.attempts)),
            Self::ClientAddress => text(record.client),
            Self::PeerAddress => text(record.peer),
            Self::PeerPort if record.peer.is_empty() => Value::Missing,
            Self::PeerPort => Value::Number(u64::from(record.peer_port)),
            Self::LocalAddress => text(record.local_address),
            Self::LocalAddressWithoutPort => {
                let address = record.local_address;
                text(address.rsplit_once(':').map_or(address, |(ip, _)| ip.trim_matches(['[', ']'])))
            }
            Self::LocalPort => {
                let port = record.local_address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
                port.map_or(Value::Missing, Value::Number)
            }
            Self::RouteName => record.route.map_or(Value::Missing, |route| text(&route.route)),
            Self::VirtualHostName => record.route.map_or(Value::Missing, |route| text(&route.virtual_host)),
            Self::ConnectionId => Value::Number(record.connection_id),
            Self::LocalReplyBody if record.local_body.is_empty() => Value::Missing,
            Self::LocalReplyBody => Value::Bytes(record.local_body),
            Self::Arm => text(record.arm),
            Self::SpilledFrom => text(record.spilled_from),
            Self::Reason => text(record.reason),
            Self::TlsVersion => text(record.tls.version),
            Self::TlsCipher => text(record.tls.cipher),
            Self::ServerName => text(record.tls.server_name),
            Self::PeerUri => text(record.tls.peer_uri),
            Self::PeerSubject => text(record.tls.peer_subject),
        }
    }
}

impl FieldRef {
    fn find<'a>(&self, view: HeadView<'a>) -> Option<&'a [u8]> {
        let HeadView { head, buffer, .. } = view;
        let present = |bytes: &'a [u8]| (!bytes.is_empty()).then_some(bytes);
        match self {
            Self::Method => present(head.method_token.slice(buffer)),
            Self::Path | Self::OriginalPath => present(head.path.slice(buffer)),
            Self::Authority => present(head.authority.slice(buffer)),
            Self::Scheme => Some(b"http"),
            Self::Header(name) => view.lines(name.as_bytes()).next(),
        }
    }
}

fn header<'a>(headers: &[HeaderSpan], buffer: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let line = headers
        .iter()
        .find(|line| line.name.len() == name.len() && line.name.slice(buffer).eq_ignore_ascii_case(name))?;
    Some(line.value.slice(buffer))
}

fn push_time(out: &mut Vec<u8>, unix_micros: u64, parts: &[TimePart]) {
    let moment = Moment::of(unix_micros);
    for part in parts {
        match part {
            TimePart::Text(text) => out.extend_from_slice(text.as_bytes()),
            TimePart::Year => push_digits(out, u64::from(moment.year), 4),
            TimePart::ShortYear => push_digits(out, u64::from(moment.year % 100), 2),
            TimePart::Month => push_digits(out, u64::from(moment.month), 2),
            TimePart::MonthName => out.extend_from_slice(MONTHS[moment.month as usize - 1].as_bytes()),
            TimePart::Day => push_digits(out, u64::from(moment.day), 2),
            TimePart::PaddedDay => {
                if moment.day < 10 {
                    out.push(b' ');
                }
                push_digits(out, u64::from(moment.day), 1);
            }
            TimePart::Weekday => out.extend_from_slice(WEEKDAYS[moment.weekday as usize].as_bytes()),
            TimePart::Hour => push_digits(out, u64::from(moment.hour), 2),
            TimePart::Minute => push_digits(out, u64::from(moment.minute), 2),
            TimePart::Second => push_digits(out, u64::from(moment.second), 2),
            TimePart::Unix => push_digits(out, moment.unix, 1),
            // The clock counts microseconds; finer digits are 0.
            TimePart::Fraction(digits @ 0..=6) => {
                push_digits(out, u64::from(moment.micros / 10_u32.pow(6 - digits)), *digits as usize);
            }
            TimePart::Fraction(digits) => {
                push_digits(out, u64::from(moment.micros), 6);
                (6..*digits).for_each(|_| out.push(b'0'));
            }
            TimePart::Offset => out.extend_from_slice(b"+0000"),
            TimePart::Zone => out.extend_from_slice(b"UTC"),
        }
    }
}

/// Bytes that leave a line as they are: printable ASCII without quote and backslash.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b' ';
    while byte < 0x7f {
        table[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    table
};

/// Nothing that a peer sends can end a line, a quoted value or a JSON string.
fn push_escaped(out: &mut Vec<u8>, bytes: &[u8], json: bool) {
    if bytes.iter().all(|byte| PLAIN[usize::from(*byte)]) {
        out.extend_from_slice(bytes);
        return;
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' if json => out.extend_from_slice(b"\\\""),
                '\\' if json => out.extend_from_slice(b"\\\\"),
                '"' | '\\' | '\0'..='\x1f' | '\x7f' => {
                    let byte = character as u8;
                    let prefix: &[u8] = if json { b"\\u00" } else { b"\\x" };
                    out.extend_from_slice(prefix);
                    out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
                }
                // C1 controls end lines in some terminals; everything else is text.
                '\u{80}'..='\u{9f}' => out.extend_from_slice("\u{fffd}".as_bytes()),
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

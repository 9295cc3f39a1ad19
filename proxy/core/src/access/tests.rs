use super::*;
use crate::config::{FieldName, HeaderMatch, Predicate};
use crate::http1::{Limits, Method, RequestRules, parse_request, parse_response};

const REQUEST: &[u8] =
    b"GET /a?b HTTP/1.1\r\nHost: shop\r\nUser-Agent: odd \"x\\y\t\xff\xc3\xa9\r\nX-Long: 0123456789\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nX-Version: v2\r\nContent-Length: 0\r\n\r\n";

fn with_record<R>(use_record: impl FnOnce(&Record<'_>) -> R) -> R {
    let (mut head, mut response) = (RequestHead::default(), ResponseHead::default());
    assert_eq!(parse_request(REQUEST, &RequestRules::default(), &mut head), Ok(true));
    assert_eq!(parse_response(RESPONSE, &Limits::default(), Method::Get, &mut response), Ok(true));
    let route = RouteLabel { config: "edge".into(), virtual_host: "shop".into(), route: "cart".into() };
    use_record(&Record {
        request: Some((&head, REQUEST)),
        response: Some((&response, RESPONSE)),
        status: 200,
        route: Some(&route),
        arm: "v2",
        cluster: "shop-v2",
        endpoint: "10.0.0.2:80",
        attempts: 1,
        started: 1_795_250_414_007_900,
        duration: 12_345,
        request_end: Some(0),
        response_begin: Some(10_000),
        bytes_sent: 1_024,
        peer: "192.0.2.7",
        peer_port: 4711,
        client: "198.51.100.1",
        local_address: "[::1]:8080",
        ..Record::default()
    })
}

fn written(format: &Format) -> String {
    with_record(|record| {
        let mut out = Vec::new();
        format.write(record, &mut out);
        String::from_utf8(out).expect("lines are text")
    })
}

fn text(format: &str) -> String {
    written(&Format::text(format, false).expect(format))
}

#[test]
fn the_default_line_says_what_decided() {
    assert_eq!(
        written(&Format::default()),
        "2026-11-21T08:40:14.007Z GET shop /a?b 200 route=edge/shop/cart arm=v2 spilled_from=- cluster=shop-v2 \
         endpoint=10.0.0.2:80 attempt=1 flag=- reason=\"-\" received=0 sent=1024 first_byte_us=10000 \
         duration_us=12345\n"
    );
}

#[test]
fn operators_mean_what_they_mean_in_envoy() {
    for (format, expected) in [
        ("%PROTOCOL% %RESPONSE_CODE% 100%%", "HTTP/1.1 200 100%"),
        ("%REQ(X-Missing?:AUTHORITY)% %REQ(X-Missing)%", "shop -"),
        ("%REQ(X-LONG):4%", "0123"),
        ("%RESP(x-version)% %RESP(x-none?X-VERSION)%", "v2 v2"),
        ("%DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "12 10 2"),
        ("%COMMON_DURATION(US_RX_BEG:DS_TX_END:us)%", "2345"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%", "2026/11/21T08:40:14+0000 1795250414"),
        ("%START_TIME(%d/%b/%Y:%T.%3f)%", "21/Nov/2026:08:40:14.007"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
            "198.51.100.1:0 198.51.100.1",
        ),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "192.0.2.7:4711"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "::1 8080"),
        ("%ROUTE_NAME% %VIRTUAL_HOST_NAME% %RESPONSE_CODE_DETAILS%", "cart shop via_upstream"),
    ] {
        assert_eq!(text(format), expected, "{format}");
    }
}

#[test]
fn nothing_a_client_sends_ends_a_line_or_a_quoted_value() {
    assert_eq!(text("\"%REQ(USER-AGENT)%\""), "\"odd \\x22x\\x5cy\\x09\u{fffd}\u{e9}\"");
    let document = JsonValue::Object(vec![("a".into(), JsonValue::Text("%REQ(USER-AGENT)%".into()))]);
    let line = written(&Format::json(&document, false).expect("valid"));
    assert_eq!(line, "{\"a\":\"odd \\\"x\\\\y\\u0009\u{fffd}\u{e9}\"}\n");
}

#[test]
fn json_keeps_the_types_of_single_operators() {
    let text = |text: &str| JsonValue::Text(text.to_owned());
    let document = JsonValue::Object(vec![
        ("code".into(), text("%RESPONSE_CODE%")),
        ("line".into(), text("%REQ(:METHOD)% \"%RESPONSE_CODE%\"")),
        ("none".into(), text("%REQ(X-NONE)%")),
        ("time".into(), text("%START_TIME%")),
        ("route".into(), text("%WEIR_ROUTE%")),
        (
            "list".into(),
            JsonValue::List(vec![JsonValue::Bool(true), JsonValue::Null, JsonValue::Number("1.5".into())]),
        ),
    ]);
    assert_eq!(
        written(&Format::json(&document, false).expect("valid")),
        "{\"code\":200,\"line\":\"GET \\\"200\\\"\",\"none\":null,\"time\":\"2026-11-21T08:40:14.007Z\",\
         \"route\":\"edge/shop/cart\",\"list\":[true,null,1.5]}\n"
    );
}

#[test]
fn an_unknown_operator_is_named() {
    for (format, error) in [
        ("%NOPE%", "%NOPE% is not an operator that this version knows"),
        ("%REQ()%", "%REQ%: needs the name of a header, or two with `?` between them"),
        ("100%", "an operator that starts at byte 3 has no end; a plain percent sign is written %%"),
        ("%REQ(a", "an operator that starts at byte 0 has no end; a plain percent sign is written %%"),
        ("%START_TIME(%Q)%", "%START_TIME%: %Q is not known"),
        ("%PROTOCOL(x)%", "%PROTOCOL%: takes no arguments"),
    ] {
        assert_eq!(Format::text(format, false).expect_err(format).to_string(), error);
    }
}

#[test]
fn filters_tell_requests_apart() {
    let user_agent =
        |predicate| Filter::Header(HeaderMatch::new(FieldName::Header("user-agent".into()), predicate));
    for (filter, holds) in [
        (Filter::Status(Comparison::AtLeast, 500), false),
        (Filter::Status(Comparison::NotEqual, 500), true),
        (Filter::Duration(Comparison::AtLeast, 12), true),
        (Filter::Duration(Comparison::AtMost, 11), false),
        (Filter::Flags(Vec::new()), false),
        (user_agent(Predicate::Present), true),
        (user_agent(Predicate::Absent), false),
        (Filter::And(vec![Filter::Status(Comparison::Equal, 200), user_agent(Predicate::Absent)]), false),
        (Filter::Or(vec![Filter::Status(Comparison::Equal, 200), user_agent(Predicate::Absent)]), true),
    ] {
        assert_eq!(with_record(|record| filter.holds(record)), holds, "{filter:?}");
    }
    let flagged = Record { flag: "UT", ..Record::default() };
    assert!(Filter::Flags(Vec::new()).holds(&flagged));
    assert!(Filter::Flags(vec!["UO".into(), "UT".into()]).holds(&flagged));
    assert!(!Filter::Flags(vec!["UO".into()]).holds(&flagged));
}

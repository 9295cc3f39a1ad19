use std::sync::Arc;

use super::*;
use crate::model::{Memory, read};

fn refusal(text: &str) -> String {
    let file: Arc<str> = "f.yaml".into();
    let mut documents = read(&file, text, &mut Memory::default());
    documents.remove(0).content.expect_err(text).to_string()
}

fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r }}\nspec:\n  rules:\n  - {rule}\n"
    )
}

#[test]
fn durations_are_those_of_the_gateway_api() {
    for (text, expected) in [
        ("1h", Some(3_600_000)),
        ("1m30s", Some(90_000)),
        ("500ms", Some(500)),
        ("0s", Some(0)),
        ("1.5s", None),
        ("", None),
        ("10", None),
        ("100000s", None),
        ("1h1m1s1ms1h", None),
        ("-1s", None),
    ] {
        assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_at_its_place() {
    for (rule, place_and_words) in [
        (
            "backendRefs: [{ name: a, weight: 1000001 }]",
            "f.yaml:6:32: HTTPRoute r: spec.rules[0].backendRefs[0].weight: 1000001 is more than 1000000",
        ),
        (
            "matches: [{ path: { value: shop } }]",
            "spec.rules[0].matches[0].path.value: \"shop\" is not a plain absolute path",
        ),
        (
            "matches: [{ path: { type: RegularExpression, value: '(' } }]",
            "spec.rules[0].matches[0].path.value: ",
        ),
        ("matches: [{ headers: [{ name: 'a b', value: x }] }]", "\"a b\" is not a header name"),
        ("matches: [{ method: get }]", "\"get\" is none of GET, HEAD"),
        (
            "filters: [{ type: RequestRedirect, requestRedirect: {} }], backendRefs: [{ name: a }]",
            "a rule that redirects has none",
        ),
        ("filters: [{ type: URLRewrite }]", "filters[0].urlRewrite: is missing"),
        ("filters: [{ type: RequestRedirect, requestRedirect: { statusCode: 200 } }]", "200 is none of 301"),
        (
            "matches: [{ path: { type: Exact, value: /a } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } } }]",
            "goes with matches of type PathPrefix only",
        ),
        ("timeouts: { request: 1s, backendRequest: 2s }", "is longer than the whole request may take"),
        ("timeouts: { request: 1.5s }", "\"1.5s\" is not a duration"),
        ("backendRefs: [{ name: a }, { name: a }]", "a is already an arm of this rule"),
    ] {
        let rule = if rule.starts_with('{') { rule.to_owned() } else { format!("{{ {rule} }}") };
        let error = refusal(&route(&rule));
        assert!(error.contains(place_and_words), "{error:?} lacks {place_and_words:?}");
        assert!(error.starts_with("f.yaml:"), "{error}");
    }
}

#[test]
fn gateways_and_groups_are_checked_as_well() {
    for (kind, spec, words) in [
        (
            "gateway.networking.k8s.io/v1\nkind: Gateway",
            "{ gatewayClassName: weir, listeners: [{ name: a, port: 80, protocol: HTTP, tls: {} }] }",
            "spec.listeners[0].tls: goes with the protocols HTTPS and TLS only",
        ),
        (
            "gateway.networking.k8s.io/v1\nkind: Gateway",
            "{ gatewayClassName: weir, listeners: [{ name: a, port: 443, protocol: HTTPS }] }",
            "spec.listeners[0].tls: is missing",
        ),
        (
            "gateway.networking.k8s.io/v1\nkind: Gateway",
            "{ gatewayClassName: weir, listeners: [{ name: a, port: 80, protocol: HTTP }, { name: a, port: 81, protocol: HTTP }] }",
            "another listener is named \"a\"",
        ),
        ("weir.dev/v1\nkind: UserGroup", "{ modulo: { divisor: 3, remainders: [1] } }", "3 is none of 2, 4"),
        ("weir.dev/v1\nkind: UserGroup", "{}", "one of members, modulo and attribute is wanted"),
        ("weir.dev/v1\nkind: FlowRule", "{ match: {}, action: forward }", "spec.target: is missing"),
        (
            "weir.dev/v1\nkind: TrafficPolicy",
            "{ targetRef: { kind: Backend, name: a }, split: {} }",
            "spec.split: says nothing of a Backend",
        ),
        (
            "weir.dev/v1\nkind: TrafficPolicy",
            "{ targetRef: { kind: HTTPRoute, name: a }, split: { key: {} } }",
            "one of header, cookie",
        ),
    ] {
        let error = refusal(&format!("apiVersion: {kind}\nmetadata: {{ name: x }}\nspec: {spec}\n"));
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
}

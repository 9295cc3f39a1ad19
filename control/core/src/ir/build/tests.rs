use super::*;
use crate::model::{Memory, read};

fn ir(text: &str) -> Result<Ir, String> {
    let mut objects = Objects::default();
    read(&"f.yaml".into(), text, &mut Memory::default(), &mut objects).map_err(|e| e.to_string())?;
    let gateway = Gateway { address: Address::Socket(([127, 0, 0, 1], 80).into()), access_log: None };
    build(&objects, gateway).map_err(|e| e.to_string())
}

const BACKENDS: &str = "apiVersion: weir.dev/v1
kind: Backend
metadata: { name: v1 }
spec: { endpoints: [{ address: 127.0.0.1:1 }, { address: 'unix:/run/v1.sock' }] }
---
apiVersion: weir.dev/v1
kind: Backend
metadata: { name: v2 }
spec: { endpoints: [{ address: '[::1]:2', labels: { zone: a } }], loadBalancing: LeastRequest }
---
";

fn route(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec: {spec}\n---\n"
    )
}

fn names(ir: &Ir, hostname: &str) -> Vec<String> {
    let host = ir.hosts.iter().find(|h| h.hostname == hostname).expect("the host");
    host.routes.iter().map(|r| r.name.clone()).collect()
}

#[test]
fn precedence_is_exact_path_then_longer_prefix_then_more_headers() {
    let spec = "{ rules: [
        { name: any, backendRefs: [{ name: v1 }] },
        { name: prefix, matches: [{ path: { value: /shop } }], backendRefs: [{ name: v1 }] },
        { name: longer, matches: [{ path: { value: /shop/cart } }], backendRefs: [{ name: v1 }] },
        { name: header, matches: [{ path: { value: /shop }, headers: [{ name: x, value: a }] }], backendRefs: [{ name: v1 }] },
        { name: exact, matches: [{ path: { type: Exact, value: /a } }], backendRefs: [{ name: v1 }] } ] }";
    let ir = ir(&format!("{BACKENDS}{}", route("r", spec))).expect("valid");
    assert_eq!(names(&ir, "*"), ["r/exact", "r/longer", "r/header", "r/prefix", "r/any"]);
}

#[test]
fn equal_matches_keep_the_order_of_names_and_rules() {
    let spec = "{ rules: [{ backendRefs: [{ name: v1 }] }, { backendRefs: [{ name: v2 }] }] }";
    let ir = ir(&format!("{BACKENDS}{}{}", route("b", spec), route("a", spec))).expect("valid");
    assert_eq!(names(&ir, "*"), ["a/0", "a/1", "b/0", "b/1"]);
}

#[test]
fn a_host_is_also_served_by_routes_of_less_specific_hosts_behind_its_own() {
    let rules = "rules: [{ backendRefs: [{ name: v1 }] }]";
    let text = [
        BACKENDS.to_owned(),
        route("all", &format!("{{ {rules} }}")),
        route("wild", &format!("{{ hostnames: ['*.example.com'], {rules} }}")),
        route("shop", &format!("{{ hostnames: [shop.example.com], {rules} }}")),
        route("short", &format!("{{ hostnames: [a.example.com], {rules} }}")),
    ]
    .concat();
    let ir = ir(&text).expect("valid");
    assert_eq!(names(&ir, "shop.example.com"), ["shop/0", "wild/0", "all/0"]);
    assert_eq!(names(&ir, "a.example.com"), ["short/0", "wild/0", "all/0"]);
    assert_eq!(names(&ir, "*.example.com"), ["wild/0", "all/0"]);
    assert_eq!(names(&ir, "*"), ["all/0"]);
}

#[test]
fn a_policy_gives_its_route_a_key() {
    let policy = "apiVersion: weir.dev/v1
kind: TrafficPolicy
metadata: { name: sticky }
spec: { targetRef: { kind: HTTPRoute, name: r }, split: { key: { header: X-User }, salt: s1 } }
";
    let spec = "{ rules: [{ backendRefs: [{ name: v1, weight: 9 }, { name: v2 }] }] }";
    let ir = ir(&format!("{BACKENDS}{}{policy}", route("r", spec))).expect("valid");
    let key = ir.hosts[0].routes[0].key.as_ref().expect("a key");
    assert_eq!((key.header.as_str(), key.salt.as_str()), ("x-user", "s1"));
}

#[test]
fn contradictions_are_placed_and_named() {
    let rule = |refs: &str| {
        format!("{BACKENDS}{}", route("r", &format!("{{ rules: [{{ backendRefs: {refs} }}] }}")))
    };
    let with = |spec: &str| format!("{BACKENDS}{}", route("r", spec));
    let cases = [
        (
            rule("[{ name: v3 }]"),
            "f.yaml:11: HTTPRoute r: spec.rules[0].backendRefs[0].name: there is no Backend \"v3\"",
        ),
        (rule("[]"), "spec.rules[0].backendRefs: at least one with a weight above 0 is required"),
        (rule("[{ name: v1, weight: 0 }]"), "at least one with a weight above 0"),
        (rule("[{ name: v1, weight: 1000001 }]"), "backendRefs[0].weight: 1000001 is more than 1000000"),
        (rule("[{ name: v1 }, { name: v1 }]"), "backendRefs[1]: v1 is already an arm"),
        (rule("[{ name: v1, kind: Service }]"), "kind Service is not supported"),
        (rule("[{ name: v1, namespace: other }]"), "needs a ReferenceGrant"),
        (
            with(
                "{ rules: [{ name: a, backendRefs: [{ name: v1 }] }, { name: a, backendRefs: [{ name: v1 }] }] }",
            ),
            "spec.rules[1].name: another rule is named \"a\"",
        ),
        (with("{ hostnames: ['a:80'] }"), "spec.hostnames[0]: \"a:80\" is not a host name"),
        (with("{ hostnames: ['a.*'] }"), "is not a host name"),
        (with("{ parentRefs: [{ name: other }] }"), "spec.parentRefs[0]: this version has one Gateway only"),
        (
            with("{ rules: [{ matches: [{ path: { value: a } }], backendRefs: [{ name: v1 }] }] }"),
            "matches[0].path.value: \"a\" is not a plain absolute path",
        ),
        (
            with(
                "{ rules: [{ matches: [{ headers: [{ name: 'a b', value: c }] }], backendRefs: [{ name: v1 }] }] }",
            ),
            "headers[0].name: \"a b\" is not a header name",
        ),
        (format!("{}{}", rule("[{ name: v1 }]"), route("r", "{ }")), "is already defined in f.yaml:11"),
        (format!("{BACKENDS}{BACKENDS}"), "Backend v1: is defined twice"),
        (
            BACKENDS.replace("127.0.0.1:1", "localhost"),
            "spec.endpoints[0].address: \"localhost\" is neither IP:port nor unix:/path",
        ),
    ];
    for (text, part) in cases {
        let error = ir(&text).expect_err(part);
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

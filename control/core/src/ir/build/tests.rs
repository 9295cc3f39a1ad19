use proxy_core::config::Address;

use super::*;
use crate::ir::{Action, BackendName, Speaks, SplitKey, Truth};
use crate::model::{Memory, read};

fn gateway() -> ImplicitGateway {
    ImplicitGateway { address: Address::Socket(([127, 0, 0, 1], 80).into()), access_log: None }
}

fn built(text: &str) -> Built {
    let documents = read(&"f.yaml".into(), text, &mut Memory::default()).into_iter();
    let objects: Objects = documents.map(|document| document.content.expect("valid")).collect();
    build(Inputs { objects: &objects, instances: &Instances::new(), gateway: &gateway() })
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

fn names(built: &Built, hostname: &str) -> Vec<String> {
    let host = built.ir.tables["weir"].hosts.iter().find(|h| h.hostname == hostname).expect("the host");
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
    let built = built(&format!("{BACKENDS}{}", route("r", spec)));
    assert_eq!(names(&built, "*"), ["r/exact", "r/longer", "r/header", "r/prefix", "r/any"]);
}

#[test]
fn equal_matches_keep_the_order_of_names_and_rules() {
    let spec = "{ rules: [{ backendRefs: [{ name: v1 }] }, { backendRefs: [{ name: v2 }] }] }";
    let built = built(&format!("{BACKENDS}{}{}", route("b", spec), route("a", spec)));
    assert_eq!(names(&built, "*"), ["a/0", "a/1", "b/0", "b/1"]);
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
    let built = built(&text);
    assert_eq!(names(&built, "shop.example.com"), ["shop/0", "wild/0", "all/0"]);
    assert_eq!(names(&built, "a.example.com"), ["short/0", "wild/0", "all/0"]);
    assert_eq!(names(&built, "*.example.com"), ["wild/0", "all/0"]);
    assert_eq!(names(&built, "*"), ["all/0"]);
}

#[test]
fn a_policy_gives_its_route_a_key() {
    let policy = "apiVersion: weir.dev/v1
kind: TrafficPolicy
metadata: { name: sticky }
spec: { targetRef: { kind: HTTPRoute, name: r }, split: { key: { header: X-User }, salt: s1 } }
";
    let spec = "{ rules: [{ backendRefs: [{ name: v1, weight: 9 }, { name: v2 }] }] }";
    let built = built(&format!("{BACKENDS}{}{policy}", route("r", spec)));
    let Action::Forward(forward) = &built.ir.tables["weir"].hosts[0].routes[0].action else {
        panic!("forwarded")
    };
    let split = forward.split.as_ref().expect("a policy");
    assert_eq!((split.key.as_ref(), split.salt.as_str()), (Some(&SplitKey::Header("x-user".into())), "s1"));
}

fn shares(built: &Built) -> Vec<(Option<String>, u32)> {
    let Action::Forward(forward) = &built.ir.tables["weir"].hosts[0].routes[0].action else {
        return Vec::new();
    };
    forward.arms.iter().map(|arm| (arm.backend.as_ref().map(ToString::to_string), arm.weight)).collect()
}

#[test]
fn what_leads_nowhere_keeps_its_share_and_is_told_of() {
    let rule = |refs: &str| {
        format!("{BACKENDS}{}", route("r", &format!("{{ rules: [{{ backendRefs: {refs} }}] }}")))
    };
    let known = |weight| (Some("v1".to_owned()), weight);
    for (refs, expected, reason) in [
        ("[{ name: v1, weight: 9 }, { name: v3 }]", vec![known(9), (None, 1)], "BackendNotFound"),
        ("[{ name: v3 }]", vec![], "BackendNotFound"),
        ("[{ name: v1 }, { name: v2, kind: Pod }]", vec![known(1), (None, 1)], "InvalidKind"),
        ("[{ name: v1 }, { name: v2, namespace: other }]", vec![known(1), (None, 1)], "RefNotPermitted"),
        (
            "[{ name: v1 }, { name: v2, kind: Service, port: 80 }]",
            vec![known(1), (None, 1)],
            "BackendNotFound",
        ),
        ("[]", vec![], "ResolvedRefs"),
        ("[{ name: v1, weight: 0 }]", vec![], "ResolvedRefs"),
    ] {
        let built = built(&rule(refs));
        assert_eq!(shares(&built), expected, "{refs}");
        let status = &built.statuses[&ObjectKey::new(Kind::HttpRoute, "default", "r")];
        let resolved = status.parents[0].condition("ResolvedRefs").expect("it is said");
        assert_eq!(resolved.reason, reason, "{refs}");
        assert_eq!(resolved.status == Truth::True, reason == "ResolvedRefs", "{refs}");
        if expected.is_empty() {
            assert_eq!(built.ir.tables["weir"].hosts[0].routes[0].action, Action::Respond(500), "{refs}");
        }
    }
}

#[test]
fn a_group_goes_its_own_way_before_everyone_elses() {
    let text = format!(
        "{BACKENDS}{}apiVersion: weir.dev/v1
kind: UserGroup
metadata: {{ name: tens }}
spec: {{ modulo: {{ divisor: 10, remainders: [3] }} }}
---
apiVersion: weir.dev/v1
kind: TrafficPolicy
metadata: {{ name: p }}
spec: {{ targetRef: {{ kind: HTTPRoute, name: r }}, groups: [{{ group: tens, backendRefs: [{{ name: v2, weight: 1 }}] }}] }}
",
        route("r", "{ rules: [{ backendRefs: [{ name: v1 }] }] }")
    );
    let built = built(&text);
    assert_eq!(names(&built, "*"), ["r/0@tens", "r/0"]);
    let condition = &built.ir.tables["weir"].hosts[0].routes[0].conditions.headers[0];
    let pattern = proxy_core::pattern::Pattern::new(&condition.value).expect("an expression");
    for id in 0..2_000 {
        assert_eq!(pattern.matches(id.to_string().as_bytes()), id % 10 == 3, "{id}");
    }
    assert_eq!(condition.name, "x-user-id");
}

#[test]
fn flow_rules_come_first_by_their_priority() {
    let rule = |name: &str, priority: i32, rest: &str| {
        format!(
            "---\napiVersion: weir.dev/v1\nkind: FlowRule\nmetadata: {{ name: {name} }}\nspec: {{ match: {{ env: staging }}, priority: {priority}, {rest} }}\n"
        )
    };
    let text = [
        BACKENDS.to_owned(),
        route("r", "{ rules: [{ backendRefs: [{ name: v1 }] }] }"),
        rule("low", 1, "action: drop"),
        rule("high", 9, "action: forward, target: v2"),
    ]
    .concat();
    let built = built(&text);
    assert_eq!(names(&built, "*"), ["flow/high", "flow/low", "r/0"]);
    let routes = &built.ir.tables["weir"].hosts[0].routes;
    assert_eq!(routes[1].action, Action::Respond(403));
    let Action::Forward(forward) = &routes[0].action else { panic!("forwarded") };
    assert_eq!(forward.arms[0].backend, Some(BackendName::new("default", "v2")));
}

#[test]
fn a_backend_tls_policy_names_files_of_the_proxy_and_nothing_else() {
    let policy = |options: &str| {
        built(&format!(
            "{BACKENDS}apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: p }}
spec:
  targetRefs: [{{ group: weir.dev, kind: Backend, name: v1 }}]
  validation: {{ hostname: v1, wellKnownCACertificates: System }}
  options: {{ {options} }}
"
        ))
    };
    let accepted = |built: &Built| {
        let status = &built.statuses[&ObjectKey::new(Kind::BackendTlsPolicy, "default", "p")];
        let accepted = status.conditions.iter().find(|c| c.kind == "Accepted").expect("it says");
        (accepted.reason, accepted.message.clone())
    };
    let both = policy("weir.dev/client-certificate: /a.pem, weir.dev/private-key: /a.key");
    assert_eq!(accepted(&both).0, "Accepted");
    let tls = both.ir.backends[&BackendName::new("default", "v1")].tls.clone().expect("protected");
    assert_eq!(tls.roots, None, "those of the machine");
    assert_eq!(tls.shown.map(|files| (files.chain, files.key)), Some(("/a.pem".into(), "/a.key".into())));
    for (options, words) in [
        ("weir.dev/client-certificate: /a.pem", "go together"),
        ("weir.dev/client-certificate: a.pem, weir.dev/private-key: a.key", "whole paths"),
        ("example.com/minimum-version: '1.3'", "\"example.com/minimum-version\" is not known"),
    ] {
        let (reason, message) = accepted(&policy(options));
        assert_eq!(reason, "Invalid");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn two_namespaces_with_the_same_host_never_meet() {
    let of = |namespace: &str, port: u16, parent: &str| {
        format!(
            "apiVersion: weir.dev/v1
kind: Backend
metadata: {{ name: shop, namespace: {namespace} }}
spec: {{ endpoints: [{{ address: '127.0.0.1:{port}' }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge, namespace: {namespace} }}
spec: {{ gatewayClassName: weir, listeners: [{{ name: http, protocol: HTTP, port: {port} }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop, namespace: {namespace} }}
spec: {{ parentRefs: [{{ name: edge{parent} }}], hostnames: [shop.example], rules: [{{ backendRefs: [{{ name: shop }}] }}] }}
---
"
        )
    };
    let served = |built: &Built, table: &str| -> Vec<String> {
        let hosts = built.ir.tables.get(table).map(|table| &table.hosts);
        let routes = hosts.into_iter().flatten().flat_map(|host| &host.routes);
        let arms = routes.flat_map(|route| match &route.action {
            Action::Forward(forward) => forward.arms.clone(),
            _ => Vec::new(),
        });
        arms.filter_map(|arm| arm.backend.map(|name| name.to_string())).collect()
    };
    let both = built(&(of("staging", 9_001, "") + &of("production", 9_002, "")));
    assert_eq!(served(&both, "staging/edge/9001"), ["staging/shop"]);
    assert_eq!(served(&both, "production/edge/9002"), ["production/shop"]);
    // One that names the other's gateway is not let in, and says so.
    let intruder = built(&(of("staging", 9_001, ", namespace: production") + &of("production", 9_002, "")));
    assert_eq!(served(&intruder, "production/edge/9002"), ["production/shop"]);
    assert!(served(&intruder, "staging/edge/9001").is_empty());
    let status = &intruder.statuses[&ObjectKey::new(Kind::HttpRoute, "staging", "shop")];
    assert_eq!(status.parents[0].condition("Accepted").map(|c| c.reason), Some("NotAllowedByListeners"));
}

/// A listener of a set may be called as one of its gateway's: each has a chain and a table of its own.
#[test]
fn listeners_of_one_name_in_a_gateway_and_its_set_are_two() {
    let tls = |host: &str| {
        format!(
            "{{ name: https, port: 443, protocol: HTTPS, hostname: {host}, tls: {{ certificateRefs: [{{ name: c }}] }} }}"
        )
    };
    let text = format!(
        "{BACKENDS}apiVersion: v1
kind: Secret
metadata: {{ name: c }}
stringData: {{ tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----' }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: g }}
spec: {{ gatewayClassName: weir, allowedListeners: {{ namespaces: {{ from: Same }} }}, listeners: [{}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{ name: more }}
spec: {{ parentRef: {{ name: g }}, listeners: [{}] }}
",
        tls("a.example"),
        tls("b.example")
    );
    let built = built(&text);
    let Speaks::Tls(chains, None) = &built.ir.listeners["default/g/443"].speaks else { panic!("TLS") };
    let names: Vec<_> = chains.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(names, ["https", "default/more/https"]);
    assert_eq!(built.ir.tables.keys().filter(|name| name.starts_with("default/g/443")).count(), 2);
    crate::lower::Lowering::of(&built.ir).expect("a proxy takes it");
}

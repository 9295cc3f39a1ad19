//! What a node is told by what it says of itself: where it is, and of which namespace.

use tests::{Backend, Control, Envoy, Proxy, eventually, free_port, http_get};

/// Where requests go, each answer once.
fn who(port: u16) -> String {
    let mut names: Vec<_> = (0..12)
        .filter_map(|_| http_get(port, "/"))
        .map(
            |answer| {
                if answer.status() == 200 { answer.text().to_owned() } else { answer.status().to_string() }
            },
        )
        .collect();
    names.sort();
    names.dedup();
    names.join(" ")
}

fn becomes(port: u16, wanted: &str) {
    eventually(&format!("requests go to {wanted}"), || (who(port) == wanted).then_some(()));
}

#[test]
fn each_proxy_prefers_the_endpoints_of_its_zone() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let resources = |of_a: &str| {
        let endpoint = |at: &str, zone: &str| {
            format!("  - {{ address: \"{at}\", labels: {{ topology.kubernetes.io/zone: {zone} }} }}\n")
        };
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: shop }}\nspec: {{ rules: [ {{ backendRefs: [ {{ \
             name: shop }} ] }} ] }}\n---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: shop }}\nspec:\n  trafficDistribution: \
             PreferSameZone\n  endpoints:\n{}{}  healthCheck: {{ tcpSocket: {{}}, periodSeconds: 1, failureThreshold: 1 }}\n",
            endpoint(of_a, "a"),
            endpoint(&b.address.to_string(), "b"),
        )
    };
    let control = Control::start(&resources(&a.address.to_string()), "");
    let in_zone = |text: String, zone: &str| {
        text.replacen("node: {", &format!("node: {{ locality: {{ region: west, zone: {zone} }},"), 1)
    };
    let weir = |zone: &str, form: &str| {
        let (port, admin) = (free_port(), free_port());
        let text = control.bootstrap_listening(&format!("weir-{zone}"), admin, form, port);
        Proxy::start(&in_zone(text, zone), port, admin, &["--concurrency".to_owned(), "1".to_owned()])
    };
    let (in_a, in_b, elsewhere) = (weir("a", "GRPC"), weir("b", "DELTA_GRPC"), weir("z", "DELTA_GRPC"));
    let (port, admin) = (free_port(), free_port());
    let text = control.bootstrap_listening("envoy", admin, "DELTA_GRPC", port);
    let envoy = Envoy::start(&in_zone(text, "a"), port, admin);
    becomes(in_a.port, "a");
    becomes(in_b.port, "b");
    becomes(elsewhere.port, "a b");
    if let Some(envoy) = &envoy {
        becomes(envoy.port, "a");
    }
    // Nobody listens in the zone any more: those of others take over.
    let nobody = format!("127.0.0.1:{}", free_port());
    control.write(&resources(&nobody));
    becomes(in_a.port, "b");
    // (Envoy keeps an endpoint that EDS has removed for as long as its checks pass.)
    control.write(&resources(&a.address.to_string()));
    becomes(in_a.port, "a");
    becomes(in_b.port, "b");
}

/// R7: two environments, one control plane, the same host and the same port: no request leaks.
#[test]
fn proxies_of_two_namespaces_serve_two_gateways_of_one_port() {
    let (production, staging) = (Backend::named("production"), Backend::named("staging"));
    let number = free_port();
    let of = |namespace: &str, backend: &Backend| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: edge, namespace: {namespace} }}\nspec: {{ \
             gatewayClassName: weir, listeners: [ {{ name: http, port: {number}, protocol: HTTP }} ] }}\n---\napiVersion: \
             gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: shop, namespace: {namespace} }}\nspec: {{ parentRefs: [ {{ \
             name: edge }} ], hostnames: [ test ], rules: [ {{ backendRefs: [ {{ name: shop }} ] }} ] }}\n---\napiVersion: \
             weir.dev/v1\nkind: Backend\nmetadata: {{ name: shop, namespace: {namespace} }}\nspec: {{ endpoints: [ {{ address: \"{}\" }} \
             ] }}\n---\n",
            backend.address
        )
    };
    let control = Control::start(&(of("production", &production) + &of("staging", &staging)), "");
    let status = control.api().get("/api/v1/namespaces/staging/gateways/edge");
    let status = status.to_string();
    assert!(
        status.contains("at proxies that are of no namespace, Gateway production/edge has the port"),
        "{status}"
    );
    // One after the other: they listen on the same port of the same machine.
    for (namespace, metadata) in [
        ("production", "metadata: { NAMESPACE: production },"),
        ("staging", "metadata: { namespace: staging },"),
        ("production", ""),
    ] {
        let admin = free_port();
        let text = control.bootstrap(&format!("in-{namespace}"), admin, "DELTA_GRPC");
        let text = text.replacen("node: {", &format!("node: {{ {metadata}"), 1);
        let proxy = Proxy::start(&text, number, admin, &["--concurrency".to_owned(), "1".to_owned()]);
        becomes(proxy.port, namespace);
    }
}

use super::*;
use crate::model::Kind;

fn imported(text: &str) -> Imported {
    import(text, &Given::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(text: &str) -> String {
    import(text, &Given::default()).expect_err(text).to_string()
}

fn of_kind(imported: &Imported, kind: Kind) -> Vec<Value> {
    let of_kind = imported.resources.iter().filter(|resource| resource.kind() == kind);
    of_kind.map(|resource| resource.to_value().expect("JSON")).collect()
}

const MCP: &str = "apiVersion: networking.mesh.alipay.com/v1alpha1
kind: MCPRoute
spec:
  destination: user-service
  rules:
  - match:
      headers:
        x-user-tier: premium
    route:
    - destination: user-service-v2
      weight: 100
  - route:
    - destination: user-service-v1
      weight: 90
    - destination: user-service-v2
      weight: 10
";

#[test]
fn an_mcp_route_comes_back_as_it_was() {
    let imported = imported(MCP);
    let Some(Resource::HttpRoute(route)) = imported.resources.last() else { panic!("a route") };
    assert_eq!(route.metadata.name, "user-service");
    assert_eq!(of_kind(&imported, Kind::Backend).len(), 2);
    let before: Value = serde_saphyr::from_str(MCP).expect("YAML");
    assert_eq!(export_mcp_route(route).expect("exported"), before);
    let mut other = route.clone();
    other.spec.hostnames.push("a".to_owned());
    let error = export_mcp_route(&other).expect_err("no place").to_string();
    assert_eq!(error, "spec.hostnames: an MCPRoute has no place for it");
}

fn virtual_service(head: &str, subsets: [&str; 2], weights: [u32; 2]) -> String {
    format!(
        "{head}  http:
  - route:
    - destination: {{ host: user-service, subset: {} }}
      weight: {}
    - destination: {{ host: user-service, subset: {} }}
      weight: {}
",
        subsets[0], weights[0], subsets[1], weights[1]
    )
}

#[test]
fn subsets_without_a_rule_are_versions_and_told_of() {
    let head = "apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: { name: user-service-route }
spec:
  hosts: [user-service]
";
    let imported = imported(&virtual_service(head, ["v1", "v2"], [90, 10]));
    let backends = of_kind(&imported, Kind::Backend);
    assert_eq!(backends[0]["metadata"]["name"], "user-service-v1");
    assert_eq!(backends[0]["spec"]["instances"]["labels"]["version"], "v1");
    assert_eq!(imported.warnings.len(), 2, "{:?}", imported.warnings);
    let route = &of_kind(&imported, Kind::HttpRoute)[0];
    assert_eq!(route["spec"]["hostnames"][0], "user-service");
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][1]["weight"], 10);
}

#[test]
fn what_is_missing_is_named_and_can_be_given() {
    for (version, subsets, weights) in
        [("v1alpha3", ["v1", "canary-v2"], [95, 5]), ("v1beta1", ["v1", "v2"], [90, 10])]
    {
        let head = format!("apiVersion: networking.istio.io/{version}\nkind: VirtualService\nspec:\n");
        let text = virtual_service(&head, subsets, weights);
        assert_eq!(
            refusal(&text),
            "VirtualService: metadata.name and spec.hosts are missing (--name, --host)"
        );
        let given = Given { name: Some("users".into()), host: Some("users.example.com".into()) };
        let imported = import(&text, &given).expect("given");
        assert_eq!(of_kind(&imported, Kind::HttpRoute)[0]["metadata"]["name"], "users");
    }
}

#[test]
fn a_gateway_of_istio_opens_its_ports() {
    let wrong = "apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: { name: mcp-gateway }
spec:
  selectors: { app: istio-ingressgateway }
  servers:
  - port: { number: 80, name: http, protocol: HTTP }
    hosts: [mcp.example.com]
";
    assert_eq!(refusal(wrong), "5:3: unknown field `selectors`, did you mean `selector`?");
    let imported = imported(&wrong.replace("selectors", "selector"));
    let listener = &of_kind(&imported, Kind::Gateway)[0]["spec"]["listeners"][0];
    assert_eq!((&listener["port"], &listener["hostname"]), (&80.into(), &"mcp.example.com".into()));
}

#[test]
fn rules_and_entries_say_what_subsets_are() {
    let text = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop }
spec:
  hosts: [shop.example.com]
  gateways: [infra/edge]
  http:
  - name: cart
    match: [{ uri: { prefix: /cart/ }, headers: { x-beta: { exact: '1' } } }]
    rewrite: { uri: / }
    timeout: 2s
    route: [{ destination: { host: shop, subset: new } }]
  - match: [{ uri: { prefix: /old } }]
    redirect: { uri: /new, redirectCode: 308 }
  - headers: { request: { set: { x-from: mesh } } }
    route: [{ destination: { host: shop, subset: stable } }]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: shop }
spec:
  host: shop
  trafficPolicy: { loadBalancer: { simple: LEAST_REQUEST }, connectionPool: { http: { http2MaxRequests: 7 } } }
  subsets: [{ name: new, labels: { v: '2' } }, { name: stable, labels: { v: '1' } }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: shop }
spec:
  hosts: [shop]
  resolution: STATIC
  ports: [{ number: 80, name: http, protocol: HTTP }]
  endpoints: [{ address: 10.0.0.1, ports: { http: 8080 }, labels: { v: '1' } }, { address: 10.0.0.2, labels: { v: '2' } }]
";
    let imported = imported(text);
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
    let backends = of_kind(&imported, Kind::Backend);
    let addresses: Vec<_> =
        backends.iter().map(|b| (&b["metadata"]["name"], &b["spec"]["endpoints"][0]["address"])).collect();
    assert_eq!(addresses[1], (&"shop-new".into(), &"10.0.0.2:80".into()));
    assert_eq!(addresses[2], (&"shop-stable".into(), &"10.0.0.1:8080".into()));
    assert_eq!(backends[1]["spec"]["loadBalancing"], "LeastRequest");
    assert_eq!(of_kind(&imported, Kind::TrafficPolicy)[0]["spec"]["circuitBreaker"]["maxRequests"], 7);
    let route = &of_kind(&imported, Kind::HttpRoute)[0]["spec"];
    assert_eq!(route["parentRefs"][0]["namespace"], "infra");
    assert_eq!(route["rules"][0]["filters"][0]["urlRewrite"]["path"]["replacePrefixMatch"], "/");
    assert_eq!(route["rules"][1]["filters"][0]["requestRedirect"]["statusCode"], 308);
    assert_eq!(route["rules"][2]["filters"][0]["requestHeaderModifier"]["set"][0]["name"], "x-from");
}

#[test]
fn what_has_no_equal_is_refused_by_name() {
    let service = |rule: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: a }}\nspec: {{ hosts: [a], http: [{rule}] }}\n"
        )
    };
    for (text, words) in [
        (service("{ fault: {}, route: [] }"), "spec.http[0].fault: has no equal in this version"),
        (service("{ retries: {}, route: [] }"), "spec.http[0].retries"),
        (service("{ match: [{ port: 80 }], route: [] }"), "spec.http[0].match[0].port"),
        (service("{ matches: [] }"), "unknown field `matches`, did you mean `match`?"),
        (
            service(
                "{ route: [{ destination: { host: a } }] }, { match: [{ uri: { exact: /x } }], route: [{ destination: { host: b } }] }",
            ),
            "spec.http[0] comes first there and would come behind it here",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a }\nspec: {}\n"
                .to_owned(),
            "1:1: AuthorizationPolicy needs RBAC, which this version lacks",
        ),
        ("apiVersion: v1\nkind: Pod\n".to_owned(), "v1 Pod is nothing that can be imported"),
    ] {
        let error = refusal(&text);
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
}

/// H4, the service file, as it stands.
#[test]
fn a_service_file_is_an_endpoint_with_labels_and_a_check() {
    let text = "service:
  name: mcp-node
  address: 10.0.0.7
  port: 8080
  tags: [mcp, primary, version=v2]
  check: { http: \"http://10.0.0.7:8080/health\", interval: 10s }
";
    let imported = imported(text);
    let [backend] = of_kind(&imported, Kind::Backend).try_into().expect("one backend");
    assert_eq!(backend["metadata"]["name"], "mcp-node");
    assert_eq!(
        backend["spec"]["endpoints"],
        serde_json::json!([{
            "address": "10.0.0.7:8080",
            "labels": { "mcp": "true", "primary": "true", "version": "v2" },
        }])
    );
    assert_eq!(
        backend["spec"]["healthCheck"],
        serde_json::json!({
            "httpGet": { "path": "/health", "scheme": "HTTP" },
            "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 1,
        })
    );
    // JSON as well, several of one service, and a check elsewhere.
    let json = r#"{ "services": [
        { "name": "a", "id": "a-1", "address": "10.0.0.1", "port": 80, "check": { "tcp": "localhost:81", "interval": "1m" } },
        { "name": "a", "address": "10.0.0.2", "port": 80, "check": { "tcp": "localhost:81", "interval": "1m" } }
    ] }"#;
    let backend = &of_kind(&self::imported(json), Kind::Backend)[0];
    assert_eq!(backend["spec"]["endpoints"].as_array().map(Vec::len), Some(2));
    assert_eq!(backend["spec"]["endpoints"][0]["labels"]["id"], "a-1");
    assert_eq!(backend["spec"]["healthCheck"]["tcpSocket"], serde_json::json!({ "port": 81 }));
    assert_eq!(backend["spec"]["healthCheck"]["periodSeconds"], 60);
}

#[test]
fn what_a_service_file_asks_for_in_vain_is_named() {
    let file = |rest: &str| format!("service: {{ name: a, address: 10.0.0.1, port: 80, {rest} }}");
    for (text, said) in [
        ("service: { name: a, port: 80 }".to_owned(), "service a.address: is missing"),
        (file("check: { ttl: 30s, interval: 1s }"), "service a.check.ttl: has no equal"),
        (file("check: { http: 'http://10.0.0.1/', interval: 500ms }"), "no whole number of seconds"),
        (file("check: { http: 'ftp://10.0.0.1/', interval: 1s }"), "is no URL of HTTP"),
        (file("check: { http: 'http://other/', interval: 1s }"), "other is another host than the service"),
        (file("check: { http: 'http://10.0.0.1/', intervall: 1s }"), "intervall"),
        (file("check: { interval: 1s }"), "one of http, tcp and grpc is wanted"),
        (
            file("checks: [ { tcp: 'a:1', interval: 1s }, { tcp: 'a:1', interval: 1s } ]"),
            "one check is the most",
        ),
    ] {
        let error = refusal(&text);
        assert!(error.contains(said), "{error:?} lacks {said:?}");
    }
}

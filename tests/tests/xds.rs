//! The proxy under a control plane that shares no code with it, in both forms of the stream. The numbers are of the list of
//! what xDS means that `docs/xds.md` goes by.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Ads, Backend, Client, Leaf, Pki, Proxy, eventually, free_port, python};

const FORMS: [&str; 2] = ["GRPC", "DELTA_GRPC"];

/// A proxy that follows these servers, in this order.
fn follow(form: &str, servers: &[u16], transport: &str, more: &[&str]) -> (Proxy, u16) {
    let (port, admin) = (free_port(), free_port());
    let clusters: String = servers
        .iter()
        .enumerate()
        .map(|(number, port)| {
            format!(
                "\n  - {{ name: xds-{number}, type: STRICT_DNS, connect_timeout: 1s, {transport} typed_extension_protocol_options: {{ \
                 envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ '@type': \
                 type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ \
                 http2_protocol_options: {{}} }} }} }}, load_assignment: {{ cluster_name: xds-{number}, endpoints: [ {{ lb_endpoints: [ \
                 {{ endpoint: {{ address: {{ socket_address: {{ address: localhost, port_value: {port} }} }} }} }} ] }} ] }} }}"
            )
        })
        .collect();
    let services: Vec<_> =
        (0..servers.len()).map(|n| format!("{{ envoy_grpc: {{ cluster_name: xds-{n} }} }}")).collect();
    let bootstrap = format!(
        "node: {{ id: p, cluster: c }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
dynamic_resources:
  ads_config: {{ api_type: {form}, transport_api_version: V3, grpc_services: [ {} ] }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters: {clusters}
",
        services.join(", ")
    );
    let arguments: Vec<String> = more.iter().map(|argument| (*argument).to_owned()).collect();
    (Proxy::start_unready(&bootstrap, port, admin, &arguments), port)
}

fn source() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

fn manager(routes: &Value) -> Value {
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "s",
        "http_filters": [ { "name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } } ],
    });
    manager.as_object_mut().expect("an object").extend(routes.as_object().expect("an object").clone());
    json!({ "name": "h", "typed_config": manager })
}

fn listener(name: &str, port: u16, routes: &str) -> Value {
    let filter = manager(&json!({ "rds": { "config_source": source(), "route_config_name": routes } }));
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [ { "filters": [ filter ] } ],
    })
}

fn routes(name: &str, cluster: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": [ { "name": "v", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": { "cluster": cluster } } ] } ],
    })
}

fn cluster(name: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": { "eds_config": source() },
    })
}

fn endpoints(name: &str, backend: &Backend) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [ { "lb_endpoints": [ { "endpoint": { "address": { "socket_address": {
            "address": "127.0.0.1", "port_value": backend.address.port() } } } } ] } ],
    })
}

/// Everything that leads a port to a backend.
fn site(port: u16, cluster_name: &str, backend: &Backend) -> Vec<Value> {
    vec![
        cluster(cluster_name),
        endpoints(cluster_name, backend),
        listener("in", port, "r"),
        routes("r", cluster_name),
    ]
}

fn answers(port: u16, text: &str) {
    eventually(&format!("{text} answers"), || {
        let mut client = Client::try_connect(port)?;
        (client.get("/", "").text() == text).then_some(())
    });
}

fn status(port: u16) -> Option<u16> {
    Some(Client::try_connect(port)?.get("/", "").status())
}

fn has_cluster(proxy: &Proxy, name: &str) -> bool {
    proxy.page("/clusters").lines().any(|line| line.split("::").next() == Some(name))
}

/// What the proxy says of a resource over CSDS.
fn csds(admin: u16, kind: &str, name: &str) -> Value {
    const ASK: &str = r#"
import grpc, sys
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from google.protobuf import json_format
stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(grpc.insecure_channel("127.0.0.1:" + sys.argv[1]))
asked = csds_pb2.ClientStatusRequest()
fetched = stub.FetchClientStatus(asked, timeout=10)
streamed = list(stub.StreamClientStatus(iter([asked, asked]), timeout=10))
assert len(streamed) == 2 and streamed[0] == streamed[1] == fetched
print(json_format.MessageToJson(fetched))
"#;
    let output = Command::new(python().expect("a Python"))
        .args(["-c", ASK, &admin.to_string()])
        .output()
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let configs = all["config"][0]["genericXdsConfigs"].as_array().expect("a list").clone();
    let is_it = |config: &&Value| {
        config["typeUrl"].as_str().is_some_and(|url| url.ends_with(&format!(".{kind}")))
            && config["name"] == name
    };
    configs.iter().find(is_it).cloned().unwrap_or_default()
}

/// 1, 2, 5, 6, 10, 11, 12, 13.
#[test]
fn either_form_is_followed_and_each_response_answered_once() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let (one, two) = (Backend::named("one"), Backend::named("two"));
        let mut ads = Ads::start(&python);
        let (proxy, port) = follow(form, &[ads.port], "", &[]);
        ads.set(&site(port, "one", &one));
        answers(port, "one");
        let first = ads.event("request");
        assert_eq!((&first["node"], &first["type"]), (&json!("p"), &json!("Cluster")), "{form}");
        assert!(
            first["features"]
                .as_array()
                .is_some_and(|f| f.contains(&json!("xds.config.supports-resource-ttl")))
        );
        let answer = ads.request("RouteConfiguration", |request| request["nonce"] != "");
        assert_eq!((&answer["error"], &answer["node"]), (&Value::Null, &json!("")), "{form}: an ACK");
        // A new cluster, and routes to it once it is warm: nothing is lost on the way.
        let mut client = Client::connect(port);
        ads.set(&[cluster("two"), endpoints("two", &two)]);
        eventually("the new cluster is warm", || has_cluster(&proxy, "two").then_some(()));
        ads.set(&[routes("r", "two")]);
        eventually("the new cluster answers", || {
            let response = client.get("/", "");
            assert_eq!(response.status(), 200);
            (response.text() == "two").then_some(())
        });
        // 6: what is absent, or removed by name, is deleted; an unchanged connection lives on.
        ads.tell(&json!({ "op": "set", "resources": [], "remove": [["Cluster", "one"]] }));
        eventually("the old cluster is gone", || (!has_cluster(&proxy, "one")).then_some(()));
        assert_eq!(client.get("/", "").text(), "two");
        // 13: a listener that changes keeps its socket, and its connections end in peace.
        let mut changed = listener("in", port, "r");
        changed["traffic_direction"] = json!("INBOUND");
        ads.set(&[changed]);
        eventually("the listener is another one", || {
            proxy.page("/config_dump").contains("INBOUND").then_some(())
        });
        answers(port, "two");
        ads.tell(&json!({ "op": "set", "resources": [], "remove": [["Listener", "in"]] }));
        eventually("the port is closed", || Client::try_connect(port).is_none().then_some(()));
    }
}

/// 1, 4, 29.
#[test]
fn what_is_refused_is_named_and_what_is_valid_beside_it_taken() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let (one, two) = (Backend::named("one"), Backend::named("two"));
        let mut ads = Ads::start(&python);
        let (proxy, port) = follow(form, &[ads.port], "", &[]);
        ads.set(&site(port, "one", &one));
        answers(port, "one");
        assert_eq!(csds(proxy.admin, "Cluster", "one")["clientStatus"], "ACKED");
        let taken = ads.request("Cluster", |request| request["nonce"] != "" && request["error"].is_null());
        let mut bad = cluster("bad");
        bad["alt_stat_name"] = json!("fine");
        bad["common_lb_config"] = json!({ "zone_aware_lb_config": {} });
        let mut worse = cluster("one");
        worse["common_lb_config"] = json!({ "zone_aware_lb_config": {} });
        ads.set(&[bad, worse, cluster("two"), endpoints("two", &two), routes("r", "two")]);
        let refusal = ads.request("Cluster", |request| !request["error"].is_null());
        let text = refusal["error"].as_str().expect("words");
        assert!(
            text.contains("\"bad\"") && text.contains("\"one\"") && text.contains("zone_aware"),
            "{text}"
        );
        if form == "GRPC" {
            assert_eq!(refusal["version"], taken["version"], "the last good version");
        }
        answers(port, "two");
        let told = csds(proxy.admin, "Cluster", "one");
        assert_eq!(told["clientStatus"], "NACKED", "{told}");
        assert!(
            told["errorState"]["details"].as_str().is_some_and(|text| text.contains("zone_aware")),
            "{told}"
        );
        assert_eq!(told["xdsConfig"]["name"], "one", "the one before is in use");
        let new = csds(proxy.admin, "Cluster", "bad");
        assert_eq!((&new["clientStatus"], &new["xdsConfig"]), (&json!("NACKED"), &Value::Null), "{new}");
        assert_eq!(csds(proxy.admin, "ClusterLoadAssignment", "two")["clientStatus"], "ACKED");
    }
}

/// 3, 14, 15.
#[test]
fn versions_outlive_streams_and_what_went_meanwhile_goes() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let (one, two) = (Backend::named("one"), Backend::named("two"));
        let mut ads = Ads::start(&python);
        let (proxy, port) = follow(form, &[ads.port], "", &[]);
        let mut all = site(port, "one", &one);
        all.extend([cluster("extra"), endpoints("extra", &two)]);
        ads.set(&all);
        answers(port, "one");
        eventually("both clusters are there", || has_cluster(&proxy, "extra").then_some(()));
        ads.tell(&json!({ "op": "stop" }));
        ads.event("stopped");
        for _ in 0..20 {
            assert_eq!(Client::connect(port).get("/", "").text(), "one", "nobody notices");
        }
        assert_eq!(eventually("ready", || tests::http_get(proxy.admin, "/ready")).status(), 200);
        ads.tell(
            &json!({ "op": "set", "resources": [routes("r", "two"), cluster("two"), endpoints("two", &two)],
            "remove": [["Cluster", "extra"], ["Cluster", "one"]] }),
        );
        ads.tell(&json!({ "op": "start" }));
        ads.event("connected");
        let first = ads.event("request");
        assert_eq!(first["node"], "p");
        if form == "GRPC" {
            assert!(first["version"].as_str().is_some_and(|version| version.starts_with('v')), "{first}");
        } else {
            let held = first["initial"].as_object().expect("versions");
            assert_eq!(held.keys().collect::<Vec<_>>(), ["extra", "one"], "{first}");
        }
        assert_eq!(first["nonce"], "", "nonces do not outlive a stream");
        answers(port, "two");
        eventually("what went meanwhile is gone", || {
            (!has_cluster(&proxy, "extra") && !has_cluster(&proxy, "one")).then_some(())
        });
    }
}

/// 8, 29.
#[test]
fn what_never_comes_counts_as_absent_after_a_while() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let backend = Backend::named("late");
        let mut ads = Ads::start(&python);
        let (proxy, port) = follow(form, &[ads.port], "", &[]);
        let soon = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.5s" });
        let mut cluster = cluster("c");
        cluster["eds_cluster_config"]["eds_config"] = soon.clone();
        let mut other = listener("other", free_port(), "never");
        other["filter_chains"][0]["filters"][0]["typed_config"]["rds"]["config_source"] = soon;
        let there = u16::try_from(other["address"]["socket_address"]["port_value"].as_u64().expect("a port"))
            .expect("a port");
        ads.set(&[cluster, listener("in", port, "r"), routes("r", "c"), other]);
        eventually("requests find nobody", || (status(port)? == 503).then_some(()));
        eventually("the other listener has no routes", || (status(there)? == 404).then_some(()));
        eventually("it does not exist", || {
            (csds(proxy.admin, "ClusterLoadAssignment", "c")["clientStatus"] == "DOES_NOT_EXIST")
                .then_some(())
        });
        // It comes after all.
        ads.set(&[endpoints("c", &backend), routes("never", "c")]);
        answers(port, "late");
        answers(there, "late");
        assert_eq!(csds(proxy.admin, "ClusterLoadAssignment", "c")["clientStatus"], "ACKED");
    }
}

/// 9.
#[test]
fn what_comes_for_a_time_is_gone_unless_it_is_renewed() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let backend = Backend::named("for now");
        let mut ads = Ads::start(&python);
        let (_proxy, port) = follow(form, &[ads.port], "", &[]);
        ads.set(&[cluster("c"), listener("in", port, "r"), routes("r", "c")]);
        ads.request("ClusterLoadAssignment", |_| true);
        let with_ttl = |body: Option<Value>, nonce: &str| {
            let mut item = json!({ "name": "c", "version": "1", "ttl": 2.0 });
            if let Some(body) = body {
                item["body"] = body;
            }
            json!({ "op": "send", "type": "ClusterLoadAssignment", "nonce": nonce, "resources": [item] })
        };
        ads.tell(&with_ttl(Some(endpoints("c", &backend)), "first"));
        answers(port, "for now");
        let began = Instant::now();
        for beat in 0..4 {
            std::thread::sleep(Duration::from_secs(1));
            ads.tell(&with_ttl(None, &format!("beat-{beat}")));
            let answer = ads.request("ClusterLoadAssignment", |r| r["nonce"] == format!("beat-{beat}"));
            assert_eq!(answer["error"], Value::Null, "{form}: a heartbeat is no mistake");
            assert_eq!(status(port), Some(200), "{form} after {:?}", began.elapsed());
        }
        eventually("its time is over", || (status(port)? == 503).then_some(()));
        // Longer than any clock runs is for good.
        let mut for_ever = with_ttl(Some(endpoints("c", &backend)), "for ever");
        for_ever["resources"][0]["ttl"] = json!(315_000_000_000_u64);
        ads.tell(&for_ever);
        answers(port, "for now");
        assert!(began.elapsed() > Duration::from_millis(5_500), "{:?}", began.elapsed());
    }
}

/// 15.
#[test]
fn a_second_server_is_followed_where_the_first_is_not_there() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let (one, two) = (Backend::named("one"), Backend::named("two"));
        let (mut first, mut second) = (Ads::start(&python), Ads::start(&python));
        first.tell(&json!({ "op": "stop" }));
        first.event("stopped");
        let (proxy, port) = follow(form, &[first.port, second.port], "", &[]);
        let mut all = site(port, "two", &two);
        all.extend([cluster("only-there"), endpoints("only-there", &two)]);
        second.set(&all);
        answers(port, "two");
        first.set(&site(port, "one", &one));
        first.tell(&json!({ "op": "start" }));
        // Lost, it is not the one that is tried next.
        second.tell(&json!({ "op": "stop" }));
        answers(port, "one");
        let begun = first.event("request");
        assert!(
            begun["version"].as_str().unwrap_or_default().is_empty(),
            "{form}: versions are a server's own"
        );
        assert!(begun["initial"].as_object().is_none_or(serde_json::Map::is_empty), "{begun}");
        eventually("nothing of the second one is left", || {
            (!has_cluster(&proxy, "only-there") && !has_cluster(&proxy, "two")).then_some(())
        });
    }
}

#[test]
fn the_control_plane_is_reached_by_mutual_tls() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let server = pki.leaf("server", &["control.test"]);
    let web = pki.leaf("web", &["spiffe://mesh/ns/a/sa/web"]);
    let backend = Backend::named("ok");
    let mut ads = Ads::start_protected(&python, &server, &pki.authority());
    let transport = |name: &str| {
        tests::mesh::upstream(&format!(
            "sni: {name}, common_tls_context: {{ tls_certificates: [ {} ], validation_context: {{ trusted_ca: {{ filename: {} }}, \
             match_typed_subject_alt_names: [ {{ san_type: DNS, matcher: {{ exact: {name} }} }} ] }} }}",
            web.yaml(),
            pki.authority().display()
        ))
    };
    let (_proxy, port) = follow("DELTA_GRPC", &[ads.port], &transport("control.test"), &[]);
    let connected = ads.event("connected");
    assert_eq!(connected["identity"], json!(["spiffe://mesh/ns/a/sa/web"]));
    ads.set(&site(port, "c", &backend));
    answers(port, "ok");
    // Somebody else is not believed.
    let (other, _) = follow("GRPC", &[ads.port], &transport("other.test"), &[]);
    eventually("the log says why", || other.process.log().contains("control plane lost").then_some(()));
    assert!(other.process.log().contains("ertificate"), "{}", other.process.log());
}

fn secret(name: &str, leaf: &Leaf, key: &Leaf) -> Value {
    let text = |path: &std::path::Path| std::fs::read_to_string(path).expect("PEM");
    json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
        "tls_certificate": {
            "certificate_chain": { "inline_string": text(&leaf.chain) },
            "private_key": { "inline_string": text(&key.key) },
        },
    })
}

/// 11, 27.
#[test]
fn secrets_come_over_the_stream_and_change_as_one() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::new(folder.path(), "ca");
        let (old, new) = (pki.leaf("old", &["shop.test"]), pki.leaf("new", &["shop.test"]));
        let web = pki.leaf("web", &["spiffe://mesh/ns/a/sa/web"]);
        let backend = Backend::named("ok");
        let mut ads = Ads::start(&python);
        let (proxy, port) = follow(form, &[ads.port], "", &[]);
        let inner = free_port();
        // A listener that shows a secret and asks for clients that another one vouches for; and a cluster that leads there.
        let mut protected = listener("protected", inner, "r");
        let sds = |name: &str| json!({ "name": name, "sds_config": source() });
        protected["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [sds("server")],
                "validation_context_sds_secret_config": sds("roots"),
            },
        } });
        let mut there = cluster("there");
        there["type"] = json!("STATIC");
        there.as_object_mut().expect("an object").remove("eds_cluster_config");
        there["load_assignment"] = json!({ "cluster_name": "there", "endpoints": [ { "lb_endpoints": [ { "endpoint": { "address": {
            "socket_address": { "address": "127.0.0.1", "port_value": inner } } } } ] } ] });
        there["transport_socket"] = json!({ "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "shop.test",
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [sds("client")],
                "validation_context_sds_secret_config": sds("roots"),
            },
        } });
        let roots = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "roots",
            "validation_context": { "trusted_ca": {
                "inline_string": std::fs::read_to_string(pki.authority()).expect("PEM") } },
        });
        let mut all = vec![protected, there, listener("out", port, "out"), routes("out", "there")];
        all.extend([cluster("c"), endpoints("c", &backend), routes("r", "c"), roots.clone()]);
        ads.set(&all);
        let asked = |r: &Value| {
            let names = if form == "GRPC" { &r["names"] } else { &r["subscribe"] };
            names.as_array().is_some_and(|names| names.contains(&json!("server")))
        };
        ads.request("Secret", asked);
        assert!(!proxy.page("/listeners").contains("protected"), "{form}: it waits for its secrets");
        ads.set(&[secret("server", &old, &old), secret("client", &web, &web)]);
        answers(port, "ok");
        let peer = || tests::mesh::openssl(inner, &["-servername", "shop.test"]);
        let is_shown = |leaf: &Leaf| {
            let chain = std::fs::read_to_string(&leaf.chain).expect("PEM");
            peer().contains(chain.lines().nth(2).expect("a line"))
        };
        assert!(is_shown(&old), "{form}: {}", proxy.page("/certs"));
        // A key of another certificate: refused, and the old one stays.
        ads.set(&[secret("server", &new, &old)]);
        let refusal = ads.request("Secret", |request| !request["error"].is_null());
        let text = refusal["error"].as_str().expect("words");
        assert!(text.contains("\"server\"") && text.contains("is not the key"), "{text}");
        assert!(!text.contains("BEGIN"), "{text}");
        assert!(is_shown(&old), "{form}");
        let mut client = Client::connect(port);
        assert_eq!(client.get("/", "").text(), "ok");
        // Both at once, under load.
        ads.set(&[secret("server", &new, &new)]);
        eventually("the new one is shown", || {
            assert_eq!(client.get("/", "").text(), "ok");
            is_shown(&new).then_some(())
        });
        // What cannot be protected, for another reason than its secret, is refused alone, and what was served before stays.
        let mut broken = all[0].clone();
        broken["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]["tls_params"] =
            json!({ "cipher_suites": ["NO-SUCH-SUITE"] });
        ads.set(&[broken]);
        let refusal = ads.request("Listener", |request| !request["error"].is_null());
        let text = refusal["error"].as_str().expect("words");
        assert!(text.contains("\"protected\"") && text.contains("NO-SUCH-SUITE"), "{text}");
        assert!(is_shown(&new), "{form}");
        assert_eq!(client.get("/", "").text(), "ok");
        let told = csds(proxy.admin, "Secret", "server");
        assert_eq!(told["clientStatus"], "ACKED");
        assert!(
            !proxy.page("/config_dump").contains("PRIVATE KEY") && !told.to_string().contains("PRIVATE KEY")
        );
    }
}

/// 16.
#[test]
fn a_start_without_a_control_plane_serves_what_was_served() {
    let Some(python) = python() else { return };
    for form in FORMS {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::new(folder.path(), "ca");
        let leaf = pki.leaf("leaf", &["shop.test"]);
        let file = folder.path().join("kept");
        let path = file.display().to_string();
        let arguments = ["--xds-cache-path", &path];
        let (one, two) = (Backend::named("one"), Backend::named("two"));
        let mut ads = Ads::start(&python);
        let (proxy, port) = follow(form, &[ads.port], "", &arguments);
        // A listener with a key in it is not kept.
        let mut protected = listener("protected", free_port(), "r");
        let text = |path: &std::path::Path| std::fs::read_to_string(path).expect("PEM");
        protected["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": { "tls_certificates": [ {
                "certificate_chain": { "inline_string": text(&leaf.chain) },
                "private_key": { "inline_string": text(&leaf.key) } } ] },
        } });
        let mut all = site(port, "one", &one);
        all.push(protected);
        ads.set(&all);
        answers(port, "one");
        let kept = eventually("all of it is kept", || {
            let kept = std::fs::read(&file).ok()?;
            ["RouteConfiguration", "one"]
                .iter()
                .all(|word| kept.windows(word.len()).any(|window| window == word.as_bytes()))
                .then_some(kept)
        });
        assert!(!String::from_utf8_lossy(&kept).contains("PRIVATE KEY"));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("a file").permissions());
        assert_eq!(mode & 0o777, 0o600);
        ads.tell(&json!({ "op": "stop" }));
        ads.event("stopped");
        drop(proxy);

        let (proxy, moved) = follow(form, &[ads.port], "", &arguments);
        answers(port, "one");
        assert_eq!(proxy.metric("weir_xds_stale"), 1);
        assert!(proxy.page("/server_info").contains("\"config_is_stale\": true"));
        assert_eq!(eventually("it is ready", || tests::http_get(proxy.admin, "/ready")).status(), 200);
        // The control plane is back, and has moved on.
        ads.tell(&json!({ "op": "set", "resources": [listener("in", moved, "r"), cluster("two"), endpoints("two", &two),
            routes("r", "two")], "remove": [["Cluster", "one"], ["Listener", "protected"]] }));
        ads.tell(&json!({ "op": "start" }));
        answers(moved, "two");
        proxy.settles("weir_xds_stale", 0);
        eventually("the old port is closed", || Client::try_connect(port).is_none().then_some(()));
        assert!(!has_cluster(&proxy, "one"));
        drop(proxy);

        // What is damaged, or of another node, is not used, and said.
        ads.tell(&json!({ "op": "stop" }));
        let mut damaged = std::fs::read(&file).expect("kept");
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        std::fs::write(&file, damaged).expect("written");
        let (proxy, _) = follow(form, &[ads.port], "", &arguments);
        eventually("the log says so", || proxy.process.log().contains("is damaged").then_some(()));
        assert_eq!(tests::http_get(proxy.admin, "/ready").expect("a page").status(), 503);
    }
}

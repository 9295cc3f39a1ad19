//! The inbound side of a service as a gateway of the class `weir-sidecar`: who is let in, a `PeerAuthentication` says.

use std::fs;
use std::path::Path;

use tests::mesh::{Mesh, curl, mutual, upstream};
use tests::{Backend, Control, Envoy, Leaf, Pki, Process, Proxy, eventually, free_port, http_get};

/// A PEM file as the value of a key, so many spaces deep.
fn block(file: &Path, indent: usize) -> String {
    let text = fs::read_to_string(file).expect("PEM");
    text.lines().map(|line| format!("\n{:indent$}{line}", "")).collect()
}

/// A sidecar's gateway at this port, for a service.
fn inbound(pki: &Pki, leaf: &Leaf, port: u16, backend: &Backend) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: inbound, labels: {{ app: shop }} }}
spec:
  gatewayClassName: weir-sidecar
  tls: {{ frontend: {{ default: {{ validation: {{ caCertificateRefs: [ {{ group: '', kind: ConfigMap, name: mesh }} ] }} }} }} }}
  listeners:
  - {{ name: https, port: {port}, protocol: HTTPS, tls: {{ certificateRefs: [ {{ name: shop }} ] }} }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: shop }}
type: kubernetes.io/tls
stringData:
  tls.crt: |{}
  tls.key: |{}
---
apiVersion: v1
kind: ConfigMap
metadata: {{ name: mesh }}
data:
  ca.crt: |{}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop }}
spec: {{ parentRefs: [ {{ name: inbound }} ], rules: [ {{ backendRefs: [ {{ name: shop }} ] }} ] }}
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{ name: shop }}
spec: {{ endpoints: [ {{ address: \"{}\" }} ] }}
",
        block(&leaf.chain, 4),
        block(&leaf.key, 4),
        block(&pki.authority(), 4),
        backend.address
    )
}

/// S-1, as it stands but for the mode.
fn peer_authentication(mode: &str, more: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {{ name: default }}\nspec:\n  mtls: {{ mode: {mode} }}\n{more}"
    )
}

/// What `weir import` makes of it.
fn imported(folder: &Path, text: &str) -> String {
    let file = folder.join("istio.yaml");
    fs::write(&file, text).expect("written");
    let output = Process::run("weir", &["import", "-f", &file.display().to_string()]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout
}

#[test]
fn strict_refuses_plaintext_and_permissive_takes_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "mesh");
    let (leaf, client) = (pki.leaf("shop", &["shop.example"]), pki.leaf("client", &["spiffe://a/client"]));
    let (backend, number) = (Backend::named("shop"), free_port());
    let service = inbound(&pki, &leaf, number, &backend);
    let says = |mode: &str, more: &str| {
        format!("{service}---\n{}", imported(folder.path(), &peer_authentication(mode, more)))
    };
    let control = Control::start(&says("STRICT", ""), "");
    let admin = free_port();
    let text = control.bootstrap("sidecar", admin, "DELTA_GRPC");
    let arguments = ["--concurrency", "1"].map(str::to_owned);
    let sidecar = Proxy::start(&text, number, admin, &arguments);
    let protected = |port: u16| {
        let (certificate, key) = (client.chain.display().to_string(), client.key.display().to_string());
        curl(&pki.authority(), "shop.example", port, &["--cert", &certificate, "--key", &key])
    };
    let anonymous = |port: u16| curl(&pki.authority(), "shop.example", port, &[]);
    let plain = |port: u16| http_get(port, "/").map(|answer| answer.text().to_owned());
    let served = |text: Option<String>| text.as_deref() == Some("shop");
    let becomes = |what: &str, tls: bool, clear: bool| {
        eventually(what, || {
            let now = (protected(number).is_ok(), served(plain(number)));
            (now == (tls, clear)).then_some(())
        });
    };
    becomes("STRICT", true, false);
    assert_eq!(protected(number).as_deref(), Ok("shop"));
    assert!(anonymous(number).is_err(), "nobody is served who does not show who it is");

    control.write(&says("PERMISSIVE", ""));
    becomes("PERMISSIVE", true, true);
    assert!(anonymous(number).is_err());

    control.write(&says("DISABLE", ""));
    becomes("DISABLE", false, true);

    // The more precise one holds: of a port, then of labels, then of the namespace.
    let ports = format!(
        "  selector: {{ matchLabels: {{ app: shop }} }}\n  portLevelMtls: {{ {number}: {{ mode: STRICT }} }}\n"
    );
    control.write(&says("DISABLE", &ports));
    becomes("a port's own", true, false);

    // What cannot be protected is not served in clear by mistake.
    let bare =
        service.replace("protocol: HTTPS, tls: { certificateRefs: [ { name: shop } ] }", "protocol: HTTP");
    let strict = imported(folder.path(), &peer_authentication("STRICT", ""));
    control.write(&format!("{bare}---\n{strict}"));
    becomes("STRICT without a certificate", false, false);
    let status = control.api().get("/api/v1/namespaces/default/gateways/inbound").to_string();
    assert!(status.contains("PeerAuthentication default wants mutual TLS"), "{status}");
    drop(sidecar);

    // Envoy is told the same.
    control.write(&says("PERMISSIVE", ""));
    let admin = free_port();
    let text = control.bootstrap("envoy", admin, "DELTA_GRPC");
    let Some(_envoy) = Envoy::start(&text, number, admin) else { return };
    becomes("PERMISSIVE at Envoy", true, true);
    control.write(&says("STRICT", ""));
    becomes("STRICT at Envoy", true, false);
}

#[test]
fn a_policy_that_is_about_nobody_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy =
        |name: &str| imported(folder.path(), &peer_authentication("STRICT", "").replace("default", name));
    let control = Control::start(&format!("{}---\n{}", policy("one"), policy("two")), "");
    let status = |name: &str| {
        control.api().get(&format!("/api/v1/namespaces/default/peerauthentications/{name}")).to_string()
    };
    assert!(status("one").contains("no gateway of the class weir-sidecar is meant"), "{}", status("one"));
    assert!(status("two").contains("the older one is about the same gateways"), "{}", status("two"));
}

/// What a sidecar shows is what a proxy elsewhere trusts: mutual TLS from one to the other.
#[test]
fn a_proxy_reaches_a_strict_sidecar() {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "mesh");
    let (leaf, client) = (pki.leaf("shop", &["spiffe://a/shop"]), pki.leaf("client", &["spiffe://a/client"]));
    let (backend, number) = (Backend::named("shop"), free_port());
    let strict = imported(folder.path(), &peer_authentication("STRICT", ""));
    let control = Control::start(&format!("{}---\n{strict}", inbound(&pki, &leaf, number, &backend)), "");
    let admin = free_port();
    let arguments = ["--concurrency", "1"].map(str::to_owned);
    let _sidecar = Proxy::start(&control.bootstrap("sidecar", admin, "GRPC"), number, admin, &arguments);
    let tls = upstream(&mutual(&client, &pki.authority(), "{ exact: 'spiffe://a/shop' }"));
    let outbound =
        Mesh::default().chain("only", "", "", "").cluster("c", ([127, 0, 0, 1], number).into(), &tls).start();
    eventually("the service answers", || {
        let answer = http_get(outbound.port, "/")?;
        (answer.text() == "shop").then_some(())
    });
}

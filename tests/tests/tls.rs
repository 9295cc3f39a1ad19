//! TLS on both sides, with curl, openssl, nginx and Envoy.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tests::mesh::{Mesh, curl, mutual, openssl, shown, upstream};
use tests::{Backend, Client, Envoy, Leaf, Pki, Process, Proxy, eventually, free_port};

const SHOP: &str = "spiffe://mesh/ns/a/sa/shop";
const WEB: &str = "spiffe://mesh/ns/a/sa/web";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn names_choose_chain_and_certificate_and_strangers_are_told() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    let (one, many) = (pki.leaf("one", &["one.test"]), pki.leaf("many", &["*.many.test", "many.test"]));
    let backend = Backend::named("ok");
    let proxy = Mesh::default()
        .chain("one", "server_names: [ one.test ]", &shown(&one), "")
        .chain("many", "server_names: [ '*.many.test', many.test ]", &shown(&many), "")
        .cluster("c", backend.address, "")
        .start();
    let ca = pki.authority();
    for name in ["one.test", "a.many.test", "many.test"] {
        for version in ["--http2", "--http1.1"] {
            assert_eq!(curl(&ca, name, proxy.port, &[version]).as_deref(), Ok("ok"), "{name} {version}");
        }
        assert_eq!(
            curl(&ca, name, proxy.port, &["--tls-max", "1.2"]).as_deref(),
            Ok("ok"),
            "{name} by TLS 1.2"
        );
    }
    let alpn = openssl(proxy.port, &["-servername", "one.test", "-alpn", "h2,http/1.1"]);
    assert!(alpn.contains("ALPN protocol: h2") && alpn.contains("TLSv1.3"), "{alpn}");
    let stranger = openssl(proxy.port, &["-servername", "nobody.test"]);
    assert!(stranger.contains("unrecognized name"), "{stranger}");
    let old = openssl(proxy.port, &["-servername", "one.test", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(old.contains("alert") && old.contains("Cipher is (NONE)"), "{old}");
    let mut plain = Client::connect(proxy.port);
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = plain.response();
    assert_eq!((answer.status(), answer.text()), (400, "this port speaks TLS, not plain HTTP"));
    proxy.settles("weir_connections_turned_away_total{reason=\"plain_on_tls\"}", 1);
    proxy.settles("weir_connections_turned_away_total{reason=\"no_filter_chain\"}", 1);
}

#[test]
fn sessions_are_resumed_by_tickets_and_from_memory() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["a.test"]);
    let backend = Backend::named("ok");
    let proxy = Mesh::default().chain("a", "", &shown(&leaf), "").cluster("c", backend.address, "").start();
    let session = folder.path().join("session").display().to_string();
    for version in ["-tls1_3", "-tls1_2"] {
        // A ticket of 1.3 comes after the handshake: something must be read.
        let shell = format!(
            "(printf 'GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n'; sleep 0.3) | timeout 10 openssl s_client \
             -connect 127.0.0.1:{} {version} -ign_eof -sess_out {session}",
            proxy.port
        );
        let first = Command::new("sh").args(["-c", &shell]).output().expect("openssl runs");
        assert!(String::from_utf8_lossy(&first.stdout).contains("200 OK"));
        let again = openssl(proxy.port, &[version, "-sess_in", &session]);
        assert!(again.contains("Reused, "), "{version}: {again}");
    }
    assert!(proxy.metric("weir_tls_handshakes_total{kind=\"resumed\"}") >= 2);
}

#[test]
fn two_sidecars_know_each_other_and_nobody_else_gets_in() {
    let folder = folder();
    let (pki, other) = (Pki::new(folder.path(), "ca"), Pki::new(folder.path(), "other"));
    let (shop, web) = (pki.leaf("shop", &[SHOP, "shop.test"]), pki.leaf("web", &[WEB]));
    let stranger = pki.leaf("stranger", &["spiffe://mesh/ns/b/sa/x"]);
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
        }
    });
    let ca = pki.authority();
    let strict = format!(
        "require_client_certificate: true, {}",
        mutual(&shop, &ca, "{ prefix: 'spiffe://mesh/ns/a/' }")
    );
    let details =
        "forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: { uri: true },";
    let inbound = Mesh::default().chain("in", "", &strict, details).cluster("c", backend.address, "").start();
    let to = |leaf: &Leaf, peer: &str| {
        let tls =
            upstream(&format!("sni: shop.test, {}", mutual(leaf, &ca, &format!("{{ exact: '{peer}' }}"))));
        Mesh::default()
            .chain("out", "", "", "")
            .cluster("c", ([127, 0, 0, 1], inbound.port).into(), &tls)
            .start()
    };
    let outbound = to(&web, SHOP);
    let answer = Client::connect(outbound.port).get("/", "X-Forwarded-Client-Cert: By=liar\r\n");
    assert_eq!(answer.status(), 200, "{}", outbound.process.log());
    let seen = answer.text().to_ascii_lowercase();
    let element = seen.lines().find(|line| line.starts_with("x-forwarded-client-cert")).unwrap_or_default();
    assert!(
        element.contains(&format!("by={SHOP};hash=")) && element.ends_with(&format!("uri={WEB}")),
        "{seen}"
    );
    assert!(seen.contains("x-forwarded-proto: http"), "what the first hop said stays: {seen}");

    // The endpoint is somebody else than was wanted.
    let wrong = to(&web, "spiffe://mesh/ns/a/sa/other");
    let answer = Client::connect(wrong.port).get("/", "");
    assert_eq!((answer.status(), answer.text()), (503, "the TLS handshake with the endpoint failed"));
    assert_eq!(wrong.metric("weir_failures_total{reason=\"upstream_tls\",flag=\"UF\"}"), 1);
    // A client of another namespace, of another authority, with a certificate that has ended, with none.
    let foreign = other.leaf("foreign", &[WEB]);
    let old = pki.expired("old", &[WEB]);
    let ask = |leaf: &Leaf| {
        let (chain, key) = (leaf.chain.display().to_string(), leaf.key.display().to_string());
        curl(&ca, "shop.test", inbound.port, &["--cert", &chain, "--key", &key])
    };
    assert!(ask(&web).is_ok());
    for (leaf, alert) in [(&stranger, "alert"), (&foreign, "unknown ca"), (&old, "expired")] {
        let said = ask(leaf).expect_err("refused");
        assert!(said.contains(alert), "{}: {said}", leaf.chain.display());
    }
    let none = curl(&ca, "shop.test", inbound.port, &[]).expect_err("refused");
    assert!(none.contains("certificate required"), "{none}");
    assert!(inbound.process.log().contains("a TLS handshake failed"), "{}", inbound.process.log());
}

#[test]
fn permissive_takes_both_on_one_port() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["a.test"]);
    let backend = Backend::named("ok");
    let proxy = Mesh::default()
        .chain("tls", "transport_protocol: tls", &shown(&leaf), "")
        .chain("plain", "transport_protocol: raw_buffer", "", "")
        .cluster("c", backend.address, "")
        .start();
    assert_eq!(curl(&pki.authority(), "a.test", proxy.port, &[]).as_deref(), Ok("ok"));
    let mut client = Client::connect(proxy.port);
    assert_eq!(client.get("/", "").text(), "ok");
    assert_eq!(client.get("/", "").text(), "ok", "the connection goes on");
}

#[test]
fn certificates_are_replaced_without_losing_a_request() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    // As Kubernetes mounts a secret: files are links into a folder that a link leads to.
    let version = |number: u32| {
        let path = folder.path().join(format!("v{number}"));
        std::fs::create_dir(&path).expect("a folder");
        path
    };
    let put = |path: &Path, leaf: &Leaf| {
        std::fs::copy(&leaf.chain, path.join("tls.crt")).expect("copied");
        std::fs::copy(&leaf.key, path.join("tls.key")).expect("copied");
    };
    let swap = |path: &Path| {
        let fresh = folder.path().join("..fresh");
        std::os::unix::fs::symlink(path, &fresh).expect("a link");
        std::fs::rename(&fresh, folder.path().join("..data")).expect("renamed");
    };
    let first = version(1);
    put(&first, &pki.leaf("first", &["a.test", "first.test"]));
    swap(&first);
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(folder.path().join("..data").join(name), folder.path().join(name))
            .expect("a link");
    }
    let leaf = Leaf { chain: folder.path().join("tls.crt"), key: folder.path().join("tls.key"), serial: 0 };
    let backend = Backend::named("ok");
    let proxy = Mesh::default().chain("a", "", &shown(&leaf), "").cluster("c", backend.address, "").start();
    let subject = || openssl(proxy.port, &["-servername", "a.test"]);
    assert!(subject().contains("CN = first"), "{}", subject());
    let (stop, answered, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match curl(&pki.authority(), "a.test", proxy.port, &[]) {
                    Ok(text) if text == "ok" => answered.fetch_add(1, Ordering::Relaxed),
                    _ => failed.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
        let second = version(2);
        put(&second, &pki.leaf("second", &["a.test"]));
        swap(&second);
        eventually("the second certificate", || subject().contains("CN = second").then_some(()));
        // A key of another certificate, then one that has ended: what is there stays.
        let third = version(3);
        put(&third, &pki.leaf("third", &["a.test"]));
        std::fs::copy(pki.leaf("fourth", &["a.test"]).key, third.join("tls.key")).expect("copied");
        swap(&third);
        proxy.settles("weir_tls_reloads_total{result=\"refused\"}", 1);
        let fifth = version(5);
        put(&fifth, &pki.expired("fifth", &["a.test"]));
        swap(&fifth);
        proxy.settles("weir_tls_reloads_total{result=\"refused\"}", 2);
        assert!(subject().contains("CN = second"));
        let last = version(6);
        put(&last, &pki.leaf("last", &["a.test"]));
        swap(&last);
        eventually("the last certificate", || subject().contains("CN = last").then_some(()));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", answered.load(Ordering::Relaxed));
    assert!(answered.load(Ordering::Relaxed) > 5);
    let log = proxy.process.log();
    assert!(log.contains("is not the key of the certificate in") && log.contains("has expired"), "{log}");
    let certs = proxy.page("/certs");
    assert!(certs.contains("a.test") && certs.contains("days_until_expiration"), "{certs}");
}

#[test]
fn pins_lists_and_domains_say_who_is_trusted() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    let second = Pki::new(folder.path(), "second");
    let server = pki.leaf("server", &["a.test"]);
    let (good, bad) = (pki.leaf("good", &[WEB]), pki.leaf("bad", &[WEB]));
    let partner = second.leaf("partner", &["spiffe://partner/x"]);
    let liar = second.leaf("liar", &[WEB]);
    let crl = pki.revoke(&bad);
    let backend = Backend::named("ok");
    let ca = pki.authority();
    let with = |validation: &str| {
        let tls = format!(
            "require_client_certificate: true, common_tls_context: {{ tls_certificates: [ {} ], validation_context: {{ {validation} }} }}",
            server.yaml()
        );
        Mesh::default().chain("a", "", &tls, "").cluster("c", backend.address, "").start()
    };
    let admits = |proxy: &Proxy, leaf: &Leaf| {
        let (chain, key) = (leaf.chain.display().to_string(), leaf.key.display().to_string());
        curl(&ca, "a.test", proxy.port, &["--cert", &chain, "--key", &key]).is_ok()
    };
    let hash = |leaf: &Leaf, script: &str| {
        let script = script.replace("CHAIN", &leaf.chain.display().to_string());
        let output = Command::new("sh").args(["-c", &script]).output().expect("openssl runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let spki = "openssl x509 -in CHAIN -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64";
    let whole = "openssl x509 -in CHAIN -outform DER | openssl dgst -sha256 -hex | sed 's/.*= //'";
    let root = format!("trusted_ca: {{ filename: {} }}", ca.display());
    let cases = [
        (format!("{root}, crl: {{ filename: {} }}", crl.display()), "revoked"),
        (format!("{root}, verify_certificate_spki: [ '{}' ]", hash(&good, spki)), "key pin"),
        (format!("{root}, verify_certificate_hash: [ '{}' ]", hash(&good, whole)), "certificate pin"),
        (format!("verify_certificate_spki: [ '{}' ]", hash(&good, spki)), "a pin alone"),
    ];
    for (validation, what) in cases {
        let proxy = with(&validation);
        assert!(admits(&proxy, &good), "{what}: {}", proxy.process.log());
        assert!(!admits(&proxy, &bad), "{what}");
    }
    let domains = format!(
        "custom_validator_config: {{ name: spiffe, typed_config: {{ '@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig, trust_domains: [ \
         {{ name: mesh, trust_bundle: {{ filename: {} }} }}, {{ name: partner, trust_bundle: {{ filename: {} }} }} ] }} }}",
        ca.display(),
        second.authority().display()
    );
    let proxy = with(&domains);
    assert!(admits(&proxy, &good) && admits(&proxy, &partner), "{}", proxy.process.log());
    assert!(!admits(&proxy, &liar), "the partner's authority is none of the mesh's");
}

#[test]
fn secrets_come_from_files_of_secrets() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["a.test"]);
    let sds = folder.path().join("sds.yaml");
    let write = |leaf: &Leaf| {
        let text = format!(
            "resources:\n- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: own\n  \
             tls_certificate: {}\n",
            leaf.yaml()
        );
        let fresh = folder.path().join("fresh.yaml");
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(fresh, &sds).expect("renamed");
    };
    write(&leaf);
    let tls = format!(
        "common_tls_context: {{ tls_certificate_sds_secret_configs: [ {{ name: own, sds_config: {{ path_config_source: {{ path: {} }} }} }} ] }}",
        sds.display()
    );
    let backend = Backend::named("ok");
    let proxy = Mesh::default().chain("a", "", &tls, "").cluster("c", backend.address, "").start();
    assert_eq!(curl(&pki.authority(), "a.test", proxy.port, &[]).as_deref(), Ok("ok"));
    write(&pki.leaf("other", &["a.test"]));
    eventually("the other", || {
        openssl(proxy.port, &["-servername", "a.test"]).contains("CN = other").then_some(())
    });
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place_and_words() {
    let folder = folder();
    let (pki, other) = (Pki::new(folder.path(), "ca"), Pki::new(folder.path(), "other"));
    let (leaf, second) = (pki.leaf("leaf", &["a.test"]), other.leaf("second", &["a.test"]));
    let gone = Leaf { key: folder.path().join("gone.key"), ..leaf.clone() };
    let mixed = Leaf { key: second.key, ..leaf.clone() };
    let old = pki.expired("old", &["a.test"]);
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing\n").expect("written");
    let cases = [
        (shown(&gone), "gone.key: cannot be read: No such file"),
        (shown(&mixed), "second.key: is not the key of the certificate in"),
        (shown(&old), "old.pem: has expired"),
        (mutual(&leaf, &empty, "{ exact: x }"), "empty.pem: holds no certificate"),
        (
            format!(
                "common_tls_context: {{ tls_params: {{ cipher_suites: [ RC4-SHA ] }}, tls_certificates: [ {} ] }}",
                leaf.yaml()
            ),
            "RC4-SHA is unknown, or has no forward secrecy",
        ),
    ];
    let backend = Backend::named("ok");
    for (tls, part) in cases {
        let text = Mesh::default()
            .chain("a", "", &tls, "")
            .cluster("c", backend.address, "")
            .text(free_port(), free_port());
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, text).expect("written");
        let output = Process::run("weir-proxy", &["-c", &file.display().to_string()]);
        assert!(output.stderr.contains(part), "{:?} lacks {part:?}", output.stderr);
        assert!(
            output.stderr.contains("listener \"in\": filter_chains[0].transport_socket: "),
            "{}",
            output.stderr
        );
        assert_ne!(output.code, 0);
        assert!(!output.stderr.contains("PRIVATE"), "{}", output.stderr);
    }
    let inline = std::fs::read_to_string(&leaf.key).expect("a key");
    let quoted = format!("{inline:?}");
    let chain = leaf.chain.display();
    let tls = format!(
        "common_tls_context: {{ tls_certificates: [ {{ certificate_chain: {{ filename: {chain} }}, private_key: {{ inline_string: {quoted} }} }} ] }}"
    );
    let proxy = Mesh::default().chain("a", "", &tls, "").cluster("c", backend.address, "").start();
    assert_eq!(curl(&pki.authority(), "a.test", proxy.port, &[]).as_deref(), Ok("ok"));
    let dump = proxy.page("/config_dump");
    assert!(dump.contains("[redacted]") && !dump.contains("PRIVATE KEY"), "{dump}");
    assert!(!proxy.process.log().contains("PRIVATE KEY"));
}

#[test]
fn names_pass_through_untouched_and_connections_are_split() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["a.pass.test"]);
    let backend = Backend::named("inside");
    let inner = Mesh::default().chain("in", "", &shown(&leaf), "").cluster("c", backend.address, "").start();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let weights = "weighted_clusters: { clusters: [ { name: a, weight: 3 }, { name: b, weight: 1 } ] }";
    let outer = |fields: &str| {
        Mesh::default()
            .tcp("pass", "server_names: [ '*.pass.test' ]", "cluster: inner")
            .tcp("rest", "", fields)
            .cluster("inner", ([127, 0, 0, 1], inner.port).into(), "")
            .cluster("a", a.address, "")
            .cluster("b", b.address, "")
            .start()
    };
    let proxy = outer(weights);
    assert_eq!(curl(&pki.authority(), "a.pass.test", proxy.port, &[]).as_deref(), Ok("inside"));
    let count = |proxy: &Proxy| {
        let mut counts = [0_u32, 0];
        for _ in 0..40 {
            let answer = Client::connect(proxy.port).get("/", "");
            counts[usize::from(answer.text() == "b")] += 1;
        }
        counts
    };
    let counts = count(&proxy);
    assert!(counts[1].abs_diff(10) <= 2, "10 of 40, less than two off for each worker: {counts:?}");
    let sticky = outer(&format!("{weights}, hash_policy: [ {{ source_ip: {{}} }} ]"));
    assert!(count(&sticky).contains(&40), "one address goes to one arm");
}

#[test]
fn a_tcp_proxy_keeps_halves_apart_and_ends_silence() {
    let backend = Backend::start(|_, peer| {
        let mut all = Vec::new();
        while let Some(bytes) = peer.some_bytes() {
            all.extend(bytes);
        }
        // Only now that the client has ended its half.
        peer.send(format!("{} bytes", all.len()));
    });
    let proxy = Mesh::default()
        .tcp("t", "", "cluster: c, idle_timeout: 0.5s")
        .cluster("c", backend.address, "")
        .start();
    let mut client = Client::connect(proxy.port);
    client.send(vec![b'x'; 100_000]);
    client.finish();
    assert_eq!(client.rest(), b"100000 bytes");
    let mut silent = Client::connect(proxy.port);
    silent.send("hello");
    let began = std::time::Instant::now();
    assert!(silent.is_closed());
    assert!(began.elapsed() >= Duration::from_millis(400));
    proxy.settles("weir_failures_total{reason=\"tunnel_idle_timeout\",flag=\"SI\"}", 1);
}

#[test]
fn the_proxy_protocol_goes_in_and_out() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
        }
    });
    let filter = "listener_filters: [ { name: p, typed_config: { '@type': \
                  type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol } } ]";
    let mut inner =
        Mesh::default().chain("in", "", "", "use_remote_address: true,").cluster("c", backend.address, "");
    inner.listener = filter.to_owned();
    let inner = inner.start();
    let mut client = Client::connect(inner.port);
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 5555 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.response().text().contains("x-forwarded-for: 192.0.2.7"));
    assert!(
        Client::connect(inner.port).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_closed(),
        "it is not optional"
    );
    inner.settles("weir_connections_turned_away_total{reason=\"proxy_protocol\"}", 1);
    for version in ["V1", "V2"] {
        let tells = format!(
            "transport_socket: {{ name: p, typed_config: {{ '@type': \
             type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: \
             {{ version: {version} }}, transport_socket: {{ name: raw, typed_config: {{ '@type': \
             type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer }} }} }} }},"
        );
        let outer = Mesh::default()
            .chain("out", "", "", "")
            .cluster("c", ([127, 0, 0, 1], inner.port).into(), &tells)
            .start();
        let mut client = Client::connect(outer.port);
        for _ in 0..3 {
            assert!(client.get("/", "").text().contains("x-forwarded-for: 127.0.0.1"), "{version}");
        }
    }
}

#[test]
fn envoy_is_a_peer_in_mutual_tls_both_ways() {
    let folder = folder();
    let pki = Pki::new(folder.path(), "ca");
    let (shop, web) = (pki.leaf("shop", &[SHOP, "shop.test"]), pki.leaf("web", &[WEB]));
    let backend = Backend::named("ok");
    let ca = pki.authority();
    let strict =
        format!("require_client_certificate: true, {}", mutual(&shop, &ca, &format!("{{ exact: '{WEB}' }}")));
    let inbound = |port, admin| {
        Mesh::default().chain("in", "", &strict, "").cluster("c", backend.address, "").text(port, admin)
    };
    let tls = upstream(&format!("sni: shop.test, {}", mutual(&web, &ca, &format!("{{ exact: '{SHOP}' }}"))));
    let outbound = |to: u16, port, admin| {
        Mesh::default()
            .chain("out", "", "", "")
            .cluster("c", ([127, 0, 0, 1], to).into(), &tls)
            .text(port, admin)
    };
    let (port, admin) = (free_port(), free_port());
    let Some(envoy) = Envoy::start(&inbound(port, admin), port, admin) else { return };
    let (port, admin) = (free_port(), free_port());
    let weir = Proxy::start(&outbound(envoy.port, port, admin), port, admin, &[]);
    assert_eq!(Client::connect(weir.port).get("/", "").text(), "ok", "Weir to Envoy: {}", weir.process.log());
    let (port, admin) = (free_port(), free_port());
    let weir = Proxy::start(&inbound(port, admin), port, admin, &[]);
    let (port, admin) = (free_port(), free_port());
    let Some(envoy) = Envoy::start(&outbound(weir.port, port, admin), port, admin) else { return };
    assert_eq!(
        Client::connect(envoy.port).get("/", "").text(),
        "ok",
        "Envoy to Weir: {}",
        weir.process.log()
    );
}

//! Programs that others wrote, as peers: Chromium, nginx, h2load, nghttp. Each is left out, and says so, where the
//! machine lacks it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tests::mesh::{Mesh, curl, mutual, shown, upstream};
use tests::{Backend, Client, Leaf, Pki, Proxy, eventually, free_port};

const UPGRADES: &str = "upgrade_configs: [ { upgrade_type: websocket } ],";
const HTTP2: &str = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { '@type': \
                     type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { \
                     http2_protocol_options: {} } } },";

/// Whether the machine has a program.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        eprintln!("left out: there is no {program}");
    }
    found
}

/// A program that ends with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx and Chromium tell their children to end; a kill would leave those.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Serves a page that opens a WebSocket to where it came from, an echo behind that, and keeps what the page tells at the
/// end.
fn site() -> (Proxy, Arc<Mutex<Vec<String>>>) {
    const PAGE: &str = r#"<!doctype html><title>shop</title><img src="/dot.svg"><script>
const socket = new WebSocket("wss://" + location.host + "/chat");
const said = [performance.getEntriesByType("navigation")[0].nextHopProtocol];
socket.onopen = () => socket.send("hello");
socket.onmessage = (event) => {
  said.push(event.data);
  if (said.length < 4) return socket.send("again " + said.length);
  fetch("/big").then((answer) => answer.text()).then((text) => {
    said.push(text.length);
    fetch("/done", { method: "POST", body: said.join(" | ") + " ".repeat(100000) });
  });
};
</script>"#;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut first = [0; 2048];
                let n = stream.peek(&mut first).unwrap_or(0);
                if first[..n].starts_with(b"GET /chat ") {
                    let mut socket = tungstenite::accept(stream).expect("a WebSocket's handshake");
                    while let Ok(message) = socket.read() {
                        if message.is_text() {
                            let echo = format!("echo of {message}");
                            socket.send(tungstenite::Message::text(echo)).expect("sent");
                        }
                    }
                }
            });
        }
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    let pages = Backend::start(move |_, peer| {
        while let Some(head) = peer.head() {
            let sent = peer.body(&head);
            if head.starts_with("POST /done ") {
                let said = String::from_utf8_lossy(&sent).trim_end().to_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(said);
            }
            let (kind, body) = match head.split(' ').nth(1) {
                Some("/") => ("text/html", PAGE.to_owned()),
                Some("/dot.svg") => ("image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'/>".to_owned()),
                Some("/big") => ("text/plain", "y".repeat(1_000_000)),
                _ => ("text/plain", String::new()),
            };
            let length = body.len();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"));
            peer.send(body);
        }
    });
    // One address for both, as a site has: a proxy of its own tells them apart.
    let front = tests::Setup {
        clusters: vec![("pages", pages.address, ""), ("chat", ([127, 0, 0, 1], port).into(), "")],
        ..Default::default()
    }
    .manager("upgrade_configs: [ { upgrade_type: websocket } ]")
    .routes(
        "{ match: { path: /chat }, route: { cluster: chat } }, { match: { prefix: / }, route: { cluster: pages } }",
    )
    .start();
    (front, told)
}

#[test]
fn chromium_loads_a_page_over_http_2_and_opens_a_websocket() {
    if !has("chromium") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["shop.test"]);
    let (site, told) = site();
    let over = |alpn: &str, page: &str, socket: &str| {
        let log = folder.path().join(format!("{page}.log", page = page.replace('/', "")));
        let rest = format!(
            "{UPGRADES} access_log: [ {{ name: f, typed_config: {{ '@type': \
             type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{ \
             text_format_source: {{ inline_string: \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE%\\n\" }} }} }} }} ],",
            log.display()
        );
        let tls = format!(
            "common_tls_context: {{ alpn_protocols: [ {alpn} ], tls_certificates: [ {} ] }}",
            leaf.yaml()
        );
        let proxy = Mesh::default()
            .chain("in", "", &tls, &rest)
            .cluster("c", ([127, 0, 0, 1], site.port).into(), "")
            .start();
        let browser = Command::new("timeout")
            .args([
                "90",
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
            .arg(format!(
                "--user-data-dir={}",
                folder.path().join(format!("browser-{}", page.len())).display()
            ))
            .arg(format!("--host-resolver-rules=MAP shop.test:443 127.0.0.1:{}", proxy.port))
            .arg("https://shop.test/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium runs");
        let browser = Peer(browser);
        let said = eventually("the page has told what it saw", || {
            told.lock().unwrap_or_else(PoisonError::into_inner).pop()
        });
        assert!(said.ends_with(" | echo of hello | echo of again 2 | echo of again 3 | 1000000"), "{said}");
        drop(browser);
        eventually(&format!("the log says {socket}"), || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            (log.contains(&format!("GET / {page} 200")) && log.contains(socket)).then_some(())
        });
    };
    // Over HTTP/2 the WebSocket shares the page's connection; over HTTP/1.1 it has its own.
    over("h2, http/1.1", "HTTP/2", "GET /chat HTTP/2 101");
    over("http/1.1", "HTTP/1.1", "GET /chat HTTP/1.1 101");
}

/// nginx with this `http` block, which listens on `port`.
fn nginx(folder: &Path, port: u16, http: &str) -> Peer {
    let home = folder.join(format!("nginx-{port}"));
    std::fs::create_dir_all(home.join("logs")).expect("a folder");
    let file = home.join("nginx.conf");
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {};", home.join(name).display()))
        .collect();
    let text = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log info; events {{}}\n\
         http {{ access_log {0}/access.log combined; {paths} client_max_body_size 0; {http} }}\n",
        home.display()
    );
    std::fs::write(&file, text).expect("written");
    let child = Command::new("nginx")
        .args(["-p", &home.display().to_string(), "-c", &file.display().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts");
    let peer = Peer(child);
    eventually("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    peer
}

/// An authority and certificates that openssl made, as an operator would.
fn openssl_pki(folder: &Path, leaves: &[(&str, &str)]) -> (PathBuf, Vec<Leaf>) {
    let run = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let request = |more: &[&str]| run(&[&["req"], &key[..], more].concat());
    request(&["-x509", "-keyout", "root.key", "-out", "root.pem", "-subj", "/O=Weir/CN=root", "-days", "2"]);
    let made = leaves.iter().enumerate().map(|(number, (name, san))| {
        let [key, csr, pem, ext] = ["key", "csr", "pem", "ext"].map(|end| format!("{name}.{end}"));
        std::fs::write(folder.join(&ext), format!("subjectAltName={san}\n")).expect("written");
        request(&["-keyout", &key, "-out", &csr, "-subj", &format!("/CN={name}")]);
        let serial = (number + 1).to_string();
        run(&[
            &["x509", "-req", "-in", &csr, "-CA", "root.pem", "-CAkey", "root.key", "-set_serial", &serial],
            &["-days", "1", "-extfile", &ext, "-out", &pem][..],
        ]
        .concat());
        Leaf { chain: folder.join(pem), key: folder.join(key), serial: (number + 1) as u64 }
    });
    let made = made.collect();
    (folder.join("root.pem"), made)
}

#[test]
fn nginx_is_a_peer_in_mutual_tls_both_ways_with_certificates_of_openssl() {
    if !has("nginx") || !has("openssl") {
        return;
    }
    const WEB: &str = "spiffe://mesh/ns/a/sa/web";
    const SHOP: &str = "spiffe://mesh/ns/a/sa/shop";
    let folder = tempfile::tempdir().expect("a folder");
    let names = [("web", format!("URI:{WEB}")), ("shop", format!("URI:{SHOP},DNS:shop.test"))];
    let (root, leaves) =
        openssl_pki(folder.path(), &names.each_ref().map(|(name, san)| (*name, san.as_str())));
    let [web, shop] = &leaves[..] else { unreachable!("two were asked for") };
    let (ca, chain, key) = (root.display(), shop.chain.display(), shop.key.display());

    // Weir calls nginx, which speaks HTTP/2 and asks who is there.
    let port = free_port();
    let _server = nginx(
        folder.path(),
        port,
        &format!(
            "server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {chain}; ssl_certificate_key {key}; \
             ssl_client_certificate {ca}; ssl_verify_client on; location / {{ return 200 \
             \"$server_protocol $ssl_client_s_dn $request_uri\"; }} }}"
        ),
    );
    let tls = upstream(&format!("sni: shop.test, {}", mutual(web, &root, &format!("{{ exact: '{SHOP}' }}"))));
    let outer = Mesh::default()
        .chain("out", "", "", "")
        .cluster("c", ([127, 0, 0, 1], port).into(), &format!("{tls} {HTTP2}"))
        .start();
    let mut client = Client::connect(outer.port);
    for i in 0..50 {
        let path = format!("/{i}");
        assert_eq!(
            client.get(&path, "").text(),
            format!("HTTP/2.0 CN=web {path}"),
            "{}",
            outer.process.log()
        );
    }
    assert!(outer.metric("weir_cluster_connections_total{cluster=\"c\"}") <= 2);

    // nginx calls Weir, which asks who is there; and once with nothing to show.
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let who =
                head.lines().find(|line| line.to_ascii_lowercase().starts_with("x-forwarded-client-cert"));
            let who = who.unwrap_or("nobody").to_owned();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{who}", who.len()));
        }
    });
    let strict = format!(
        "require_client_certificate: true, {}",
        mutual(shop, &root, &format!("{{ exact: '{WEB}' }}"))
    );
    let details =
        "forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: { uri: true },";
    let inner = Mesh::default().chain("in", "", &strict, details).cluster("c", backend.address, "").start();
    let (port, to) = (free_port(), inner.port);
    let (chain, key) = (web.chain.display(), web.key.display());
    let _client = nginx(
        folder.path(),
        port,
        &format!(
            "server {{ listen 127.0.0.1:{port}; proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_session_reuse off; \
             proxy_ssl_name shop.test; proxy_ssl_server_name on; proxy_http_version 1.1; location / {{ \
             proxy_ssl_certificate {chain}; proxy_ssl_certificate_key {key}; proxy_pass https://127.0.0.1:{to}; }} \
             location /nobody {{ proxy_pass https://127.0.0.1:{to}; }} }}"
        ),
    );
    let mut client = Client::connect(port);
    let answer = client.get("/", "");
    assert!(answer.text().contains(&format!("URI={WEB}")), "{}\n{}", answer.text(), inner.process.log());
    assert_eq!(Client::connect(port).get("/nobody", "").status(), 502);
}

#[test]
fn h2load_and_nghttp_load_it_over_tls_and_without() {
    if !has("h2load") || !has("nghttp") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "ca");
    let leaf = pki.leaf("leaf", &["shop.test"]);
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let sent = peer.body(&head).len();
            let body = if head.starts_with("GET") { "y".repeat(30_000) } else { sent.to_string() };
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let behind = Mesh::default().chain("in", "", "", "").cluster("c", backend.address, "").start();
    let before = Mesh::default()
        .chain("in", "", &shown(&leaf), "")
        .cluster("c", ([127, 0, 0, 1], behind.port).into(), HTTP2)
        .start();
    let upload = folder.path().join("upload");
    std::fs::write(&upload, vec![b'z'; 200_000]).expect("written");
    let upload = upload.display().to_string();
    let load = |url: &str, more: &[&str]| {
        let output = Command::new("timeout")
            .args(["60", "h2load", "-n", "400", "-c", "4", "-m", "20"])
            .args(more)
            .arg(url)
            .output()
            .expect("h2load runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("400 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
        assert!(text.contains("status codes: 400 2xx"), "{text}");
    };
    for url in [format!("http://127.0.0.1:{}/", behind.port), format!("https://127.0.0.1:{}/", before.port)] {
        load(&url, &[]);
        load(&url, &["-d", &upload]);
        let output = Command::new("timeout")
            .args(["20", "nghttp", "-nv", "--no-verify-peer", "-m", "10", &url])
            .output()
            .expect("nghttp runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.matches(":status: 200").count(), 10, "{text}");
        assert!(!text.contains("error_code=PROTOCOL_ERROR"), "{text}");
    }
    assert!(
        curl(&pki.authority(), "shop.test", before.port, &["--http2"]).is_ok_and(|body| body.len() == 30_000)
    );
}

//! `weir` beside a control plane: a session in a terminal, and inputs that were written for others.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::{Backend, Client, Control, Output, Pki, Process, Proxy, eventually, free_port};

/// A terminal: programs that run here share a home.
struct Terminal {
    home: tempfile::TempDir,
}

impl Terminal {
    fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a folder") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Process::path("weir"));
        command.args(arguments).env("XDG_STATE_HOME", self.home.path()).env_remove("WEIR_TOKEN");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.feed(arguments, "")
    }

    fn feed(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("weir runs");
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What is printed by a command that succeeds.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// A file of this terminal.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }
}

fn gateway_of(line: &str) -> u16 {
    let address = line.split("http://127.0.0.1:").nth(1).expect("an address");
    address.split('/').next().and_then(|port| port.trim().parse().ok()).expect("a port")
}

#[test]
fn a_demo_is_steered_from_another_terminal() {
    use std::io::{BufRead as _, BufReader};
    let terminal = Terminal::new();
    let mut demo = terminal
        .command(&["demo", "--requests", "100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("weir runs");
    let mut lines = BufReader::new(demo.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let gateway = gateway_of(&lines.by_ref().find(|line| line.contains("curl http")).expect("an address"));
    lines.by_ref().find(|line| line.contains("Ctrl-C")).expect("it waits");
    let served = |expected: usize| {
        eventually("the weights are served", || {
            let mut client = Client::connect(gateway);
            ((0..100).filter(|_| client.get("/", "").text() == "v2").count() == expected).then_some(())
        });
    };

    let said = terminal.says(&["split", "set", "shop", "v2=30", "--reason", "looks good"]);
    assert!(said.contains("1     v2       30      30.0000 %") && said.ends_with("version 2\n"), "{said}");
    served(30);
    let explained = terminal.says(&["explain", "GET", "http://shop.example.com/"]);
    assert!(explained.contains("v2, weight 30: takes it with 30 %"), "{explained}");
    let history = terminal.says(&["history"]);
    let lines_of: Vec<&str> = history.lines().collect();
    assert!(lines_of[1].contains("admin") && lines_of[1].ends_with("looks good"), "{history}");
    assert!(lines_of[2].contains("file") && lines_of.len() == 3, "{history}");
    assert_eq!(terminal.says(&["history", "httproute", "shop"]).lines().count(), 3);
    let diff = terminal.run(&["diff"]);
    assert_eq!(diff.code, 3, "{}", diff.stderr);
    assert!(diff.stdout.contains("-      weight: 90\n+      weight: 70\n"), "{}", diff.stdout);
    assert_eq!(terminal.run(&["diff", "--from", "1", "--to", "1"]).code, 0);
    let rolled = terminal.says(&["rollback"]);
    assert_eq!(rolled, "HTTPRoute shop: updated\nversion 3\n");
    served(10);
    let status = terminal.says(&["status"]);
    assert!(status.starts_with("wanted: version 3 by admin: rollback to version 1\n"), "{status}");
    assert!(status.contains("drift:") || !status.contains("says something else"), "{status}");

    // Before it is applied: what it would change, and for whom.
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: cart }\nspec:\n  rules:\n  - matches: [{ path: { value: /cart } }]\n    backendRefs: [{ name: v2 }]\n";
    let file = terminal.file("cart.yaml", route);
    let requests = terminal.file(
        "requests",
        "GET http://shop.example.com/\n{\"host\":\"shop.example.com\",\"path\":\"/cart/7\"}\n",
    );
    let diff = terminal.run(&["diff", "-f", &file]);
    assert!(diff.code == 3 && diff.stdout.contains("+  name: cart"), "{diff:?}");
    let impact = terminal.run(&["diff", "-f", &file, "--impact", &requests]);
    assert_eq!(impact.code, 3, "{}", impact.stderr);
    assert!(
        impact.stdout.contains("GET shop.example.com/cart/7")
            && impact.stdout.ends_with("1 of 2 requests would fare otherwise\n"),
        "{}",
        impact.stdout
    );
    assert!(terminal.says(&["apply", "-f", &file, "--dry-run"]).ends_with("would be version 4\n"));
    assert!(terminal.says(&["apply", "-f", &file]).ends_with("HTTPRoute cart: created\nversion 4\n"));
    let listed = terminal.says(&["get", "route"]);
    assert!(listed.contains("HTTPRoute  default    cart  4        v2 "), "{listed}");
    let one: Value =
        serde_json::from_str(&terminal.says(&["get", "route", "cart", "-o", "json"])).expect("JSON");
    assert_eq!(one["status"]["parents"][0]["conditions"][0]["type"], "Accepted");
    assert!(terminal.says(&["delete", "route", "cart"]).ends_with("version 5\n"));

    // Exit codes: bad input, somebody else, not allowed, failed.
    let wrong = terminal.file("wrong.yaml", &route.replace("backendRefs", "backendRef"));
    let refused = terminal.run(&["apply", "-f", &wrong]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("wrong.yaml:7:5: unknown field `backendRef`, did you mean `backendRefs`?"),
        "{}",
        refused.stderr
    );
    assert_eq!(terminal.run(&["split", "set", "shop", "v9=1"]).code, 2);
    assert_eq!(terminal.run(&["get", "route", "nowhere"]).code, 1);
    assert_eq!(terminal.run(&["history", "--token", "weir_0"]).code, 5);
    assert_eq!(terminal.run(&["history", "--server", "http://127.0.0.1:1"]).code, 1);

    let killed = Command::new("kill").args(["-INT", &demo.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    assert!(demo.wait().expect("it ends").success());
    assert!(!terminal.home.path().join("weir/local.json").exists(), "nothing is left");
}

/// A control plane, a proxy that follows it, and a terminal.
struct Plane {
    control: Control,
    terminal: Terminal,
    proxy: Proxy,
}

impl Plane {
    fn start(resources: &str) -> Self {
        let control = Control::start(resources, "");
        let admin = free_port();
        let text = control.bootstrap("edge-1", admin, "DELTA_GRPC");
        let one = ["--concurrency".to_owned(), "1".to_owned()];
        let proxy = Proxy::start_unready(&text, control.gateway, admin, &one);
        Self { control, terminal: Terminal::new(), proxy }
    }

    fn weir(&self, arguments: &[&str], input: &str) -> Output {
        let server = format!("http://127.0.0.1:{}", self.control.http);
        let token = self.control.api().token.unwrap_or_default();
        let mut all = arguments.to_vec();
        all.extend(["--server", &server, "--token", &token]);
        self.terminal.feed(&all, input)
    }

    fn apply(&self, text: &str) {
        let output = self.weir(&["apply", "-f", "-"], text);
        assert_eq!(output.code, 0, "{}", output.stderr);
    }

    fn register(&self, service: &str, backend: &Backend, labels: &Value) {
        let body =
            json!({ "address": backend.address.to_string(), "labels": labels, "ttl": "60s" }).to_string();
        let id = labels["version"].as_str().unwrap_or("one");
        let response =
            self.control.api().send("PUT", &format!("/api/v1/services/{service}/instances/{id}"), "", &body);
        assert_eq!(response.status(), 200, "{}", response.text());
    }

    fn served(&self, path: &str, headers: &str, expected: &str) {
        eventually(expected, || {
            let mut client = Client::try_connect(self.control.gateway)?;
            client.try_send(format!("GET {path} HTTP/1.1\r\nhost: users\r\n{headers}\r\n"));
            let answer = client.try_response()?;
            (answer.text() == expected || answer.status().to_string() == expected).then_some(())
        });
    }
}

const PLACEHOLDER: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: default }\n";

#[test]
fn an_mcp_route_is_imported_served_and_exported() {
    let plane = Plane::start(PLACEHOLDER);
    let (one, two) = (Backend::named("v1"), Backend::named("v2"));
    let text = "apiVersion: networking.mesh.alipay.com/v1alpha1
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
    let imported = plane.terminal.feed(&["import", "-f", "-"], text);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    plane.apply(&imported.stdout);
    plane.register("user-service-v1", &one, &json!({ "version": "v1" }));
    plane.register("user-service-v2", &two, &json!({ "version": "v2" }));
    plane.served("/", "", "v1");
    plane.served("/", "x-user-tier: premium\r\n", "v2");
    let mut client = Client::connect(plane.control.gateway);
    assert!((0..1_000).all(|_| client.get("/", "x-user-tier: premium\r\n").text() == "v2"));
    // The sequence is somewhere in its period: a thousand requests are whole periods.
    let canary = (0..1_000).filter(|_| client.get("/", "").text() == "v2").count();
    assert_eq!(canary, 100);
    let exported = plane.weir(&["export", "httproute", "user-service", "--as", "mcproute"], "");
    let read = |text: &str| serde_saphyr::from_str::<Value>(text).expect("YAML");
    assert_eq!(read(&exported.stdout), read(text), "{}", exported.stderr);
    assert!(plane.proxy.page("/clusters").contains("user-service-v2"));
}

#[test]
fn groups_environments_and_rules_go_their_ways() {
    let backends: Vec<Backend> = ["production", "staging", "beta"].into_iter().map(Backend::named).collect();
    let mut text = String::new();
    for (name, backend) in ["production", "staging", "beta"].into_iter().zip(&backends) {
        text += &format!(
            "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: {name} }}\nspec: {{ endpoints: [{{ address: \"{}\" }}] }}\n---\n",
            backend.address
        );
    }
    let plane = Plane::start(&format!(
        "{text}apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: users }}
spec:
  rules:
  - matches: [{{ headers: [{{ name: env, value: staging }}] }}]
    backendRefs: [{{ name: staging }}]
  - backendRefs: [{{ name: production }}]
"
    ));
    plane.served("/", "", "production");
    plane.served("/", "env: staging\r\n", "staging");
    let group = |spec: &str| {
        format!("apiVersion: weir.dev/v1\nkind: UserGroup\nmetadata: {{ name: beta }}\nspec: {spec}\n")
    };
    let policy = "---\napiVersion: weir.dev/v1\nkind: TrafficPolicy\nmetadata: { name: users }\nspec:\n  targetRef: { kind: HTTPRoute, name: users }\n  groups: [{ group: beta, backendRefs: [{ name: beta }] }]\n";
    plane.apply(&format!("{}{policy}", group("{ header: X-User-ID, members: [ann, bob] }")));
    plane.served("/", "x-user-id: ann\r\n", "beta");
    plane.served("/", "x-user-id: carl\r\n", "production");
    // The group changes while it is served.
    plane.apply(&group("{ modulo: { divisor: 10, remainders: [3, 7] } }"));
    plane.served("/", "x-user-id: 1237\r\n", "beta");
    plane.served("/", "x-user-id: 1238\r\n", "production");
    plane.apply(&group("{ attribute: { header: dept, value: tech } }"));
    plane.served("/", "dept: tech\r\n", "beta");
    plane.served("/", "x-user-id: 1237\r\n", "production");
    // Rules of flow come before all of that, the higher priority first.
    let rule = |name: &str, priority: i32, rest: &str| {
        format!(
            "apiVersion: weir.dev/v1\nkind: FlowRule\nmetadata: {{ name: {name} }}\nspec: {{ match: {{ x-device: old }}, priority: {priority}, {rest} }}\n"
        )
    };
    plane.apply(&rule("stop", 1, "action: drop"));
    // What it does comes back to whoever follows.
    let api = plane.control.api();
    let mut events = Client::connect(api.port);
    events.send(api.head("GET", "/api/v1/flow-events", "", ""));
    assert_eq!(events.response_to_head().status(), 200);
    plane.served("/", "x-device: old\r\n", "403");
    // A chunk: its size, and a line of JSON.
    let event = String::from_utf8(events.bytes(120)).expect("text");
    assert!(event.contains("\"namespace\":\"default\",\"rule\":\"stop\""), "{event}");
    plane.apply(&rule("divert", 2, "action: forward, target: staging"));
    plane.served("/", "x-device: old\r\n", "staging");
    plane.served("/", "x-device: new\r\n", "production");
}

#[test]
fn a_gateway_of_its_own_serves_tls_tcp_and_changed_requests() {
    let echo = Backend::start(|_, conversation| {
        while let Some(head) = conversation.head() {
            let line = head.lines().next().unwrap_or_default().to_owned();
            let host = head
                .lines()
                .find(|l| l.to_ascii_lowercase().starts_with("host:"))
                .unwrap_or_default()
                .to_owned();
            let from = head.lines().find(|l| l.starts_with("x-from")).unwrap_or_default().to_owned();
            let body = format!("{line}|{host}|{from}");
            conversation.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(folder.path(), "mesh");
    let leaf = pki.leaf("shop", &["shop.example.com"]);
    let pem = |path: &std::path::Path| std::fs::read_to_string(path).expect("read");
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let (plain, tls, tcp) = (free_port(), free_port(), free_port());
    let resources = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge }}
spec:
  gatewayClassName: weir
  listeners:
  - {{ name: http, port: {plain}, protocol: HTTP }}
  - {{ name: https, port: {tls}, protocol: HTTPS, hostname: shop.example.com, tls: {{ certificateRefs: [{{ name: shop }}] }} }}
  - {{ name: db, port: {tcp}, protocol: TCP }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: shop }}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{ name: echo }}
spec: {{ endpoints: [{{ address: \"{}\" }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  rules:
  - matches: [{{ path: {{ value: /old }} }}]
    filters:
    - {{ type: URLRewrite, urlRewrite: {{ hostname: inner.example, path: {{ type: ReplacePrefixMatch, replacePrefixMatch: / }} }} }}
    - {{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-from, value: edge }}] }} }}
    backendRefs: [{{ name: echo }}]
  - matches: [{{ path: {{ value: /away }} }}]
    filters: [{{ type: RequestRedirect, requestRedirect: {{ hostname: other.example, statusCode: 308 }} }}]
  - matches: [{{ path: {{ value: /broken }} }}]
    backendRefs: [{{ name: nowhere }}]
  - backendRefs: [{{ name: echo }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{ name: db }}
spec:
  parentRefs: [{{ name: edge, sectionName: db }}]
  rules: [{{ backendRefs: [{{ name: echo }}] }}]
",
        indent(&pem(&leaf.chain)),
        indent(&pem(&leaf.key)),
        echo.address
    );
    let plane = Plane::start(&resources);
    let ask = |port: u16, path: &str| {
        eventually("the port answers", || {
            let mut client = Client::try_connect(port)?;
            client.try_send(format!("GET {path} HTTP/1.1\r\nhost: shop.example.com\r\n\r\n"));
            client.try_response()
        })
    };
    assert_eq!(ask(plain, "/old/cart?a=1").text(), "GET /cart?a=1 HTTP/1.1|host: inner.example|x-from: edge");
    assert_eq!(ask(plain, "/old").text().split('|').next(), Some("GET / HTTP/1.1"));
    assert_eq!(ask(plain, "/x").text().split('|').next(), Some("GET /x HTTP/1.1"));
    let away = ask(plain, "/away");
    let location = format!("http://other.example:{plain}/away");
    assert_eq!((away.status(), away.header("location")), (308, Some(location.as_str())));
    assert_eq!(ask(plain, "/broken").status(), 500);
    assert_eq!(ask(tcp, "/raw").text().split('|').next(), Some("GET /raw HTTP/1.1"));
    let ca = pki.authority().display().to_string();
    let by_tls = eventually("TLS answers", || {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "10",
                "--cacert",
                &ca,
                "--resolve",
                &format!("shop.example.com:{tls}:127.0.0.1"),
            ])
            .arg(format!("https://shop.example.com:{tls}/safe"))
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    assert!(by_tls.starts_with("GET /safe HTTP/1.1"), "{by_tls}");
    // What it became is told; keys are not.
    let status = plane.weir(&["get", "gateway", "edge", "-o", "json"], "");
    let gateway: Value = serde_json::from_str(&status.stdout).expect("JSON");
    let attached: Vec<_> = gateway["status"]["listeners"]
        .as_array()
        .expect("listeners")
        .iter()
        .map(|l| l["attachedRoutes"].as_u64())
        .collect();
    assert_eq!(attached, [Some(1), Some(1), Some(1)], "{gateway:#}");
    let secret = plane.weir(&["get", "secret", "shop", "-o", "yaml"], "");
    assert!(secret.code == 0 && !secret.stdout.contains("PRIVATE KEY"), "{}", secret.stdout);
    // What Envoy would be told.
    let file = plane.terminal.file("all.yaml", &resources);
    let converted = plane.terminal.says(&["convert", "-f", &file, "--for", "envoy", "-o", "json"]);
    let converted: Value = serde_json::from_str(&converted).expect("JSON");
    let kinds = converted["resources"].as_array().expect("resources").iter();
    assert!(kinds.filter(|r| r["@type"].as_str().is_some_and(|t| t.ends_with(".Listener"))).count() == 3);
}

#[test]
fn what_is_hardly_meant_is_told_before_it_is_served() {
    let terminal = Terminal::new();
    let route = |name: &str, rule: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec: {{ rules: [{rule}] }}\n---\n"
        )
    };
    let backend = "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: { name: v1 }\nspec: { endpoints: [{ address: 10.0.0.1:80 }] }\n---\n";
    let good = format!("{backend}{}", route("a", "{ backendRefs: [{ name: v1 }] }"));
    let file = terminal.file("good.yaml", &good);
    let said = terminal.run(&["validate", &file]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (0, format!("{file} can be used\n").as_str()),
        "{}",
        said.stderr
    );
    let odd = format!(
        "{good}{}{}apiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: empty }}\nspec: {{}}\n",
        route(
            "b",
            "{ backendRefs: [{ name: v1 }] }, { matches: [{ path: { value: /x } }], backendRefs: [{ name: nowhere }] }"
        ),
        route("c", "{ matches: [{ path: { value: /c } }], backendRefs: [{ name: empty }] }")
    );
    let file = terminal.file("odd.yaml", &odd);
    let said = terminal.run(&["validate", &file]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    for words in [
        "odd.yaml:11: warning: HTTPRoute b: BackendNotFound: there is no Backend nowhere",
        "warning: b/0: never has an effect as it stands",
        "warning: c/0: empty has no endpoints yet",
        "odd.yaml can be used",
    ] {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    assert_eq!(said.stdout.lines().count(), 4, "and nothing else: {}", said.stdout);
    let wrong = terminal.file("wrong.yaml", &good.replace("name: v1 }]", "nam: v1 }]"));
    let said = terminal.run(&["validate", &wrong]);
    assert!(said.code == 2 && said.stderr.contains("wrong.yaml:9:"), "{}", said.stderr);
}

//! The control plane's REST interface, as its users use it.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Api, Backend, Client, Control, Process, Proxy, eventually, free_port, resources};

const BACKEND: &str = "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: { name: NAME }\nspec: { endpoints: [{ address: 127.0.0.1:PORT }] }\n";

fn backend(name: &str, port: u16) -> String {
    BACKEND.replace("NAME", name).replace("PORT", &port.to_string())
}

/// A control plane over one backend that nobody calls, and its admin.
fn control() -> (Control, Api) {
    let control = Control::start(&resources(&[("v1", 1, ([127, 0, 0, 1], 9).into())]), "");
    let api = control.api();
    (control, api)
}

fn json_of(response: &tests::Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_default()
}

#[test]
fn who_may_do_what_is_the_same_on_every_page() {
    let (_control, admin) = control();
    let token = |role: &str, namespaces: &[&str]| {
        let body = json!({ "name": format!("{role}-1"), "role": role, "namespaces": namespaces }).to_string();
        let response = admin.send("POST", "/api/v1/tokens", "", &body);
        assert_eq!(response.status(), 201, "{}", response.text());
        json_of(&response)["token"].as_str().expect("a token").to_owned()
    };
    let developer = admin.with(Some(&token("developer", &["shop"])));
    let auditor = admin.with(Some(&token("auditor", &[])));
    let (nobody, stranger) = (admin.with(None), admin.with(Some("weir_0")));
    // Of each page: what it needs, and where.
    let pages = [
        ("GET", "/api/v1/namespaces/{namespace}/{kind}", "read"),
        ("GET", "/api/v1/namespaces/{namespace}/{kind}/{name}", "read"),
        ("PUT", "/api/v1/namespaces/{namespace}/{kind}/{name}", "write"),
        ("DELETE", "/api/v1/namespaces/{namespace}/{kind}/{name}", "write"),
        ("GET", "/api/v1/namespaces/{namespace}/{kind}/{name}/history", "read"),
        ("GET", "/api/v1/namespaces/{namespace}/{kind}/{name}/diff", "read"),
        ("POST", "/api/v1/namespaces/{namespace}/{kind}/{name}/rollback", "write"),
        ("GET", "/api/v1/config/{namespace}/{key}", "read"),
        ("PUT", "/api/v1/config/{namespace}/{key}", "write"),
        ("GET", "/api/v1/services/{service}/instances", "read"),
        ("PUT", "/api/v1/services/{service}/instances/{id}", "write"),
        ("DELETE", "/api/v1/services/{service}/instances/{id}", "write"),
        ("POST", "/api/v1/services/{service}/instances/{id}/heartbeat", "write"),
        ("POST", "/api/v1/apply", "write"),
        ("POST", "/api/v1/preview", "read"),
        ("POST", "/api/v1/impact", "read all"),
        ("POST", "/api/v1/explain", "read all"),
        ("POST", "/api/v1/rollback", "write the whole"),
        ("GET", "/api/v1/resources", "read the whole"),
        ("GET", "/api/v1/versions", "read the whole"),
        ("GET", "/api/v1/diff", "read the whole"),
        ("GET", "/api/v1/watch", "read the whole"),
        ("GET", "/api/v1/flow-events", "read the whole"),
        ("GET", "/api/v1/fleet", "read all"),
        ("GET", "/api/v1/audit", "audit"),
        ("GET", "/api/v1/tokens", "administer"),
        ("POST", "/api/v1/tokens", "administer"),
        ("DELETE", "/api/v1/tokens/{id}", "administer"),
    ];
    let described = admin.get("/openapi.json");
    let all: BTreeSet<(String, String)> = described["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, of)| {
            of.as_object().expect("methods").keys().map(|m| (m.to_uppercase(), path.clone()))
        })
        .collect();
    let table: BTreeSet<_> = pages.iter().map(|(m, path, _)| ((*m).to_owned(), (*path).to_owned())).collect();
    assert_eq!(all, table, "the table has every page");

    for (method, path, needs) in pages {
        for namespace in ["shop", "other"] {
            let mut at = path.replace("{namespace}", namespace).replace("{kind}", "backends");
            for (part, value) in [("{name}", "b"), ("{key}", "k"), ("{service}", "s"), ("{id}", "i")] {
                at = at.replace(part, value);
            }
            if path.contains("/services/") {
                at.push_str(&format!("?namespace={namespace}"));
            }
            let sep = if at.contains('?') { '&' } else { '?' };
            // Nothing is changed, and nothing waits.
            if needs.starts_with("write") && !path.contains("/services/") && !path.contains("/config/") {
                at.push_str(&format!("{sep}dryRun=true"));
            }
            if path.ends_with("/watch") || path.ends_with("/flow-events") {
                at.push_str(&format!("{sep}wait=0s"));
            }
            let document = backend("b", 1).replace("name: b", &format!("name: b, namespace: {namespace}"));
            let body = match path {
                "/api/v1/namespaces/{namespace}/{kind}/{name}" | "/api/v1/apply" | "/api/v1/preview" => {
                    document
                }
                "/api/v1/impact" => json!({ "requests": [] }).to_string(),
                "/api/v1/explain" => json!({ "host": "a" }).to_string(),
                "/api/v1/tokens" => json!({ "name": "n", "role": "auditor" }).to_string(),
                "/api/v1/config/{namespace}/{key}" => {
                    json!({ "config_version": "1", "properties": {} }).to_string()
                }
                "/api/v1/services/{service}/instances/{id}" => {
                    json!({ "address": "127.0.0.1:1" }).to_string()
                }
                _ => "{}".to_owned(),
            };
            let whole = needs.ends_with("the whole") || ["audit", "administer"].contains(&needs);
            let may = |role: &str| match (role, needs) {
                ("admin", _) => true,
                ("developer", "read the whole") => true,
                ("developer", "read" | "write") => namespace == "shop" && !whole,
                ("auditor", _) => !needs.starts_with("write") && needs != "administer",
                _ => false,
            };
            for (role, api) in [("admin", &admin), ("developer", &developer), ("auditor", &auditor)] {
                let status = api.send(method, &at, "", &body).status();
                assert_ne!(status, 401, "{role} {method} {at}");
                assert_eq!(status == 403, !may(role), "{role} {method} {at}: {status}");
            }
            for api in [&nobody, &stranger] {
                assert_eq!(api.send(method, &at, "", &body).status(), 401, "{method} {at}");
            }
        }
    }
    // Pages for whoever watches over the process want no token.
    for page in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/fleet"] {
        assert_eq!(nobody.send("GET", page, "", "").status(), 200, "{page}");
    }
    assert_eq!(nobody.send("GET", "/healthz", "", "").text(), "OK");
}

#[test]
fn bad_input_gets_one_sentence_and_loses_nothing() {
    let (_control, api) = control();
    let before = api.get("/api/v1/versions");
    let big = format!("# {}\n", "x".repeat(17 << 20));
    let route = |rule: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r }}\nspec:\n  rules:\n  - {rule}\n"
        )
    };
    for (body, status, words) in [
        (route("backendRefs: [{ name: v1, weigth: 5 }]"), 422, "unknown field `weigth`, did you mean `weight`?"),
        (route("backendRefs: [{ name: v1, weight: -5 }]"), 422, "u32"),
        (route("backendRefs: [{ name: v1, weight: 99999999999 }]"), 422, "u32"),
        (route("backendRefs: [{ name: v1, weight: 2000000 }]"), 422, "2000000 is more than 1000000"),
        (route("matches: [{ path: { type: RegularExpression, value: '(' } }]"), 422, "matches[0].path.value"),
        (route(&format!("matches: [{{ path: {{ type: RegularExpression, value: '{}' }} }}]", "(a{1000}){1000}")), 422, "path.value"),
        ("kind: Backend\nkind: Backend\n".to_owned(), 400, "duplicate"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n".to_owned(), 422, ""),
        ("apiVersion: v1\nkind: Pod\n".to_owned(), 422, "Pod is not a kind"),
        (String::new(), 400, "no document"),
        ("{".to_owned(), 422, ""),
        (big, 413, ""),
        (format!("{}---\n{}", backend("b", 1), backend("b", 2)), 422, "Backend b comes twice"),
    ] {
        let response = api.send("POST", "/api/v1/apply", "", &body);
        let start: String = body.chars().take(200).collect();
        assert_eq!(response.status(), status, "{start}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{start}");
        let problem = json_of(&response);
        let detail = problem["detail"].as_str().expect("a sentence");
        assert!(detail.contains(words) && detail.lines().count() == 1, "{start}: {detail}");
    }
    assert_eq!(api.get("/api/v1/versions"), before, "nothing was changed");
    // The place of what is wrong.
    let problem =
        json_of(&api.send("POST", "/api/v1/apply", "", &route("backendRefs: [{ name: v1, weigth: 5 }]")));
    assert_eq!((&problem["line"], &problem["column"]), (&json!(6), &json!(31)));
    // Another name than the path's, a kind that there is not, a page that there is not.
    let put = |path: &str| api.send("PUT", path, "", &backend("b", 1)).status();
    assert_eq!(put("/api/v1/namespaces/default/backends/c"), 422);
    assert_eq!(put("/api/v1/namespaces/default/backendz/b"), 404);
    assert_eq!(put("/api/v2"), 404);
    assert_eq!(api.send("PATCH", "/api/v1/versions", "", "").status(), 405);
    // All weights 0 are legal, and told of; so is what leads nowhere.
    let answer = api.apply(&route("backendRefs: [{ name: nowhere }]"));
    assert!(
        answer["warnings"][0].as_str().is_some_and(|w| w.contains("there is no Backend nowhere")),
        "{answer}"
    );
    api.apply(&route("backendRefs: [{ name: v1, weight: 0 }]"));
}

#[test]
fn who_was_not_first_is_told_so() {
    let (_control, api) = control();
    let path = "/api/v1/namespaces/default/backends/b";
    let put = |headers: &str, port: u16| api.send("PUT", path, headers, &backend("b", port));
    let first = put("if-none-match: *\r\n", 1);
    assert_eq!(first.status(), 200, "{}", first.text());
    let tag = first.header("etag").expect("a version").to_owned();
    assert_eq!(put("if-none-match: *\r\n", 2).status(), 412);
    assert_eq!(put(&format!("if-match: {tag}\r\n"), 2).status(), 200);
    let stale = put(&format!("if-match: {tag}\r\n"), 3);
    assert_eq!(stale.status(), 412);
    assert!(json_of(&stale)["current"].as_u64().is_some(), "{}", stale.text());
    // What was read is told apart from what is.
    let now = api.send("GET", path, "", "");
    let same = format!("if-none-match: {}\r\n", now.header("etag").expect("a version"));
    assert_eq!(api.send("GET", path, &same, "").status(), 304);
    assert_eq!(api.send("GET", path, &format!("if-none-match: {tag}\r\n"), "").status(), 200);
    // The same again is no version; to look is none either.
    let versions = || api.get("/api/v1/versions")["versions"].as_array().map(Vec::len);
    let before = versions();
    assert_eq!(put("", 2).status(), 200);
    assert_eq!(api.send("DELETE", &format!("{path}?dryRun=true"), "", "").status(), 200);
    assert_eq!(versions(), before);
    assert_eq!(api.send("DELETE", path, "if-match: \"1\"\r\n", "").status(), 412);
    assert_eq!(api.send("DELETE", path, "", "").status(), 200);
    assert_eq!(api.send("DELETE", path, "", "").status(), 404);
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let (mut control, api) = control();
    let mut acknowledged = 0_u16;
    for round in 0..4 {
        let deadline = Instant::now() + Duration::from_millis(120 + 70 * round);
        let killer = {
            let id = control.process.as_ref().expect("it runs").id().to_string();
            std::thread::spawn(move || {
                std::thread::sleep(deadline - Instant::now());
                Command::new("kill").args(["-KILL", &id]).status()
            })
        };
        let mut next = acknowledged + 1;
        while let Some(mut client) = Client::try_connect(api.port) {
            let head = api.head("PUT", "/api/v1/namespaces/default/backends/b", "", &backend("b", next));
            if !client.try_send(head) {
                break;
            }
            match client.try_response() {
                Some(response) if response.status() == 200 => (acknowledged, next) = (next, next + 1),
                _ => break,
            }
        }
        assert!(killer.join().is_ok());
        control.restart();
        let found = api.get("/api/v1/namespaces/default/backends/b");
        let port: u16 = found["spec"]["endpoints"][0]["address"]
            .as_str()
            .and_then(|address| address.rsplit(':').next()?.parse().ok())
            .expect("a port");
        // The last one may have been written without a word of it having come back.
        assert!(
            port == acknowledged || port == acknowledged + 1,
            "{port} is there, {acknowledged} was acknowledged"
        );
        acknowledged = port;
        let audit = api.get("/api/v1/audit");
        assert_eq!(audit["whole"], true, "{audit}");
        let records = audit["records"].as_array().expect("records").iter();
        let puts = records.filter(|record| record["action"] == "PUT Backend b").count();
        assert_eq!(puts, usize::from(acknowledged), "a record for each");
    }
    assert!(acknowledged > 4, "something was written: {acknowledged}");
    let versions = api.get("/api/v1/versions");
    let newest = versions["versions"][0]["number"].as_u64().expect("a number");
    assert_eq!(newest, u64::from(acknowledged) + 1, "numbers have no gap");
}

#[test]
fn changes_are_told_as_they_come() {
    let (_control, api) = control();
    let watch = "/api/v1/namespaces/default/backends";
    // A line of JSON each, from a version on.
    let mut lines = Client::connect(api.port);
    lines.send(api.head("GET", &format!("{watch}?watch=1&from=0"), "", ""));
    let mut socket = Client::connect(api.port);
    socket.send(api.head(
        "GET",
        &format!("{watch}?watch=1"),
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "",
    ));
    let head = socket.response_to_head();
    assert_eq!(head.status(), 101, "{head:?}");
    let started = Instant::now();
    let poll = {
        let api = api.clone();
        let path = format!("{watch}?wait=30s&from=1");
        std::thread::spawn(move || api.send("GET", &path, "", ""))
    };
    std::thread::sleep(Duration::from_millis(200));
    api.apply(&backend("new", 1));
    let polled = poll.join().expect("no panic");
    assert!(started.elapsed() < Duration::from_secs(25), "it does not wait for its end");
    assert_eq!(json_of(&polled)["changes"][0]["name"], "new", "{}", polled.text());
    let frame = socket.bytes(4);
    assert_eq!(frame[0], 0x81, "a text message: {frame:?}");
    let head = lines.response_to_head();
    assert_eq!((head.status(), head.header("content-type")), (200, Some("application/jsonl")));
    let mut told = Vec::new();
    while !String::from_utf8_lossy(&told).contains("\"name\":\"new\"") {
        let more = lines.bytes(1);
        assert!(!more.is_empty(), "it goes on: {}", String::from_utf8_lossy(&told));
        told.extend(more);
    }
    assert!(String::from_utf8_lossy(&told).contains("\"name\":\"v1\""), "from the beginning");
    // Nothing new is 304; a poll of another kind sees nothing of this one.
    let nothing = api.send("GET", "/api/v1/namespaces/default/gateways?wait=200ms", "", "");
    assert_eq!(nothing.status(), 304);
    assert_eq!(api.send("GET", &format!("{watch}?wait=soon"), "", "").status(), 400);
}

#[test]
fn every_change_is_recorded_and_so_is_every_refusal() {
    let control =
        Control::start(&resources(&[("v1", 1, ([127, 0, 0, 1], 9).into())]), "audit: audit.jsonl\n");
    let api = control.api();
    api.send(
        "PUT",
        "/api/v1/namespaces/default/backends/b",
        "x-change-reason: why not\r\nx-request-id: abc-1\r\n",
        &backend("b", 1),
    );
    api.send("PUT", "/api/v1/namespaces/default/backends/b", "x-request-id: abc-2\r\n", "nonsense: [");
    api.with(None).send("DELETE", "/api/v1/namespaces/default/backends/b", "x-request-id: abc-3\r\n", "");
    let wanted = [
        ("", "file", "apply", ""),
        ("abc-1", "admin", "PUT Backend b", "why not"),
        ("abc-2", "admin", "PUT /api/v1/namespaces/default/backends/b", "refused: 4"),
        ("abc-3", "unknown", "DELETE /api/v1/namespaces/default/backends/b", "refused: 401"),
    ];
    let records = eventually("every record", || {
        let audit = api.get("/api/v1/audit");
        assert_eq!(audit["whole"], true);
        let records = audit["records"].as_array()?.clone();
        (records.len() >= wanted.len()).then_some(records)
    });
    assert_eq!(records.len(), wanted.len(), "one each: {records:?}");
    for (trace, operator, action, details) in wanted {
        let found = records.iter().find(|record| record["trace_id"] == trace).expect(trace);
        assert_eq!((&found["operator"], &found["action"]), (&json!(operator), &json!(action)));
        assert!(found["details"].as_str().is_some_and(|text| text.contains(details)), "{found}");
    }
    let file = control.folder.path().join("audit.jsonl");
    let lines = eventually("all of it in the file", || {
        let text = std::fs::read_to_string(&file).ok()?;
        (text.lines().count() == wanted.len()).then_some(text)
    });
    assert!(!lines.contains(api.token.as_deref().expect("a token")));
}

#[test]
fn a_configuration_is_taken_once_and_told_once() {
    let (_control, api) = control();
    let path = "/api/v1/config/default/cart";
    let settings = |version: &str, limit: u32| {
        json!({ "service_id": "cart", "config_version": version, "properties": { "limit": limit } })
            .to_string()
    };
    let first = api.send("PUT", path, "", &settings("1", 5));
    assert_eq!(first.status(), 200, "{}", first.text());
    let again = api.send("PUT", path, "", &settings("1", 5));
    assert_eq!(again.header("etag"), first.header("etag"), "the same version twice is taken once");
    assert_eq!(api.send("PUT", path, "", &settings("1", 6)).status(), 409);
    let known = format!("if-none-match: {}\r\n", first.header("etag").expect("a tag"));
    assert_eq!(api.send("GET", path, &known, "").status(), 304);
    let waiting = {
        let api = api.clone();
        std::thread::spawn(move || api.send("GET", "/api/v1/config/default/cart?wait=30s", &known, ""))
    };
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(api.send("PUT", path, "", &settings("2", 7)).status(), 200);
    let told = waiting.join().expect("no panic");
    assert_eq!(json_of(&told)["properties"]["limit"], 7);
    assert_ne!(told.header("etag"), first.header("etag"));
}

#[test]
fn instances_are_served_by_weight_and_gone_when_they_are_silent() {
    let (one, two) = (Backend::named("old"), Backend::named("new"));
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: users }\nspec: { rules: [{ backendRefs: [{ name: users }] }] }\n---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: { name: users }\nspec: { instances: { service: users, labels: { env: gray } } }\n";
    let control = Control::start(route, "");
    let api = control.api();
    let register = |id: &str, address: String, weight: u32, ttl: &str| {
        let body = json!({ "address": address, "ttl": ttl,
            "metadata": { "version": "2.0", "env": "gray", "weight": weight } });
        let path = format!("/api/v1/services/users/instances/{id}");
        let response = api.send("PUT", &path, "", &body.to_string());
        assert_eq!(response.status(), 200, "{}", response.text());
    };
    register("service-v1-01", one.address.to_string(), 70, "60s");
    register("service-v2-01", two.address.to_string(), 30, "60s");
    let admin = free_port();
    let text = control.bootstrap("edge-1", admin, "GRPC");
    let _proxy = Proxy::start(&text, control.gateway, admin, &["--concurrency".to_owned(), "1".to_owned()]);
    let share = |client: &mut Client| (0..100).filter(|_| client.get("/", "").text() == "new").count();
    let mut client = Client::connect(control.gateway);
    assert_eq!(share(&mut client), 30);
    // A new weight is served within a second; a round is a hundred requests.
    register("service-v2-01", two.address.to_string(), 70, "60s");
    eventually("half of it", || (share(&mut client) == 50).then_some(()));
    // Whoever says nothing any more is gone; whoever speaks up stays.
    register("service-v2-01", two.address.to_string(), 70, "2s");
    let heartbeat =
        || api.send("POST", "/api/v1/services/users/instances/service-v2-01/heartbeat", "", "").status();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(heartbeat(), 204);
    }
    let silent = Instant::now();
    eventually("it is gone", || {
        let listed = api.get("/api/v1/services/users/instances");
        (listed["instances"].as_array()?.len() == 1).then_some(())
    });
    let took = silent.elapsed();
    assert!(took > Duration::from_secs(1), "not before its time: {took:?}");
    assert_eq!(heartbeat(), 404, "it must register anew");
    eventually("the other serves all", || (share(&mut client) == 0).then_some(()));
    for (body, words) in [
        (json!({ "address": "nowhere" }), "is not IP:port"),
        (json!({ "address": "127.0.0.1:1", "weight": 0 }), "weight: 0"),
        (json!({ "address": "127.0.0.1:1", "ttl": "1ms" }), "ttl"),
    ] {
        let response = api.send("PUT", "/api/v1/services/users/instances/x", "", &body.to_string());
        assert!(response.status() == 422 && response.text().contains(words), "{}", response.text());
    }
}

#[test]
fn prometheus_reads_what_is_counted() {
    let Ok(probe) =
        Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status()
    else {
        eprintln!("left out: there is no prometheus");
        return;
    };
    assert!(probe.success());
    let (control, api) = control();
    for _ in 0..7 {
        api.get("/api/v1/versions");
    }
    let page = api.with(None).send("GET", "/metrics", "", "");
    let series = "http_requests_total{method=\"GET\",endpoint=\"/api/v1/versions\",status=\"200\"} 7";
    assert!(page.text().contains(series), "{}", page.text());
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: weir, static_configs: [{{ targets: ['127.0.0.1:{}'] }}] }}]\n",
        control.http
    );
    std::fs::write(&config, text).expect("written");
    let port = free_port();
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let query = "/api/v1/query?query=http_requests_total%7Bendpoint%3D%22%2Fapi%2Fv1%2Fversions%22%7D";
    let found = std::panic::catch_unwind(|| {
        eventually("a sample", || {
            let page = tests::http_get(port, query)?;
            let answer: Value = serde_json::from_slice(&page.body).ok()?;
            let sample = answer["data"]["result"][0].clone();
            sample.is_object().then_some(sample)
        })
    });
    let _ = prometheus.kill();
    let _ = prometheus.wait();
    let found = found.expect("it was scraped");
    assert_eq!((&found["metric"]["method"], &found["value"][1]), (&json!("GET"), &json!("7")));
}

#[test]
fn a_store_that_another_process_has_is_named() {
    let (control, _api) = control();
    let config = control.folder.path().join("other.yaml");
    let text = format!("xds: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\n", free_port(), free_port());
    std::fs::write(&config, text).expect("written");
    let output = Process::run("weir-control", &["--config", &config.display().to_string()]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("weir.redb"), "{}", output.stderr);
}

#[test]
fn a_start_with_a_broken_file_serves_what_was_served() {
    let good = resources(&[("v1", 1, ([127, 0, 0, 1], 9).into())]);
    let mut control = Control::start(&good, "");
    let api = control.api();
    api.apply(&backend("beside", 1));
    control.write(&good.replace("weight", "weigth"));
    control.restart();
    let names = |kind: &str| -> Vec<Value> {
        let listed = api.get(&format!("/api/v1/namespaces/default/{kind}"));
        listed["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["metadata"]["name"].clone())
            .collect()
    };
    assert_eq!(
        (names("httproutes"), names("backends")),
        (vec![json!("shop")], vec![json!("beside"), json!("v1")])
    );
    let told = || control.fleet()?["source"]["refusal"]["reason"].as_str().map(str::to_owned);
    assert!(eventually("the refusal is told", told).contains("did you mean `weight`?"));
    // What was changed elsewhere stays, and is told of, until its file says the same.
    control.write(&good);
    api.send("DELETE", "/api/v1/namespaces/default/backends/v1", "", "");
    control.restart();
    assert_eq!(names("backends"), [json!("beside")]);
    eventually("the drift is told", || {
        (control.fleet()?["source"]["drift"] == json!(["Backend v1"])).then_some(())
    });
    control.write(&good.replace("127.0.0.1:9", "127.0.0.1:8"));
    eventually("its file has changed", || (names("backends").len() == 2).then_some(()));
}

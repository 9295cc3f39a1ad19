//! What `/explain` says of a request, and what a real `weir-proxy` then does with it.

use std::fmt::Write as _;

use serde_json::Value;
use tests::{Backend, Client, Process, Proxy, Response, Setup};

/// Every kind of match, and every kind of action.
const ROUTES: &str = r#"
{ name: moved, match: { prefix: /old }, redirect: { path_redirect: /new, response_code: FOUND } },
{ name: health, match: { path: /health, headers: [ { name: ":method", string_match: { exact: GET } } ] },
  direct_response: { status: 204 } },
{ name: beta, match: { prefix: /, headers: [ { name: x-beta, string_match: { prefix: "1" } } ] }, route: { cluster: b } },
{ name: not-plain, match: { prefix: /, headers: [ { name: x-plain, present_match: true, invert_match: true },
  { name: x-number, range_match: { start: 3, end: 6 } } ] }, route: { cluster: c } },
{ name: query, match: { path_separated_prefix: /shop, query_parameters: [ { name: q, string_match: { contains: b } } ] },
  route: { cluster: b } },
{ name: cookie, match: { prefix: /shop, cookies: [ { name: lang, string_match: { exact: de } } ] }, route: { cluster: c } },
{ name: grpc, match: { prefix: /, grpc: {} }, route: { cluster: b } },
{ name: item, match: { safe_regex: { regex: "/item/[0-9]+" } },
  route: { weighted_clusters: { clusters: [ { name: a, weight: 60 }, { name: b, weight: 40 } ] } },
  typed_per_filter_config: { weir.split: { "@type": type.googleapis.com/weir.split.v1.SplitPolicy,
    header: x-user, override_header: x-arm } } },
{ name: template, match: { path_match_policy: { name: t, typed_config: {
    "@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig,
    path_template: "/user/{id}/*" } } },
  route: { weighted_clusters: { clusters: [ { name: a, weight: 1 }, { name: c, weight: 2 } ] }, hash_policy: [ { header: { header_name: x-user } } ] },
  typed_per_filter_config: { weir.split: { "@type": type.googleapis.com/weir.split.v1.SplitPolicy, query_parameter: u } } },
{ name: sticky, match: { prefix: /Sticky, case_sensitive: false },
  route: { weighted_clusters: { use_hash_policy: true, clusters: [ { name: a, weight: 30 }, { name: b, weight: 70 } ] },
    hash_policy: [ { cookie: { name: id } }, { header: { header_name: x-user } } ] } },
{ name: spill, match: { prefix: /spill },
  route: { weighted_clusters: { clusters: [ { name: empty, weight: 50 }, { name: b, weight: 25 }, { name: c, weight: 25 } ] } },
  typed_per_filter_config: { weir.split: { "@type": type.googleapis.com/weir.split.v1.SplitPolicy,
    header: x-user, when_unavailable: SPILL } } },
{ name: gone, match: { prefix: /gone }, route: { cluster: empty } },
{ name: named, match: { prefix: /named }, route: { cluster_header: x-cluster, cluster_not_found_response_code: NOT_FOUND } },
{ name: turns, match: { prefix: /shop },
  route: { weighted_clusters: { clusters: [ { name: a, weight: 5 }, { name: b, weight: 3 }, { name: c, weight: 0 } ] } } },
"#;

fn start() -> (Proxy, [Backend; 3]) {
    let backends = ["a", "b", "c"].map(Backend::named);
    let mut setup = Setup::default().routes(ROUTES).manager("merge_slashes: true\nnormalize_path: true");
    setup.clusters =
        ["a", "b", "c"].into_iter().zip(&backends).map(|(name, b)| (name, b.address, "")).collect();
    let (port, admin) = (tests::free_port(), tests::free_port());
    let mut text = setup.bootstrap(port, admin);
    let _ = writeln!(
        text,
        "  - {{ name: empty, connect_timeout: 1s, load_assignment: {{ cluster_name: empty }} }}"
    );
    // Each response tells its route.
    let text = text.replace(
        "            name: r\n",
        "            name: r\n            response_headers_to_add: [ { header: { key: x-route, value: \"%ROUTE_NAME%\" } } ]\n",
    );
    (Proxy::start(&text, port, admin, &[]), backends)
}

/// A small generator of numbers: the same requests each time (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[(self.next() >> 16) as usize % words.len()]
    }
}

/// Method, path and headers.
fn random_request(random: &mut Random) -> (&'static str, String, Vec<String>) {
    const PATHS: [&str; 22] = [
        "/",
        "/old",
        "/old/x?y=1",
        "/health",
        "/shop",
        "/shop/cart",
        "/shopping",
        "/shop?q=abc",
        "/shop/x?q=a",
        "/item/17",
        "/item/x",
        "/item/17/",
        "/user/7/",
        "/user/7/a?u=9",
        "/sticky",
        "/STICKY/x",
        "/spill",
        "/spill/x",
        "/gone",
        "/named",
        "/shop/../item/%31",
        "//shop//x",
    ];
    const HEADERS: [&str; 22] = [
        "x-beta: 1",
        "x-beta: 17",
        "x-beta: 2",
        "x-plain: yes",
        "x-number: 3",
        "x-number: 5",
        "x-number: 6",
        "x-number: x",
        "cookie: lang=de",
        "cookie: a=1; lang=\"de\"",
        "cookie: id=u7",
        "cookie: lang=en; id=u8",
        "content-type: application/grpc",
        "content-type: text/plain",
        "x-arm: a",
        "x-arm: b",
        "x-arm: z",
        "x-cluster: a",
        "x-cluster: c",
        "x-cluster: nobody",
        "x-beta: 0",
        "x-number: 4",
    ];
    let method = random.of(&["GET", "GET", "GET", "POST", "DELETE"]);
    let mut path = random.of(&PATHS).to_owned();
    if random.next().is_multiple_of(4) {
        let _ = write!(path, "{}u={}", if path.contains('?') { '&' } else { '?' }, random.next() % 50);
    }
    let mut headers: Vec<_> = (0..random.next() % 4).map(|_| random.of(&HEADERS).to_owned()).collect();
    if random.next().is_multiple_of(2) {
        headers.push(format!("x-user: {}", random.next() % 1_000));
    }
    (method, path, headers)
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte.into()),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// What was said must be what is done.
fn compare(said: &Value, done: &Response) -> Result<(), String> {
    let expect = |what: &str, said: String, done: String| match said == done {
        true => Ok(()),
        false => Err(format!("{what}: said {said}, done {done}")),
    };
    let route = said["route"].as_str().and_then(|label| label.rsplit('/').next()).unwrap_or_default();
    expect("route", route.to_owned(), done.header("x-route").unwrap_or_default().to_owned())?;
    let outcome = &said["outcome"];
    if outcome["kind"] != "forwarded" {
        expect("status", outcome["status"].to_string(), done.status().to_string())?;
        let location = outcome["location"].as_str().unwrap_or_default();
        return expect(
            "location",
            location.to_owned(),
            done.header("location").unwrap_or_default().to_owned(),
        );
    }
    let arms = outcome["arms"].as_array().ok_or("no arms")?;
    let takers: Vec<_> = arms.iter().filter(|arm| arm["share"].as_f64() > Some(0.0)).collect();
    let serves = |arm: &&&Value| arm["cluster"] == done.text();
    match (done.status(), takers.as_slice()) {
        (200, takers) if takers.iter().any(|arm| serves(&arm)) => Ok(()),
        (503, [arm])
            if arm["endpoints"].as_array().is_some_and(Vec::is_empty) && arm["cluster_exists"] == true =>
        {
            Ok(())
        }
        (404, [arm]) if arm["cluster_exists"] == false => Ok(()),
        (status, takers) => Err(format!("{status} {} by {takers:?}", done.text())),
    }
}

#[test]
fn ten_thousand_requests_go_where_it_says() {
    let (proxy, _backends) = start();
    let (mut asking, mut doing) = (Client::connect(proxy.admin), Client::connect(proxy.port));
    let mut random = Random(0x5eed_1234_5678_9abc);
    let mut routes = std::collections::BTreeMap::<String, u32>::new();
    for number in 0..10_000 {
        let (method, path, headers) = random_request(&mut random);
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let mut query = format!("format=json&host=test&method={method}&path={}", escaped(&path));
        query.extend(headers.iter().map(|line| format!("&header={}", escaped(line))));
        let said = asking.get(&format!("/explain?{query}"), "");
        let said: Value = serde_json::from_slice(&said.body).expect("JSON");
        let said = &said["explanations"][0];
        doing.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n"));
        let done = doing.response();
        if let Err(difference) = compare(said, &done) {
            panic!("request {number}, {method} {path} {headers:?}: {difference}\n{said:#}\n{}", done.head);
        }
        *routes.entry(said["route"].to_string()).or_default() += 1;
        if done.header("connection") == Some("close") {
            doing = Client::connect(proxy.port);
        }
    }
    assert_eq!(routes.len(), 15, "every route and none were met: {routes:?}");
}

#[test]
fn the_tool_explains_a_running_proxy_and_a_file() {
    let (proxy, _backends) = start();
    let admin = format!("http://127.0.0.1:{}", proxy.admin);
    let file = proxy.folder.path().join("bootstrap.yaml").display().to_string();
    for source in [["--admin", &admin], ["-c", &file]] {
        let ask = |more: &[&str]| {
            let arguments = [&["explain", "GET", "http://test/shop/x?q=a"][..], &source, more].concat();
            Process::run("weir", &arguments)
        };
        let answer = ask(&[]);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        let text = &answer.stdout;
        for expected in [
            "virtual host  all, by its domain *",
            "query: no, it asks that query parameter q contains \"b\"; it is \"a\"",
            "others are for other paths",
            "turns: yes",
            "decided by    the exact sequence",
            "a, weight 5: takes it with 62.5 %",
            "c, weight 0: does not take it",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        let answer = ask(&["-o", "json", "-H", "x-beta: 1"]);
        let json: Value = serde_json::from_str(&answer.stdout).expect("JSON");
        assert_eq!(json["explanations"][0]["outcome"]["arms"][0]["cluster"], "b");
        let answer = ask(&["--listener", "nobody"]);
        assert_eq!((answer.code, answer.stdout.as_str()), (2, ""));
        assert!(answer.stderr.contains("there is no listener \"nobody\""), "{}", answer.stderr);
    }
    let nobody = Process::run("weir", &["explain", "GET", "http://test/", "--admin", "http://127.0.0.1:1"]);
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("cannot be reached"), "{}", nobody.stderr);
}

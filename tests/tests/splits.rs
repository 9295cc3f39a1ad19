//! Shares, and who stays where: over many requests, against a real `weir-proxy`, and beside Envoy where it has the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tests::{Backend, Client, Envoy, Proxy, Setup, free_port};

/// A request from each connection in turn, several on their way at once; counts by answer.
fn count(port: u16, requests: u32, head: impl Fn(u32) -> String) -> BTreeMap<String, u32> {
    const BATCH: u32 = 50;
    let mut client = Client::connect(port);
    let mut counts = BTreeMap::new();
    let mut sent = 0;
    while sent < requests {
        let batch = BATCH.min(requests - sent);
        let text: String = (sent..sent + batch).map(&head).collect();
        client.send(text);
        for _ in 0..batch {
            let response = client.response();
            *counts.entry(response.text().to_owned()).or_default() += 1;
            if response.header("connection") == Some("close") {
                client = Client::connect(port);
            }
        }
        sent += batch;
    }
    counts
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")
}

fn start(routes: &str) -> (Proxy, [Backend; 2]) {
    let backends = ["a", "b"].map(Backend::named);
    let mut setup = Setup::default()
        .routes(routes)
        .manager("common_http_protocol_options: { max_requests_per_connection: 0 }");
    setup.clusters = ["a", "b"].into_iter().zip(&backends).map(|(name, b)| (name, b.address, "")).collect();
    setup.arguments = vec!["--concurrency".to_owned(), "1".to_owned()];
    (setup.start(), backends)
}

/// Four standard deviations of a binomial count.
fn band(requests: u32, share: f64) -> f64 {
    4.0 * (f64::from(requests) * share * (1.0 - share)).sqrt()
}

#[test]
fn shares_lie_in_the_band_of_a_hundred_thousand_draws() {
    const REQUESTS: u32 = 100_000;
    const TURNS: u32 = 10_000;
    let weights = [(100, 0), (999, 1), (95, 5), (70, 30)];
    let sticky = "typed_per_filter_config: { weir.split: { '@type': type.googleapis.com/weir.split.v1.SplitPolicy, header: x-user } }";
    let mut routes = String::new();
    for (a, b) in weights {
        let arms = format!(
            "route: {{ weighted_clusters: {{ clusters: [ {{ name: a, weight: {a} }}, {{ name: b, weight: {b} }} ] }} }}"
        );
        let _ = write!(
            routes,
            "{{ match: {{ prefix: /turn/{b}/ }}, {arms} }}, {{ match: {{ prefix: /user/{b}/ }}, {arms}, {sticky} }},"
        );
    }
    let (proxy, _backends) = start(&routes);
    for (a, b) in weights {
        let share = f64::from(b) / f64::from(a + b);
        let expected = share * f64::from(REQUESTS);
        let turns = count(proxy.port, TURNS, |_| get(&format!("/turn/{b}/"), ""));
        let (seen, due) = (f64::from(turns.get("b").copied().unwrap_or(0)), share * f64::from(TURNS));
        assert!((seen - due).abs() <= 1.0, "{a}/{b} by turns: {seen} of {due}, give or take one");
        let users =
            count(proxy.port, REQUESTS, |user| get(&format!("/user/{b}/"), &format!("x-user: {user}\r\n")));
        let seen = f64::from(users.get("b").copied().unwrap_or(0));
        assert!((seen - expected).abs() <= band(REQUESTS, share), "{a}/{b} by users: {seen} of {expected}");
    }
}

/// A whole million is counted in `proxy/core/src/split`; here is what a listener makes of small shares.
#[test]
fn one_user_in_ten_thousand_is_met() {
    let by_user = "{ match: { prefix: / }, route: { weighted_clusters: { clusters: [ { name: a, weight: 9999 }, { name: b, weight: 1 } ] } },
        typed_per_filter_config: { weir.split: { '@type': type.googleapis.com/weir.split.v1.SplitPolicy, header: x-user } } }";
    let (proxy, _backends) = start(by_user);
    let counts = count(proxy.port, 100_000, |user| get("/", &format!("x-user: {user}\r\n")));
    let seen = f64::from(counts.get("b").copied().unwrap_or(0));
    assert!((seen - 10.0).abs() <= band(100_000, 0.0001), "{counts:?}");
}

#[test]
fn envoys_hash_sends_the_same_users_to_the_same_arms() {
    let routes = "{ match: { prefix: /one }, route: { hash_policy: [ { header: { header_name: x-user } } ],
        weighted_clusters: { use_hash_policy: true, clusters: [ { name: a, weight: 70 }, { name: b, weight: 30 } ] } } },
      { match: { prefix: /chain }, route: { hash_policy: [ { query_parameter: { name: q }, terminal: true }, { header: { header_name: x-user } },
        { cookie: { name: id } } ],
        weighted_clusters: { use_hash_policy: true, clusters: [ { name: a, weight: 1 }, { name: b, weight: 2 } ] } } },
      { match: { prefix: /rewritten }, route: { hash_policy: [ { header: { header_name: x-user, regex_rewrite: { pattern: { regex: '[0-9]+' }, substitution: '#' } } } ],
        weighted_clusters: { use_hash_policy: true, clusters: [ { name: a, weight: 50 }, { name: b, weight: 50 } ] } } },
      { match: { prefix: /number }, route: { weighted_clusters: { header_name: x-number, clusters: [ { name: a, weight: 50 }, { name: b, weight: 50 } ] } } }";
    let backends = ["a", "b"].map(Backend::named);
    let configure = || {
        let (port, admin) = (free_port(), free_port());
        let mut setup = Setup::default().routes(routes);
        setup.clusters =
            ["a", "b"].into_iter().zip(&backends).map(|(name, b)| (name, b.address, "")).collect();
        (setup.bootstrap(port, admin), port, admin)
    };
    let (text, port, admin) = configure();
    let Some(envoy) = Envoy::start(&text, port, admin) else { return };
    let (text, port, admin) = configure();
    let weir = Proxy::start(&text, port, admin, &[]);
    let (mut theirs, mut ours) = (Client::connect(envoy.port), Client::connect(weir.port));
    let mut arms = BTreeMap::<String, u32>::new();
    for user in 0..400 {
        let word: String = (0..user % 40).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        for (path, headers) in [
            ("/one".to_owned(), format!("x-user: {user}\r\n")),
            ("/one".to_owned(), format!("x-user: {word}{user}\r\n")),
            ("/one".to_owned(), format!("x-user: b{user}\r\nx-user: a{user}\r\n")),
            (format!("/chain?q={user}"), format!("x-user: {user}\r\n")),
            ("/chain".to_owned(), format!("x-user: {user}\r\ncookie: id={word}x\r\n")),
            ("/chain".to_owned(), format!("cookie: other=1; id=\"{user}\"\r\n")),
            ("/rewritten".to_owned(), format!("x-user: {word}-{user}-z\r\n")),
            ("/number".to_owned(), format!("x-number: {}\r\n", user * 7_919)),
        ] {
            let (theirs, ours) = (theirs.get(&path, &headers), ours.get(&path, &headers));
            assert_eq!(ours.text(), theirs.text(), "{path} {headers:?}");
            *arms.entry(ours.text().to_owned()).or_default() += 1;
        }
    }
    assert!(arms["a"] > 1_000 && arms["b"] > 1_000, "{arms:?}");
}

/// Raising an arm moves users into it, and nobody between the others.
#[test]
fn a_rollout_moves_users_one_way() {
    let backends = ["a", "b", "c"].map(Backend::named);
    let policy = "weir.split: { '@type': type.googleapis.com/weir.split.v1.SplitPolicy, header: x-user }";
    let route = |step: u32| {
        format!(
            "{{ match: {{ prefix: /{step}/ }}, route: {{ weighted_clusters: {{ clusters: [ {{ name: a, weight: {} }}, {{ name: b, weight: 40 }},
             {{ name: c, weight: {step} }} ] }} }}, typed_per_filter_config: {{ {policy} }} }}",
            60 - step.min(60)
        )
    };
    let routes: String = [0, 5, 30].map(route).join(",");
    let mut setup = Setup::default().routes(&routes);
    setup.clusters =
        ["a", "b", "c"].into_iter().zip(&backends).map(|(name, b)| (name, b.address, "")).collect();
    let proxy = setup.start();
    let mut client = Client::connect(proxy.port);
    for user in 0..1_000 {
        let arms = [0, 5, 30]
            .map(|step| client.get(&format!("/{step}/"), &format!("x-user: {user}\r\n")).text().to_owned());
        for (before, after) in arms.iter().zip(&arms[1..]) {
            // `a` gives up what `c` gains; `b` keeps its weight.
            assert!(
                before == after || after == "c" || (before == "a" && after == "b"),
                "user {user}: {arms:?}"
            );
            assert!(before != "c" || after == "c", "user {user} was sent back: {arms:?}");
        }
    }
}

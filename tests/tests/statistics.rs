//! What is counted: by Weir's own names, and, beside a real Envoy under the same traffic, by Envoy's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tests::{Backend, Client, Envoy, Proxy, Setup, free_port};

const ROUTES: &str = "
{ name: slow, match: { prefix: /slow }, route: { cluster: c } },
{ name: late, match: { prefix: /late }, route: { cluster: c, timeout: 0.2s } },
{ name: gone, match: { prefix: /gone }, route: { cluster: d } },
{ name: own, match: { prefix: /own }, direct_response: { status: 418 } },
{ name: shop, match: { prefix: /shop }, route: { cluster: c } }";

/// Answers by path: `/slow` after 60 ms, `/late` never in time, others after 12 ms, `/shop/404` with 404. Beside that it hardly
/// matters how busy the machine is.
fn backend() -> Backend {
    Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            match path.as_str() {
                "/slow" => std::thread::sleep(Duration::from_millis(60)),
                "/late" => std::thread::sleep(Duration::from_millis(600)),
                _ => std::thread::sleep(Duration::from_millis(12)),
            }
            let status = path.rsplit('/').next().and_then(|part| part.parse::<u16>().ok()).unwrap_or(200);
            peer.send(format!("HTTP/1.1 {status} OK\r\nContent-Length: 2\r\n\r\nok"));
        }
    })
}

/// The same requests for both.
fn drive(port: u16) {
    let mut client = Client::connect(port);
    for (path, times) in [
        ("/shop", 20),
        ("/shop/404", 5),
        ("/shop/500", 3),
        ("/slow", 10),
        ("/own", 4),
        ("/gone", 2),
        ("/nothing", 6),
    ] {
        for _ in 0..times {
            client.get(path, "");
        }
    }
    client.get("/late", "");
}

/// The series of a page in the Prometheus text form.
fn series(page: &str) -> BTreeMap<String, f64> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            // Envoy writes a comma less or more; labels are told apart by their text.
            Some((name.replace("{}", ""), value.parse().ok()?))
        })
        .collect()
}

#[test]
fn envoy_counts_the_same_under_the_same_traffic() {
    let backend = backend();
    let configure = || {
        let (port, admin) = (free_port(), free_port());
        let mut setup = Setup::to(backend.address).routes(ROUTES);
        let tracked = "circuit_breakers: { thresholds: [ { track_remaining: true }, { priority: HIGH, track_remaining: true } ] }";
        setup.clusters[0].2 = tracked;
        // Nobody listens there.
        setup.clusters.push(("d", ([127, 0, 0, 1], 1).into(), tracked));
        (setup.bootstrap(port, admin), port, admin)
    };
    let (text, port, admin) = configure();
    let Some(envoy) = Envoy::start(&text, port, admin) else { return };
    let (text, port, admin) = configure();
    let weir = Proxy::start(&text, port, admin, &["--concurrency".to_owned(), "1".to_owned()]);
    drive(envoy.port);
    drive(weir.port);
    // Envoy gathers its histograms every five seconds.
    std::thread::sleep(Duration::from_secs(6));
    let (theirs, ours) = (series(&envoy.page("/stats/prometheus")), series(&weir.page("/stats/prometheus")));
    let cluster =
        |name: &str, figure: &str| format!("envoy_cluster_{figure}{{envoy_cluster_name=\"{name}\"}}");
    let class = |figure: &str, label: &str, instance: &str, class: u8| {
        [
            format!("envoy_{figure}{{envoy_response_code_class=\"{class}\",{label}=\"{instance}\"}}"),
            format!("envoy_{figure}{{{label}=\"{instance}\",envoy_response_code_class=\"{class}\"}}"),
        ]
    };
    let value = |all: &BTreeMap<String, f64>, names: &[String]| {
        names.iter().find_map(|name| all.get(name).copied()).unwrap_or(0.0)
    };
    let mut names: Vec<Vec<String>> = Vec::new();
    for name in ["c", "d"] {
        for figure in [
            "upstream_rq_total",
            "upstream_rq_timeout",
            "upstream_rq_active",
            "upstream_rq_pending_active",
            "upstream_rq_pending_overflow",
            "upstream_cx_connect_fail",
            "upstream_cx_connect_timeout",
            "upstream_cx_overflow",
            "membership_total",
            "membership_healthy",
            "membership_degraded",
            "lb_healthy_panic",
            "lb_subsets_fallback",
            "circuit_breakers_default_rq_open",
            "circuit_breakers_default_cx_open",
        ] {
            names.push(vec![cluster(name, figure)]);
        }
        for number in 1..=5 {
            names.push(class("cluster_upstream_rq_xx", "envoy_cluster_name", name, number).to_vec());
        }
    }
    for number in 1..=5 {
        names.push(class("http_downstream_rq_xx", "envoy_http_conn_manager_prefix", "in", number).to_vec());
    }
    names.push(vec!["envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"in\"}".to_owned()]);
    names.push(vec!["envoy_http_downstream_cx_total{envoy_http_conn_manager_prefix=\"in\"}".to_owned()]);
    names.push(vec!["envoy_server_live".to_owned()]);
    let differing: Vec<_> = names
        .iter()
        .map(|names| (&names[0], value(&ours, names), value(&theirs, names)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .collect();
    assert!(differing.is_empty(), "name, Weir, Envoy: {differing:#?}");
    assert_eq!(value(&ours, &[cluster("c", "upstream_rq_total")]), 39.0);

    // Every series of ours has a name that Envoy knows.
    let family = |name: &str| name.split('{').next().unwrap_or_default().to_owned();
    let mut known: BTreeSet<_> = theirs.keys().map(|name| family(name)).collect();
    // It shows this one where it has a control plane.
    known.insert("envoy_control_plane_connected_state".to_owned());
    let own: BTreeSet<_> =
        ours.keys().map(|name| family(name)).filter(|name| !known.contains(name)).collect();
    assert!(own.is_empty(), "Envoy has no {own:?}");

    // The same requests fall into the same buckets, or into the next.
    for name in [
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\"",
        "envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"in\"",
    ] {
        let buckets = |all: &BTreeMap<String, f64>| -> Vec<(f64, f64)> {
            let mut found: Vec<_> = all
                .iter()
                .filter_map(|(series, count)| {
                    let bound = series.strip_prefix(name)?.strip_prefix(",le=\"")?.strip_suffix("\"}")?;
                    Some((bound.replace("+Inf", "inf").parse().ok()?, *count))
                })
                .collect();
            found.sort_by(|a: &(f64, f64), b| a.0.total_cmp(&b.0));
            found
        };
        let (theirs, ours) = (buckets(&theirs), buckets(&ours));
        assert_eq!(theirs.len(), 20, "{name}: {theirs:?}");
        let bounds = |of: &[(f64, f64)]| of.iter().map(|(bound, _)| *bound).collect::<Vec<_>>();
        assert_eq!(bounds(&ours), bounds(&theirs));
        let quantile = |of: &[(f64, f64)], part: f64| {
            let total = of.last().map_or(0.0, |(_, count)| *count);
            of.iter().position(|(_, count)| *count >= part * total).unwrap_or(0)
        };
        assert_eq!(ours.last(), theirs.last(), "{name}: how many");
        for part in [0.5, 0.75, 0.95, 0.99] {
            let (ours, theirs) = (quantile(&ours, part), quantile(&theirs, part));
            assert!(ours.abs_diff(theirs) <= 1, "{name} {part}: bucket {ours} here, {theirs} there");
        }
    }
}

#[test]
fn every_family_of_our_own_counts() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let routes = "{ name: split, match: { prefix: /split }, route: { weighted_clusters: { clusters: [
        { name: empty, weight: 1 }, { name: a, weight: 1 } ] } }, typed_per_filter_config: { weir.split: {
        '@type': type.googleapis.com/weir.split.v1.SplitPolicy, when_unavailable: SPILL } } },
      { name: dropped, match: { prefix: /dropped }, route: { cluster: dropping } },
      { name: part, match: { prefix: /part }, route: { cluster: parts, metadata_match: { filter_metadata: { envoy.lb: { stage: x } } } } },
      { name: rest, match: { prefix: / }, route: { cluster: b } }";
    let mut setup = Setup::default().routes(routes);
    setup.clusters = vec![("a", a.address, ""), ("b", b.address, "")];
    let (port, admin) = (free_port(), free_port());
    let endpoint = |health: &str| {
        format!(
            "{{ health_status: {health}, endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}",
            b.address.port()
        )
    };
    let text = format!(
        "{}  - {{ name: empty, connect_timeout: 1s, load_assignment: {{ cluster_name: empty }} }}
  - {{ name: dropping, connect_timeout: 1s, load_assignment: {{ cluster_name: dropping, policy: {{ drop_overloads: [ {{ category: all, drop_percentage: {{ numerator: 100 }} }} ] }}, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }} }}
  - {{ name: parts, connect_timeout: 1s, lb_subset_config: {{ fallback_policy: ANY_ENDPOINT, subset_selectors: [ {{ keys: [ stage ] }} ] }}, load_assignment: {{ cluster_name: parts, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }} }}\n",
        setup.bootstrap(port, admin),
        endpoint("HEALTHY"),
        endpoint("DEGRADED"),
    );
    let proxy = Proxy::start(&text, port, admin, &["--concurrency".to_owned(), "1".to_owned()]);
    let mut client = Client::connect(proxy.port);
    for (path, times, status) in [("/split", 10, 200), ("/dropped", 3, 503), ("/part", 4, 200), ("/", 5, 200)]
    {
        for _ in 0..times {
            assert_eq!(client.get(path, "").status(), status, "{path}");
        }
    }
    for (name, value) in [
        ("weir_requests_total{route=\"r/all/split\",arm=\"a\",cluster=\"a\",code_class=\"2xx\"}", 10),
        ("weir_spilled_requests_total{route=\"r/all/split\",arm=\"empty\",cluster=\"empty\"}", 5),
        ("weir_cluster_dropped_requests_total{cluster=\"dropping\"}", 3),
        ("weir_failures_total{reason=\"drop_overload\",flag=\"DO\"}", 3),
        ("weir_cluster_subset_fallbacks_total{cluster=\"parts\"}", 4),
        ("weir_cluster_requests_total{cluster=\"b\"}", 5),
        ("weir_cluster_connections_total{cluster=\"b\"}", 1),
        ("weir_cluster_connection_failures_total{cluster=\"b\"}", 0),
        ("weir_cluster_endpoints{cluster=\"b\",health=\"healthy\"}", 1),
        ("weir_cluster_endpoints{cluster=\"parts\",health=\"degraded\"}", 1),
        ("weir_cluster_breaker_refusals_total{cluster=\"b\",limit=\"requests\"}", 0),
        ("weir_listener_requests_total{listener=\"in\",code_class=\"2xx\"}", 19),
        ("weir_listener_requests_total{listener=\"in\",code_class=\"5xx\"}", 3),
        ("weir_listener_connections_active{listener=\"in\"}", 1),
        ("weir_metric_series_overflowed_total", 0),
    ] {
        proxy.settles(name, value);
        assert!(proxy.page("/metrics").contains(&format!("{name} ")), "{name} is shown");
    }
    let page = proxy.page("/metrics");
    let families: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!((25..=45).contains(&families.len()), "{} families: {families:?}", families.len());
}

#[test]
fn trace_context_passes_as_it_came() {
    let backend = Backend::start(|_, peer| {
        while let Some(head) = peer.head() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
        }
    });
    const LINES: [&str; 9] = [
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "tracestate: congo=t61rcWkgMzE, rojo=00f067aa0ba902b7",
        "baggage: user=alice, plan=free",
        "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0",
        "X-B3-TraceId: 80f198ee56343ba864fe8b2a57d3eff7",
        "X-B3-SpanId: e457b5a2e4d86bd1",
        "X-B3-ParentSpanId: 05e3ac9a4f6e3b90",
        "X-B3-Sampled: 0",
        "X-Request-Id: 3f3b6c1e-0000-4000-8000-000000000001",
    ];
    let lines: String = LINES.iter().map(|line| format!("{line}\r\n")).collect();
    for manager in ["", "use_remote_address: true\npreserve_external_request_id: true"] {
        let proxy = Setup::to(backend.address).manager(manager).start();
        let head = Client::connect(proxy.port).get("/", &lines).text().to_owned();
        for line in LINES {
            assert_eq!(head.lines().filter(|have| *have == line).count(), 1, "{line} in\n{head}");
        }
    }
}

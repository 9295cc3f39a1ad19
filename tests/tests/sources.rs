//! Where resources and endpoints come from: names that are looked up, and files that are replaced, while requests go on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tests::{Backend, Client, NameServer, Proxy, Setup, eventually, free_port, http_get};

const TYPE: &str = "type.googleapis.com/envoy";

fn counts(client: &mut Client, path: &str, requests: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let response = client.get(path, "");
        let said =
            if response.status() == 200 { response.text().to_owned() } else { response.status().to_string() };
        *counts.entry(said).or_default() += 1;
    }
    counts
}

/// Two backends at one port of two addresses.
fn twins() -> (Backend, Backend, u16) {
    let a = Backend::named("a");
    let port = a.address.port();
    let b = Backend::named_at("b", (Ipv4Addr::new(127, 0, 0, 2), port).into());
    (a, b, port)
}

/// A cluster that is looked up at a name server, as `kind` says.
fn by_name(kind: &str, port: u16, server: &NameServer) -> String {
    let resolver = format!(
        "{{ name: r, typed_config: {{ '@type': {TYPE}.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [ \
         {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} ], query_timeout_seconds: 1, query_tries: 1 }} }}",
        server.address.port()
    );
    let endpoints = format!(
        "load_assignment: {{ cluster_name: c, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: \
         {{ address: shop.test, port_value: {port} }} }} }} }} ] }} ] }}"
    );
    let way = match kind {
        "DnsCluster" => format!(
            "cluster_type: {{ name: dns, typed_config: {{ '@type': {TYPE}.extensions.clusters.dns.v3.DnsCluster, respect_dns_ttl: true, \
             dns_lookup_family: V4_ONLY, all_addresses_in_single_endpoint: false, typed_dns_resolver_config: {resolver} }} }}"
        ),
        kind => format!(
            "type: {kind}, respect_dns_ttl: true, dns_lookup_family: V4_ONLY, dns_failure_refresh_rate: {{ base_interval: 0.1s, \
             max_interval: 0.2s }}, typed_dns_resolver_config: {resolver}"
        ),
    };
    format!("  - {{ name: c, connect_timeout: 1s, {way}, {endpoints} }}\n")
}

fn proxy_of(clusters: &str) -> Proxy {
    let (port, admin) = (free_port(), free_port());
    let text = Setup::default().bootstrap(port, admin);
    Proxy::start(&format!("{text}{clusters}"), port, admin, &["--concurrency".to_owned(), "1".to_owned()])
}

#[test]
fn names_are_looked_up_again_when_their_time_is_over_and_the_last_good_answer_stays() {
    let (_a, _b, port) = twins();
    for kind in ["STRICT_DNS", "LOGICAL_DNS", "DnsCluster"] {
        let server = NameServer::start();
        server.set("shop.test", &[[127, 0, 0, 1]], 1);
        let proxy = proxy_of(&by_name(kind, port, &server));
        let answer = || http_get(proxy.port, "/").expect("an answer").text().to_owned();
        eventually(kind, || (answer() == "a").then_some(()));
        server.set("shop.test", &[[127, 0, 0, 2]], 1);
        eventually("the new address", || (answer() == "b").then_some(()));
        // A server that fails, or no longer knows the name, takes nothing away.
        let asked = server.asked();
        server.fail(true);
        eventually("it was asked in vain", || (server.asked() > asked + 2).then_some(()));
        assert_eq!(answer(), "b", "{kind}");
        server.fail(false);
        server.set("shop.test", &[[127, 0, 0, 1]], 300);
        eventually("it is well again", || (answer() == "a").then_some(()));
        // The records hold for five minutes now.
        let asked = server.asked();
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(server.asked(), asked, "{kind} asks before the time is over");
    }
}

#[test]
fn all_addresses_of_a_name_are_endpoints_of_a_strict_cluster() {
    let (_a, _b, port) = twins();
    let server = NameServer::start();
    server.set("shop.test", &[[127, 0, 0, 1], [127, 0, 0, 2]], 300);
    let proxy = proxy_of(&by_name("STRICT_DNS", port, &server));
    eventually("both are known", || proxy.page("/clusters").contains("127.0.0.2").then_some(()));
    assert_eq!(
        counts(&mut Client::connect(proxy.port), "/", 10),
        [("a".to_owned(), 5), ("b".to_owned(), 5)].into()
    );
    let proxy = proxy_of(&by_name("LOGICAL_DNS", port, &server));
    eventually("it is known", || proxy.page("/clusters").contains("c::127.0.0.1").then_some(()));
    assert_eq!(counts(&mut Client::connect(proxy.port), "/", 10), [("a".to_owned(), 10)].into());
}

/// A folder with the files of all four types.
struct Files {
    folder: tempfile::TempDir,
    number: u32,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), number: 0 }
    }

    /// Those of listeners whose routes lead to the cluster `shop`, with one endpoint.
    fn of_shop(listeners: &[(&str, u16)], backend: &Backend) -> Self {
        let mut files = Self::new();
        files.put_listeners(listeners);
        files.put_routes("shop");
        files.put_clusters(&["shop"]);
        files.put_endpoints(&[("shop", backend.address.port(), 1)]);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts another file in the place of one, at once.
    fn put(&mut self, name: &str, kind: &str, resources: &[String]) {
        self.number += 1;
        let resources: Vec<_> = resources
            .iter()
            .map(|resource| format!("  - {{ '@type': {TYPE}.config.{kind}, {resource} }}\n"))
            .collect();
        let text = format!("version_info: '{}'\nresources:\n{}", self.number, resources.concat());
        let fresh = self.path("fresh");
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(fresh, self.path(name)).expect("renamed");
    }

    fn source(&self, name: &str) -> String {
        format!("{{ path_config_source: {{ path: {} }} }}", self.path(name).display())
    }

    fn put_listeners(&mut self, listeners: &[(&str, u16)]) {
        let listeners: Vec<_> = listeners.iter().map(|(name, port)| self.listener(name, *port)).collect();
        self.put("lds.yaml", "listener.v3.Listener", &listeners);
    }

    fn listener(&self, name: &str, port: u16) -> String {
        format!(
            "name: {name}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}, filter_chains: [ {{ filters: [ {{ name: h, \
             typed_config: {{ '@type': {TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: {name}, \
             common_http_protocol_options: {{ max_requests_per_connection: 0 }}, \
             rds: {{ route_config_name: r, config_source: {} }}, http_filters: [ {{ name: router, typed_config: {{ '@type': \
             {TYPE}.extensions.filters.http.router.v3.Router }} }} ] }} }} ] }} ]",
            self.source("rds.yaml")
        )
    }

    fn put_routes(&mut self, cluster: &str) {
        let routes = format!(
            "name: r, virtual_hosts: [ {{ name: all, domains: [ '*' ], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }} ] }} ], \
             response_headers_to_add: [ {{ header: {{ key: x-version, value: '{}' }} }} ]",
            self.number
        );
        self.put("rds.yaml", "route.v3.RouteConfiguration", &[routes]);
    }

    fn put_clusters(&mut self, names: &[&str]) {
        let source = self.source("eds.yaml");
        let clusters: Vec<_> = names
            .iter()
            .map(|name| format!("name: {name}, type: EDS, connect_timeout: 1s, eds_cluster_config: {{ eds_config: {source} }}"))
            .collect();
        self.put("cds.yaml", "cluster.v3.Cluster", &clusters);
    }

    fn put_endpoints(&mut self, clusters: &[(&str, u16, u32)]) {
        let assignments: Vec<_> = clusters
            .iter()
            .map(|(name, port, weight)| {
                format!(
                    "cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ load_balancing_weight: {weight}, endpoint: {{ address: {{ \
                     socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ]"
                )
            })
            .collect();
        self.put("eds.yaml", "endpoint.v3.ClusterLoadAssignment", &assignments);
    }

    fn start(&self, port: u16) -> Proxy {
        let admin = free_port();
        let text = format!(
            "node: {{ id: n, cluster: c }}\nadmin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}\n\
             dynamic_resources: {{ lds_config: {}, cds_config: {} }}\n",
            self.source("lds.yaml"),
            self.source("cds.yaml")
        );
        Proxy::start(&text, port, admin, &[])
    }
}

fn answer(port: u16) -> String {
    http_get(port, "/").map(|response| response.text().to_owned()).unwrap_or_default()
}

#[test]
fn all_four_types_come_from_files_and_follow_them() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let (port, other) = (free_port(), free_port());
    let mut files = Files::of_shop(&[("one", port)], &a);
    let proxy = files.start(port);
    assert_eq!(answer(port), "a");
    files.put_endpoints(&[("shop", b.address.port(), 1), ("cart", a.address.port(), 1)]);
    eventually("other endpoints", || (answer(port) == "b").then_some(()));
    files.put_clusters(&["shop", "cart"]);
    files.put_routes("cart");
    eventually("another route", || (answer(port) == "a").then_some(()));
    files.put_listeners(&[("one", port), ("two", other)]);
    eventually("another listener", || (answer(other) == "a").then_some(()));
    // What cannot be taken changes nothing, and is named with its place.
    files.put("rds.yaml", "route.v3.RouteConfiguration", &["name: r, virtual_host: []".to_owned()]);
    let named = format!("{}:3:", files.path("rds.yaml").display());
    eventually("the refusal", || proxy.process.log().contains(&named).then_some(()));
    assert!(proxy.process.log().contains("did you mean `virtual_hosts`?"), "{}", proxy.process.log());
    assert_eq!(answer(port), "a");
    files.put(
        "rds.yaml",
        "route.v3.RouteConfiguration",
        &["name: r, virtual_hosts: [ { name: x, domains: [] } ]".to_owned()],
    );
    let named = "envoy.config.route.v3.RouteConfiguration \"r\": virtual_hosts[0]";
    eventually("the refusal of a resource", || {
        let log = proxy.process.log();
        let line = log.lines().find(|line| line.contains(named))?.to_owned();
        line.contains(&format!("{}:3:", files.path("rds.yaml").display())).then_some(())
    });
    assert_eq!(answer(port), "a");
    files.put_routes("shop");
    eventually("a file that can be taken again", || (answer(port) == "b").then_some(()));
    let stats = proxy.page("/stats");
    // The file that could not be read is no update of anything.
    for line in ["http.one.rds.r.update_success: 3", "http.one.rds.r.update_rejected: 1"] {
        assert!(stats.contains(line), "{line} is not in\n{stats}");
    }
}

/// Routes that want clusters which come later are taken once those are there.
#[test]
fn a_file_that_was_refused_beside_others_is_tried_again() {
    let a = Backend::named("a");
    let port = free_port();
    let mut files = Files::new();
    files.put_listeners(&[("one", port), ("spare", free_port())]);
    files.put_clusters(&[]);
    files.put_endpoints(&[("shop", a.address.port(), 1)]);
    let routes = "name: r, validate_clusters: true, virtual_hosts: [ { name: all, domains: [ '*' ], routes: [ { match: { prefix: / }, \
                  route: { cluster: shop } } ] } ]";
    files.put("rds.yaml", "route.v3.RouteConfiguration", &[routes.to_owned()]);
    let admin = free_port();
    let text = format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}\n\
         dynamic_resources: {{ lds_config: {}, cds_config: {} }}\n",
        files.source("lds.yaml"),
        files.source("cds.yaml")
    );
    let file = files.path("b.yaml");
    std::fs::write(&file, text).expect("written");
    let proxy =
        tests::Process::start("weir-proxy", &["-c", &file.display().to_string(), "--drain-wait-s", "0"]);
    eventually("the refusal", || proxy.log().contains("which does not exist").then_some(()));
    files.put_clusters(&["shop"]);
    eventually("it is served", || http_get(port, "/").filter(|response| response.text() == "a"));
}

/// As Kubernetes writes mounted files: `file` leads to `..data/file`, and `..data` to a folder that is replaced.
#[test]
fn a_link_that_is_swapped_is_a_change() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let port = free_port();
    let mut files = Files::new();
    files.put_listeners(&[("one", port)]);
    files.put_clusters(&["a", "b"]);
    files.put_endpoints(&[("a", a.address.port(), 1), ("b", b.address.port(), 1)]);
    let mut swap = |version: &str| {
        files.put_routes(version);
        let folder = files.path(&format!("..{version}"));
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::rename(files.path("rds.yaml"), folder.join("rds.yaml")).expect("moved");
        let fresh = files.path("..fresh");
        std::os::unix::fs::symlink(&folder, &fresh).expect("a link");
        std::fs::rename(&fresh, files.path("..data")).expect("swapped");
        std::os::unix::fs::symlink(Path::new("..data/rds.yaml"), files.path("rds.yaml")).expect("a link");
    };
    swap("a");
    std::fs::remove_file(files.path("rds.yaml")).expect("removed");
    std::os::unix::fs::symlink(Path::new("..data/rds.yaml"), files.path("rds.yaml")).expect("a link");
    let proxy = files.start(port);
    assert_eq!(answer(port), "a");
    let folder = files.path("..next");
    std::fs::create_dir(&folder).expect("a folder");
    let text = std::fs::read_to_string(files.path("..a/rds.yaml"))
        .expect("read")
        .replace("cluster: a", "cluster: b");
    std::fs::write(folder.join("rds.yaml"), text).expect("written");
    let fresh = files.path("..fresh");
    std::os::unix::fs::symlink(&folder, &fresh).expect("a link");
    std::fs::rename(&fresh, files.path("..data")).expect("swapped");
    eventually("what the link leads to now", || (answer(port) == "b").then_some(()));
    drop(proxy);
}

/// Requests on one connection after the other, until told to stop: how many, how many failed, and on how many connections.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, u32, u32)>,
}

impl Load {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut requests, mut failures, mut connections) = (0, 0, 1);
            let mut client = Client::connect(port);
            while !told.load(Ordering::SeqCst) {
                requests += 1;
                let sent = client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
                let response = if sent { client.try_response() } else { None };
                failures += u32::from(response.as_ref().is_none_or(|response| response.status() != 200));
                let closes = response.is_none_or(|response| response.header("connection") == Some("close"));
                if closes && !told.load(Ordering::SeqCst) {
                    connections += 1;
                    client = Client::connect(port);
                }
            }
            (requests, failures, connections)
        });
        Self { stop, thread }
    }

    fn finish(self) -> (u32, u32, u32) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the load")
    }
}

#[test]
fn listeners_come_go_and_move_while_requests_go_on() {
    let a = Backend::named("a");
    let (port, other, third) = (free_port(), free_port(), free_port());
    let mut files = Files::of_shop(&[("one", port)], &a);
    let proxy = files.start(port);
    let load = Load::start(port);
    // Others come and go: the first keeps its socket and its connections.
    for round in 0..20 {
        let two = if round % 2 == 0 { other } else { third };
        files.put_listeners(&[("one", port), ("two", two)]);
        eventually("the second listens", || (answer(two) == "a").then_some(()));
        files.put_listeners(&[("one", port)]);
        eventually("the second is gone", || {
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, two)).is_err().then_some(())
        });
    }
    let (requests, failures, connections) = load.finish();
    assert_eq!((failures, connections), (0, 1), "of {requests} requests");
    assert!(requests > 100, "{requests}");
    // It moves: the connection that is open is served once more, and ends.
    let mut client = Client::connect(port);
    assert_eq!(client.get("/", "").text(), "a");
    files.put_listeners(&[("one", other)]);
    eventually("it listens elsewhere", || (answer(other) == "a").then_some(()));
    eventually("the old socket is closed", || {
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err().then_some(())
    });
    if client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        && let Some(last) = client.try_response()
    {
        assert_eq!((last.text(), last.header("connection")), ("a", Some("close")));
    }
    drop(proxy);
}

#[test]
fn one_bad_resource_leaves_the_others() {
    let a = Backend::named("a");
    let (port, other) = (free_port(), free_port());
    let mut files = Files::of_shop(&[("one", port)], &a);
    let proxy = files.start(port);
    let listeners = [
        files.listener("one", port),
        files.listener("bad", free_port()).replace("stat_prefix: bad", "stat_prefix: bad, codec_type: HTTP3"),
        files.listener("two", other),
    ];
    files.put("lds.yaml", "listener.v3.Listener", &listeners);
    eventually("the good one", || (answer(other) == "a").then_some(()));
    assert_eq!(answer(port), "a");
    let place = format!("{}:4:", files.path("lds.yaml").display());
    eventually("the bad one is named", || {
        let log = proxy.process.log();
        log.lines().any(|line| line.contains(&place) && line.contains("Listener \"bad\"")).then_some(())
    });
    proxy.settles("weir_xds_updates_total{type=\"Listener\",result=\"rejected\"}", 1);
}

#[test]
fn a_thousand_updates_open_no_connection() {
    let a = Backend::named("a");
    let port = free_port();
    let mut files = Files::of_shop(&[("one", port)], &a);
    let proxy = files.start(port);
    let load = Load::start(port);
    let mut client = Client::connect(port);
    // Until both have met on every worker: each way to the endpoint is open then.
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(500) {
        client.get("/", "");
    }
    let before = a.connections();
    let started = Instant::now();
    for round in 1..=1_000_u32 {
        let backend = a.address.port();
        // Routes, clusters and endpoints change in turn; the endpoint stays what it is.
        files.put_endpoints(&[("shop", backend, round % 7 + 1)]);
        if round % 3 == 0 {
            files.put_clusters(if round % 2 == 0 { &["shop", "other"] } else { &["shop"] });
        }
        let number = files.number;
        files.put_routes("shop");
        let version = number.to_string();
        eventually("the update is served", || {
            let response = client.get("/", "");
            assert_eq!(response.status(), 200);
            (response.header("x-version") == Some(version.as_str())).then_some(())
        });
        assert!(started.elapsed() < Duration::from_secs(120), "round {round}");
    }
    let (requests, failures, connections) = load.finish();
    assert_eq!((failures, connections), (0, 1), "of {requests} requests");
    assert_eq!(a.connections(), before, "connections to the endpoint");
    drop(proxy);
}

/// Localities, priorities, panic and subsets of endpoints that a file brings.
#[test]
fn endpoints_are_weighed_by_locality_priority_health_and_label() {
    let backends = ["a", "b", "c"].map(Backend::named);
    let [a, b, c] = backends.each_ref().map(|backend| backend.address.port());
    let port = free_port();
    let mut files = Files::new();
    files.put_listeners(&[("one", port)]);
    files.put_clusters(&[]);
    let source = files.source("eds.yaml");
    let eds = |fields: &str| {
        format!(
            "name: shop, type: EDS, connect_timeout: 1s, eds_cluster_config: {{ eds_config: {source} }}{fields}"
        )
    };
    files.put(
        "cds.yaml",
        "cluster.v3.Cluster",
        &[eds(", common_lb_config: { locality_weighted_lb_config: {} }")],
    );
    files.put_routes("shop");
    let endpoint = |port: u16, fields: &str| {
        format!(
            "{{ {fields}endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}"
        )
    };
    let locality = |zone: &str, fields: &str, endpoints: &[String]| {
        format!("{{ locality: {{ zone: {zone} }}, {fields}, lb_endpoints: [ {} ] }}", endpoints.join(", "))
    };
    let assignment =
        |localities: &[String]| format!("cluster_name: shop, endpoints: [ {} ]", localities.join(", "));
    let put = |files: &mut Files, localities: &[String]| {
        files.put("eds.yaml", "endpoint.v3.ClusterLoadAssignment", &[assignment(localities)]);
    };
    let well = |port| endpoint(port, "");
    let ill = |port| endpoint(port, "health_status: UNHEALTHY, ");
    put(
        &mut files,
        &[
            locality("x", "load_balancing_weight: 3", &[well(a)]),
            locality("y", "load_balancing_weight: 1", &[well(b)]),
        ],
    );
    let proxy = files.start(port);
    let mut client = Client::connect(port);
    let share = |counts: &BTreeMap<String, u32>, name: &str| counts.get(name).copied().unwrap_or(0);
    let by_locality = counts(&mut client, "/", 1_000);
    // Four standard deviations of 250 in 1,000.
    assert!(share(&by_locality, "b").abs_diff(250) < 55, "{by_locality:?}");

    let mut serves = |files: &mut Files, localities: &[String], expected: &[&str]| {
        put(files, localities);
        eventually("the endpoints are served", || {
            let seen = counts(&mut client, "/", 40);
            let names: Vec<_> = seen.keys().map(String::as_str).collect();
            (names == expected).then_some(())
        });
    };
    let first = |endpoints: &[String]| locality("x", "priority: 0", endpoints);
    let second = |endpoints: &[String]| locality("y", "priority: 1", endpoints);
    files.put("cds.yaml", "cluster.v3.Cluster", &[eds("")]);
    serves(&mut files, &[first(&[well(a)]), second(&[well(b)])], &["a"]);
    serves(&mut files, &[first(&[ill(a)]), second(&[well(b)])], &["b"]);
    // All of the first but one in three: most of its load goes on to the second.
    serves(&mut files, &[first(&[well(a), ill(c)]), second(&[well(b)])], &["a", "b"]);
    serves(&mut files, &[first(&[ill(a), ill(c)])], &["503"]);
    // With a threshold of its own, too few healthy ones mean all of them.
    files.put(
        "cds.yaml",
        "cluster.v3.Cluster",
        &[eds(", common_lb_config: { healthy_panic_threshold: { value: 60 } }")],
    );
    serves(&mut files, &[first(&[well(a), ill(b), ill(c)])], &["a", "b", "c"]);
    assert!(proxy.metric("weir_cluster_panic_picks_total{cluster=\"shop\"}") > 0);

    let labelled = |port, stage: &str| {
        endpoint(port, &format!("metadata: {{ filter_metadata: {{ envoy.lb: {{ stage: {stage} }} }} }}, "))
    };
    files.put(
        "cds.yaml",
        "cluster.v3.Cluster",
        &[eds(
            ", lb_subset_config: { fallback_policy: NO_FALLBACK, subset_selectors: [ { keys: [ stage ] } ] }",
        )],
    );
    let route = |stage: &str| {
        format!(
            "{{ match: {{ prefix: /{stage} }}, route: {{ cluster: shop, metadata_match: {{ filter_metadata: {{ envoy.lb: {{ stage: {stage} }} }} }} }} }}"
        )
    };
    let routes = format!(
        "name: r, virtual_hosts: [ {{ name: all, domains: [ '*' ], routes: [ {}, {}, {} ] }} ]",
        route("canary"),
        route("stable"),
        route("nobody")
    );
    files.put("rds.yaml", "route.v3.RouteConfiguration", &[routes]);
    put(&mut files, &[first(&[labelled(a, "stable"), labelled(b, "stable"), labelled(c, "canary")])]);
    let mut client = Client::connect(port);
    eventually("the subsets", || (counts(&mut client, "/canary", 10).keys().eq(["c"])).then_some(()));
    assert_eq!(counts(&mut client, "/stable", 10), [("a".to_owned(), 5), ("b".to_owned(), 5)].into());
    assert!(counts(&mut client, "/nobody", 3).keys().eq(["503"]));
}

/// A request that began before a change is served by what it began with, and spoils nothing for those that came after.
#[test]
fn a_slow_head_does_not_bring_old_arms_back() {
    let backends = ["a", "b", "c"].map(Backend::named);
    let port = free_port();
    let mut files = Files::new();
    files.put_listeners(&[("one", port)]);
    files.put_clusters(&["a", "b", "c"]);
    let [a, b, c] = backends.each_ref().map(|backend| backend.address.port());
    files.put_endpoints(&[("a", a, 1), ("b", b, 1), ("c", c, 1)]);
    let routes = |arms: &str| {
        format!(
            "name: r, virtual_hosts: [ {{ name: all, domains: [ '*' ], routes: [ {{ name: split, match: {{ prefix: / }}, route: {{ \
             weighted_clusters: {{ clusters: [ {arms} ] }} }} }} ] }} ]"
        )
    };
    let put =
        |files: &mut Files, arms: &str| files.put("rds.yaml", "route.v3.RouteConfiguration", &[routes(arms)]);
    put(&mut files, "{ name: a, weight: 1 }, { name: b, weight: 1 }, { name: c, weight: 1 }");
    let proxy = files.start(port);
    for _ in 0..5 {
        // Nothing was asked for yet by these routes: what the late ones need is made when their heads are whole.
        let mut late: Vec<_> = (0..4).map(|_| Client::connect(port)).collect();
        for client in &mut late {
            client.send("GET / HTTP/1.1\r\nHost: te");
        }
        std::thread::sleep(Duration::from_millis(100));
        put(&mut files, "{ name: a, weight: 1 }, { name: b, weight: 1 }");
        let mut client = Client::connect(port);
        eventually("the new arms", || counts(&mut client, "/", 20).keys().eq(["a", "b"]).then_some(()));
        for client in &mut late {
            assert_eq!(client.send("st\r\n\r\n").response().status(), 200);
        }
        for _ in 0..4 {
            let mut client = Client::connect(port);
            assert!(counts(&mut client, "/", 20).keys().eq(["a", "b"]));
        }
        put(&mut files, "{ name: a, weight: 1 }, { name: b, weight: 1 }, { name: c, weight: 1 }");
        eventually("all arms", || (counts(&mut client, "/", 3).len() == 3).then_some(()));
    }
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

#[test]
fn two_listeners_that_want_one_address_stay_as_they_were() {
    let a = Backend::named("a");
    let (port, other) = (free_port(), free_port());
    let mut files = Files::of_shop(&[("one", port), ("two", other)], &a);
    let proxy = files.start(port);
    // The first in the order of names wants what the second has.
    files.put_listeners(&[("one", other), ("two", other)]);
    let said = format!("listener \"two\" already has 127.0.0.1:{other}");
    eventually("the refusal", || proxy.process.log().contains(&said).then_some(()));
    assert_eq!((answer(port), answer(other)), ("a".to_owned(), "a".to_owned()));
    let listeners = proxy.page("/listeners");
    assert!(listeners.contains(&format!("one::127.0.0.1:{port}")), "{listeners}");
    assert!(listeners.contains(&format!("two::127.0.0.1:{other}")), "{listeners}");
    files.put_routes("shop");
    let accepted = "weir_xds_updates_total{type=\"RouteConfiguration\",result=\"accepted\"}";
    eventually("other types are still taken", || (proxy.metric(accepted) >= 2).then_some(()));
}

#[test]
fn a_listener_that_comes_back_at_once_gets_its_port() {
    let a = Backend::named("a");
    let (port, other) = (free_port(), free_port());
    let mut files = Files::of_shop(&[("one", port), ("two", other)], &a);
    let proxy = files.start(port);
    let rejected = "weir_xds_updates_total{type=\"Listener\",result=\"rejected\"}";
    let accepted = "weir_xds_updates_total{type=\"Listener\",result=\"accepted\"}";
    for _ in 0..20 {
        let before = proxy.metric(accepted);
        files.put_listeners(&[("one", port)]);
        eventually("it is gone", || (proxy.metric(accepted) > before).then_some(()));
        files.put_listeners(&[("one", port), ("two", other)]);
        eventually("it is back", || (answer(other) == "a").then_some(()));
    }
    assert_eq!(proxy.metric(rejected), 0, "{}", proxy.process.log());
}

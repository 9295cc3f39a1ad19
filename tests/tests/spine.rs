//! From a file to live traffic: `weir-control` and `weir-proxy` as processes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use tests::{Backend, Client, Control, Process, Response, eventually, free_port, http_get, resources};

struct Mesh {
    control: Control,
    proxy: Process,
    gateway: u16,
    admin: u16,
}

impl Mesh {
    fn start(text: &str) -> Self {
        let control = Control::start(text, "");
        let admin = free_port();
        let bootstrap = control.folder.path().join("bootstrap.yaml");
        std::fs::write(&bootstrap, control.bootstrap("proxy-1", admin, "GRPC")).expect("written");
        let arguments = ["-c", &bootstrap.display().to_string(), "--concurrency", "2"];
        let proxy = Process::start("weir-proxy", &arguments);
        let mesh = Self { gateway: control.gateway, control, proxy, admin };
        eventually("the proxy follows", || http_get(mesh.admin, "/ready").filter(|r| r.status() == 200));
        mesh
    }

    fn write(&self, text: &str) {
        self.control.write(text);
    }

    fn fleet(&self) -> Option<Value> {
        self.control.fleet()
    }

    fn metric(&self, line: &str) -> Option<u64> {
        let page = http_get(self.admin, "/metrics")?;
        page.text().lines().find_map(|l| l.strip_prefix(line)).and_then(|v| v.trim().parse().ok())
    }
}

/// Requests without pause from several connections, for as long as it lives.
struct Load<'a> {
    stop: &'a AtomicBool,
    failed: &'a AtomicU64,
    answered: &'a AtomicU64,
}

impl Load<'_> {
    fn run(&self, port: u16) {
        let mut client = Client::connect(port);
        while !self.stop.load(Ordering::Relaxed) {
            client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
            match client.try_response().map(|r: Response| r.status()) {
                Some(200) => self.answered.fetch_add(1, Ordering::Relaxed),
                _ => {
                    client = Client::connect(port);
                    self.failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }
}

/// Runs `action` under load and returns (answered, failed).
fn under_load(port: u16, action: impl FnOnce()) -> (u64, u64) {
    let (stop, failed, answered) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let load = Load { stop: &stop, failed: &failed, answered: &answered };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load.run(port));
        }
        action();
        stop.store(true, Ordering::Relaxed);
    });
    (answered.into_inner(), failed.into_inner())
}

#[test]
fn an_edited_weight_moves_the_traffic() {
    let (a, b) = (Backend::named("v1"), Backend::named("v2"));
    let mesh = Mesh::start(&resources(&[("v1", 100, a.address), ("v2", 0, b.address)]));
    let mut client = Client::connect(mesh.gateway);
    assert!((0..20).all(|_| client.get("/", "").text() == "v1"));
    mesh.write(&resources(&[("v1", 0, a.address), ("v2", 100, b.address)]));
    eventually("v2 answers", || (client.get("/", "").text() == "v2").then_some(()));
    assert!((0..20).all(|_| client.get("/", "").text() == "v2"));
    let fleet = mesh.fleet().expect("the fleet");
    assert_eq!(fleet["version"]["number"], 2);
    let node = &fleet["nodes"][0];
    assert_eq!((&node["node"], &node["connected"]), (&"proxy-1".into(), &true.into()));
    eventually("the change is acknowledged", || {
        (mesh.fleet()?["nodes"][0]["types"]["RouteConfiguration"]["configVersion"] == 2).then_some(())
    });
    assert_eq!(http_get(mesh.control.http, "/healthz").expect("an answer").text(), "OK");
    assert_eq!(http_get(mesh.control.http, "/readyz").expect("an answer").status(), 200);
}

#[test]
fn arms_come_and_go_under_load_and_no_request_fails() {
    let backends: Vec<_> = ["v1", "v2", "v3", "v4"].into_iter().map(|n| (n, Backend::named(n))).collect();
    let arms = |chosen: &[(usize, u32)]| {
        let arm = |(i, weight): &(usize, u32)| (backends[*i].0, *weight, backends[*i].1.address);
        resources(&chosen.iter().map(arm).collect::<Vec<_>>())
    };
    let mesh = Mesh::start(&arms(&[(0, 1)]));
    let (answered, failed) = under_load(mesh.gateway, || {
        for (version, round) in (2..).zip(0..60_u32) {
            let other = 1 + (round % 3) as usize;
            mesh.write(&arms(&[(0, 1 + round), (other, 1 + round % 7)]));
            eventually("the version is acknowledged", || {
                let fleet = mesh.fleet()?;
                let routes = &fleet["nodes"][0]["types"]["RouteConfiguration"];
                (routes["configVersion"] == version).then_some(())
            });
        }
    });
    assert_eq!(failed, 0, "of {answered}");
    assert!(answered > 100);
    assert_eq!(mesh.metric("weir_xds_updates_total{type=\"RouteConfiguration\",result=\"rejected\"}"), None);
}

#[test]
fn a_control_plane_that_dies_and_returns_is_not_noticed() {
    let (a, b) = (Backend::named("v1"), Backend::named("v2"));
    let mut mesh = Mesh::start(&resources(&[("v1", 1, a.address), ("v2", 1, b.address)]));
    let gateway = mesh.gateway;
    let (answered, failed) = under_load(gateway, || {
        drop(mesh.control.process.take());
        eventually("the proxy sees that it is alone", || {
            (mesh.metric("weir_xds_connected") == Some(0)).then_some(())
        });
        // Changed while nobody watches: v1 is gone when the control plane returns.
        mesh.write(&resources(&[("v2", 1, b.address)]));
        mesh.control.restart();
        eventually("the proxy follows again", || {
            (mesh.metric("weir_xds_connected") == Some(1)).then_some(())
        });
        let mut client = Client::connect(gateway);
        eventually("the new weights are served", || {
            (0..10).all(|_| client.get("/", "").text() == "v2").then_some(())
        });
    });
    assert_eq!(failed, 0, "of {answered}");
    assert!(mesh.proxy.is_running());
}

#[test]
fn a_refused_file_changes_nothing_and_is_seen() {
    let a = Backend::named("v1");
    let good = resources(&[("v1", 1, a.address)]);
    let mesh = Mesh::start(&good);
    mesh.write(&good.replace("weight", "weigth"));
    let reason = eventually("the refusal shows", || {
        let fleet = mesh.fleet()?;
        fleet["source"]["refusal"]["reason"].as_str().map(str::to_owned)
    });
    assert!(reason.contains("shop.yaml:7:19: unknown field `weigth`, did you mean `weight`?"), "{reason}");
    assert_eq!(http_get(mesh.gateway, "/").expect("an answer").text(), "v1");
    assert_eq!(mesh.fleet().expect("the fleet")["version"]["number"], 1);
    assert!(mesh.control.process.as_ref().expect("running").log().contains("unknown field `weigth`"));
}

#[test]
fn a_proxys_refusal_reaches_the_fleet_with_node_resource_and_reason() {
    let a = Backend::named("v1");
    let good = resources(&[("v1", 1, a.address)]);
    let mesh = Mesh::start(&good);
    // The gateway's port is taken on the second proxy's machine, which is this one.
    let folder = tempfile::tempdir().expect("a folder");
    let bootstrap = std::fs::read_to_string(mesh.control.folder.path().join("bootstrap.yaml")).expect("read");
    let bootstrap =
        bootstrap.replace("proxy-1", "proxy-2").replace(&mesh.admin.to_string(), &free_port().to_string());
    let path = folder.path().join("bootstrap.yaml");
    std::fs::write(&path, bootstrap).expect("written");
    let second = Process::start("weir-proxy", &["-c", &path.display().to_string(), "--concurrency", "2"]);
    let refusal = eventually("the refusal shows", || {
        let fleet = mesh.fleet()?;
        let node = fleet["nodes"].as_array()?.iter().find(|n| n["node"] == "proxy-2")?.clone();
        node["types"]["Listener"]["refusal"].as_object().cloned()
    });
    assert_eq!(refusal["resources"], serde_json::json!(["weir"]));
    let reason = refusal["reason"].as_str().expect("text");
    assert!(
        reason.contains(&format!("cannot listen on 127.0.0.1:{}: the address is in use", mesh.gateway)),
        "{reason}"
    );
    // What it says comes through a pipe.
    eventually("the refusal is logged", || {
        let log = mesh.control.process.as_ref()?.log();
        (log.contains("proxy-2") && log.contains("cannot listen on")).then_some(())
    });
    drop(second);
    assert_eq!(http_get(mesh.gateway, "/").expect("an answer").text(), "v1", "the first proxy serves on");
}

#[test]
fn the_demo_splits_exactly_and_ends() {
    let output = Process::run(
        "weir",
        &["demo", "--once", "--requests", "1000", "--weights", "v1=95,v2=5", "-o", "json"],
    );
    assert_eq!(output.code, 0, "{}", output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["requests"], 1000);
    for arm in report["split"].as_array().expect("rows") {
        // Less than one request off on each worker.
        let off = arm["off"].as_f64().expect("a number").abs();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(off < workers as f64 * 2.0, "{report:#}");
    }
    assert_eq!(report["rule"]["sent"], report["rule"]["arrived"]);
}

#[test]
fn the_demo_ends_with_0_on_an_interrupt() {
    let mut demo = Process::start("weir", &["demo", "--requests", "10000000"]);
    // The signal mask that the kernel shows: bit 2 is SIGINT.
    eventually("the signal is expected", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", demo.id())).ok()?;
        let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:"))?.trim().to_owned();
        (u64::from_str_radix(&mask, 16).ok()? & 2 != 0).then_some(())
    });
    demo.signal("INT");
    assert_eq!(demo.wait(), 0);
    assert!(demo.log().contains("draining"));
}

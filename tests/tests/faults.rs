//! Faults on purpose (E2): shares, how they depend on one another, and what is told of them.

use std::time::{Duration, Instant};

use tests::{Backend, Client, Control, Envoy, Process, Proxy, eventually, free_port, http_get, resources};

/// A route to `a` with this fault.
fn policy(backend: &Backend, fault: &str) -> String {
    let route = resources(&[("a", 1, backend.address)]);
    format!(
        "{route}---\napiVersion: weir.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: chaos }}\nspec: {{ targetRef: {{ kind: HTTPRoute, name: \
         shop }}, fault: {fault} }}\n"
    )
}

/// The share of requests of this status among so many on one connection, and the correlation of neighbours.
fn measured(port: u16, count: usize, status: u16) -> (f64, f64) {
    let mut client = Client::connect(port);
    let seen: Vec<f64> =
        (0..count).map(|_| f64::from(u8::from(client.get("/", "").status() == status))).collect();
    let mean = seen.iter().sum::<f64>() / count as f64;
    let both: f64 = seen.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    (mean, both / seen.iter().map(|x| (x - mean).powi(2)).sum::<f64>())
}

#[test]
fn aborts_have_the_share_and_the_correlation_that_were_asked_for() {
    let backend = Backend::named("a");
    let fault = |percentage: u32, correlation: u32| {
        format!("{{ abort: {{ httpStatus: 418, percentage: {percentage}, correlation: {correlation} }} }}")
    };
    let control = Control::start(&policy(&backend, &fault(30, 25)), "");
    let admin = free_port();
    let arguments = ["--concurrency", "1"].map(str::to_owned);
    let proxy = Proxy::start(&control.bootstrap("p", admin, "GRPC"), control.gateway, admin, &arguments);
    let (share, lag) = measured(proxy.port, 6_000, 418);
    assert!((0.25..0.35).contains(&share), "{share}");
    assert!((0.17..0.33).contains(&lag), "{lag}");
    assert!(proxy.metric("weir_faults_aborted_total") > 1_000);
    control.write(&policy(&backend, &fault(100, 0)));
    eventually("all are refused", || {
        let answer = http_get(proxy.port, "/")?;
        (answer.status() == 418 && answer.text() == "fault filter abort").then_some(())
    });
    control.write(&policy(&backend, &fault(0, 0)));
    eventually("none is", || (measured(proxy.port, 20, 418).0 == 0.0).then_some(()));

    // Envoy is told the share.
    let admin = free_port();
    drop(proxy);
    control.write(&policy(&backend, &fault(100, 0)));
    let Some(_envoy) = Envoy::start(&control.bootstrap("e", admin, "DELTA_GRPC"), control.gateway, admin)
    else {
        return;
    };
    eventually("Envoy refuses them", || {
        http_get(control.gateway, "/").filter(|answer| answer.status() == 418)
    });
}

#[test]
fn a_delay_holds_a_request_up_and_its_timeout_begins_after_it() {
    let backend = Backend::named("a");
    let fault = "{ delay: { fixedDelay: 500ms, percentage: 100 } }, timeouts: { request: 300ms }";
    let control = Control::start(&policy(&backend, fault), "");
    let admin = free_port();
    let proxy = Proxy::start(&control.bootstrap("p", admin, "GRPC"), control.gateway, admin, &[]);
    let begun = Instant::now();
    let answer = http_get(proxy.port, "/").expect("an answer");
    assert_eq!((answer.status(), answer.text()), (200, "a"));
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(proxy.metric("weir_faults_delayed_total"), 1);
}

#[test]
fn a_fault_that_cannot_be_meant_is_refused() {
    let backend = Backend::named("a");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.yaml");
    for (fault, said) in [
        ("{}", "spec.fault: delay or abort is wanted"),
        ("{ delay: { fixedDelay: long } }", "spec.fault.delay.fixedDelay"),
        ("{ abort: { httpStatus: 42 } }", "spec.fault.abort.httpStatus: 42 is not a status from 200 to 599"),
        (
            "{ abort: { httpStatus: 500, percentage: 101 } }",
            "spec.fault.abort.percentage: 101 is more than 100",
        ),
        ("{ abort: { httpStatus: 500, corelation: 1 } }", "correlation"),
    ] {
        std::fs::write(&file, policy(&backend, fault)).expect("written");
        let output = Process::run("weir", &["validate", &file.display().to_string()]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains(said), "{:?} lacks {said:?}", output.stderr);
    }
}

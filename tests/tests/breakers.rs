//! Breakers over the outcomes of calls (E1): closed, open, half-open, for a backend or for each endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use tests::{Backend, Control, Proxy, eventually, free_port, http_get};

/// A backend that fails for as long as it is told to.
fn failing(fails: &Arc<AtomicBool>, name: &'static str) -> Backend {
    let fails = fails.clone();
    Backend::start(move |_, peer| {
        while peer.head().is_some() {
            let status = if fails.load(Ordering::SeqCst) { "500 Internal Server Error" } else { "200 OK" };
            peer.send(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

/// A route to backends of these endpoints, with this window on the first, and these words of the route's policy.
fn resources(arms: &[(&str, u32, &[SocketAddr])], window: &str, split: &str) -> String {
    let references: Vec<_> =
        arms.iter().map(|(name, weight, _)| format!("{{ name: {name}, weight: {weight} }}")).collect();
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: shop }}\nspec: {{ rules: [ {{ backendRefs: [ {} ] }} ] }}\n",
        references.join(", ")
    );
    for (name, _, endpoints) in arms {
        let endpoints: Vec<_> = endpoints.iter().map(|at| format!("{{ address: \"{at}\" }}")).collect();
        text += &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{ name: {name} }}\nspec: {{ endpoints: [ {} ] }}\n",
            endpoints.join(", ")
        );
    }
    text += &format!(
        "---\napiVersion: weir.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: breaker }}\nspec:\n  targetRef: {{ kind: Backend, name: {} }}\n  \
         circuitBreaker: {{ window: {{ {window} }} }}\n",
        arms[0].0
    );
    if !split.is_empty() {
        text += &format!(
            "---\napiVersion: weir.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: split }}\nspec:\n  targetRef: {{ kind: HTTPRoute, name: shop }}\n  \
             split: {{ {split} }}\n"
        );
    }
    text
}

fn proxy(control: &Control, workers: &str) -> Proxy {
    let admin = free_port();
    let arguments = ["--concurrency", workers].map(str::to_owned);
    Proxy::start(&control.bootstrap("p", admin, "DELTA_GRPC"), control.gateway, admin, &arguments)
}

/// The statuses of so many requests, one after the other.
fn statuses(proxy: &Proxy, count: usize) -> Vec<u16> {
    (0..count).map(|_| http_get(proxy.port, "/").expect("an answer").status()).collect()
}

fn windows(proxy: &Proxy, cluster: &str, state: &str) -> u64 {
    proxy.metric(&format!("weir_breaker_windows{{cluster=\"{cluster}\",state=\"{state}\"}}"))
}

/// The seed's words: COUNT_BASED, window 10, failure rate 50 %, open for 1,000 ms, then half-open.
const SEED: &str = "slidingWindowType: COUNT_BASED, slidingWindowSize: 10, failureRateThreshold: 50, \
                    waitDurationInOpenState: 1000ms, permittedNumberOfCallsInHalfOpenState: 2";

#[test]
fn a_window_of_ten_opens_at_half_of_them_and_closes_again() {
    let fails = Arc::new(AtomicBool::new(false));
    let backend = failing(&fails, "a");
    let control = Control::start(&resources(&[("a", 1, &[backend.address])], SEED, ""), "");
    // One worker: a call's outcome is known before the next one comes.
    let proxy = proxy(&control, "1");
    assert_eq!(statuses(&proxy, 5), [200; 5]);
    fails.store(true, Ordering::SeqCst);
    assert_eq!(statuses(&proxy, 5), [500; 5], "five of ten fail with the last of these");
    let refused = http_get(proxy.port, "/").expect("an answer");
    assert_eq!(
        (refused.status(), refused.text()),
        (503, "the circuit breaker is open: too many of the last calls have failed")
    );
    assert_eq!((windows(&proxy, "a", "open"), windows(&proxy, "a", "closed")), (1, 0));
    let asked = backend.received().matches("GET /").count();
    assert_eq!(statuses(&proxy, 5), [503; 5]);
    assert_eq!(backend.received().matches("GET /").count(), asked, "nobody is asked while it is open");
    proxy.settles("weir_failures_total{reason=\"breaker_open\",flag=\"UO\"}", 6);

    // Two calls decide: they fail, and it is open for another second; then they go well.
    sleep(Duration::from_millis(1_050));
    assert_eq!(statuses(&proxy, 3), [500, 500, 503]);
    fails.store(false, Ordering::SeqCst);
    assert_eq!(statuses(&proxy, 1), [503], "still open");
    sleep(Duration::from_millis(1_050));
    assert_eq!(statuses(&proxy, 12), [200; 12]);
    assert_eq!(windows(&proxy, "a", "closed"), 1);

    // A change of something else leaves it as it is.
    fails.store(true, Ordering::SeqCst);
    assert_eq!(statuses(&proxy, 4), [500; 4]);
    control.write(
        &resources(&[("a", 2, &[backend.address])], SEED, "").replace("rules:", "hostnames: [test], rules:"),
    );
    eventually("it is served", || {
        let page = http_get(proxy.admin, "/config_dump")?;
        page.text().contains("\"test\"").then_some(())
    });
    // Four of ten so far, with six that went well: the fifth opens it.
    assert_eq!(statuses(&proxy, 2), [500, 503]);
}

#[test]
fn workers_share_a_window() {
    let fails = Arc::new(AtomicBool::new(true));
    let backend = failing(&fails, "a");
    let control = Control::start(&resources(&[("a", 1, &[backend.address])], SEED, ""), "");
    let proxy = proxy(&control, "2");
    assert_eq!(statuses(&proxy, 10), [500; 10]);
    eventually("it is open", || (windows(&proxy, "a", "open") == 1).then_some(()));
    assert_eq!(statuses(&proxy, 10), [503; 10], "whichever worker takes them");
}

#[test]
fn an_endpoint_may_have_a_breaker_of_its_own() {
    let fails = Arc::new(AtomicBool::new(true));
    let (bad, good) = (failing(&fails, "bad"), Backend::named("good"));
    let window = "slidingWindowSize: 4, waitDurationInOpenState: 1s, permittedNumberOfCallsInHalfOpenState: 1, scope: Endpoint";
    let control = Control::start(&resources(&[("a", 1, &[bad.address, good.address])], window, ""), "");
    let proxy = proxy(&control, "1");
    let first = statuses(&proxy, 8);
    assert_eq!(first.iter().filter(|status| **status == 500).count(), 4, "{first:?}");
    assert_eq!(statuses(&proxy, 10), [200; 10], "the other takes all of them");
    assert_eq!((windows(&proxy, "a", "open"), windows(&proxy, "a", "closed")), (1, 1));
    fails.store(false, Ordering::SeqCst);
    sleep(Duration::from_millis(1_050));
    assert_eq!(statuses(&proxy, 10), [200; 10]);
    assert_eq!(windows(&proxy, "a", "closed"), 2);
}

/// The share of an arm whose breaker has tripped goes to the others, and comes back.
#[test]
fn an_arm_that_is_shut_spills() {
    let fails = Arc::new(AtomicBool::new(true));
    let (canary, stable) = (failing(&fails, "canary"), Backend::named("stable"));
    let window =
        "slidingWindowSize: 2, waitDurationInOpenState: 1s, permittedNumberOfCallsInHalfOpenState: 1";
    let arms: [(&str, u32, &[SocketAddr]); 2] =
        [("canary", 50, &[canary.address]), ("stable", 50, &[stable.address])];
    let control = Control::start(&resources(&arms, window, "whenUnavailable: Spill"), "");
    let proxy = proxy(&control, "1");
    let first = statuses(&proxy, 4);
    assert_eq!(first.iter().filter(|status| **status == 500).count(), 2, "{first:?}");
    assert_eq!(statuses(&proxy, 10), [200; 10]);
    fails.store(false, Ordering::SeqCst);
    sleep(Duration::from_millis(1_050));
    let names = |count| -> Vec<String> {
        (0..count).map(|_| http_get(proxy.port, "/").expect("an answer").text().to_owned()).collect()
    };
    assert_eq!(names(20).iter().filter(|name| *name == "canary").count(), 10);
}

#[test]
fn a_window_that_cannot_be_meant_is_refused() {
    let backend = Backend::named("a");
    for (window, said) in [
        ("slidingWindowType: TIME_BASED", "TIME_BASED"),
        ("slidingWindowSize: 0", "spec.circuitBreaker.window.slidingWindowSize: 0 is not from 1 to 1000"),
        ("slidingWindowSize: 5, minimumNumberOfCalls: 6", "minimumNumberOfCalls: 6 is not from 1 to 5"),
        ("waitDurationInOpenState: soon", "spec.circuitBreaker.window.waitDurationInOpenState"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, resources(&[("a", 1, &[backend.address])], window, "")).expect("written");
        let output = tests::Process::run("weir", &["validate", &file.display().to_string()]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains(said), "{:?} lacks {said:?}", output.stderr);
    }
}

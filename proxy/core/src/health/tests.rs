use super::*;
use crate::config::Probe;

const PACE: Pace = Pace {
    healthy: Duration::from_secs(1),
    unhealthy: Duration::from_secs(2),
    unhealthy_edge: Duration::from_secs(3),
    healthy_edge: Duration::from_secs(4),
    idle: Duration::from_secs(5),
    idle_healthy: Duration::from_secs(6),
    initial_jitter: Duration::ZERO,
    jitter: Duration::ZERO,
    jitter_percent: 0,
};

const OK: Range<u16> = 200..201;
const SERVER_ERRORS: Range<u16> = 500..600;

fn http() -> HttpProbe {
    HttpProbe {
        host: "".into(),
        path: "/health".into(),
        method: "GET".into(),
        headers: Vec::new(),
        removed_headers: Vec::new(),
        expected: vec![OK],
        retriable: vec![SERVER_ERRORS],
        receive: Vec::new(),
        body_bytes: 1_024,
        json: Vec::new(),
        is_http2: false,
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Http(http()),
        timeout: Duration::from_secs(1),
        pace: PACE,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        transport_labels: None,
        reuses_connection: true,
        initial_delay: Duration::ZERO,
        logs_failures: false,
        logs_successes: false,
    }
}

const WELL: Outcome = Outcome::Passed { is_degraded: false };
const SPARED: Outcome = Outcome::Passed { is_degraded: true };

fn bad() -> Outcome {
    Outcome::failed("no")
}

fn dead() -> Outcome {
    Outcome::Failed { reason: "no".into(), at_once: true }
}

/// The verdicts after each outcome, and the pauses in a used cluster, in seconds.
fn course(outcomes: &[Outcome]) -> (Vec<Verdict>, Vec<u64>) {
    let mut tracker = Tracker::default();
    let mut pauses = Vec::new();
    let verdicts = outcomes.iter().map(|outcome| {
        tracker.note(outcome, &check());
        pauses.push(tracker.pause(&PACE, true, || 0.0).as_secs());
        tracker.verdict()
    });
    (verdicts.collect(), pauses)
}

#[test]
fn the_first_answer_counts_at_once_and_later_ones_by_the_thresholds() {
    use Verdict::{Degraded as D, Failed as F, Healthy as H};
    assert_eq!(course(&[WELL, bad(), bad(), WELL, bad(), bad(), bad()]).0, [H, H, H, H, H, H, F]);
    assert_eq!(course(&[bad(), WELL, bad(), WELL, WELL]).0, [F, F, F, F, H]);
    assert_eq!(course(&[WELL, dead(), WELL, WELL]).0, [H, F, F, H], "a status nobody expected");
    assert_eq!(
        course(&[SPARED, WELL, SPARED, bad()]).0,
        [D, H, D, D],
        "no threshold between well and degraded"
    );
    assert_eq!(course(&[bad(), SPARED, SPARED]).0, [F, F, D]);
}

#[test]
fn pauses_follow_what_is_known() {
    // Well; begins to fail; well again; fails until it is out; out; begins to answer; back.
    let outcomes = [WELL, bad(), WELL, bad(), bad(), bad(), bad(), WELL, WELL];
    assert_eq!(course(&outcomes).1, [1, 3, 1, 3, 3, 2, 2, 4, 1]);
    let mut tracker = Tracker::default();
    assert_eq!(tracker.pause(&PACE, false, || 0.0).as_secs(), 5);
    tracker.note(&WELL, &check());
    assert_eq!(tracker.pause(&PACE, false, || 0.0).as_secs(), 6);
    let shaken = Pace { jitter: Duration::from_secs(10), jitter_percent: 50, ..PACE };
    assert_eq!(tracker.pause(&shaken, true, || 1.0), Duration::from_millis(11_500));
}

#[test]
fn whether_a_note_changes_the_verdict_is_told() {
    let mut tracker = Tracker::default();
    let told: Vec<_> =
        [WELL, WELL, bad(), bad(), bad(), bad()].iter().map(|o| tracker.note(o, &check())).collect();
    assert_eq!(told, [true, false, false, false, true, false]);
}

#[test]
fn a_response_is_judged_by_status_lines_and_body() {
    let none = |_: &str| None;
    let probe = http();
    assert_eq!(probe.judge(200, none, b""), WELL);
    assert_eq!(probe.judge(503, none, b""), Outcome::failed("the status is 503"));
    let out = Outcome::Failed { reason: "the status is 404".into(), at_once: true };
    assert_eq!(probe.judge(404, none, b""), out);
    let says = |wanted: &'static str| move |name: &str| (name == wanted).then(|| "true".to_owned());
    assert_eq!(probe.judge(200, says("x-envoy-degraded"), b""), SPARED);
    let Outcome::Failed { at_once: true, .. } =
        probe.judge(200, says("x-envoy-immediate-health-check-fail"), b"")
    else {
        panic!("taken out at once")
    };

    let receive = HttpProbe { receive: vec![b"ab"[..].into(), b"b"[..].into()], ..http() };
    assert_eq!(receive.judge(200, none, b"xabxb"), WELL);
    assert_eq!(receive.judge(200, none, b"xab"), Outcome::failed("the body lacks what is expected"));

    let json =
        HttpProbe { json: vec![("status".into(), "UP".into()), ("parts.db.n".into(), "1".into())], ..http() };
    let judge = |body: &[u8]| match json.judge(200, none, body) {
        Outcome::Passed { .. } => "well".to_owned(),
        Outcome::Failed { reason, at_once } => {
            assert!(!at_once);
            reason
        }
    };
    assert_eq!(judge(br#"{ "status" : "UP", "parts": {"db": {"n": 1}} }"#), "well");
    assert_eq!(judge(br#"{"status":"DOWN"}"#), "status is \"DOWN\", not \"UP\"");
    assert_eq!(judge(br#"{"status":"UP","parts":{"db":3}}"#), "the body has no \"parts.db.n\"");
    assert!(judge(b"UP").starts_with("the body is not JSON"), "{}", judge(b"UP"));
}

use xds_proto::envoy::config::cluster::v3::Cluster;
use xds_proto::json::read;

use super::*;

/// The check of a cluster that has this one.
fn checked(yaml: &str) -> Result<HealthCheck, String> {
    let (cluster, _) = read::<Cluster>(&format!("health_checks: [ {{ {yaml} }} ]")).expect("YAML");
    match check(cluster.health_checks) {
        Ok(check) => Ok(HealthCheck::clone(&check.expect("one"))),
        Err(Fault { path, reason }) => Err(format!("{path}: {reason}")),
    }
}

const LEAST: &str = "timeout: 1s, interval: 5s, unhealthy_threshold: 3, healthy_threshold: 2";

#[test]
fn what_is_unset_is_as_in_envoy() {
    let check = checked(&format!("{LEAST}, http_health_check: {{ path: /h }}")).expect("a check");
    let seconds = Duration::from_secs;
    assert_eq!((check.pace.healthy, check.pace.unhealthy), (seconds(5), seconds(5)));
    assert_eq!((check.pace.unhealthy_edge, check.pace.healthy_edge), (seconds(5), seconds(5)));
    assert_eq!((check.pace.idle, check.pace.idle_healthy), (seconds(60), seconds(60)));
    assert_eq!((check.unhealthy_threshold, check.healthy_threshold), (3, 2));
    assert!(check.reuses_connection);
    let Probe::Http(http) = check.probe else { panic!("HTTP") };
    assert_eq!((&*http.method, http.expected, http.body_bytes), ("GET", vec![OK], 1_024));

    let paces = "no_traffic_interval: 7s, unhealthy_interval: 8s, healthy_edge_interval: 9s, interval_jitter_percent: 10";
    let check = checked(&format!("{LEAST}, {paces}, tcp_health_check: {{}}")).expect("a check");
    let Pace { idle, idle_healthy, unhealthy, unhealthy_edge, healthy_edge, jitter_percent, .. } = check.pace;
    assert_eq!((idle, idle_healthy), (seconds(7), seconds(7)));
    assert_eq!((unhealthy, unhealthy_edge, healthy_edge), (seconds(8), seconds(8), seconds(9)));
    assert_eq!(jitter_percent, 10);
}

#[test]
fn payloads_are_hexadecimal_or_binary() {
    let tcp = "tcp_health_check: { send: { text: 0aFf }, receive: [ { binary: aGk= }, { text: '00' } ] }";
    let check = checked(&format!("{LEAST}, {tcp}")).expect("a check");
    let Probe::Tcp(tcp) = check.probe else { panic!("TCP") };
    assert_eq!(&*tcp.send, [0x0a, 0xff]);
    assert_eq!(tcp.receive, [b"hi"[..].into(), b"\0"[..].into()]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let http = |fields: &str| format!("{LEAST}, http_health_check: {{ {fields} }}");
    for (yaml, said) in [
        ("interval: 1s", "health_checks[0].timeout: is required".to_owned()),
        ("timeout: 1s", "health_checks[0].interval: is required".to_owned()),
        ("timeout: 0s, interval: 1s", "health_checks[0].timeout: must be at least 1 ms".to_owned()),
        (
            "timeout: 1s, interval: 1s, tcp_health_check: {}, healthy_threshold: 1",
            "health_checks[0].unhealthy_threshold: is required".to_owned(),
        ),
        (
            "timeout: 1s, interval: 1s, tcp_health_check: {}, healthy_threshold: 1, unhealthy_threshold: 0",
            "health_checks[0].unhealthy_threshold: must be greater than 0".to_owned(),
        ),
        (LEAST, "health_checks[0].http_health_check: is required".to_owned()),
        (&http("path: health"), "health_checks[0].http_health_check.path: \"health\" is not a path".to_owned()),
        (
            &http("path: /, expected_statuses: [ { start: 200, end: 200 } ]"),
            "health_checks[0].http_health_check.expected_statuses[0]: [200, 200) is not a range of statuses from 100 to 599"
                .to_owned(),
        ),
        (
            &http("path: /, codec_client_type: HTTP3"),
            "health_checks[0].http_health_check.codec_client_type: HTTP3 is not supported".to_owned(),
        ),
        (
            &http("path: /, method: CONNECT"),
            "health_checks[0].http_health_check.method: CONNECT opens no tunnel here".to_owned(),
        ),
        (
            &http("path: /, request_headers_to_add: [ { header: { key: x, value: '%START_TIME%' } } ]"),
            "health_checks[0].http_health_check.request_headers_to_add[0].header.value: nothing is filled in here"
                .to_owned(),
        ),
        (
            &format!("{LEAST}, tcp_health_check: {{ send: {{ text: abc }} }}"),
            "health_checks[0].tcp_health_check.send.text: \"abc\" is not hexadecimal digits".to_owned(),
        ),
        (
            &format!(
                "{LEAST}, custom_health_check: {{ name: x, typed_config: {{ '@type': \
                 type.googleapis.com/weir.health.v1.Probe, tcp: {{}}, json: {{ a: b }} }} }}"
            ),
            "health_checks[0].custom_health_check.typed_config.json: is for http".to_owned(),
        ),
    ] {
        assert_eq!(checked(yaml).expect_err(yaml), said);
    }
    let two = read::<Cluster>(&format!("health_checks: [ {{ {LEAST} }}, {{ {LEAST} }} ]")).expect("YAML").0;
    let fault = check(two.health_checks).expect_err("two");
    assert_eq!(fault.reason, "a cluster has one health check at most");
}

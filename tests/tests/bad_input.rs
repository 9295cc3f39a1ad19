//! What cannot be taken is said in one sentence with the place, and with the right exit code.

use tests::{Process, Setup, free_port};

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    (folder, path)
}

fn assert_refused(program: &str, flag: &str, text: &str, code: i32, part: &str) {
    let (_folder, path) = file(text);
    let output = Process::run(program, &[flag, &path]);
    assert_eq!(output.code, code, "{}", output.stderr);
    let last = output.stderr.trim().lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("{program}: ")) && last.contains(part), "{last:?} lacks {part:?}");
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

#[test]
fn a_bootstrap_that_cannot_be_taken_ends_the_proxy_with_2() {
    let good = Setup::to(([127, 0, 0, 1], 1).into()).bootstrap(free_port(), free_port());
    for (text, part) in [
        ("node: [", "config.yaml:1:7: "),
        (
            "static_resources: { listeners: [ { nam: x } ] }",
            "config.yaml:1:36: static_resources.listeners[0].nam: Listener has no field `nam`, did you mean `name`?",
        ),
        (
            "static_resources: { clusters: [ { name: c, type: STRICT_DNS } ] }",
            "config.yaml:1:33: static_resources: envoy.config.cluster.v3.Cluster \"c\": load_assignment: is required",
        ),
        (
            &good.replace("{ prefix: / }", "{ prefix: /, tls_context: {} }"),
            "match.tls_context: field `tls_context` of RouteMatch is not supported",
        ),
        (&good.replace("domains: [\"*\"]", "domains: []"), "at least one domain is required"),
    ] {
        assert_refused("weir-proxy", "-c", text, 2, part);
    }
    let missing = Process::run("weir-proxy", &["-c", "/nowhere.yaml"]);
    assert_eq!(
        (missing.code, missing.stderr.trim()),
        (2, "weir-proxy: /nowhere.yaml: No such file or directory (os error 2)")
    );
}

#[test]
fn a_port_in_use_is_named_even_by_another_weir() {
    let port = free_port();
    let text = Setup::to(([127, 0, 0, 1], 1).into()).bootstrap(port, free_port());
    let (_folder, path) = file(&text);
    let first = Process::start("weir-proxy", &["-c", &path, "--concurrency", "2"]);
    tests::eventually("the first one listens", || first.log().contains("listening").then_some(()));
    let second = Setup::to(([127, 0, 0, 1], 1).into()).bootstrap(port, free_port());
    assert_refused(
        "weir-proxy",
        "-c",
        &second,
        1,
        &format!("cannot listen on 127.0.0.1:{port}: the address is in use by another process"),
    );
}

#[test]
fn an_address_of_another_machine_is_named() {
    let text = Setup::to(([127, 0, 0, 1], 1).into()).bootstrap(free_port(), free_port()).replacen(
        "address: 127.0.0.1, port_value: ",
        "address: 192.0.2.1, port_value: ",
        2,
    );
    assert_refused("weir-proxy", "-c", &text, 1, "this machine does not have the address");
}

#[test]
fn a_control_configuration_that_cannot_be_taken_ends_the_controller_with_2() {
    for (text, part) in [
        ("sourc: x\n", "config.yaml:1:1: unknown field `sourc`, did you mean `source`?"),
        ("store: { redb: /nowhere/weir.redb }\n", "/nowhere/weir.redb: "),
        ("source: nowhere\n", "nowhere: No such file"),
        ("xds: here\nsource: x\n", "config.yaml:1:6: "),
    ] {
        assert_refused("weir-control", "--config", text, 2, part);
    }
    let (folder, _) = file("");
    let resources = folder.path().join("shop.yaml");
    std::fs::write(
        &resources,
        "apiVersion: weir.dev/v1\nkind: Backend\nmetadata: { name: a }\nspec: { endpoint: [] }\n",
    )
    .expect("written");
    let text = format!("source: {}\n", resources.display());
    assert_refused(
        "weir-control",
        "--config",
        &text,
        2,
        "shop.yaml:4:9: unknown field `endpoint`, did you mean `endpoints`?",
    );
}

#[test]
fn wrong_flags_end_with_2_and_help_with_0() {
    assert_eq!(Process::run("weir-proxy", &["--nonsense"]).code, 2);
    assert_eq!(Process::run("weir", &["demo", "--weights", "v1"]).code, 2);
    for program in ["weir-proxy", "weir-control", "weir"] {
        assert_eq!(Process::run(program, &["--help"]).code, 0);
        assert!(Process::run(program, &["--version"]).stdout.starts_with(program));
    }
}

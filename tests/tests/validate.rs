//! What `weir validate` and `weir-proxy --mode validate` say of a file: refused, warned about, or fine.

use serde_json::Value;
use tests::{Process, Setup};

fn bootstrap(routes: &str) -> String {
    Setup::to(([127, 0, 0, 1], 1).into()).routes(routes).bootstrap(1, 2)
}

/// Both programs on one file: exit code, standard output, standard error, without the file's folder.
fn validated(text: &str) -> [(i32, String, String); 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("b.yaml");
    std::fs::write(&file, text).expect("written");
    let (file, folder) = (file.display().to_string(), format!("{}/", folder.path().display()));
    [("weir", vec!["validate", &file]), ("weir-proxy", vec!["-c", &file, "--mode", "validate"])].map(
        |(program, arguments)| {
            let output = Process::run(program, &arguments);
            (output.code, output.stdout.replace(&folder, ""), output.stderr.replace(&folder, ""))
        },
    )
}

fn assert_warns(routes: &str, expected: &[&str]) {
    for (code, stdout, stderr) in validated(&bootstrap(routes)) {
        assert_eq!(code, i32::from(!expected.is_empty()), "{stdout}{stderr}");
        let warnings: Vec<_> = stdout.lines().filter(|line| line.contains("warning")).collect();
        assert_eq!(warnings, expected, "{stderr}");
        assert!(stdout.trim_end().ends_with("can be used"), "{stdout}");
    }
}

#[test]
fn a_file_without_fault_is_fine() {
    assert_warns("{ match: { prefix: / }, route: { cluster: c } }", &[]);
}

#[test]
fn what_is_hardly_meant_is_told_with_place_and_advice() {
    assert_warns(
        "{ name: all, match: { prefix: / }, route: { cluster: c } }, { match: { prefix: /shop }, route: { cluster: c } }",
        &[
            "b.yaml:18:116: warning: route \"all/#1\" never matches: route \"all/all\" before it takes all of its requests; \
           move it up, or remove it",
        ],
    );
    assert_warns(
        "{ match: { safe_regex: { regex: \"/shop/.*\" } }, route: { cluster: c } }",
        &[
            "b.yaml:18:65: warning: route \"all/#0\" matches by the expression \"/shop/.*\", which costs more than it says; \
           write prefix: \"/shop/\"",
        ],
    );
    assert_warns(
        "{ match: { prefix: / }, route: { weighted_clusters: { clusters: [ { name: c, weight: 1 }, { name: c, weight: 0 } ] } } }",
        &[
            "b.yaml:18:144: warning: arm \"c#2\" of route \"all/#0\" is never seen: its weight is 0 and no header can name it; \
           give it a weight or an override_header, drain it, or remove it",
        ],
    );
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    for (routes, expected) in [
        (
            "{ match: { prefix: / }, route: { cluster: nowhere } }",
            "b.yaml:18:78: static_resources: route configuration \"r\": virtual_hosts[0].routes[0].route: route to cluster \
             \"nowhere\", which does not exist",
        ),
        (
            "{ match: { prefix: / }, route: { clutser: c } }",
            "b.yaml:18:87: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.\
             virtual_hosts[0].routes[0].route.clutser: RouteAction has no field `clutser`, did you mean `cluster`?",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: c, timeout: 3 } }",
            "b.yaml:18:99: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.\
             virtual_hosts[0].routes[0].route.timeout: invalid type: integer `3`, expected a duration, which is written like \
             30s or 0.25s",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: c, prefix_rewrite: /x, regex_rewrite: { pattern: { regex: a }, \
             substitution: b } } }",
            "b.yaml:18:",
        ),
    ] {
        for (code, stdout, stderr) in validated(&bootstrap(routes)) {
            assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
            assert!(stderr.contains(&format!(": {expected}")), "{stderr:?} lacks {expected:?}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
}

#[test]
fn two_of_a_kind_are_told_with_the_place_of_the_second() {
    let text = bootstrap("{ match: { prefix: / }, route: { cluster: c } }");
    let cluster = text.lines().last().expect("a cluster").to_owned();
    let listener =
        &text[text.find("  - name: in").expect("a listener")..text.find("  clusters:").expect("clusters")];
    let doubled = text.replace("  clusters:", &format!("{listener}  clusters:"));
    let renamed =
        text.replace("  clusters:", &format!("{}  clusters:", listener.replace("name: in", "name: other")));
    for (text, expected) in [
        (format!("{text}{cluster}\n"), "b.yaml:21:5: static_resources: two clusters are named \"c\""),
        (doubled, "b.yaml:19:5: static_resources: two listeners are named \"in\""),
        (
            renamed,
            "b.yaml:20:5: static_resources: listener \"other\": listener \"in\" already has 127.0.0.1:1",
        ),
    ] {
        for (code, stdout, stderr) in validated(&text) {
            assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
            assert!(stderr.contains(expected), "{stderr:?} lacks {expected:?}");
        }
    }
}

#[test]
fn files_that_a_bootstrap_names_are_read_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, routes) = (folder.path().join("b.yaml"), folder.path().join("routes.json"));
    let source = format!(
        "rds: {{ route_config_name: r, config_source: {{ path_config_source: {{ path: {} }} }} }}",
        routes.display()
    );
    let text = bootstrap("{ match: { prefix: / }, route: { cluster: c } }");
    let start = text.find("route_config:").expect("inline routes");
    let end = text.find("  clusters:\n").expect("clusters");
    std::fs::write(&file, format!("{}{source}\n{}", &text[..start], &text[end..])).expect("written");
    let resources = |routes: &str| {
        format!(
            "{{ \"resources\": [ {{ \"@type\": \"type.googleapis.com/envoy.config.route.v3.RouteConfiguration\", \"name\": \"r\",\n\
             \"virtual_hosts\": [ {{ \"name\": \"all\", \"domains\": [ \"*\" ], \"routes\": [\n{routes} ] }} ] }} ] }}"
        )
    };
    let run = |what: &std::path::Path, format: &str| {
        Process::run("weir", &["validate", &what.display().to_string(), "-o", format])
    };
    let named = routes.display().to_string();
    std::fs::write(
        &routes,
        resources("{ \"match\": { \"prefix\": \"/\" }, \"route\": { \"cluster\": \"gone\" } }"),
    )
    .expect("written");
    let output = run(&file, "json");
    assert_eq!(output.code, 1, "{}", output.stderr);
    let json: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let warning = &json["warnings"][0];
    assert_eq!(warning["place"], format!("{named}:3:31"));
    assert_eq!(
        warning["what"],
        "route \"all/#0\" leads to cluster \"gone\", which does not exist: its requests are answered with 503"
    );
    // The file alone can be looked at as well; nobody knows its clusters then.
    let output = run(&routes, "text");
    assert_eq!((output.code, output.stdout), (0, format!("{named} can be used\n")));
    std::fs::write(
        &routes,
        resources("{ \"match\": { \"prefix\": \"/\" }, \"route\": { \"timeout\": \"3s\" } }"),
    )
    .expect("written");
    for what in [&file, &routes] {
        let output = run(what, "text");
        assert_eq!(output.code, 2, "{}", output.stdout);
        assert!(output.stderr.contains(&format!("{named}:3:31: envoy.config.route.v3.RouteConfiguration \"r\": virtual_hosts[0].routes[0].route")), "{}", output.stderr);
    }
}

#[test]
fn places_are_those_of_the_document_whatever_the_names() {
    let text = bootstrap(
        "{ match: { prefix: / }, route: { cluster: c } }, { match: { prefix: /x }, route: { cluster: c } }",
    );
    let start = text.find("  - name: in").expect("a listener");
    let end = text.find("  clusters:").expect("clusters");
    // `before` comes after `in` in the file, and before it by name.
    let other =
        text[start..end].replace("name: in", "name: before").replace("port_value: 1 ", "port_value: 3 ");
    let text = format!("{}{other}{}", &text[..end], &text[end..]);
    for (code, stdout, stderr) in validated(&text) {
        assert_eq!(code, 1, "{stderr}");
        let lines: Vec<_> =
            stdout.lines().filter_map(|line| line.strip_prefix("b.yaml:")?.split(':').next()).collect();
        let mut lines: Vec<u32> = lines.iter().map(|line| line.parse().expect("a line")).collect();
        lines.sort_unstable();
        assert_eq!(lines, [18, 33], "{stdout}");
    }
}

#[test]
fn what_a_file_lacks_is_told_and_a_pipe_is_read_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, routes) = (folder.path().join("b.yaml"), folder.path().join("routes.json"));
    let source = format!(
        "rds: {{ route_config_name: r, config_source: {{ path_config_source: {{ path: {} }} }} }}",
        routes.display()
    );
    let text = bootstrap("{ match: { prefix: / }, route: { cluster: c } }");
    let (start, end) =
        (text.find("route_config:").expect("routes"), text.find("  clusters:\n").expect("clusters"));
    std::fs::write(&file, format!("{}{source}\n{}", &text[..start], &text[end..])).expect("written");
    let of = |name: &str| {
        format!(
            "{{ resources: [ {{ '@type': t/envoy.config.route.v3.RouteConfiguration, name: {name} }} ] }}"
        )
    };
    std::fs::write(&routes, of("other")).expect("written");
    let output = Process::run("weir", &["validate", &file.display().to_string()]);
    assert_eq!(output.code, 2);
    assert!(
        output
            .stderr
            .contains("routes.json: there is no route configuration \"r\", which listener \"in\" wants"),
        "{}",
        output.stderr
    );
    std::fs::write(&routes, of("r, virtual_host: []")).expect("written");
    let through_a_pipe = format!("cat {} | \"$0\" validate /dev/stdin", routes.display());
    let output = std::process::Command::new("sh")
        .args(["-c", &through_a_pipe])
        .arg(Process::path("weir"))
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/dev/stdin:1:") && said.contains("did you mean `virtual_hosts`?"), "{said}");
}

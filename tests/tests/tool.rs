//! `weir` as a user runs it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::{Backend, Client, Control, Process, Proxy, eventually, free_port, resources};

#[test]
fn a_file_of_resources_becomes_a_gateway_that_follows_it() {
    let (one, two) = (Backend::named("v1"), Backend::named("v2"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    let weights = |a: u32, b: u32| {
        let rule = "  - matches: [ { headers: [ { name: x-canary, value: v2 } ] } ]\n    backendRefs: [ { name: v2 } ]\n";
        let text = resources(&[("v1", a, one.address), ("v2", b, two.address)]);
        text.replacen("  - backendRefs:", &format!("{rule}  - backendRefs:"), 1)
    };
    std::fs::write(&file, weights(100, 0)).expect("written");
    let (gateway, http, xds) = (free_port(), free_port(), free_port());
    let at = |port: u16| format!("127.0.0.1:{port}");
    let mut run = Command::new(Process::path("weir"))
        .args(["run", "-f", &file.display().to_string(), "--concurrency", "1"])
        .args(["--address", &at(gateway), "--http", &at(http), "--xds", &at(xds)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("weir runs");
    let mut lines = BufReader::new(run.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.next().is_some_and(|line| line.contains(&at(gateway))));
    let mut client = Client::connect(gateway);
    assert!((0..10).all(|_| client.get("/", "").text() == "v1"));
    assert_eq!(client.get("/", "x-canary: v2\r\n").text(), "v2");
    std::fs::write(folder.path().join("next"), weights(0, 100)).expect("written");
    std::fs::rename(folder.path().join("next"), &file).expect("moved");
    let said = lines.next().expect("a line");
    assert!(
        said.starts_with("version 2: served ") && said.ends_with(" ms after the file was saved"),
        "{said}"
    );
    assert!((0..10).all(|_| client.get("/", "").text() == "v2"));
    std::fs::write(folder.path().join("next"), weights(0, 100).replace("weight", "weigth")).expect("written");
    std::fs::rename(folder.path().join("next"), &file).expect("moved");
    let said = lines.next().expect("a line");
    assert!(said.contains("did you mean `weight`?"), "{said}");
    let status = Process::run("weir", &["status", "--server", &format!("http://{}", at(http))]);
    assert!(
        status.stdout.contains("the source was refused") && status.stdout.contains("local"),
        "{status:?}"
    );
    let killed = Command::new("kill").args(["-INT", &run.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    assert!(run.wait().expect("it ends").success());

    // What cannot be used is told with its place, and nothing is left running.
    std::fs::write(&file, weights(1, 1).replace("kind: HTTPRoute", "kind: HTTPRout")).expect("written");
    let refused = Process::run(
        "weir",
        &["run", "-f", &file.display().to_string(), "--http", &at(http), "--xds", &at(xds)],
    );
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("did you mean `HTTPRoute`?"), "{refused:?}");
    let missing = Process::run("weir", &["run", "-f", "/nowhere/shop.yaml"]);
    assert_eq!((missing.code, missing.stderr.lines().count()), (2, 1), "{missing:?}");
}

#[test]
fn status_shows_what_each_proxy_serves_and_what_it_refused() {
    let backend = Backend::named("v1");
    let control = Control::start(&resources(&[("v1", 1, backend.address)]), "");
    let server = format!("http://127.0.0.1:{}", control.http);
    let admin = free_port();
    let _proxy = Proxy::start(&control.bootstrap("edge-1", admin, "DELTA_GRPC"), control.gateway, admin, &[]);
    // A second one cannot open the port.
    let port = free_port();
    let _other = Proxy::start_unready(&control.bootstrap("edge-2", port, "GRPC"), port, port, &[]);
    let table = eventually("both are in the table", || {
        let table = Process::run("weir", &["status", "--server", &server]).stdout;
        let is_served = table
            .lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>() == ["edge-1", "1", "1", "yes", "weir"]);
        (is_served && table.contains("edge-2 refused version 1 of Listener: ")).then_some(table)
    });
    assert!(table.contains("address is in use"), "{table}");
    let json = Process::run("weir", &["status", "--server", &server, "-o", "json"]);
    let fleet: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(fleet["wanted"], 1);
    let yaml = Process::run("weir", &["status", "--server", &server, "-o", "yaml"]).stdout;
    assert!(yaml.contains("wanted: 1\n") && yaml.contains("edge-1"), "{yaml}");
    // Nobody there, and no address.
    let nobody = Process::run("weir", &["status", "--server", &format!("http://127.0.0.1:{}", free_port())]);
    assert_eq!((nobody.code, nobody.stderr.lines().count()), (1, 1), "{nobody:?}");
    assert_eq!(Process::run("weir", &["status", "--server", "shop"]).code, 2);
}

#[test]
fn shells_and_manuals_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Process::run("weir", &["completion", shell]);
        assert_eq!(script.code, 0);
        assert!(["explain", "status", "run"].iter().all(|command| script.stdout.contains(command)));
    }
    let manual = Process::run("weir", &["man"]).stdout;
    assert!(manual.starts_with(".ie") || manual.contains(".TH weir"), "{}", &manual[..80]);
    assert!(["explain", "status", "access\\-log"].iter().all(|word| manual.contains(word)));
}

/// What takes longer than a second says what it does, on a terminal alone, and leaves nothing behind.
#[test]
fn what_takes_long_says_what_it_does() {
    let slow = Backend::start(|_, peer| {
        if peer.head().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(2_500));
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{ \"items\": []}");
        }
    });
    let server = format!("http://{}", slow.address);
    let quiet = Process::run("weir", &["get", "httproute", "--server", &server]);
    assert!(!quiet.stderr.contains("asking"), "{}", quiet.stderr);
    // A terminal, as `script` makes one.
    let command = format!("{} get httproute --server {server}", Process::path("weir").display());
    let output = Command::new("script").args(["-qefc", &command, "/dev/null"]).output().expect("script");
    let shown = String::from_utf8_lossy(&output.stdout);
    let what = format!("asking {server}: GET /api/v1/namespaces/default/httproute");
    assert!(shown.contains(&what), "{shown:?}");
    let (_, after) = shown.rsplit_once(&what).expect("it is there");
    assert!(after.contains("\u{1b}[2K") || after.contains('\r'), "the line is taken away: {after:?}");
}

//! "A first split in five minutes", as the README has it.

use std::net::SocketAddr;

use tests::{Backend, Client, Process, eventually, free_port, http_get};

/// The README's YAML blocks, in order.
fn blocks() -> Vec<String> {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("the README");
    let fenced = readme.split("```yaml\n").skip(1);
    fenced.filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

fn port_of(address: SocketAddr) -> String {
    address.port().to_string()
}

#[test]
fn the_files_of_the_readme_work_as_they_stand() {
    let blocks = blocks();
    let [resources, control, bootstrap, policy] = blocks.as_slice() else {
        panic!("four blocks, not {}", blocks.len())
    };
    let (first, second) = (Backend::named("v1"), Backend::named("v2"));
    // Only the ports are this machine's.
    let (xds, http, gateway, admin) = (free_port(), free_port(), free_port(), free_port());
    let ports = [
        ("9001", port_of(first.address)),
        ("9002", port_of(second.address)),
        ("18000", xds.to_string()),
        ("18001", http.to_string()),
        ("8080", gateway.to_string()),
        ("9901", admin.to_string()),
    ];
    let placed = |text: &str| ports.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, placed(text)).expect("written");
        path.display().to_string()
    };
    write("shop.yaml", resources);
    let (control, bootstrap) = (write("control.yaml", control), write("bootstrap.yaml", bootstrap));
    let _control = Process::start("weir-control", &["--config", &control]);
    let _proxy = Process::start("weir-proxy", &["-c", &bootstrap, "--concurrency", "1"]);
    eventually("the proxy is ready", || http_get(admin, "/ready").filter(|r| r.status() == 200));

    let mut client = Client::connect(gateway);
    let canary = (0..100).filter(|_| client.get("/", "").text() == "v2").count();
    assert_eq!(canary, 5);
    assert!((0..10).all(|_| client.get("/", "x-canary: v2\r\n").text() == "v2"));

    // With the policy every user stays where they are.
    write("shop.yaml", &format!("{resources}{policy}"));
    eventually("the policy is served", || {
        http_get(admin, "/config_dump")?.text().contains("autumn-rollout").then_some(())
    });
    for user in 0..50 {
        let header = format!("x-user-id: user-{user}\r\n");
        let version = client.get("/", &header).text().to_owned();
        assert!((0..3).all(|_| client.get("/", &header).text() == version), "user {user} moved");
    }
}

#[test]
fn the_resources_of_the_documentation_are_understood() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the documentation").flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks.filter(|block| block.starts_with("apiVersion:")) {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("resources.yaml");
            std::fs::write(&file, block).expect("written");
            let output =
                Process::run("weir", &["convert", "-f", &file.display().to_string(), "--for", "weir"]);
            assert_eq!(output.code, 0, "{}: {}", entry.path().display(), output.stderr);
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen} blocks of resources");
}

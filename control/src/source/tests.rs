use std::os::unix::fs::symlink;
use std::path::Path;

use control_core::ir::Gateway;
use proxy_core::config::Address;

use super::*;

const BACKEND: &str = "apiVersion: weir.dev/v1
kind: Backend
metadata: { name: NAME }
spec: { endpoints: [{ address: 127.0.0.1:1 }] }
";

fn backend(name: &str) -> String {
    BACKEND.replace("NAME", name)
}

fn hub() -> Arc<Hub> {
    let address = Address::Socket(([127, 0, 0, 1], 80).into());
    Arc::new(Hub::new(Gateway { address, access_log: None }))
}

fn backends(hub: &Hub) -> Vec<String> {
    let ir = hub.history(|history| history.current().map(|v| v.ir.clone()));
    ir.iter().flat_map(|ir| ir.backends.keys()).map(ToString::to_string).collect()
}

/// Waits until the hub serves exactly these backends.
async fn until_served(hub: &Hub, expected: &[&str]) {
    let wait = async {
        let mut versions = hub.follow();
        while backends(hub) != expected {
            let _ = tokio::time::timeout(Duration::from_millis(20), versions.changed()).await;
        }
    };
    let served = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(served.is_ok(), "served are {:?}, not {expected:?}", backends(hub));
}

fn write_atomically(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

#[tokio::test]
async fn a_rename_over_the_file_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, backend("a")).expect("written");
    let hub = hub();
    let mut source = Source::new(file.clone());
    source.load(&hub).expect("taken");
    let follower = tokio::spawn(source.follow(hub.clone()));
    write_atomically(&file, &backend("b"));
    until_served(&hub, &["b"]).await;
    std::fs::write(&file, backend("c")).expect("written in place");
    until_served(&hub, &["c"]).await;
    follower.abort();
}

#[tokio::test]
async fn a_log_that_grows_beside_the_source_does_not_hold_it_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, backend("a")).expect("written");
    let hub = hub();
    let mut source = Source::new(file.clone());
    source.load(&hub).expect("taken");
    let follower = tokio::spawn(source.follow(hub.clone()));
    let noisy = folder.path().to_owned();
    // Never closed, never quiet: once a file of no interest, once one that could be a resource.
    let noise = tokio::spawn(async move {
        use std::io::Write as _;
        let mut files =
            ["access.log", "growing.json"].map(|n| std::fs::File::create(noisy.join(n)).expect("made"));
        loop {
            files.iter_mut().for_each(|f| f.write_all(b"line\n").expect("written"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    write_atomically(&file, &backend("b"));
    until_served(&hub, &["b"]).await;
    noise.abort();
    follower.abort();
}

#[tokio::test]
async fn a_swapped_link_is_taken_as_kubernetes_does_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for version in ["one", "two"] {
        std::fs::create_dir(at(version)).expect("made");
        std::fs::write(at(version).join("shop.yaml"), backend(version)).expect("written");
    }
    symlink("one", at("..data")).expect("linked");
    symlink("..data/shop.yaml", at("shop.yaml")).expect("linked");
    let hub = hub();
    let mut source = Source::new(folder.path().to_owned());
    source.load(&hub).expect("taken");
    let follower = tokio::spawn(source.follow(hub.clone()));
    symlink("two", at("..data_tmp")).expect("linked");
    std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
    until_served(&hub, &["two"]).await;
    follower.abort();
}

#[tokio::test]
async fn a_refused_source_leaves_the_last_version_and_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, backend("a")).expect("written");
    let hub = hub();
    let mut source = Source::new(file.clone());
    source.load(&hub).expect("taken");
    let follower = tokio::spawn(source.follow(hub.clone()));
    for (broken, part) in [
        ("", "no resources"),
        ("kind: [", "shop.yaml:1:"),
        ("apiVersion: v1\nkind: Pod\n", "Pod is not a kind"),
    ] {
        write_atomically(&file, broken);
        let refused = async {
            while !hub.refusals(|r| r.current.as_ref().is_some_and(|(_, reason)| reason.contains(part))) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), refused).await.expect(part);
        assert_eq!(backends(&hub), ["a"]);
    }
    write_atomically(&file, &backend("b"));
    until_served(&hub, &["b"]).await;
    assert!(hub.refusals(|r| r.count == 3 && r.current.is_none()));
    follower.abort();
}

#[test]
fn hidden_and_foreign_files_are_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["b.yaml", "a.yml", ".hidden.yaml", "notes.txt", "c.yaml~"] {
        std::fs::write(folder.path().join(name), "").expect("written");
    }
    let files = files_in(folder.path()).expect("read");
    let names: Vec<_> = files.iter().filter_map(|f| f.file_name()).collect();
    assert_eq!(names, ["a.yml", "b.yaml"]);
}

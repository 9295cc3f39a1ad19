use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

const BACKEND: &str = "apiVersion: weir.dev/v1
kind: Backend
metadata: { name: NAME }
spec: { endpoints: [{ address: 127.0.0.1:1 }] }
";

fn backend(name: &str) -> String {
    BACKEND.replace("NAME", name)
}

fn names(tree: &Tree) -> Vec<&str> {
    tree.resources.keys().map(|key| key.name.as_str()).collect()
}

/// Waits until the tree is as it should be.
async fn until(directory: &Directory, what: &str, is_so: impl Fn(&Tree) -> bool) {
    let mut trees = directory.follow();
    let wait = trees.wait_for(|tree| is_so(tree));
    let found = tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok();
    assert!(found, "{what}: there is {:?}", directory.follow().borrow());
}

async fn until_read(directory: &Directory, expected: &[&str]) {
    until(directory, "resources", |tree| names(tree) == expected).await;
}

fn open(path: &Path) -> (Directory, tokio::task::JoinHandle<()>) {
    let (directory, follower) = Directory::open(path.to_owned()).expect("taken");
    (directory, tokio::spawn(follower.follow()))
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
    let (directory, follower) = open(&file);
    write_atomically(&file, &backend("b"));
    until_read(&directory, &["b"]).await;
    std::fs::write(&file, backend("c")).expect("written in place");
    until_read(&directory, &["c"]).await;
    follower.abort();
}

#[tokio::test]
async fn a_log_that_grows_beside_the_source_does_not_hold_it_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, backend("a")).expect("written");
    let (directory, follower) = open(&file);
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
    until_read(&directory, &["b"]).await;
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
    let (directory, follower) = open(folder.path());
    symlink("two", at("..data_tmp")).expect("linked");
    std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
    until_read(&directory, &["two"]).await;
    follower.abort();
}

#[tokio::test]
async fn a_refused_source_leaves_what_there_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, backend("a")).expect("written");
    let (directory, follower) = open(&file);
    for (broken, part) in [
        ("", "no resources"),
        ("kind: [", "shop.yaml:1:"),
        ("apiVersion: v1\nkind: Pod\n", "Pod is not a kind"),
    ] {
        write_atomically(&file, broken);
        until(&directory, part, |tree| tree.refused.iter().any(|refused| refused.contains(part))).await;
        assert_eq!(names(&directory.follow().borrow()), ["a"]);
    }
    write_atomically(&file, &backend("b"));
    until_read(&directory, &["b"]).await;
    assert!(directory.follow().borrow().refused.is_empty());
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

#[tokio::test]
async fn one_bad_document_holds_up_no_other_and_takes_nothing_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, format!("{}---\n{}", backend("a"), backend("b"))).expect("written");
    let (directory, follower) = open(&file);
    let broken = backend("b").replace("endpoints", "endpoint");
    write_atomically(&file, &format!("{broken}---\n{}", backend("c")));
    until_read(&directory, &["a", "b", "c"]).await;
    assert!(directory.follow().borrow().refused[0].contains("shop.yaml:4:"));
    write_atomically(&file, &format!("{}---\n{}", backend("c"), backend("c")));
    until(&directory, "twice", |tree| tree.refused.iter().any(|r| r.contains("is already defined in"))).await;
    write_atomically(&file, &backend("c"));
    until_read(&directory, &["c"]).await;
    follower.abort();
}

#[tokio::test]
async fn a_directory_is_a_store_that_only_editors_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.yaml");
    std::fs::write(&file, backend("a")).expect("written");
    let (directory, follower) = open(&file);
    let seen = directory.read("objects/").await.expect("read");
    assert_eq!(seen.entries.keys().collect::<Vec<_>>(), ["objects/Backend/default/a"]);
    assert_eq!(directory.commit(Commit::default()).await, Err(StoreError::ReadOnly));
    assert_eq!(directory.grant(Duration::from_secs(1)).await, Err(StoreError::ReadOnly));
    let mut changes = directory.watch("objects/", seen.revision).await.expect("watched");
    write_atomically(&file, &backend("b"));
    let mut told = Vec::new();
    for _ in 0..2 {
        let change = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await.expect("in time");
        let change = change.expect("it goes on").expect("a change");
        assert!(change.revision > seen.revision);
        told.push((change.key, change.value.is_some()));
    }
    told.sort();
    assert_eq!(
        told,
        [("objects/Backend/default/a".to_owned(), false), ("objects/Backend/default/b".to_owned(), true)]
    );
    let past = directory.watch("", seen.revision).await.map(drop);
    assert!(matches!(past, Err(StoreError::Compacted(_))), "{past:?}");
    follower.abort();
}

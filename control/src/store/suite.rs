//! What every store must do.

use std::sync::Arc;
use std::time::Duration;

use super::*;

fn put(key: &str, value: &str) -> Write {
    Write::Put(key.to_owned(), value.as_bytes().to_vec(), None)
}

fn writes(writes: Vec<Write>) -> Commit {
    Commit { compares: Vec::new(), writes }
}

async fn next(changes: &mut Changes) -> Result<Change, StoreError> {
    let waited = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await;
    waited.expect("a change in time").expect("the watch goes on")
}

fn text(snapshot: &Snapshot) -> Vec<(String, String)> {
    let entry =
        |(key, entry): (&String, &Entry)| (key.clone(), String::from_utf8_lossy(&entry.value).into_owned());
    snapshot.entries.iter().map(entry).collect()
}

/// Of every store that can be written to.
async fn holds(store: Arc<dyn Store>, p: &str) {
    let key = |name: &str| format!("{p}/{name}");
    // Reads see what was committed, by prefix and in order.
    let start = store.read(p).await.expect("read").revision;
    let first = store.commit(writes(vec![put(&key("b"), "1"), put(&key("a"), "2")])).await.expect("written");
    assert!(first > start);
    let seen = store.read(&key("")).await.expect("read");
    assert_eq!(text(&seen), [(key("a"), "2".to_owned()), (key("b"), "1".to_owned())]);
    assert_eq!(seen.entries[&key("a")].modified, first);

    // Compare and set: the second of two is refused, and nothing of it is written.
    let compares = vec![Compare { key: key("a"), modified: first }];
    let second = store.commit(Commit { compares: compares.clone(), writes: vec![put(&key("a"), "3")] }).await;
    let second = second.expect("it was as expected");
    let late = Commit { compares, writes: vec![put(&key("a"), "4"), put(&key("c"), "4")] };
    assert_eq!(store.commit(late).await, Err(StoreError::Conflict(key("a"))));
    let absent =
        Commit { compares: vec![Compare { key: key("a"), modified: 0 }], writes: vec![put(&key("c"), "5")] };
    assert_eq!(store.commit(absent).await, Err(StoreError::Conflict(key("a"))));
    assert_eq!(text(&store.read(&key("")).await.expect("read")).len(), 2);

    // A watch has every change after its revision, in order, those before it began as well.
    let mut changes = store.watch(&key(""), first).await.expect("watched");
    let change = next(&mut changes).await.expect("a change");
    assert_eq!((change.revision, change.key, change.value), (second, key("a"), Some(b"3".to_vec())));
    let third =
        store.commit(writes(vec![Write::Delete(key("b")), put(&key("d"), "6")])).await.expect("written");
    let (one, other) = (next(&mut changes).await.expect("one"), next(&mut changes).await.expect("other"));
    assert_eq!((one.revision, one.value), (third, None));
    assert_eq!((other.key, other.value), (key("d"), Some(b"6".to_vec())));
    drop(changes);

    // Many writers of one key: each commit is somebody's, none is lost.
    let counter = key("counter");
    store.commit(writes(vec![put(&counter, "0")])).await.expect("written");
    let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(count_up(store.clone(), counter.clone(), 10))).collect();
    for task in tasks {
        task.await.expect("counted");
    }
    let counted = store.read(&counter).await.expect("read");
    assert_eq!(counted.entries[&counter].value, b"40");

    // A lease takes its keys with it, unless somebody comes back.
    let lease = store.grant(Duration::from_secs(2)).await.expect("granted");
    let leased = Write::Put(key("leased"), b"1".to_vec(), Some(lease));
    store.commit(writes(vec![leased])).await.expect("written");
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.keep_alive(lease).await.expect("it lives");
    }
    let seen = store.read(&key("leased")).await.expect("read");
    assert_eq!(seen.entries.len(), 1, "kept alive for twice its time");
    let mut changes = store.watch(&key("leased"), seen.revision).await.expect("watched");
    assert_eq!(next(&mut changes).await.expect("gone").value, None);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::NoLease));

    // One leads; the next when its lease ends; and the old one writes nothing any more.
    let (one, other) = (
        store.grant(Duration::from_secs(30)).await.expect("granted"),
        store.grant(Duration::from_secs(30)).await.expect("granted"),
    );
    let leader = campaign(&*store, p, "one", one).await.expect("leads");
    let waiting = {
        let (store, p) = (store.clone(), p.to_owned());
        tokio::spawn(async move { campaign(&*store, &p, "other", other).await })
    };
    let as_leader = |leader: &Leadership, value| Commit {
        compares: vec![leader.compare()],
        writes: vec![put(&key("led"), value)],
    };
    store.commit(as_leader(&leader, "one")).await.expect("it leads");
    assert!(!waiting.is_finished());
    store.revoke(one).await.expect("revoked");
    let next_leader = waiting.await.expect("no panic").expect("leads");
    assert!(matches!(store.commit(as_leader(&leader, "late")).await, Err(StoreError::Conflict(_))));
    store.commit(as_leader(&next_leader, "other")).await.expect("it leads");
    assert_eq!(text(&store.read(&key("led")).await.expect("read"))[0].1, "other");
}

async fn count_up(store: Arc<dyn Store>, key: String, times: u64) {
    for _ in 0..times {
        loop {
            let seen = store.read(&key).await.expect("read");
            let entry = &seen.entries[&key];
            let value: u64 = String::from_utf8_lossy(&entry.value).parse().expect("a number");
            let compares = vec![Compare { key: key.clone(), modified: entry.modified }];
            let commit = Commit { compares, writes: vec![put(&key, &(value + 1).to_string())] };
            match store.commit(commit).await {
                Ok(_) => break,
                Err(StoreError::Conflict(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn redb_in_memory_is_a_store() {
    let store = Redb::in_memory().expect("made");
    tokio::spawn(store.clone().end_leases());
    holds(Arc::new(store), "suite").await;
}

#[tokio::test]
async fn redb_in_a_file_is_a_store_and_remembers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weir.redb");
    let store = Redb::open(&path).expect("made");
    let expiry = tokio::spawn(store.clone().end_leases());
    holds(Arc::new(store.clone()), "suite").await;
    assert!(Redb::open(&path).is_err(), "one process has it at a time");
    let before = store.read("").await.expect("read");
    expiry.abort();
    let _ = expiry.await;
    drop(store);
    let again = Redb::open(&path).expect("opened");
    assert_eq!(again.read("").await.expect("read"), before);
    // What happened before can still be watched.
    let mut changes = again.watch("suite/", 0).await.expect("watched");
    assert_eq!(next(&mut changes).await.expect("a change").revision, 1);
}

#[tokio::test]
async fn a_watch_from_too_long_ago_says_so() {
    let store = Redb::in_memory().expect("made");
    for i in 0..5_000 {
        store.commit(writes(vec![put("k", &i.to_string())])).await.expect("written");
    }
    let refused = store.watch("", 1).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Compacted(oldest)) if oldest > 1), "{refused:?}");
    assert!(store.watch("", 4_990).await.is_ok());
}

#[cfg(feature = "etcd")]
pub(crate) mod etcd {
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// An etcd of its own. None where there is no program of that name.
    pub(crate) struct Server {
        child: Child,
        pub(crate) address: String,
        _folder: tempfile::TempDir,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    pub(crate) fn start() -> Option<Server> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let (client, peer) = (format!("http://{}", free()), format!("http://{}", free()));
        let folder = tempfile::tempdir().expect("a folder");
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Server { child, address: client, _folder: folder }),
            Err(error) => {
                eprintln!("left out: there is no etcd: {error}");
                None
            }
        }
    }

    pub(crate) async fn connect(server: &Server, prefix: &str) -> Etcd {
        for _ in 0..200 {
            if let Ok(store) = Etcd::connect(std::slice::from_ref(&server.address), prefix).await
                && store.read("").await.is_ok()
            {
                return store;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd did not start");
    }

    #[tokio::test]
    async fn etcd_is_a_store() {
        let Some(server) = start() else { return };
        let store = connect(&server, "weir/").await;
        holds(Arc::new(store.clone()), "suite").await;
        let other = connect(&server, "other/").await;
        assert!(other.read("").await.expect("read").entries.is_empty(), "prefixes are apart");
    }
}

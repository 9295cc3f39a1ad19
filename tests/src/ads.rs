//! A control plane of others: an ADS server in Python, of `grpcio` and Envoy's own protos.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::pki::Leaf;
use crate::process::eventually;

/// A Python that has `grpcio` and `xds-protos`; none, said so, where it was not installed.
pub fn python() -> Option<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/grpc/bin/python");
    let found = std::env::var_os("GRPC_PYTHON").map_or(own, PathBuf::from);
    if found.exists() {
        return Some(found);
    }
    eprintln!("left out: no Python with grpcio (GRPC_PYTHON)");
    None
}

/// A running server.
#[derive(Debug)]
pub struct Ads {
    child: Child,
    commands: ChildStdin,
    events: Arc<Mutex<VecDeque<Value>>>,
    /// Where it listens.
    pub port: u16,
}

impl Ads {
    /// Starts one.
    pub fn start(python: &Path) -> Self {
        Self::with(python, &json!({}))
    }

    /// The same behind mutual TLS.
    pub fn start_protected(python: &Path, leaf: &Leaf, authority: &Path) -> Self {
        Self::with(python, &json!({ "tls": [leaf.key, leaf.chain, authority] }))
    }

    fn with(python: &Path, options: &Value) -> Self {
        let mut child = Command::new(python)
            .args(["-c", include_str!("python/ads_server.py"), &options.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let events = Arc::new(Mutex::new(VecDeque::new()));
        let (lines, kept) = (child.stdout.take().expect("piped"), events.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("JSON");
                kept.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
            }
        });
        let commands = child.stdin.take().expect("piped");
        let mut ads = Self { child, commands, events, port: 0 };
        let listening = ads.event("listening");
        ads.port = u16::try_from(listening["port"].as_u64().expect("a port")).expect("a port");
        ads
    }

    /// Gives a command.
    pub fn tell(&mut self, command: &Value) {
        writeln!(self.commands, "{command}").and_then(|()| self.commands.flush()).expect("it listens");
    }

    /// Serves these resources, beside what was set before, and pushes what has changed.
    pub fn set(&mut self, resources: &[Value]) {
        self.tell(&json!({ "op": "set", "resources": resources }));
    }

    /// The next event of a kind; those before it are dropped.
    pub fn event(&mut self, kind: &str) -> Value {
        self.find(kind, |event| event["event"] == kind)
    }

    /// The next request for a type that is as it should be; those before it are dropped.
    pub fn request(&mut self, kind: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.find(kind, |event| event["event"] == "request" && event["type"] == kind && is_it(event))
    }

    fn find(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        eventually(&format!("the server sees {what}"), || {
            while let Some(event) = self.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                if is_it(&event) {
                    return Some(event);
                }
                seen.push(event);
            }
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the server ended");
            None
        })
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Envoy itself, where the machine has it: what it does with the same configuration.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::client::http_get;
use crate::process::eventually;

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    /// Where it serves.
    pub port: u16,
    /// Where it tells of itself.
    pub admin: u16,
    _folder: tempfile::TempDir,
}

/// The program that `ENVOY` names, or the one on the search path.
fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("envoy")).find(|file| file.is_file())
}

impl Envoy {
    /// Starts one with this bootstrap, which must name these ports, and waits until it serves. Nothing, said so, where there
    /// is no Envoy.
    pub fn start(bootstrap: &str, port: u16, admin: u16) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("there is no Envoy here: nothing is compared");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("envoy.yaml");
        std::fs::write(&file, bootstrap).expect("written");
        let log = folder.path().join("envoy.log");
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--log-path"])
            .arg(&log)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Envoy starts");
        let mut envoy = Self { child, port, admin, _folder: folder };
        eventually("Envoy is ready", || {
            let ended = envoy.child.try_wait().expect("a child").is_some();
            assert!(!ended, "Envoy ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            http_get(admin, "/ready").filter(|response| response.status() == 200)
        });
        Some(envoy)
    }

    /// A page of the admin port.
    pub fn page(&self, path: &str) -> String {
        http_get(self.admin, path).expect("a page").text().to_owned()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

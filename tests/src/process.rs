//! Processes of this workspace.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Generous: machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The folder with this workspace's programs, built once.
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--package", "proxy", "--package", "control", "--package", "weir"])
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the programs build");
        // Tests lie in target/debug/deps.
        let this = std::env::current_exe().expect("this program has a path");
        this.ancestors().nth(2).expect("a target folder").to_owned()
    })
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs().join(program));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Process {
    /// Starts a program of the workspace. What it logs is kept.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        Self::spawn(command(program, arguments))
    }

    /// The same with so many file descriptors.
    pub fn start_limited(program: &str, arguments: &[&str], descriptors: u32) -> Self {
        let mut limited = Command::new("sh");
        let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        limited.arg("-c").arg(script).arg(programs().join(program)).args(arguments);
        limited.stdin(Stdio::null()).stderr(Stdio::piped());
        Self::spawn(limited)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).spawn().expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (child.stderr.take().expect("piped"), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let mut log = kept.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log }
    }

    /// Where a program of the workspace is.
    pub fn path(program: &str) -> PathBuf {
        programs().join(program)
    }

    /// Runs a program to its end. One that should end and does not is ended after a minute, with code 124.
    pub fn run(program: &str, arguments: &[&str]) -> Output {
        let mut bounded = Command::new("timeout");
        bounded.arg("60").arg(programs().join(program)).args(arguments).stdin(Stdio::null());
        let output = bounded.output().expect("the program runs");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "the signal is sent");
    }

    /// Waits for the end. The exit code; -1 for a signal.
    pub fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "the process does not end; it said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bytes of memory that it has in use.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<usize>().ok());
        kib.unwrap_or(0) << 10
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(mut stdout) = self.child.stdout.take() {
            let _ = stdout.read_to_end(&mut Vec::new());
        }
    }
}

/// Waits until a condition gives a value.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A port that is free now, and that no outgoing connection takes by chance before it is used: below the range that the
/// kernel gives those (`ip_local_port_range`, from 32,768).
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    for _ in 0..COUNT {
        let number = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + number % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

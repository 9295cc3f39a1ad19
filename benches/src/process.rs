//! Processes that are pinned, measured and ended.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Core of the proxy, and core of everything else.
pub(crate) const PROXY_CORE: usize = 0;
/// See [`PROXY_CORE`].
pub(crate) const OTHER_CORE: usize = 1;

/// How a process is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// A process that ends with this value.
pub(crate) struct Running(Child);

impl Launch {
    /// Starts it on one core.
    pub(crate) fn start(&self, core: usize) -> Result<Running> {
        self.start_on(&core.to_string())
    }

    /// Starts it on these cores, as `taskset` lists them.
    pub(crate) fn start_on(&self, cores: &str) -> Result<Running> {
        let child = Command::new("taskset")
            .args(["-c", cores])
            .arg(&self.program)
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} does not start", self.program.display()))?;
        Ok(Running(child))
    }
}

impl Running {
    /// Proportional set size of the process and its children, in bytes.
    pub(crate) fn pss(&self) -> Result<u64> {
        let mut total = 0;
        for pid in family(self.0.id()) {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss line")?;
            let kib: u64 = line.split_whitespace().next().context("no figure")?.parse()?;
            total += kib * 1024;
        }
        Ok(total)
    }

    /// User and system time of the process and its children, in ticks.
    pub(crate) fn cpu_ticks(&self) -> Result<(u64, u64)> {
        let (mut user, mut system) = (0, 0);
        for pid in family(self.0.id()) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name, in brackets, may hold anything; the fields follow its end.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let field =
                |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).context("an odd stat file");
            user += field(11)?;
            system += field(12)?;
        }
        Ok((user, system))
    }
}

impl Running {
    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        // SIGTERM first, so that masters end their workers.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process and all that descend from it.
fn family(root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let mut at = 0;
    while at < family.len() {
        let path = format!("/proc/{0}/task/{0}/children", family[at]);
        let children = std::fs::read_to_string(path).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    family
}

/// A program of this workspace, built as it ships.
pub(crate) fn build(package: &str, program: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--release", "--package", package]).status()?;
    ensure!(status.success(), "{program} does not build");
    // This program lies in the same target folder.
    let folder = std::env::current_exe()?;
    let target = folder.parent().and_then(|p| p.parent()).context("an odd target folder")?;
    Ok(target.join("release").join(program))
}

pub(crate) fn wait_for_port(port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > deadline {
            bail!("nothing listens on port {port} after 15 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Two processes on one port would share the load without a word.
pub(crate) fn wait_for_free(port: u16, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > deadline {
            bail!("port {port} is still in use");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A program on the path.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// Envoy, on the path or where `ENVOY` says.
pub(crate) fn find_envoy() -> Option<PathBuf> {
    find("envoy").or_else(|| std::env::var_os("ENVOY").map(PathBuf::from))
}

/// What a program says of its version: the first number with a dot in it.
pub(crate) fn version(program: &PathBuf, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    // The path of the program, which some print first, may hold numbers as well.
    let after = ["version: ", "version "].iter().find_map(|word| text.split_once(word));
    let text = after.map_or(text.as_str(), |(_, rest)| rest);
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-'));
    let is_version = |w: &&str| w.starts_with(|c: char| c.is_ascii_digit()) && w.contains('.');
    let numbers = |w: &str| w.split('-').next().unwrap_or(w).to_owned();
    // Envoy says hash/version/…, the others name/version.
    words.filter(|w| !w.is_empty()).find(is_version).map(numbers).unwrap_or_default()
}

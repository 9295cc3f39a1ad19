//! The load: wrk and h2load where they are installed, else this program's own loops.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::find;
use crate::workload::{Wire, Workload};

pub(crate) struct Loader {
    wrk: Option<PathBuf>,
    h2load: Option<PathBuf>,
    /// The authority's certificate.
    ca: PathBuf,
}

#[derive(Default)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Median, 99 % and 99.9 % of latencies in microseconds, of an open loop.
    pub(crate) latencies: [u64; 3],
}

impl Loader {
    /// `folder` is where the certificates of a run lie.
    pub(crate) fn find(folder: &Path) -> Self {
        Self { wrk: find("wrk"), h2load: find("h2load"), ca: folder.join("ca.pem") }
    }

    /// Is there what the workload takes?
    pub(crate) fn can(&self, workload: Workload) -> bool {
        match workload.wire() {
            Wire::Tls => self.wrk.is_some() && find("nginx").is_some(),
            Wire::Http2 | Wire::Http2To1 => self.h2load.is_some() && find("nginx").is_some(),
            Wire::Http1 | Wire::Answered | Wire::Tcp => true,
        }
    }

    /// What makes the workload's load.
    pub(crate) fn name(&self, workload: Workload) -> &'static str {
        match workload.wire() {
            _ if workload.rate().is_some() => "own open loop",
            Wire::Http2 | Wire::Http2To1 => "h2load",
            Wire::Http1 | Wire::Tls if self.wrk.is_some() => "wrk",
            _ => "own closed loop",
        }
    }

    /// The workload's load for so many seconds. `cores` as `taskset` lists them.
    pub(crate) fn run(&self, port: u16, workload: Workload, seconds: u64, cores: &str) -> Result<Load> {
        let mut command = Command::new("taskset");
        command.args(["-c", cores]);
        let (connections, seconds) = (workload.connections().to_string(), seconds.to_string());
        let path = workload.path();
        let address = format!("127.0.0.1:{port}");
        let this = std::env::current_exe()?;
        let mut own = |arguments: &[&str]| {
            let with = ["--connections", &connections, "--seconds", &seconds, &address];
            command.arg(&this).args(arguments).args(with);
        };
        match (workload.wire(), &self.wrk, &self.h2load) {
            _ if workload.rate().is_some() => {
                own(&["open", "--rate", &workload.rate().unwrap_or_default().to_string()]);
            }
            (Wire::Http2 | Wire::Http2To1, _, Some(h2load)) => {
                command.arg(h2load).args([
                    "-m32",
                    &format!("-c{connections}"),
                    &format!("-D{seconds}"),
                    &format!("http://{address}{path}"),
                ]);
            }
            (Wire::Tcp, ..) if workload == Workload::TcpStream => own(&["bytes", "--way", "down"]),
            (Wire::Tcp, ..) => own(&["bytes", "--way", "round-trip"]),
            (Wire::Answered, ..) => {
                let ca = self.ca.display().to_string();
                let resume: &[&str] = if workload == Workload::Resumptions { &["--resume"] } else { &[] };
                own(&[&["handshake", "--ca", &ca], resume].concat());
            }
            (wire, Some(wrk), _) => {
                command.arg(wrk);
                if let Some(host) = workload.host() {
                    command.arg("-H").arg(format!("Host: {host}"));
                }
                let scheme = if wire == Wire::Tls { "https" } else { "http" };
                command.args([
                    "-t1",
                    &format!("-c{connections}"),
                    &format!("-d{seconds}s"),
                    &format!("{scheme}://{address}{path}"),
                ]);
            }
            (_, None, _) => own(&["load"]),
        }
        let output = command.output().context("the load does not start")?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse(&text).with_context(|| {
            format!("the load printed no count: {}", String::from_utf8_lossy(&output.stderr))
        })
    }
}

/// The report of wrk, of h2load, or of our own.
fn parse(text: &str) -> Option<Load> {
    let mut load = Load::default();
    let mut counted = false;
    for line in text.lines().map(str::trim) {
        if let Some((count, _)) = line.split_once(" requests in ") {
            load.requests = count.parse().ok()?;
            counted = true;
        }
        if let Some(counts) = line.strip_prefix("requests: ") {
            let count = |name| {
                let mut of = counts.split(", ").filter_map(|part| part.strip_suffix(name));
                of.next().and_then(|count| count.trim().parse::<u64>().ok())
            };
            load.requests = count("succeeded")?;
            load.errors = count("failed")? + count("errored")? + count("timeout")?;
            counted = true;
        }
        for (at, name) in ["p50 ", "p99 ", "p99.9 "].into_iter().enumerate() {
            if let Some(micros) = line.strip_prefix(name).and_then(|rest| rest.strip_suffix(" us")) {
                load.latencies[at] = micros.parse().ok()?;
            }
        }
        if let Some(errors) =
            line.strip_prefix("Socket errors:").or(line.strip_prefix("Non-2xx or 3xx responses:"))
        {
            let numbers = errors.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
            load.errors += numbers.sum::<u64>();
        }
    }
    counted.then_some(load)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn wrks_report_is_read() {
        let text = "Running 4s test\n  279947 requests in 4.00s, 307.03MB read\n  \
                    Socket errors: connect 0, read 3, write 1, timeout 0\n  Non-2xx or 3xx responses: 7\n";
        let load = parse(text).expect("a count");
        assert_eq!((load.requests, load.errors), (279_947, 11));
        assert!(parse("").is_none());
        let open =
            "  640 requests in 4.00s, 0B read\n  p50 120 us\n  p99 900 us\n  p99.9 2000 us\n  max 2100 us\n";
        assert_eq!(parse(open).expect("a count").latencies, [120, 900, 2_000]);
    }

    #[test]
    fn h2loads_report_is_read() {
        let text = "finished in 3.00s, 61000.33 req/s, 63.21MB/s\nrequests: 183001 total, 183257 started, 183001 done, \
                    182998 succeeded, 2 failed, 1 errored, 0 timeout\nstatus codes: 182998 2xx, 0 3xx, 2 4xx, 0 5xx\n";
        let load = parse(text).expect("a count");
        assert_eq!((load.requests, load.errors), (182_998, 3));
    }
}

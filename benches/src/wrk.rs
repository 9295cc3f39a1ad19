//! The load: wrk where it is installed, else this program's own loop.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::find;
use crate::workload::Workload;

pub(crate) struct Loader {
    wrk: Option<PathBuf>,
}

#[derive(Default)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Median, 99 % and 99.9 % of latencies in microseconds, of an open loop.
    pub(crate) latencies: [u64; 3],
}

impl Loader {
    pub(crate) fn find() -> Self {
        Self { wrk: find("wrk") }
    }

    pub(crate) fn name(&self) -> &'static str {
        if self.wrk.is_some() { "wrk" } else { "own closed loop" }
    }

    /// The workload's load for so many seconds. `cores` as `taskset` lists them.
    pub(crate) fn run(&self, port: u16, workload: Workload, seconds: u64, cores: &str) -> Result<Load> {
        let (connections, path) = (workload.connections(), workload.path());
        let mut command = Command::new("taskset");
        command.args(["-c", cores]);
        match &self.wrk {
            _ if workload.rate().is_some() => command.arg(std::env::current_exe()?).args([
                "open",
                "--connections",
                &connections.to_string(),
                "--rate",
                &workload.rate().unwrap_or_default().to_string(),
                "--seconds",
                &seconds.to_string(),
                &format!("127.0.0.1:{port}"),
            ]),
            Some(wrk) => {
                if let Some(host) = workload.host() {
                    command.arg(wrk).arg("-H").arg(format!("Host: {host}"));
                } else {
                    command.arg(wrk);
                }
                command.args([
                    "-t1",
                    &format!("-c{connections}"),
                    &format!("-d{seconds}s"),
                    &format!("http://127.0.0.1:{port}{path}"),
                ])
            }
            None => command.arg(std::env::current_exe()?).args([
                "load",
                "--connections",
                &connections.to_string(),
                "--seconds",
                &seconds.to_string(),
                &format!("127.0.0.1:{port}"),
            ]),
        };
        let output = command.output().context("the load does not start")?;
        parse(&String::from_utf8_lossy(&output.stdout)).context("the load printed no count")
    }
}

fn parse(text: &str) -> Option<Load> {
    let mut load = Load::default();
    let mut counted = false;
    for line in text.lines().map(str::trim) {
        if let Some((count, _)) = line.split_once(" requests in ") {
            load.requests = count.parse().ok()?;
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
}

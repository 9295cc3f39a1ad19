//! Looks at the process from beside the workers: is its memory full, does a worker no longer come back?

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_core::overload::{Pressure, Stall};

use crate::telemetry::Registry;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// What workers and watchdog tell each other.
#[derive(Debug)]
pub(crate) struct Vitals {
    epoch: Instant,
    pressure: AtomicU8,
    /// When each worker was last at its event loop, in milliseconds since the epoch.
    beats: Vec<AtomicU64>,
}

impl Vitals {
    pub(crate) fn new(workers: usize) -> Self {
        let beats = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self { epoch: Instant::now(), pressure: AtomicU8::new(0), beats }
    }

    /// Cost: a load.
    pub(crate) fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::StopKeepAlive,
            _ => Pressure::Shed,
        }
    }

    /// A worker is at its event loop.
    pub(crate) fn beat(&self, worker: usize) {
        self.beats[worker].store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silence(&self, worker: usize) -> Duration {
        let last = Duration::from_millis(self.beats[worker].load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(last)
    }
}

/// What the watchdog may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Orders {
    /// Bytes of memory; no limit where unset.
    pub(crate) heap_limit: Option<u64>,
    /// Ends the process when a worker is stuck, so that whoever supervises it starts another.
    pub(crate) aborts: bool,
}

/// Watches for as long as the process lives.
pub(crate) async fn watch(vitals: Arc<Vitals>, registry: Arc<Registry>, orders: Orders) {
    let mut interval = tokio::time::interval(INTERVAL);
    let mut stalls = vec![Stall::None; vitals.beats.len()];
    let mut last = Pressure::None;
    loop {
        interval.tick().await;
        if let (Some(limit), Some(used)) = (orders.heap_limit, resident_bytes()) {
            let pressure = Pressure::of(used, limit);
            if pressure != last {
                tracing::warn!(used, limit, ?pressure, "memory");
                last = pressure;
            }
            vitals.pressure.store(pressure as u8, Ordering::Relaxed);
        }
        for (worker, known) in stalls.iter_mut().enumerate() {
            let silence = vitals.silence(worker);
            let stall = Stall::of(silence);
            if stall > *known {
                registry.worker_stalls.fetch_add(u64::from(*known == Stall::None), Ordering::Relaxed);
                tracing::error!(worker, ?silence, ?stall, threads = threads(), "a worker does not come back");
                if stall == Stall::Stuck && orders.aborts {
                    std::process::abort();
                }
            }
            *known = stall;
        }
    }
}

/// Memory that the process has in use.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// What each thread of the process is doing, as the kernel sees it: name, state, user and system time.
fn threads() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let line = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        Some(format!("{name} {} {}+{}", fields.first()?, fields.get(11)?, fields.get(12)?))
    };
    tasks.filter_map(line).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_ends_the_silence_of_its_worker_only() {
        let vitals = Vitals::new(2);
        std::thread::sleep(Duration::from_millis(5));
        vitals.beat(1);
        assert!(vitals.silence(0) >= Duration::from_millis(5));
        assert!(vitals.silence(1) < vitals.silence(0));
    }

    #[test]
    fn the_process_says_what_it_holds_and_what_its_threads_do() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
        assert!(threads().contains(" R "), "this thread runs: {}", threads());
    }
}

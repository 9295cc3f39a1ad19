//! Access logs: a line for each request, never at the cost of one.
//!
//! A worker formats into a buffer of its own and hands whole buffers to a thread for each file. When that thread falls
//! behind, lines are dropped and counted; no worker waits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use proxy_core::route::RouteLabel;

use super::cells::WorkerCells;

/// Buffers that wait for one file's thread.
const QUEUE: usize = 64;
/// A buffer is handed over from this size on, or at the next tick.
const FLUSH_BYTES: usize = 16 << 10;

/// The open log files of the process, by path.
#[derive(Debug, Default)]
pub(crate) struct LogFiles {
    open: Mutex<BTreeMap<PathBuf, LogFile>>,
}

/// A file and the thread that writes it.
#[derive(Debug)]
struct LogFile {
    sender: SyncSender<Vec<u8>>,
    writer: JoinHandle<()>,
}

impl LogFiles {
    /// Opens a file for appending, once for all listeners that name it.
    pub(crate) fn open(&self, path: &Path) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(path) {
            return Ok(());
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        let (sender, receiver): (_, Receiver<Vec<u8>>) = sync_channel(QUEUE);
        let shown = path.display().to_string();
        // The thread ends when every sender is gone.
        let writer = std::thread::Builder::new().name("weir-log".to_owned()).spawn(move || {
            for lines in receiver {
                if let Err(error) = file.write_all(&lines) {
                    tracing::warn!(file = shown, %error, "access log lines are lost");
                }
            }
        })?;
        open.insert(path.to_owned(), LogFile { sender, writer });
        Ok(())
    }

    /// Waits until every line is written. The workers, who write them, must have ended.
    pub(crate) fn finish(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for LogFile { sender, writer } in open.into_values() {
            drop(sender);
            let _ = writer.join();
        }
    }

    fn sender(&self, path: &Path) -> Option<SyncSender<Vec<u8>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(path).map(|file| file.sender.clone())
    }
}

/// A worker's end of the logs of one listener.
#[derive(Debug)]
pub(crate) struct AccessLog {
    senders: Vec<SyncSender<Vec<u8>>>,
    lines: RefCell<Vec<u8>>,
    cells: Arc<WorkerCells>,
}

/// What a line tells.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) authority: &'a [u8],
    pub(crate) path: &'a [u8],
    /// 0 where no response was sent.
    pub(crate) status: u16,
    pub(crate) route: Option<&'a RouteLabel>,
    pub(crate) arm: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) flag: &'a str,
    pub(crate) duration: Duration,
}

impl AccessLog {
    /// `None` where the listener has no log.
    pub(crate) fn new(files: &LogFiles, paths: &[PathBuf], cells: &Arc<WorkerCells>) -> Option<Self> {
        let senders: Vec<_> = paths.iter().filter_map(|path| files.sender(path)).collect();
        (!senders.is_empty()).then(|| Self { senders, lines: RefCell::default(), cells: cells.clone() })
    }

    /// Appends a line. What clients send was validated, so no byte of it can start another line.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        let mut lines = self.lines.borrow_mut();
        let text = |bytes| or_dash(std::str::from_utf8(bytes).unwrap_or_default());
        let _ = write!(
            lines,
            "{} {} {} {} {} route=",
            humantime::format_rfc3339_millis(SystemTime::now()),
            text(entry.method),
            text(entry.authority),
            text(entry.path),
            entry.status,
        );
        let _ = match entry.route {
            Some(route) => write!(lines, "{route}"),
            None => write!(lines, "-"),
        };
        let _ = writeln!(
            lines,
            " arm={} cluster={} endpoint={} flag={} reason=\"{}\" duration_us={}",
            or_dash(entry.arm),
            or_dash(entry.cluster),
            or_dash(entry.endpoint),
            or_dash(entry.flag),
            or_dash(entry.reason),
            entry.duration.as_micros(),
        );
        if lines.len() >= FLUSH_BYTES {
            self.hand_over(&mut lines);
        }
    }

    /// Hands over what was written since the last time.
    pub(crate) fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if !lines.is_empty() {
            self.hand_over(&mut lines);
        }
    }

    fn hand_over(&self, lines: &mut Vec<u8>) {
        let full = std::mem::replace(lines, Vec::with_capacity(FLUSH_BYTES + 1024));
        for sender in &self.senders {
            if let Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) =
                sender.try_send(full.clone())
            {
                let count = lost.iter().filter(|b| **b == b'\n').count();
                self.cells.log_lines_dropped.add(count as u64);
            }
        }
    }
}

/// What a field shows that has no value.
const fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

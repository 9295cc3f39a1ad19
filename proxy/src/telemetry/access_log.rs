//! Where access-log lines go, never at the cost of a request.
//!
//! A worker writes into a buffer of its own and hands whole buffers to a thread for each sink. When that thread falls
//! behind, lines are dropped and counted; no worker waits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use proxy_core::access::{AccessLogConfig, Filter, Format, Record, Sink};

use super::cells::WorkerCells;

/// Buffers that wait for one sink's thread.
const QUEUE: usize = 64;
/// A buffer is handed over from this size on, or at the next tick.
const FLUSH_BYTES: usize = 16 << 10;

/// The open sinks of the process.
#[derive(Debug, Default)]
pub(crate) struct LogFiles {
    open: Mutex<BTreeMap<Sink, LogFile>>,
}

/// A sink and the thread that writes it.
#[derive(Debug)]
struct LogFile {
    sender: SyncSender<Vec<u8>>,
    /// The file was moved away: its path is opened again before the next lines.
    reopens: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

impl LogFiles {
    /// Opens a sink, once for all logs that name it.
    pub(crate) fn open(&self, sink: &Sink) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(sink) {
            return Ok(());
        }
        let mut output: Box<dyn Write + Send> = match sink {
            Sink::File(path) => Box::new(append(path)?),
            Sink::Stdout => Box::new(io::stdout()),
            Sink::Stderr => Box::new(io::stderr()),
        };
        let (sender, receiver): (_, Receiver<Vec<u8>>) = sync_channel(QUEUE);
        let reopens = Arc::new(AtomicBool::new(false));
        let (sink_of_thread, reopening) = (sink.clone(), reopens.clone());
        // The thread ends when every sender is gone.
        let writer = std::thread::Builder::new().name("weir-log".to_owned()).spawn(move || {
            for lines in receiver {
                if reopening.swap(false, Ordering::Relaxed)
                    && let Sink::File(path) = &sink_of_thread
                {
                    match append(path) {
                        Ok(file) => output = Box::new(file),
                        Err(error) => tracing::warn!(file = %path.display(), %error, "an access log stays with its old file"),
                    }
                }
                if let Err(error) = output.write_all(&lines).and_then(|()| output.flush()) {
                    tracing::warn!(sink = ?sink_of_thread, %error, "access log lines are lost");
                }
            }
        })?;
        open.insert(sink.clone(), LogFile { sender, reopens, writer });
        Ok(())
    }

    /// Opens each file's path again, as somebody has moved the file away.
    pub(crate) fn reopen(&self) {
        for file in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            file.reopens.store(true, Ordering::Relaxed);
            // Nothing to write, but a reason to look: the new file is there at once.
            let _ = file.sender.try_send(Vec::new());
        }
    }

    /// Waits until every line is written. The workers, who write them, must have ended.
    pub(crate) fn finish(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for LogFile { sender, writer, .. } in open.into_values() {
            drop(sender);
            let _ = writer.join();
        }
    }

    fn sender(&self, sink: &Sink) -> Option<SyncSender<Vec<u8>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(sink).map(|file| file.sender.clone())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A worker's end of one log.
#[derive(Debug)]
pub(crate) struct AccessLog {
    sender: SyncSender<Vec<u8>>,
    format: Arc<Format>,
    filter: Option<Filter>,
    lines: RefCell<Vec<u8>>,
    cells: Arc<WorkerCells>,
}

impl AccessLog {
    /// The worker's ends of a listener's logs.
    pub(crate) fn open(files: &LogFiles, configs: &[AccessLogConfig], cells: &Arc<WorkerCells>) -> Vec<Self> {
        let log = |config: &AccessLogConfig| {
            Some(Self {
                sender: files.sender(&config.sink)?,
                format: config.format.clone(),
                filter: config.filter.clone(),
                lines: RefCell::default(),
                cells: cells.clone(),
            })
        };
        configs.iter().filter_map(log).collect()
    }

    /// Appends a line, if the request is one that this log tells of.
    pub(crate) fn write(&self, record: &Record<'_>) {
        if self.filter.as_ref().is_some_and(|filter| !filter.holds(record)) {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        self.format.write(record, &mut lines);
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
        let full = std::mem::replace(lines, Vec::with_capacity(FLUSH_BYTES + 2048));
        if let Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) = self.sender.try_send(full) {
            let count = lost.iter().filter(|byte| **byte == b'\n').count();
            self.cells.log_lines_dropped.add(count as u64);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

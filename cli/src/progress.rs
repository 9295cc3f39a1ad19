//! What goes on, told on a terminal where it takes longer than a second.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::ProgressBar;

/// Whatever is shorter needs no words.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);

/// Tells of something for as long as it lives, and takes the line away again. Where standard error is no terminal, nothing
/// is told.
pub(crate) struct Progress {
    done: Option<Sender<()>>,
    teller: Option<JoinHandle<()>>,
}

impl Progress {
    /// `what` goes on, such as `reading shop.yaml`.
    pub(crate) fn of(what: String) -> Self {
        let (done, over) = channel();
        let tell = move || {
            if over.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let line = ProgressBar::new_spinner().with_message(what);
            line.enable_steady_tick(TICK);
            // Until the sender is gone.
            let _ = over.recv();
            line.finish_and_clear();
        };
        // Without a thread there is no progress, and no harm.
        let teller = std::thread::Builder::new().name("progress".to_owned()).spawn(tell).ok();
        Self { done: Some(done), teller }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(teller) = self.teller.take() {
            let _ = teller.join();
        }
    }
}

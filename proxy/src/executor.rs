//! Tasks of HTTP libraries, on the thread that their connection is on.

use std::future::Future;

use hyper::rt::Executor;

/// Spawns on the current thread's own set of tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnThisThread;

impl<F: Future + 'static> Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(async move { drop(task.await) }));
    }
}

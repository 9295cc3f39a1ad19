//! Memory for runs of requests, used again and again.
//!
//! A task is as large as the largest thing it ever does. A connection that waits would hold room for a whole exchange,
//! 2 KiB, if that were a part of its task; a fresh box for each run would be an allocation a request. So a run's future
//! lives in a box that goes from connection to connection.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;

/// Boxes that are kept.
const MAX_KEPT: usize = 1024;

/// Boxes of runs that have finished.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    kept: RefCell<Vec<Box<dyn Any>>>,
}

/// A run in its box.
pub(crate) struct Run<F>(Pin<Box<F>>);

impl Runs {
    /// Puts a future into a box that is there already, where one of its kind was kept.
    #[inline]
    pub(crate) fn start<F: Future + 'static>(&self, future: F) -> Box<Run<F>> {
        let kept = self.kept.borrow_mut().pop().and_then(|kept| kept.downcast::<Run<F>>().ok());
        match kept {
            Some(mut run) => {
                run.0.set(future);
                run
            }
            None => Box::new(Run(Box::pin(future))),
        }
    }

    /// Keeps so many boxes at most.
    pub(crate) fn shrink_to(&self, count: usize) {
        let mut kept = self.kept.borrow_mut();
        kept.truncate(count);
        kept.shrink_to_fit();
    }

    /// Keeps the box of a run that has finished.
    pub(crate) fn keep<F: Future + 'static>(&self, run: Box<Run<F>>) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < MAX_KEPT {
            kept.push(run);
        }
    }
}

impl<F: Future> Run<F> {
    /// Runs it to its end; once.
    pub(crate) fn finish(&mut self) -> Pin<&mut F> {
        self.0.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_box_is_used_again_by_the_same_kind_of_run() {
        async fn twice(n: u32) -> u32 {
            tokio::task::yield_now().await;
            2 * n
        }
        let runs = Runs::default();
        let mut first = runs.start(twice(1));
        let place = std::ptr::from_ref(&*first.0).addr();
        assert_eq!(first.finish().await, 2);
        runs.keep(first);
        let mut second = runs.start(twice(21));
        assert_eq!(std::ptr::from_ref(&*second.0).addr(), place);
        assert_eq!(second.finish().await, 42);
    }
}

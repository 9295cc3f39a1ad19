//! The connections that a worker has open: one task each, counted from its first moment to its last.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy_core::overload::Pressure;
use tokio::task::AbortHandle;

use super::Worker;
use crate::connection::{ChainId, Connection, Peer};
use crate::socket::Socket;
use crate::source_limit::Admitted;
use crate::telemetry::ListenerCells;
use crate::{accepted, downstream};

/// An open connection and the task that serves it.
pub(super) struct OpenTask {
    pub(super) connection: Rc<Connection>,
    pub(super) task: AbortHandle,
}

impl Worker {
    /// Serves a connection in a task of its own. A panic in it ends this connection and nothing else.
    pub(super) fn spawn_connection(self: Rc<Self>, slot: usize, socket: Socket, peer: Peer, counted: bool) {
        let load = &self.peers[self.id].load;
        if !counted {
            load.fetch_add(1, Ordering::Relaxed);
        }
        let view = self.view();
        let first = view.snapshot.listener(slot).map(|listener| listener.chains[0].place);
        let first = first.map(|place| ChainId::new(slot, place));
        let Some((first, listener)) = first.and_then(|first| Some((first, view.chain(&self, first)?))) else {
            // Removed since it was accepted.
            load.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        // Where somebody between us tells who the client is, its limit holds once that was told.
        let is_told =
            view.snapshot.listener(slot).is_some_and(|l| l.listener.inspection.proxy_protocol.is_some());
        let limit = listener.http().connections_per_source.filter(|_| !is_told);
        let sheds = self.pressure() == Pressure::Shed;
        let Some(source) = self.shared.sources.admit(&peer, limit).filter(|_| !sheds) else {
            listener.cells.connections_refused.add(1);
            load.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        self.cells.connections_opened.add(1);
        listener.cells.connections_opened.add(1);
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        // Unique in the process, and cheap.
        let id = number * self.peers.len() as u64 + self.id as u64 + 1;
        let connection = Rc::new(Connection::new(id, first, peer, socket.local_address(), self.deadlines()));
        let open = OpenConnection {
            worker: self.clone(),
            listener: listener.cells.clone(),
            number,
            _source: source,
        };
        // Where there is nothing to learn first, the task is as small as an idle connection can be.
        let obvious = view.snapshot.listener(slot).and_then(|listener| accepted::obvious(listener));
        let task = if let Some(chain) = obvious {
            connection.chain.set(ChainId::new(slot, chain.place));
            open.run(downstream::serve(self.clone(), connection.clone(), socket, None))
        } else {
            open.run(Box::pin(accepted::serve(self.clone(), connection.clone(), slot, socket)))
        };
        self.connections.borrow_mut().insert(number, OpenTask { connection, task });
    }
}

/// Counts a connection until it ends, in whichever way. The runtime catches a task's panic.
struct OpenConnection {
    worker: Rc<Worker>,
    listener: Arc<ListenerCells>,
    number: u64,
    _source: Admitted,
}

impl OpenConnection {
    /// Serves the connection in a task of its own.
    fn run(self, serving: impl Future<Output = ()> + 'static) -> AbortHandle {
        let task = tokio::task::spawn_local(async move {
            serving.await;
            drop(self);
        });
        task.abort_handle()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let cells = &self.worker.cells;
        cells.connections_closed.add(1);
        self.listener.connections_closed.add(1);
        self.worker.peers[self.worker.id].load.fetch_sub(1, Ordering::Relaxed);
        self.worker.connections.borrow_mut().remove(&self.number);
        if std::thread::panicking() {
            cells.panics.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use proxy_core::snapshot::Snapshot;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::sync::{mpsc, oneshot};

    use super::super::{Handle, Shared};
    use super::*;
    use crate::source_limit::Sources;
    use crate::telemetry::Registry;
    use crate::watchdog::Vitals;

    fn worker() -> Rc<Worker> {
        let shared = Shared {
            snapshots: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            registry: Arc::new(Registry::new(1)),
            logs: Arc::default(),
            sources: Arc::new(Sources::new(2)),
            vitals: Arc::new(Vitals::new(1)),
            tls: Arc::default(),
            quit: Arc::default(),
            adopted: Arc::default(),
            release_memory: None,
        };
        let (commands, _) = mpsc::unbounded_channel();
        let handle = Handle { commands, load: Arc::default(), closed: Arc::default() };
        Rc::new(Worker::new(0, shared, vec![handle]))
    }

    fn open(worker: &Rc<Worker>, listener: &Arc<ListenerCells>, number: u64) -> OpenConnection {
        let peer = Peer::of("192.0.2.1:1".parse().expect("an address"));
        let load = worker.peers[0].load.clone();
        load.fetch_add(1, Ordering::Relaxed);
        OpenConnection {
            worker: worker.clone(),
            listener: listener.clone(),
            number,
            _source: worker.shared.sources.admit(&peer, None).expect("a place"),
        }
    }

    #[test]
    fn a_panic_ends_its_connection_and_nothing_else() {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).expect("a runtime");
        runtime.block_on(async {
            let (worker, listener) = (worker(), Arc::<ListenerCells>::default());
            let (go, told) = oneshot::channel();
            let (done, finished) = oneshot::channel();
            open(&worker, &listener, 1).run(async move {
                told.await.expect("word to go on");
                done.send(()).expect("somebody who waits");
            });
            let doomed = open(&worker, &listener, 2).run(async { panic!("on purpose") });
            while !doomed.is_finished() {
                tokio::task::yield_now().await;
            }
            assert_eq!(worker.cells.panics.value(), 1);
            assert_eq!(listener.connections_closed.value(), 1);
            assert_eq!(worker.peers[0].load(), 1, "the other one is open");
            let _place = open(&worker, &listener, 3);

            go.send(()).expect("the other connection");
            finished.await.expect("it was served to its end");
            assert_eq!(worker.cells.panics.value(), 1);
        });
    }
}

//! Accepting connections, each for the worker that has the fewest.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Command, Worker};
use crate::listener::{Acceptor, StdStream};

/// A task that accepts on one socket.
pub(super) struct Accepting {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Accepting {
    pub(super) fn start(worker: &Rc<Worker>, slot: usize, acceptor: Acceptor) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::task::spawn_local(accept(worker.clone(), slot, acceptor, stopped));
        Self { task, stop }
    }

    /// Accepts what waits already, then ends: closing the socket at once would reset connections that clients have open.
    pub(super) fn stop(self) -> JoinHandle<()> {
        drop(self.stop);
        self.task
    }
}

async fn accept(worker: Rc<Worker>, slot: usize, acceptor: Acceptor, mut stopped: oneshot::Receiver<()>) {
    let listener = match acceptor.into_listener() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener could not be registered");
            return;
        }
    };
    let mut stopping = false;
    loop {
        let accepted = if stopping {
            match tokio::time::timeout(Duration::ZERO, listener.accept()).await {
                Ok(accepted) => accepted,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                accepted = listener.accept() => accepted,
                _ = &mut stopped => {
                    stopping = true;
                    continue;
                }
            }
        };
        match accepted {
            Ok((socket, peer)) => {
                let least = worker.least_loaded();
                if least == worker.id {
                    worker.clone().spawn_connection(slot, socket, peer, false);
                    continue;
                }
                // Counted here already, so that a burst of connections does not all go to the same worker.
                worker.peers[least].load.fetch_add(1, Ordering::Relaxed);
                match StdStream::from_socket(socket) {
                    Ok(stream) => worker.peers[least].tell(Command::Adopt(slot, stream, peer)),
                    Err(_) => drop(worker.peers[least].load.fetch_sub(1, Ordering::Relaxed)),
                }
            }
            Err(_) if stopping => return,
            Err(error) => {
                // Out of descriptors, mostly. The connection waits in the backlog until some are free.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Worker {
    /// The worker with the fewest connections, this one if it is among them.
    fn least_loaded(&self) -> usize {
        let own = self.peers[self.id].load();
        let fewest = self.peers.iter().enumerate().min_by_key(|(_, peer)| peer.load());
        fewest.filter(|(_, peer)| peer.load() < own).map_or(self.id, |(id, _)| id)
    }
}

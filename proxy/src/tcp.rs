//! A connection whose bytes go to an endpoint as they are (`tcp_proxy`).

use std::rc::Rc;
use std::time::Instant;

use proxy_core::config::TcpOptions;

use crate::connection::Connection;
use crate::forward::{self, RequestContext};
use crate::socket::Socket;
use crate::worker::Worker;

/// Serves a connection to its end. `early` was read from it already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    options: TcpOptions,
    mut client: Socket,
    early: Vec<u8>,
) {
    let view = worker.view();
    let Some(chain) = view.chain(&worker, connection.chain.get()) else { return };
    connection.is_idle.set(false);
    let mut exchange = worker.exchange();
    let started = Instant::now();
    let deadlines = &connection.deadlines;
    let (worker, connection) = (&worker, &*connection);
    let cx = RequestContext {
        worker,
        connection,
        view,
        chain,
        started,
        complete: started,
        deadlines,
        stream: None,
    };
    forward::carry_connection(&cx, options, &mut client, &mut exchange, &early).await;
    worker.return_exchange(exchange);
}

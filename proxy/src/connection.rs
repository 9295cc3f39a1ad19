//! What is known of a client's connection for as long as it is open.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Waker};
use std::time::Instant;

use crate::deadline::Deadlines;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Counts up over the process.
    pub(crate) id: u64,
    /// Its listener's slot.
    pub(crate) slot: usize,
    pub(crate) peer: Peer,
    /// The address that the client connected to; empty for a Unix socket.
    pub(crate) local: Box<str>,
    pub(crate) opened: Instant,
    /// Requests that began on it.
    pub(crate) requests: Cell<u32>,
    /// Since when its listener is no longer where the connection was accepted: it ends with its next response.
    pub(crate) left_behind: Cell<Option<Instant>>,
    /// It is between two requests: nothing is lost if it ends now.
    pub(crate) is_idle: Cell<bool>,
    pub(crate) deadlines: Deadlines,
    /// For a connection that is told to end while requests go on.
    pub(crate) farewell: Farewell,
}

/// A word to whoever drives a connection of many streams: it shall take no more of them.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    said: Cell<bool>,
    driver: RefCell<Option<Waker>>,
}

impl Farewell {
    pub(crate) fn say(&self) {
        if !self.said.replace(true) {
            self.wake();
        }
    }

    /// Has the driver look at the connection again.
    pub(crate) fn wake(&self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Whether it was said; if not, the task is woken when it is.
    pub(crate) fn is_said(&self, cx: &mut Context<'_>) -> bool {
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(known) => known.clone_from(cx.waker()),
            None => *driver = Some(cx.waker().clone()),
        }
        self.said.get()
    }
}

/// Who is connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// None for a Unix socket.
    pub(crate) address: Option<SocketAddr>,
    /// The IP address as text; empty for a Unix socket.
    pub(crate) ip: Box<str>,
}

impl Peer {
    pub(crate) fn of(address: SocketAddr) -> Self {
        // An IPv4 client of a dual-stack socket is an IPv4 client.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { address: Some(address), ip: address.ip().to_string().into() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.map_or(0, |address| address.port())
    }

    pub(crate) fn ip_address(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip())
    }
}

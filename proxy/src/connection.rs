//! What is known of a client's connection for as long as it is open.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Waker};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proxy_core::access::TlsFacts;
use proxy_core::config::NameKind;
use proxy_core::hop::{self, CertificateDetails};
use rustls::Connection as Session;

use crate::deadline::Deadlines;
use crate::source_limit::Admitted;
use crate::tls::Identity;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Counts up over the process.
    pub(crate) id: u64,
    /// What serves it.
    pub(crate) chain: Cell<ChainId>,
    /// Who is really connected.
    pub(crate) direct: Peer,
    /// The address that the client connected to; empty for a Unix socket.
    pub(crate) local: Box<str>,
    /// What was learnt of it beyond that. In a box: most connections are plain, idle, and many.
    learnt: OnceCell<Box<Learnt>>,
    pub(crate) opened: Instant,
    /// Requests that began on it.
    pub(crate) requests: Cell<u32>,
    /// Since when its listener is no longer where the connection was accepted: it ends with its next response.
    pub(crate) left_behind: Cell<Option<Instant>>,
    /// It is between two requests: nothing is lost if it ends now.
    pub(crate) is_idle: Cell<bool>,
    pub(crate) deadlines: Deadlines,
}

/// What a connection has told before its first request.
#[derive(Debug, Default)]
struct Learnt {
    /// The client, where somebody between us has told who it is.
    told: OnceCell<Peer>,
    /// The address that the client wanted, where that is another one.
    wanted: OnceCell<SocketAddr>,
    protection: OnceCell<Protection>,
    /// The name that the client asked somebody else for, through us.
    asked_for: OnceCell<String>,
    /// The place of the client that was told of, among those of its address.
    admitted: OnceCell<Admitted>,
    /// For a connection that is told to end while requests go on.
    farewell: Farewell,
}

/// A filter chain: its listener's slot, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChainId {
    slot: u32,
    place: u32,
}

impl ChainId {
    /// Slots and places are numbers of things in memory, far below four billions.
    pub(crate) const fn new(slot: usize, place: usize) -> Self {
        Self { slot: slot as u32, place: place as u32 }
    }

    /// The listener's slot.
    pub(crate) const fn slot(self) -> usize {
        self.slot as usize
    }

    /// The chain's place in it.
    pub(crate) const fn place(self) -> usize {
        self.place as usize
    }
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

impl Connection {
    /// `chain` serves it until another one is chosen.
    pub(crate) fn new(id: u64, chain: ChainId, direct: Peer, local: Box<str>, deadlines: Deadlines) -> Self {
        Self {
            id,
            chain: Cell::new(chain),
            direct,
            local,
            learnt: OnceCell::new(),
            opened: Instant::now(),
            requests: Cell::new(0),
            left_behind: Cell::new(None),
            is_idle: Cell::new(true),
            deadlines,
        }
    }

    /// The client, as far as is known.
    pub(crate) fn peer(&self) -> &Peer {
        self.learnt.get().and_then(|learnt| learnt.told.get()).unwrap_or(&self.direct)
    }

    /// A word to whoever drives the connection.
    pub(crate) fn farewell(&self) -> &Farewell {
        &self.learn().farewell
    }

    fn learn(&self) -> &Learnt {
        self.learnt.get_or_init(Box::default)
    }

    /// What protects it.
    pub(crate) fn protection(&self) -> Option<&Protection> {
        self.learnt.get()?.protection.get()
    }

    /// The client as the headers of a hop tell of it.
    pub(crate) fn as_hop(&self) -> hop::Peer<'_> {
        let protection = self.protection();
        hop::Peer {
            address: &self.peer().ip,
            is_tls: protection.is_some(),
            certificate: protection.and_then(|protection| protection.forwarded.as_deref()),
        }
    }

    /// Who the client is and whom it wanted, as somebody between us has told.
    pub(crate) fn tell(&self, client: Peer, wanted: SocketAddr) {
        let _ = self.learn().told.set(client);
        let _ = self.learn().wanted.set(wanted);
    }

    /// The client asks an endpoint for a name.
    pub(crate) fn ask_for(&self, name: String) {
        let _ = self.learn().asked_for.set(name);
    }

    /// What a log may tell of TLS.
    pub(crate) fn tls_facts(&self) -> TlsFacts<'_> {
        let asked_for = self.learnt.get().and_then(|learnt| learnt.asked_for.get());
        match (self.protection(), asked_for) {
            (Some(protection), _) => protection.facts(),
            (None, Some(name)) => TlsFacts { server_name: name, ..TlsFacts::default() },
            (None, None) => TlsFacts::default(),
        }
    }

    /// Holds a place under the limit of its address.
    pub(crate) fn admit(&self, admitted: Admitted) {
        let _ = self.learn().admitted.set(admitted);
    }

    /// Whom the client wanted before the kernel sent it here.
    pub(crate) fn divert(&self, wanted: SocketAddr) {
        let _ = self.learn().wanted.set(wanted);
    }

    pub(crate) fn protect(&self, protection: Protection) {
        let _ = self.learn().protection.set(protection);
    }

    /// Whom the client wanted, at another port where one is given; none where that is us.
    pub(crate) fn wanted(&self, port: Option<u16>) -> Option<SocketAddr> {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut wanted = canonical(*self.learnt.get()?.wanted.get()?);
        wanted.set_port(port.unwrap_or(wanted.port()));
        let local: Option<SocketAddr> = self.local.parse().ok();
        (local.map(canonical) != Some(wanted)).then_some(wanted)
    }

    /// The address that the client wanted.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        let wanted = self.learnt.get().and_then(|learnt| learnt.wanted.get());
        wanted.copied().or_else(|| self.local.parse().ok())
    }

    /// The client's address and the one that it wanted.
    pub(crate) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((self.peer().address?, self.destination()?))
    }
}

/// What a handshake has settled.
#[derive(Debug)]
pub(crate) struct Protection {
    pub(crate) alpn: Vec<u8>,
    /// The name that the client asked for.
    pub(crate) server_name: Option<String>,
    /// `TLSv1.3`
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    /// Who the client is, if it has shown it.
    pub(crate) identity: Option<Identity>,
    /// What `x-forwarded-client-cert` says of it.
    forwarded: Option<String>,
    /// When its certificate ends.
    expires: Option<Instant>,
}

impl Protection {
    pub(crate) fn of(
        session: &Session,
        server_name: Option<String>,
        own: Option<&Identity>,
        details: CertificateDetails,
    ) -> Self {
        let identity = session.peer_certificates().and_then(Identity::of);
        let by = own.and_then(|own| own.texts(NameKind::Uri).next());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let left = |identity: &Identity| u64::try_from(identity.not_after).unwrap_or(0).saturating_sub(now);
        // A certificate of many years needs no deadline.
        let ends = |seconds| Instant::now().checked_add(std::time::Duration::from_secs(seconds));
        Self {
            alpn: session.alpn_protocol().unwrap_or_default().to_vec(),
            server_name,
            version: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: session
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
            forwarded: identity.as_ref().map(|identity| identity.forwarded(by, details)),
            expires: identity.as_ref().and_then(|identity| ends(left(identity))),
            identity,
        }
    }

    /// For a log.
    pub(crate) fn facts(&self) -> TlsFacts<'_> {
        let identity = self.identity.as_ref();
        TlsFacts {
            version: self.version,
            cipher: self.cipher,
            server_name: self.server_name.as_deref().unwrap_or_default(),
            peer_uri: identity.and_then(|identity| identity.texts(NameKind::Uri).next()).unwrap_or_default(),
            peer_subject: identity.map_or("", Identity::subject),
        }
    }

    /// Whether the client's certificate has ended.
    pub(crate) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// How long the client's certificate holds still.
    pub(crate) fn left(&self, now: Instant) -> Option<std::time::Duration> {
        self.expires.map(|expires| expires.saturating_duration_since(now))
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

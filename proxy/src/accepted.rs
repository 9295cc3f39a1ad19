//! What becomes of a connection between its accept and its first request: who is there, whom it wants, which filter chain
//! serves it, and what protects it.

use std::io::Read as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proxy_core::chain::ConnectionFacts;
use proxy_core::config::{ChainMatch, Inspection, Serves};
use proxy_core::proxy_protocol::{self, Told};
use proxy_core::snapshot::{ChainTable, ListenerTable};
use rustls::server::{Accepted, Acceptor};
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connection::{ChainId, Connection, Peer, Protection};
use crate::deadline::Limit;
use crate::http2::{self, Greeting};
use crate::socket::Socket;
use crate::stranger;
use crate::tls::Handshake;
use crate::worker::Worker;
use crate::{downstream, tcp};

/// The first byte of a TLS record that holds a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// A fatal alert: nobody is known here by the name that was asked for (RFC 6066 §3).
const UNRECOGNIZED_NAME: &[u8] = &[0x15, 3, 3, 0, 2, 2, 112];
/// Bytes that may come before it is clear whether they are HTTP.
const MAX_FIRST_LINE: usize = 8 << 10;
const PLAIN_ON_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 36\r\n\
                              connection: close\r\n\r\nthis port speaks TLS, not plain HTTP";
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was silent for too long.
    Silent,
    /// It left.
    Gone,
    /// What stood for the PROXY protocol was none.
    ProxyProtocol,
    /// Its source has as many as it may.
    TooMany,
    /// No filter chain is for it.
    NoChain,
    /// It did not begin with TLS where it must.
    PlainOnTls,
    /// The handshake failed.
    Handshake,
}

impl Refusal {
    pub(crate) const ALL: [Self; 7] = [
        Self::Silent,
        Self::Gone,
        Self::ProxyProtocol,
        Self::TooMany,
        Self::NoChain,
        Self::PlainOnTls,
        Self::Handshake,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Gone => "gone",
            Self::ProxyProtocol => "proxy_protocol",
            Self::TooMany => "too_many",
            Self::NoChain => "no_filter_chain",
            Self::PlainOnTls => "plain_on_tls",
            Self::Handshake => "tls_handshake",
        }
    }
}

/// Serves a connection from its accept to its end, where something is to be learnt of it first.
pub(crate) async fn serve(worker: Rc<Worker>, connection: Rc<Connection>, slot: usize, socket: Socket) {
    let Some(listener) = worker.view().snapshot.listener(slot).cloned() else { return };
    // Boxed: it is over before the connection is idle, and large.
    let established = Box::pin(establish(&worker, &connection, slot, listener, socket)).await;
    match established {
        Ok(Established { socket, early, serves: Serves::Tcp(options) }) => {
            Box::pin(tcp::serve(worker, connection, options, socket, early)).await;
        }
        Ok(Established { socket, early, serves: Serves::Http }) => {
            let chooses_http2 = connection.protection().is_some_and(|protection| protection.alpn == b"h2");
            if chooses_http2 {
                return Box::pin(http2::serve(worker, connection, socket, early)).await;
            }
            let early = (!early.is_empty()).then(|| {
                let mut exchange = worker.exchange();
                exchange.from_client = early;
                exchange
            });
            downstream::serve(worker, connection, socket, early).await;
        }
        Err(refusal) => worker.cells.refused_connections[refusal as usize].add(1),
    }
}

/// The only chain of a listener that learns nothing of its connections first.
pub(crate) fn obvious(listener: &ListenerTable) -> Option<&ChainTable> {
    let Inspection { original_dst, proxy_protocol, http, tls, .. } = &listener.listener.inspection;
    if *original_dst || proxy_protocol.is_some() || *http || *tls {
        return None;
    }
    match &*listener.chains {
        [chain]
            if chain.chain.matching.as_ref().is_none_or(ChainMatch::takes_all)
                && chain.chain.tls.is_none()
                && chain.chain.serves == Serves::Http =>
        {
            Some(chain)
        }
        _ => None,
    }
}

struct Established {
    socket: Socket,
    /// Read, and not used.
    early: Vec<u8>,
    serves: Serves,
}

/// What was learnt of a connection's first bytes.
#[derive(Default)]
struct Seen {
    hello: Option<Hello>,
    server_name: Option<String>,
    application_protocols: Vec<String>,
}

/// A ClientHello.
enum Hello {
    Accepted(Box<Accepted>),
    /// One that we cannot answer but with this alert. An endpoint that it is passed through to may.
    Refused(Vec<u8>),
}

async fn establish(
    worker: &Rc<Worker>,
    connection: &Connection,
    slot: usize,
    listener: std::sync::Arc<ListenerTable>,
    mut socket: Socket,
) -> Result<Established, Refusal> {
    let inspection = &listener.listener.inspection;
    let mut early = Vec::new();
    connection.deadlines.set(Limit::Handshake, Instant::now(), inspection.timeout);
    if let Some(rules) = &inspection.proxy_protocol {
        loop {
            match proxy_protocol::read(&early, rules) {
                Ok(Told::Partial) => more(connection, &mut socket, &mut early).await?,
                Ok(Told::Nothing) => break,
                Ok(Told::Header { addresses, length }) => {
                    early.drain(..length);
                    if let Some((client, destination)) = addresses {
                        connection.tell(Peer::of(client), destination);
                    }
                    break;
                }
                Err(error) => {
                    stranger!(%error, peer = %connection.direct.ip, listener = %listener.name, "a connection is refused");
                    return Err(Refusal::ProxyProtocol);
                }
            }
        }
        let limit = listener.http().connections_per_source;
        let admitted = worker.shared.sources.admit_told(connection.peer(), limit);
        connection.admit(admitted.ok_or(Refusal::TooMany)?);
    }
    if inspection.original_dst
        && let Some(destination) = socket.original_destination()
    {
        connection.divert(destination);
    }
    let mut seen = Seen::default();
    let needs_hello = inspection.tls || listener.listener.chains.iter().any(|chain| chain.tls.is_some());
    if needs_hello || inspection.http {
        let looked = look(connection, inspection, needs_hello, &mut socket, &mut early, &mut seen).await;
        match looked {
            Ok(()) => {}
            // It is silent; a server may have to speak first.
            Err(Refusal::Silent) if inspection.continues_on_timeout => {}
            Err(refusal) => return Err(refusal),
        }
    }
    let chain = match choose(&listener, connection, &seen) {
        Some(chain) => chain.clone(),
        None => {
            let name = seen.server_name.as_deref().unwrap_or_default();
            stranger!(peer = %connection.direct.ip, listener = %listener.name, name, "no filter chain is for a connection");
            if seen.hello.is_some() {
                say_and_leave(socket, UNRECOGNIZED_NAME).await;
            } else if listener.chains.iter().all(|chain| chain.chain.tls.is_some()) {
                say_and_leave(socket, PLAIN_ON_TLS).await;
                return Err(Refusal::PlainOnTls);
            }
            return Err(Refusal::NoChain);
        }
    };
    connection.chain.set(ChainId::new(slot, chain.place));
    connection.deadlines.clear(Limit::Handshake);
    let serves = chain.chain.serves;
    if chain.chain.tls.is_none() {
        if let Some(name) = seen.server_name {
            connection.ask_for(name);
        }
        return Ok(Established { socket, early, serves });
    }
    let socket = protect(worker, connection, &chain, inspection, socket, early, seen).await?;
    Ok(Established { socket, early: Vec::new(), serves })
}

fn choose<'a>(
    listener: &'a ListenerTable,
    connection: &Connection,
    seen: &Seen,
) -> Option<&'a std::sync::Arc<ChainTable>> {
    let protocols: Vec<&str> = seen.application_protocols.iter().map(String::as_str).collect();
    let parts = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    listener.choose(&ConnectionFacts {
        destination: connection.destination().map(parts),
        server_name: seen.server_name.as_deref(),
        is_tls: seen.hello.is_some(),
        application_protocols: &protocols,
        direct_source: connection.direct.ip_address(),
        source: connection.peer().address.map(parts),
    })
}

/// Reads on; at least a byte.
async fn more(connection: &Connection, socket: &mut Socket, early: &mut Vec<u8>) -> Result<(), Refusal> {
    early.reserve(4 << 10);
    let mut read = pin!(socket.read_buf(early));
    match connection.deadlines.guard(read.as_mut()).await {
        Ok(Ok(1..)) => Ok(()),
        Ok(_) => Err(Refusal::Gone),
        Err(_) => Err(Refusal::Silent),
    }
}

/// Looks at the first bytes for as long as it takes to know what they are.
async fn look(
    connection: &Connection,
    inspection: &Inspection,
    needs_hello: bool,
    socket: &mut Socket,
    early: &mut Vec<u8>,
    seen: &mut Seen,
) -> Result<(), Refusal> {
    if early.is_empty() {
        more(connection, socket, early).await?;
    }
    if needs_hello && early.first() == Some(&TLS_HANDSHAKE) {
        return read_hello(connection, inspection, socket, early, seen).await;
    }
    if inspection.http {
        loop {
            if let Some(version) = http_version(early) {
                seen.application_protocols.extend(version.map(str::to_owned));
                return Ok(());
            }
            more(connection, socket, early).await?;
        }
    }
    Ok(())
}

/// Reads a ClientHello, and whom it asks for.
async fn read_hello(
    connection: &Connection,
    inspection: &Inspection,
    socket: &mut Socket,
    early: &mut Vec<u8>,
    seen: &mut Seen,
) -> Result<(), Refusal> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        let mut fresh = &early[fed..];
        while !fresh.is_empty() {
            match acceptor.read_tls(&mut fresh.by_ref()) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        fed = early.len();
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                seen.server_name = hello.server_name().map(str::to_ascii_lowercase);
                let offered = hello.alpn().into_iter().flatten();
                seen.application_protocols =
                    offered.map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect();
                seen.hello = Some(Hello::Accepted(Box::new(accepted)));
                return Ok(());
            }
            Ok(None) if early.len() < inspection.max_client_hello + 5 => {
                more(connection, socket, early).await?;
            }
            Ok(None) => {
                stranger!(peer = %connection.direct.ip, "a ClientHello is too long");
                return Err(Refusal::Handshake);
            }
            Err((error, mut alert)) => {
                tracing::debug!(%error, peer = %connection.direct.ip, "a ClientHello cannot be answered");
                let mut bytes = Vec::new();
                let _ = alert.write_all(&mut bytes);
                seen.hello = Some(Hello::Refused(bytes));
                read_names(early, seen);
                return Ok(());
            }
        }
    }
}

/// Whom an old or odd ClientHello asks for, as far as can be told.
fn read_names(bytes: &[u8], seen: &mut Seen) {
    let Ok((_, record)) = tls_parser::parse_tls_plaintext(bytes) else { return };
    let hello = record.msg.iter().find_map(|message| match message {
        TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) => hello.ext,
        _ => None,
    });
    let Ok((_, extensions)) = tls_parser::parse_tls_client_hello_extensions(hello.unwrap_or_default()) else {
        return;
    };
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_ascii_lowercase);
    for extension in extensions {
        match extension {
            TlsExtension::SNI(names) => {
                seen.server_name = names.first().and_then(|(_, name)| text(name));
            }
            TlsExtension::ALPN(offered) => {
                seen.application_protocols = offered.into_iter().filter_map(text).collect();
            }
            _ => {}
        }
    }
}

/// What first bytes are in the words of `application_protocols`: none where they are not HTTP. None at all: more are needed.
fn http_version(bytes: &[u8]) -> Option<Option<&'static str>> {
    match Greeting::of(bytes) {
        Greeting::Whole => return Some(Some("h2c")),
        Greeting::Partial => return None,
        Greeting::Other => {}
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes[..end].trim_ascii_end();
            Some(if line.ends_with(b" HTTP/1.1") {
                Some("http/1.1")
            } else if line.ends_with(b" HTTP/1.0") {
                Some("http/1.0")
            } else {
                None
            })
        }
        None if bytes.len() > MAX_FIRST_LINE || !bytes[0].is_ascii_uppercase() => Some(None),
        None => None,
    }
}

/// The handshake.
async fn protect(
    worker: &Rc<Worker>,
    connection: &Connection,
    chain: &ChainTable,
    inspection: &Inspection,
    mut socket: Socket,
    mut early: Vec<u8>,
    mut seen: Seen,
) -> Result<Socket, Refusal> {
    let peer = &connection.direct.ip;
    let view = worker.view().chain(worker, connection.chain.get());
    let Some(context) = view.and_then(|view| view.tls.clone()) else { return Err(Refusal::Handshake) };
    connection.deadlines.set(Limit::Handshake, Instant::now(), chain.chain.handshake_timeout);
    // Whoever was silent while somebody looked may speak now.
    if seen.hello.is_none() && early.is_empty() {
        more(connection, &mut socket, &mut early).await?;
    }
    if seen.hello.is_none() && early.first() == Some(&TLS_HANDSHAKE) {
        read_hello(connection, inspection, &mut socket, &mut early, &mut seen).await?;
    }
    let Some(hello) = seen.hello else {
        stranger!(%peer, "a connection without TLS came where TLS is spoken");
        say_and_leave(socket, PLAIN_ON_TLS).await;
        return Err(Refusal::PlainOnTls);
    };
    let hello = match hello {
        Hello::Accepted(hello) => *hello,
        Hello::Refused(alert) => {
            stranger!(%peer, "a ClientHello cannot be answered");
            say_and_leave(socket, &alert).await;
            return Err(Refusal::Handshake);
        }
    };
    if context.requires_sni() && seen.server_name.is_none() {
        stranger!(%peer, "a client asked for no name where it must");
        say_and_leave(socket, UNRECOGNIZED_NAME).await;
        return Err(Refusal::Handshake);
    }
    let failed = |error: &dyn std::fmt::Display| {
        stranger!(%error, %peer, name = seen.server_name.as_deref().unwrap_or_default(), "a TLS handshake failed");
        Refusal::Handshake
    };
    // Who we say that we are, to whom it was said.
    let own = context.shows(&hello.client_hello());
    let handshake = Handshake::accept(socket, hello, &context).map_err(|error| failed(&error))?;
    let finished = {
        let mut finish = pin!(handshake.finish());
        connection.deadlines.guard(finish.as_mut()).await
    };
    connection.deadlines.clear(Limit::Handshake);
    let stream = match finished {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&"it took longer than it may")),
    };
    context.judge_resumed(stream.session()).map_err(|error| failed(&error))?;
    let details = chain.http.hop.client_certificate.details;
    connection.protect(Protection::of(stream.session(), seen.server_name, own.as_deref(), details));
    let cells = &worker.cells;
    match stream.session().handshake_kind() {
        Some(rustls::HandshakeKind::Resumed) => cells.handshakes_resumed.add(1),
        _ => cells.handshakes_full.add(1),
    }
    Ok(Socket::layered(stream))
}

/// Says a word and waits for a moment, so that a reset does not destroy it.
async fn say_and_leave(mut socket: Socket, word: &[u8]) {
    let said = tokio::time::timeout(FAREWELL, socket.write_all(word)).await;
    if matches!(said, Ok(Ok(()))) {
        downstream::linger(socket, FAREWELL).await;
    }
}

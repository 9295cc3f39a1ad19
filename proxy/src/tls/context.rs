//! What handshakes are made with: made once for each configuration, and again when a file of it changes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use proxy_core::config::{
    CertificateSource, CommonTls, DownstreamTls, Secret, UpstreamTls, ValidationSource,
};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::server::{ClientHello, NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::{
    ClientConfig, Connection, HandshakeKind, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    version,
};

use super::certificate::{self, ByName, Own, Shown};
use super::trust::{Anybody, Trust};
use super::{Identity, material};
use material::Stamp;

/// Sessions that one listener's clients may resume from our memory.
const SESSIONS: usize = 4_096;
/// How long a context is kept that nobody holds: a configuration may have been judged and still wait for something.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Why something cannot be used: what, and in words. Never any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TlsError(pub(super) String);

impl TlsError {
    pub(super) fn new(what: &(impl Display + ?Sized), reason: impl Display) -> Self {
        Self(format!("{what}: {reason}"))
    }
}

/// What handshakes are made with: of a listener's filter chain ([`ServerContext`]) or towards endpoints
/// ([`ClientContext`]). It is always there; whether it can be used may change with its files.
pub(crate) struct Context<T: Described> {
    tls: Arc<T>,
    current: ArcSwapOption<Ready<T::Config>>,
    files: Mutex<Files>,
}

/// What a listener's handshakes are made with.
pub(crate) type ServerContext = Context<DownstreamTls>;
/// What handshakes with endpoints are made with.
pub(crate) type ClientContext = Context<UpstreamTls>;

/// A configuration that a context is made of.
pub(crate) trait Described: Eq + Hash {
    type Config;

    fn common(&self) -> &CommonTls;

    /// Reads its files.
    fn make(&self) -> Result<Ready<Self::Config>, TlsError>;
}

impl Described for DownstreamTls {
    type Config = ServerConfig;

    fn common(&self) -> &CommonTls {
        &self.common
    }

    fn make(&self) -> Result<Ready<ServerConfig>, TlsError> {
        server_config(self)
    }
}

impl Described for UpstreamTls {
    type Config = ClientConfig;

    fn common(&self) -> &CommonTls {
        &self.common
    }

    fn make(&self) -> Result<Ready<ClientConfig>, TlsError> {
        client_config(self)
    }
}

/// What was made of a configuration and its files.
pub(crate) struct Ready<C> {
    config: Arc<C>,
    shown: Vec<Shown>,
    /// Who judges what the peer shows.
    trust: Option<Arc<Trust>>,
}

/// The files of a context, as they were when they were read last.
#[derive(Default)]
struct Files {
    stamp: Vec<Stamp>,
    /// Why what they hold cannot be used.
    failure: Option<TlsError>,
}

impl<T: Described> Context<T> {
    fn new(tls: Arc<T>) -> Self {
        let context = Self { tls, current: ArcSwapOption::empty(), files: Mutex::default() };
        context.read_again();
        context
    }

    /// What handshakes are made with now; none where files cannot be used and never could.
    pub(crate) fn config(&self) -> Option<Arc<T::Config>> {
        self.current.load().as_ref().map(|ready| ready.config.clone())
    }

    /// Reads its files where they have changed, or could not be used before. What cannot be used leaves what was there.
    /// Returns what is new: that it was read, or why it cannot be used.
    fn read_again(&self) -> Option<Result<(), TlsError>> {
        let mut files = lock(&self.files);
        let common = self.tls.common();
        // Before they are read: what changes meanwhile is read again.
        let stamp = material::stamp(&material::paths(&common.certificates, &common.validation));
        let has_changed = stamp != files.stamp;
        // A failure may have been one of the moment, such as a file that was not readable yet.
        if !has_changed && files.failure.is_none() && self.current.load().is_some() {
            return None;
        }
        let failure = match self.tls.make() {
            Ok(ready) => {
                self.current.store(Some(Arc::new(ready)));
                None
            }
            Err(error) => Some(error),
        };
        let is_known = !has_changed && failure == files.failure;
        *files = Files { stamp, failure: failure.clone() };
        match failure {
            Some(_) if is_known => None,
            Some(error) => Some(Err(error)),
            None => Some(Ok(())),
        }
    }

    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn check(&self) -> Result<(), TlsError> {
        self.read_again();
        match &lock(&self.files).failure {
            Some(error) if self.current.load().is_none() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn judge(
        &self,
        session: &Connection,
        judge: impl FnOnce(&Trust, &[CertificateDer<'_>]) -> Result<(), rustls::Error>,
    ) -> Result<(), rustls::Error> {
        let current = self.current.load();
        let trust = current.as_ref().and_then(|ready| ready.trust.as_deref());
        match (trust, session.handshake_kind(), session.peer_certificates()) {
            (Some(trust), Some(HandshakeKind::Resumed), Some(chain)) if !chain.is_empty() => {
                judge(trust, chain)
            }
            _ => Ok(()),
        }
    }

    fn shown(&self) -> Vec<Shown> {
        self.current.load().as_ref().map_or_else(Vec::new, |ready| ready.shown.clone())
    }
}

impl ServerContext {
    /// Who a client is told that we are.
    pub(crate) fn shows(&self, hello: &ClientHello<'_>) -> Option<Arc<Identity>> {
        let ready = self.current.load();
        certificate::find(&ready.as_ref()?.shown, hello).map(|shown| shown.identity.clone())
    }

    /// Judges again what a resumed session remembers of the client: its certificate may have ended since, or what vouched
    /// for it.
    ///
    /// # Errors
    /// It would not be taken now.
    pub(crate) fn judge_resumed(&self, session: &Connection) -> Result<(), rustls::Error> {
        self.judge(session, |trust, chain| {
            trust.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map(drop)
        })
    }

    /// Whether a client must say whom it wants.
    pub(crate) fn requires_sni(&self) -> bool {
        self.tls.requires_sni
    }
}

impl ClientContext {
    /// As [`ServerContext::judge_resumed`], of an endpoint.
    ///
    /// # Errors
    /// It would not be taken now.
    pub(crate) fn judge_resumed(
        &self,
        session: &Connection,
        name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        self.judge(session, |trust, chain| {
            trust.verify_server_cert(&chain[0], &chain[1..], name, &[], UnixTime::now()).map(drop)
        })
    }
}

/// A certificate that is in use, for `/certs` and the days that it has left.
#[derive(Debug, Clone)]
pub(crate) struct InUse {
    pub(crate) origin: String,
    pub(crate) identity: Arc<Identity>,
}

/// All contexts of the process, each made once.
#[derive(Default)]
pub(crate) struct Contexts {
    servers: Known<DownstreamTls>,
    clients: Known<UpstreamTls>,
}

type Known<T> = Mutex<HashMap<Arc<T>, Entry<T>>>;

struct Entry<T: Described> {
    context: Arc<Context<T>>,
    /// Since when nobody else holds it.
    unused: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find<T: Described>(known: &Known<T>, tls: &Arc<T>) -> Arc<Context<T>> {
    if let Some(entry) = lock(known).get(tls) {
        return entry.context.clone();
    }
    // Files are read while nobody waits.
    let made = Entry { context: Arc::new(Context::new(tls.clone())), unused: None };
    lock(known).entry(tls.clone()).or_insert(made).context.clone()
}

/// All that somebody holds or held a moment ago.
fn used<T: Described>(known: &Known<T>) -> Vec<Arc<Context<T>>> {
    let now = Instant::now();
    let mut known = lock(known);
    known.retain(|_, entry| {
        let is_held = Arc::strong_count(&entry.context) > 1;
        let since = *entry.unused.get_or_insert(now);
        if is_held {
            entry.unused = None;
        }
        is_held || now.duration_since(since) < REMEMBERED
    });
    known.values().map(|entry| entry.context.clone()).collect()
}

impl Contexts {
    /// The context of a listener's filter chain.
    pub(crate) fn server(&self, tls: &Arc<DownstreamTls>) -> Arc<ServerContext> {
        find(&self.servers, tls)
    }

    /// The context towards a cluster's endpoints.
    pub(crate) fn client(&self, tls: &Arc<UpstreamTls>) -> Arc<ClientContext> {
        find(&self.clients, tls)
    }

    /// Reads again what has changed. What cannot be used leaves what was there before; each such failure is told of once.
    pub(crate) fn refresh(&self, outcome: impl FnMut(Result<(), TlsError>)) {
        let (servers, clients) = (used(&self.servers), used(&self.clients));
        let servers = servers.iter().filter_map(|context| context.read_again());
        servers.chain(clients.iter().filter_map(|context| context.read_again())).for_each(outcome);
    }

    /// The certificates that are shown now, each once.
    pub(crate) fn in_use(&self) -> Vec<InUse> {
        let (servers, clients) = (used(&self.servers), used(&self.clients));
        let shown = servers.iter().flat_map(|context| context.shown());
        let shown = shown.chain(clients.iter().flat_map(|context| context.shown()));
        let all: BTreeMap<_, _> = shown
            .map(|shown| {
                let key = (shown.origin.clone(), *shown.identity.hash());
                (key, InUse { origin: shown.origin, identity: shown.identity })
            })
            .collect();
        all.into_values().collect()
    }
}

/// Whether a secret can be used: a chain with its key, or somebody to trust.
///
/// # Errors
/// Why it cannot.
pub(crate) fn check_secret(secret: &Secret) -> Result<(), TlsError> {
    let provider = aws_lc_rs::default_provider();
    match secret {
        Secret::Certificate(certificate) => {
            let source = CertificateSource::Inline(certificate.clone());
            certificate::read(&source, &provider, now()).map(drop)
        }
        Secret::Validation(validation) => Trust::new(validation, &Arc::new(provider)).map(drop),
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn server_config(tls: &DownstreamTls) -> Result<Ready<ServerConfig>, TlsError> {
    let common = &tls.common;
    let provider = Arc::new(provider(common)?);
    let shown = shown(&common.certificates, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(common))
        .map_err(|error| TlsError(format!("tls_params: {error}")))?;
    let validation = material::validation_of(&common.validation)?;
    let trust = Trust::new(&validation, &provider)?;
    let trust = trust.map(|trust| Arc::new(trust.optional(!tls.requires_client_certificate)));
    let builder = match &trust {
        Some(trust) => builder.with_client_cert_verifier(trust.clone()),
        None if tls.requires_client_certificate => {
            return Err(TlsError(
                "validation_context: says nothing that a certificate could be held against".into(),
            ));
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(shown.clone())));
    config.alpn_protocols = common.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.session_storage = match tls.sessions {
        true => ServerSessionMemoryCache::new(SESSIONS),
        false => Arc::new(NoServerSessionStorage {}),
    };
    if tls.tickets {
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| TlsError(error.to_string()))?;
    }
    if !tls.tickets && !tls.sessions {
        config.send_tls13_tickets = 0;
    }
    Ok(Ready { config: Arc::new(config), shown, trust })
}

fn client_config(tls: &UpstreamTls) -> Result<Ready<ClientConfig>, TlsError> {
    let common = &tls.common;
    let provider = Arc::new(provider(common)?);
    let shown = shown(&common.certificates, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(common))
        .map_err(|error| TlsError(format!("tls_params: {error}")))?
        .dangerous();
    let validation = material::validation_of(&common.validation)?;
    let trust = Trust::new(&validation, &provider)?.map(|trust| Arc::new(trust.for_name(tls.validates_sni)));
    let builder = match &trust {
        Some(trust) => builder.with_custom_certificate_verifier(trust.clone()),
        None if common.validation != ValidationSource::None => {
            return Err(TlsError(
                "validation_context: says nothing that a certificate could be held against".into(),
            ));
        }
        None => builder.with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    let mut config = builder.with_client_cert_resolver(Arc::new(Own(shown.clone())));
    config.alpn_protocols = common.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.resumption = match tls.max_sessions {
        0 => Resumption::disabled(),
        sessions => Resumption::in_memory_sessions((sessions as usize).max(16)),
    };
    Ok(Ready { config: Arc::new(config), shown, trust })
}

fn shown(sources: &[CertificateSource], provider: &CryptoProvider) -> Result<Vec<Shown>, TlsError> {
    sources.iter().map(|source| certificate::read(source, provider, now())).collect()
}

fn versions(common: &CommonTls) -> Vec<&'static SupportedProtocolVersion> {
    let wanted = [(common.versions.v1_3, &version::TLS13), (common.versions.v1_2, &version::TLS12)];
    wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, version)| version).collect()
}

/// The library's ciphers and groups, as far as the configuration wants them. All of them have forward secrecy.
fn provider(common: &CommonTls) -> Result<CryptoProvider, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    if !common.cipher_suites.is_empty() {
        let mut suites: Vec<SupportedCipherSuite> = Vec::new();
        for name in common.cipher_suites.iter().flat_map(|name| name.trim_matches(['[', ']']).split('|')) {
            let known =
                provider.cipher_suites.iter().find(|suite| names_of(suite).iter().any(|own| own == name));
            let known = known.ok_or_else(|| {
                TlsError(format!("tls_params.cipher_suites: {name} is unknown, or has no forward secrecy"))
            })?;
            suites.push(*known);
        }
        // The list is for TLS 1.2, as in Envoy; those of 1.3 stay.
        suites.extend(provider.cipher_suites.iter().filter(|suite| suite.tls13().is_some()));
        provider.cipher_suites = suites;
    }
    if !common.curves.is_empty() {
        let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
        for name in &common.curves {
            let wanted = match &**name {
                "X25519" => rustls::NamedGroup::X25519,
                "P-256" => rustls::NamedGroup::secp256r1,
                "P-384" => rustls::NamedGroup::secp384r1,
                "X25519MLKEM768" => rustls::NamedGroup::X25519MLKEM768,
                _ => return Err(TlsError(format!("tls_params.ecdh_curves: {name} is unknown"))),
            };
            groups.extend(aws_lc_rs::ALL_KX_GROUPS.iter().find(|group| group.name() == wanted));
        }
        provider.kx_groups = groups;
    }
    Ok(provider)
}

/// A suite by the standard's name and by OpenSSL's.
fn names_of(suite: &SupportedCipherSuite) -> [String; 2] {
    let standard = format!("{:?}", suite.suite());
    let openssl = standard
        .trim_start_matches("TLS_")
        .replace("_WITH_AES_128_", "-AES128-")
        .replace("_WITH_AES_256_", "-AES256-")
        .replace("_WITH_CHACHA20_POLY1305_SHA256", "-CHACHA20-POLY1305")
        .replace('_', "-");
    [standard, openssl]
}

//! What handshakes are made with: made once for each configuration, and again when a file of it changes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use proxy_core::config::{CertificateSource, CommonTls, DownstreamTls, UpstreamTls, ValidationSource};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::certificate::{self, ByName, Own, Shown};
use super::trust::{Anybody, Trust};
use super::{Identity, material};

/// Sessions that one listener's clients may resume from our memory.
const SESSIONS: usize = 4_096;
/// Bytes that one connection may have waiting to be encrypted or written.
const BUFFER: usize = 64 << 10;

/// Why something cannot be used: what, and in words. Never any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TlsError(pub(super) String);

impl TlsError {
    pub(super) fn new(what: &(impl Display + ?Sized), reason: impl Display) -> Self {
        Self(format!("{what}: {reason}"))
    }
}

/// What a listener's handshakes are made with.
pub(crate) struct ServerContext {
    current: ArcSwap<Ready<ServerConfig>>,
    pub(crate) requires_sni: bool,
}

/// What handshakes with endpoints are made with.
pub(crate) struct ClientContext {
    current: ArcSwap<Ready<ClientConfig>>,
}

struct Ready<C> {
    config: Arc<C>,
    shown: Vec<Shown>,
}

impl ServerContext {
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// Who we say we are where nobody asks for a name.
    pub(crate) fn own_identity(&self) -> Option<Arc<Identity>> {
        self.current.load().shown.first().map(|shown| shown.identity.clone())
    }
}

impl ClientContext {
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.current.load().config.clone()
    }
}

/// A certificate that is in use, for `/certs` and the days that it has left.
#[derive(Debug, Clone)]
pub(crate) struct InUse {
    pub(crate) origin: String,
    pub(crate) identity: Arc<Identity>,
}

/// All contexts of the process.
#[derive(Default)]
pub(crate) struct Contexts {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    servers: Vec<Entry<DownstreamTls, ServerContext>>,
    clients: Vec<Entry<UpstreamTls, ClientContext>>,
}

struct Entry<T, C> {
    tls: Arc<T>,
    context: Arc<C>,
    paths: Vec<Arc<str>>,
    stamp: Vec<Option<(SystemTime, u64, u64)>>,
}

impl<T, C> Entry<T, C> {
    fn new(tls: &Arc<T>, common: &CommonTls, context: C) -> Self {
        let paths = material::paths(&common.certificates, &common.validation);
        let stamp = material::stamp(&paths);
        Self { tls: tls.clone(), context: Arc::new(context), paths, stamp }
    }

    /// Whether a file has changed since it was last asked.
    fn has_changed(&mut self, common: &CommonTls) -> bool {
        let stamp = material::stamp(&self.paths);
        if stamp == self.stamp {
            return false;
        }
        // A file of secrets may name other files now.
        self.paths = material::paths(&common.certificates, &common.validation);
        self.stamp = material::stamp(&self.paths);
        true
    }
}

impl Contexts {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context of a listener's filter chain, made where it is not there yet.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub(crate) fn server(&self, tls: &Arc<DownstreamTls>) -> Result<Arc<ServerContext>, TlsError> {
        let mut known = self.lock();
        if let Some(entry) = known.servers.iter().find(|entry| entry.tls == *tls) {
            return Ok(entry.context.clone());
        }
        let current = ArcSwap::from_pointee(server_config(tls)?);
        let context = ServerContext { current, requires_sni: tls.requires_sni };
        let entry = Entry::new(tls, &tls.common, context);
        let context = entry.context.clone();
        known.servers.push(entry);
        Ok(context)
    }

    /// The context towards a cluster's endpoints, made where it is not there yet.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub(crate) fn client(&self, tls: &Arc<UpstreamTls>) -> Result<Arc<ClientContext>, TlsError> {
        let mut known = self.lock();
        if let Some(entry) = known.clients.iter().find(|entry| entry.tls == *tls) {
            return Ok(entry.context.clone());
        }
        let current = ArcSwap::from_pointee(client_config(tls)?);
        let entry = Entry::new(tls, &tls.common, ClientContext { current });
        let context = entry.context.clone();
        known.clients.push(entry);
        Ok(context)
    }

    /// Reads again what has changed. What cannot be used leaves what was there before; each such failure is told of.
    pub(crate) fn refresh(&self, mut outcome: impl FnMut(Result<(), TlsError>)) {
        let mut known = self.lock();
        let Known { servers, clients } = &mut *known;
        // What nobody uses any more is forgotten.
        servers.retain(|entry| Arc::strong_count(&entry.context) > 1 || Arc::strong_count(&entry.tls) > 1);
        clients.retain(|entry| Arc::strong_count(&entry.context) > 1 || Arc::strong_count(&entry.tls) > 2);
        for entry in servers {
            if entry.has_changed(&entry.tls.clone().common) {
                outcome(server_config(&entry.tls).map(|ready| entry.context.current.store(Arc::new(ready))));
            }
        }
        for entry in clients {
            if entry.has_changed(&entry.tls.clone().common) {
                outcome(client_config(&entry.tls).map(|ready| entry.context.current.store(Arc::new(ready))));
            }
        }
    }

    /// The certificates that are shown now, each once.
    pub(crate) fn in_use(&self) -> Vec<InUse> {
        let known = self.lock();
        let servers = known.servers.iter().flat_map(|entry| entry.context.current.load().shown.clone());
        let clients = known.clients.iter().flat_map(|entry| entry.context.current.load().shown.clone());
        let all: BTreeMap<_, _> = servers
            .chain(clients)
            .map(|shown| {
                let key = (shown.origin.clone(), *shown.identity.hash());
                (key, InUse { origin: shown.origin, identity: shown.identity })
            })
            .collect();
        all.into_values().collect()
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
    let builder = match Trust::new(&validation, &provider)? {
        Some(trust) => {
            builder.with_client_cert_verifier(Arc::new(trust.optional(!tls.requires_client_certificate)))
        }
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
    Ok(Ready { config: Arc::new(config), shown })
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
    let builder = match Trust::new(&validation, &provider)? {
        Some(trust) => builder.with_custom_certificate_verifier(Arc::new(trust.for_name(tls.validates_sni))),
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
    Ok(Ready { config: Arc::new(config), shown })
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

/// The most that waits in a connection of its own.
pub(super) const fn buffer_limit() -> usize {
    BUFFER
}

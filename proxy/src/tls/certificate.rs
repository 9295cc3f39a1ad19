//! What we show: certificates by the name that is asked for.

use std::sync::Arc;

use proxy_core::config::{CertificateSource, NameKind};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};

use super::identity::Identity;
use super::{TlsError, material};

/// A chain, its key, and what it says.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    key: Arc<CertifiedKey>,
    pub(super) identity: Arc<Identity>,
    /// Where it lies, for people.
    pub(super) origin: String,
}

/// Reads a chain and its key, and holds them against one another and the time.
pub(super) fn read(
    source: &CertificateSource,
    provider: &CryptoProvider,
    now: i64,
) -> Result<Shown, TlsError> {
    let certificate = material::certificate_of(source)?;
    let chain = material::certificates(&certificate.chain)?;
    let identity = Identity::of(&chain)
        .ok_or_else(|| TlsError::new(&certificate.chain, "holds what is no certificate"))?;
    let key = material::key(&certificate.key)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| TlsError::new(&certificate.key, "holds a key of a kind that is not supported"))?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(_) => {
            let reason = format!("is not the key of the certificate in {}", certificate.chain);
            return Err(TlsError::new(&certificate.key, reason));
        }
    }
    if identity.not_after < now {
        return Err(TlsError::new(&certificate.chain, "has expired"));
    }
    Ok(Shown { key: Arc::new(key), identity: Arc::new(identity), origin: certificate.chain.to_string() })
}

/// The certificate for the name that a client asks for: the exact one, the one with a wildcard, the first; one that the
/// client can check before one that it cannot.
pub(super) fn find<'a>(all: &'a [Shown], hello: &ClientHello<'_>) -> Option<&'a Shown> {
    let can_check = |shown: &Shown| shown.key.key.choose_scheme(hello.signature_schemes()).is_some();
    let rank = |shown: &Shown| {
        let fit = hello.server_name().map_or(0, |name| {
            shown.identity.texts(NameKind::Dns).map(|own| fits(own, name)).max().unwrap_or(0)
        });
        (fit, can_check(shown))
    };
    // Of equals the first.
    all.iter().rev().max_by_key(|shown| rank(shown))
}

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct ByName(pub(super) Vec<Shown>);

/// 2: it is the name, 1: it covers the name, 0: neither.
fn fits(own: &str, name: &str) -> u8 {
    if own.eq_ignore_ascii_case(name) {
        return 2;
    }
    let covered = own.strip_prefix('*').is_some_and(|suffix| {
        let dot = name.find('.');
        suffix.starts_with('.') && dot.is_some_and(|dot| dot > 0 && name[dot..].eq_ignore_ascii_case(suffix))
    });
    u8::from(covered)
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        find(&self.0, &hello).map(|shown| shown.key.clone())
    }
}

/// What we show to endpoints.
#[derive(Debug)]
pub(super) struct Own(pub(super) Vec<Shown>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fitting = self.0.iter().find(|shown| shown.key.key.choose_scheme(schemes).is_some());
        fitting.or(self.0.first()).map(|shown| shown.key.clone())
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

//! What protects a connection, and whom it trusts.

use std::fmt;
use std::sync::Arc;

use super::{TextForm, TextMatch};
use crate::route::text_holds;

/// `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DownstreamTls {
    /// What both sides have.
    pub common: CommonTls,
    /// Whether a client must show a certificate (`require_client_certificate`).
    pub requires_client_certificate: bool,
    /// Whether a client must say whom it wants (`require_sni`).
    pub requires_sni: bool,
    /// Whether sessions are resumed by tickets.
    pub tickets: bool,
    /// Whether sessions are resumed from our memory.
    pub sessions: bool,
}

/// `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// What both sides have.
    pub common: CommonTls,
    /// The name that is asked for; the endpoint's address where empty.
    pub sni: Box<str>,
    /// Whether the endpoint's host name is asked for, where it has one.
    pub auto_host_sni: bool,
    /// Whether the endpoint's certificate must be for the name that was asked for.
    pub validates_sni: bool,
    /// Sessions that are remembered; none where 0.
    pub max_sessions: u32,
}

/// What carries connections to endpoints (`transport_socket`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct UpstreamTransport {
    /// What protects them.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Whether the endpoint is told who the client is before anything else, and whether in version 2 of the PROXY
    /// protocol.
    pub proxy_protocol_v2: Option<bool>,
}

/// `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CommonTls {
    /// The versions that are spoken.
    pub versions: TlsVersions,
    /// Cipher suites of TLS 1.2, by OpenSSL's or the standard's name; all that have forward secrecy where empty.
    pub cipher_suites: Vec<Box<str>>,
    /// Groups for the key exchange; all where empty.
    pub curves: Vec<Box<str>>,
    /// What we show.
    pub certificates: Vec<CertificateSource>,
    /// Whom we trust.
    pub validation: ValidationSource,
    /// Application protocols, best first.
    pub alpn: Vec<Box<str>>,
}

impl CommonTls {
    /// The names of the secrets that the control plane must bring.
    pub fn streamed_secrets(&self) -> impl Iterator<Item = &str> {
        let certificates = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Sds(name) => Some(&**name),
            CertificateSource::Inline(_) | CertificateSource::SdsFile(..) => None,
        });
        let validation = match &self.validation {
            ValidationSource::Sds(_, name) => Some(&**name),
            ValidationSource::None | ValidationSource::Inline(_) | ValidationSource::SdsFile(..) => None,
        };
        certificates.chain(validation)
    }

    /// Whether the control plane must bring something.
    pub fn names_streamed_secrets(&self) -> bool {
        self.streamed_secrets().next().is_some()
    }

    /// The same with the control plane's secrets in the place of their names; none where one is missing or of the other
    /// kind.
    #[must_use]
    pub fn with_secrets<'a>(&self, secret: impl Fn(&str) -> Option<&'a Secret>) -> Option<Self> {
        let certificate = |source: &CertificateSource| match source {
            CertificateSource::Sds(name) => match secret(name)? {
                Secret::Certificate(certificate) => Some(CertificateSource::Inline(certificate.clone())),
                Secret::Validation(_) => None,
            },
            other => Some(other.clone()),
        };
        let validation = match &self.validation {
            ValidationSource::Sds(beside, name) => match secret(name)? {
                Secret::Validation(validation) => ValidationSource::Inline(beside.with(validation)),
                Secret::Certificate(_) => return None,
            },
            other => other.clone(),
        };
        let certificates = self.certificates.iter().map(certificate).collect::<Option<_>>()?;
        Some(Self { certificates, validation, ..self.clone() })
    }
}

/// `tls_minimum_protocol_version` and `tls_maximum_protocol_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TlsVersions {
    /// TLS 1.2.
    pub v1_2: bool,
    /// TLS 1.3.
    pub v1_3: bool,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self { v1_2: true, v1_3: true }
    }
}

/// A chain and its key, or where they come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// Part of the configuration.
    Inline(TlsCertificate),
    /// A secret by its name, from a file that holds secrets.
    SdsFile(Box<str>, Arc<str>),
    /// A secret by its name, from the control plane. What is served has none of these: see [`CommonTls::with_secrets`].
    Sds(Box<str>),
}

/// What is told apart from the rest of the configuration (`envoy.extensions.transport_sockets.tls.v3.Secret`).
#[derive(Debug, Clone, PartialEq)]
pub enum Secret {
    /// A chain and its key.
    Certificate(TlsCertificate),
    /// Whom to trust.
    Validation(Validation),
}

/// A chain and its key, which change together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsCertificate {
    /// Certificates in PEM, the peer's first.
    pub chain: Material,
    /// The key in PEM.
    pub key: Material,
}

/// Whom we trust, or where that comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum ValidationSource {
    /// Nobody is asked for a certificate, or whoever shows one is believed.
    #[default]
    None,
    /// Part of the configuration.
    Inline(Validation),
    /// A secret by its name, from a file that holds secrets; what is said here beside it holds as well.
    SdsFile(Validation, Box<str>, Arc<str>),
    /// The same from the control plane. What is served has none of these.
    Sds(Validation, Box<str>),
}

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Validation {
    /// Roots in PEM.
    pub trusted_ca: Option<Material>,
    /// Roots of each trust domain of SPIFFE, by its name.
    pub trust_domains: Vec<(Box<str>, Material)>,
    /// Revocations in PEM.
    pub crl: Option<Material>,
    /// Whether revocations are looked at for the peer's own certificate alone.
    pub only_leaf_crl: bool,
    /// Of these names the certificate must have one; any will do where empty.
    pub names: Vec<NameMatch>,
    /// SHA-256 of the public keys that are taken; any where empty.
    pub key_pins: Vec<[u8; 32]>,
    /// SHA-256 of the certificates that are taken; any where empty.
    pub certificate_pins: Vec<[u8; 32]>,
    /// Whether clients are not told whose certificates we take.
    pub hides_authorities: bool,
}

impl Validation {
    /// Whether anything is asked of a certificate.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What both say. Where both name roots or revocations, `other`'s hold.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        merged.trusted_ca = other.trusted_ca.clone().or(merged.trusted_ca);
        merged.crl = other.crl.clone().or(merged.crl);
        merged.only_leaf_crl |= other.only_leaf_crl;
        merged.hides_authorities |= other.hides_authorities;
        merged.trust_domains.extend(other.trust_domains.iter().cloned());
        merged.names.extend(other.names.iter().cloned());
        merged.key_pins.extend(&other.key_pins);
        merged.certificate_pins.extend(&other.certificate_pins);
        merged
    }
}

/// A subject alternative name that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameMatch {
    /// Of which kind; any where unset.
    pub kind: Option<NameKind>,
    /// What it says.
    pub text: TextMatch,
}

impl NameMatch {
    /// Whether a name of a certificate is taken. A wildcard in the certificate stands for one whole label, the first
    /// (RFC 6125 §6.4.3). Bytes are compared as they are, NUL like any other.
    pub fn takes(&self, kind: NameKind, name: &[u8]) -> bool {
        if self.kind.is_some_and(|wanted| wanted != kind) {
            return false;
        }
        if text_holds(&self.text, name) {
            return true;
        }
        match (&self.text.form, kind, name.strip_prefix(b"*")) {
            (TextForm::Exact(wanted), NameKind::Dns, Some(suffix)) if suffix.starts_with(b".") => wanted
                .find('.')
                .is_some_and(|dot| dot > 0 && wanted.as_bytes()[dot..].eq_ignore_ascii_case(suffix)),
            _ => false,
        }
    }
}

/// Kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// A host name; `*` stands for one label of the certificate's.
    Dns,
    /// A URI, such as a SPIFFE identity.
    Uri,
    /// An address.
    Ip,
    /// A mailbox.
    Email,
}

/// Text that lies somewhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Material {
    /// In a file, read again when it changes.
    File(Arc<str>),
    /// In the configuration.
    Inline(Arc<[u8]>),
    /// In an environment variable.
    Environment(Arc<str>),
}

/// Never what it says: it may be a key.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Inline(_) => f.write_str("inline"),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

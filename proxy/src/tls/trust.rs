//! Whom to trust: chains up to a root, revocations, names, pins. One judge for clients and for endpoints.

use std::sync::Arc;

use proxy_core::config::{NameKind, NameMatch, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::identity::Identity;
use super::{TlsError, material};

/// What a certificate of a peer is held against.
#[derive(Debug)]
pub(super) struct Trust {
    roots: Roots,
    revocations: Vec<CertRevocationList<'static>>,
    only_leaf: bool,
    names: Vec<NameMatch>,
    key_pins: Vec<[u8; 32]>,
    certificate_pins: Vec<[u8; 32]>,
    /// Whether an endpoint's certificate must be for the name that was asked for.
    validates_name: bool,
    /// Whether a client may show none.
    is_optional: bool,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Roots {
    /// None: the pins alone say who is trusted.
    Pins,
    /// These.
    Any(Vec<TrustAnchor<'static>>),
    /// Those of the trust domain that a certificate's SPIFFE identity lies in.
    Domains(Vec<(Box<str>, Vec<TrustAnchor<'static>>)>),
}

impl Trust {
    /// Reads roots and revocations. None where nothing is asked of anybody.
    pub(super) fn new(
        validation: &Validation,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Self>, TlsError> {
        if validation.is_empty() {
            return Ok(None);
        }
        let mut hints = Vec::new();
        let mut anchors = |material| -> Result<Vec<TrustAnchor<'static>>, TlsError> {
            let mut found = Vec::new();
            for certificate in material::certificates(material)? {
                let anchor = anchor_from_trusted_cert(&certificate)
                    .map_err(|error| {
                        TlsError::new(material, format!("is no authority's certificate: {error}"))
                    })?
                    .to_owned();
                hints.push(DistinguishedName::in_sequence(&anchor.subject));
                found.push(anchor);
            }
            Ok(found)
        };
        let roots = if !validation.trust_domains.is_empty() {
            let mut domains = Vec::new();
            for (name, bundle) in &validation.trust_domains {
                domains.push((name.clone(), anchors(bundle)?));
            }
            Roots::Domains(domains)
        } else if let Some(ca) = &validation.trusted_ca {
            Roots::Any(anchors(ca)?)
        } else if !validation.names.is_empty() || validation.crl.is_some() {
            let reason = "trusted_ca is missing: names and revocations mean nothing without an authority";
            return Err(TlsError(format!("validation_context: {reason}")));
        } else if !validation.key_pins.is_empty() || !validation.certificate_pins.is_empty() {
            Roots::Pins
        } else {
            let reason = "trusted_ca is missing";
            return Err(TlsError(format!("validation_context: {reason}")));
        };
        let mut revocations = Vec::new();
        if let Some(crl) = &validation.crl {
            for list in material::revocations(crl)? {
                let list = BorrowedCertRevocationList::from_der(&list)
                    .and_then(|list| list.to_owned())
                    .map_err(|error| TlsError::new(crl, format!("is no revocation list: {error}")))?;
                revocations.push(list.into());
            }
        }
        Ok(Some(Self {
            roots,
            revocations,
            only_leaf: validation.only_leaf_crl,
            names: validation.names.clone(),
            key_pins: validation.key_pins.clone(),
            certificate_pins: validation.certificate_pins.clone(),
            validates_name: false,
            is_optional: false,
            hints: if validation.hides_authorities { Vec::new() } else { hints },
            provider: provider.clone(),
        }))
    }

    /// The same, for clients that may show no certificate.
    pub(super) fn optional(self, is_optional: bool) -> Self {
        Self { is_optional, ..self }
    }

    /// The same, for endpoints whose certificates must be for the name that was asked for.
    pub(super) fn for_name(self, validates_name: bool) -> Self {
        Self { validates_name, ..self }
    }

    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let chain: Vec<_> = std::iter::once(certificate).chain(intermediates).cloned().collect();
        let identity = Identity::of(&chain).ok_or(CertificateError::BadEncoding)?;
        let anchors = match &self.roots {
            Roots::Pins => None,
            Roots::Any(anchors) => Some(anchors),
            Roots::Domains(domains) => {
                let domain =
                    spiffe_domain(&identity).ok_or(CertificateError::ApplicationVerificationFailure)?;
                let found = domains.iter().find(|(name, _)| **name == *domain);
                Some(&found.ok_or(CertificateError::UnknownIssuer)?.1)
            }
        };
        if let Some(anchors) = anchors {
            self.verify_chain(certificate, intermediates, anchors, now, usage)?;
        } else if !(identity.not_before..=identity.not_after).contains(&(now.as_secs() as i64)) {
            return Err(CertificateError::Expired.into());
        }
        let pinned =
            self.key_pins.contains(identity.key_hash()) || self.certificate_pins.contains(identity.hash());
        let asks_for_pin = !self.key_pins.is_empty() || !self.certificate_pins.is_empty();
        if asks_for_pin && !pinned {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let takes = |wanted: &NameMatch| identity.names().any(|(kind, name)| wanted.takes(kind, name));
        if !self.names.is_empty() && !self.names.iter().any(takes) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(())
    }

    fn verify_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchors: &[TrustAnchor<'static>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let revocations: Vec<_> = self.revocations.iter().collect();
        let depth =
            if self.only_leaf { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
        let revocation = RevocationOptionsBuilder::new(&revocations)
            .ok()
            // As with OpenSSL: a list that is missing or over says nothing good.
            .map(|options| {
                let options = options.with_depth(depth).with_status_policy(UnknownStatusPolicy::Deny);
                options.with_expiration_policy(ExpirationPolicy::Enforce).build()
            });
        let end_entity = EndEntityCert::try_from(certificate).map_err(pki_error)?;
        end_entity
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                anchors,
                intermediates,
                now,
                usage,
                revocation,
                None,
            )
            .map_err(pki_error)?;
        Ok(())
    }
}

/// The trust domain of a SPIFFE identity: a certificate has exactly one URI, and that is it.
fn spiffe_domain(identity: &Identity) -> Option<String> {
    let mut uris = identity.texts(NameKind::Uri);
    let (Some(uri), None) = (uris.next(), uris.next()) else { return None };
    let rest = uri.strip_prefix("spiffe://")?;
    let domain = rest.split('/').next().unwrap_or(rest);
    (!domain.is_empty()).then(|| domain.to_owned())
}

fn pki_error(error: webpki::Error) -> Error {
    use webpki::Error as Pki;

    let error = match error {
        Pki::CertExpired { .. } => CertificateError::Expired,
        Pki::CertNotValidYet { .. } => CertificateError::NotValidYet,
        Pki::CertRevoked => CertificateError::Revoked,
        Pki::UnknownIssuer => CertificateError::UnknownIssuer,
        Pki::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Pki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Pki::BadDer | Pki::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(error)
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now, KeyUsage::server_auth())?;
        if self.validates_name {
            let certificate = EndEntityCert::try_from(end_entity).map_err(pki_error)?;
            certificate
                .verify_is_valid_for_subject_name(server_name)
                .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.is_optional
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// An endpoint that nobody said anything about: encrypted, and whoever it is, as in Envoy without a validation context.
#[derive(Debug)]
pub(super) struct Anybody(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

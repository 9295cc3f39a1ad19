//! Who somebody is, by the certificate that they have shown.

use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest;
use proxy_core::config::NameKind;
use proxy_core::hop::CertificateDetails;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

/// What a certificate says, read once, at the handshake.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Names, each with its kind, in their order.
    names: Vec<(NameKind, Vec<u8>)>,
    subject: String,
    /// SHA-256 of the certificate.
    hash: [u8; 32],
    /// SHA-256 of its public key.
    key_hash: [u8; 32],
    serial: String,
    /// Seconds since the Unix epoch.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// All that was shown, the certificate itself first.
    chain: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Reads the first certificate of a chain; none where it cannot be read.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let first = chain.first()?;
        let (_, certificate) = X509Certificate::from_der(first).ok()?;
        let mut names = Vec::new();
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(text) => names.push((NameKind::Dns, text.as_bytes().to_vec())),
                    GeneralName::URI(text) => names.push((NameKind::Uri, text.as_bytes().to_vec())),
                    GeneralName::RFC822Name(text) => names.push((NameKind::Email, text.as_bytes().to_vec())),
                    GeneralName::IPAddress(bytes) => {
                        let address = match bytes.len() {
                            4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                            _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
                        };
                        names.extend(address.map(|ip| (NameKind::Ip, ip.to_string().into_bytes())));
                    }
                    _ => {}
                }
            }
        }
        let sha256 = |bytes: &[u8]| {
            let mut hash = [0; 32];
            hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
            hash
        };
        Some(Self {
            names,
            subject: distinguished_name(certificate.subject()),
            hash: sha256(first),
            key_hash: sha256(certificate.public_key().raw),
            serial: certificate.tbs_certificate.raw_serial_as_string(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        })
    }

    /// Its names with their kinds.
    pub(crate) fn names(&self) -> impl Iterator<Item = (NameKind, &[u8])> {
        self.names.iter().map(|(kind, name)| (*kind, name.as_slice()))
    }

    /// Its names of one kind, as text.
    pub(crate) fn texts(&self, kind: NameKind) -> impl Iterator<Item = &str> {
        self.names().filter(move |(of, _)| *of == kind).filter_map(|(_, name)| std::str::from_utf8(name).ok())
    }

    pub(crate) const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    pub(crate) const fn key_hash(&self) -> &[u8; 32] {
        &self.key_hash
    }

    pub(crate) fn serial(&self) -> &str {
        &self.serial
    }

    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The element of `x-forwarded-client-cert` for it. `by`: the URI of our own certificate.
    pub(crate) fn forwarded(&self, by: Option<&str>, details: CertificateDetails) -> String {
        let mut parts = Vec::new();
        if let Some(by) = by {
            parts.push(format!("By={}", quoted(by)));
        }
        let hash = self.hash.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        parts.push(format!("Hash={hash}"));
        if details.certificate {
            parts.push(format!("Cert=\"{}\"", self.chain.first().map(pem).unwrap_or_default()));
        }
        if details.chain {
            parts.push(format!("Chain=\"{}\"", self.chain.iter().map(pem).collect::<String>()));
        }
        if details.subject {
            parts.push(format!("Subject=\"{}\"", escaped(&self.subject)));
        }
        if details.uri {
            parts.extend(self.texts(NameKind::Uri).map(|uri| format!("URI={}", quoted(uri))));
        }
        if details.dns {
            parts.extend(self.texts(NameKind::Dns).map(|dns| format!("DNS={}", quoted(dns))));
        }
        parts.join(";")
    }
}

/// A name as RFC 2253 writes it: the most specific part first, what separates parts escaped.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let part = |attribute: &AttributeTypeAndValue<'_>| {
        let kind = attribute.attr_type();
        let kind = oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned);
        format!("{kind}={}", escaped_part(&attribute.as_str().map_or_else(|_| String::new(), str::to_owned)))
    };
    let together =
        |relative: &RelativeDistinguishedName<'_>| relative.iter().map(part).collect::<Vec<_>>().join("+");
    let mut parts: Vec<_> = name.iter_rdn().map(together).collect();
    parts.reverse();
    parts.join(",")
}

/// RFC 2253 §2.4.
fn escaped_part(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut out = String::new();
    for (at, c) in text.chars().enumerate() {
        let is_special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=');
        if is_special || (c == '#' && at == 0) || (c == ' ' && (at == 0 || at == last)) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// As it is, or between quotation marks where it holds what separates elements.
fn quoted(text: &str) -> String {
    match text.contains([',', ';', '=', '"']) || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        true => format!("\"{}\"", escaped(text)),
        false => text.to_owned(),
    }
}

/// For between quotation marks. What cannot stand in a header becomes `?`.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out
}

/// PEM, percent-encoded as Envoy does it: every line end and what a query would not take.
fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;

    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    for line in text.as_bytes().chunks(64) {
        for byte in line {
            match byte {
                b'+' => out.push_str("%2B"),
                b'/' => out.push_str("%2F"),
                b'=' => out.push_str("%3D"),
                byte => out.push(char::from(*byte)),
            }
        }
        out.push_str("%0A");
    }
    out.push_str("-----END%20CERTIFICATE-----%0A");
    out
}

//! An authority that issues the certificates that a test needs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// An authority, and the folder that its files lie in.
pub struct Pki {
    folder: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
    serial: std::sync::atomic::AtomicU64,
}

/// Files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The chain in PEM.
    pub chain: PathBuf,
    /// The key in PEM.
    pub key: PathBuf,
    /// The number under which it can be revoked.
    pub serial: u64,
}

impl Pki {
    /// An authority whose files begin with its name.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("written");
        let issuer = Issuer::new(params, key);
        Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            issuer,
            serial: std::sync::atomic::AtomicU64::new(1),
        }
    }

    /// The authority's own certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// A certificate for these names; one with `://` is a URI.
    pub fn leaf(&self, file: &str, names: &[&str]) -> Leaf {
        self.issue(file, names, |_| {})
    }

    /// The same, of the year 2020.
    pub fn expired(&self, file: &str, names: &[&str]) -> Leaf {
        self.issue(file, names, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        })
    }

    /// The same, for so long from now.
    pub fn leaf_for(&self, file: &str, names: &[&str], time: Duration) -> Leaf {
        self.issue(file, names, |params| params.not_after = (SystemTime::now() + time).into())
    }

    fn issue(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names = names.iter().map(|name| san(name)).collect();
        params.distinguished_name.push(DnType::CommonName, file);
        let serial = self.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let leaf = Leaf {
            chain: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
            serial,
        };
        std::fs::write(&leaf.chain, certificate.pem()).expect("written");
        std::fs::write(&leaf.key, key.serialize_pem()).expect("written");
        leaf
    }

    /// A list that revokes a certificate.
    pub fn revoke(&self, leaf: &Leaf) -> PathBuf {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(leaf.serial),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list");
        let path = self.folder.join(format!("{}.crl", self.name));
        std::fs::write(&path, list.pem().expect("PEM")).expect("written");
        path
    }
}

impl Leaf {
    /// As a field of `tls_certificates`.
    pub fn yaml(&self) -> String {
        let (chain, key) = (self.chain.display(), self.key.display());
        format!("{{ certificate_chain: {{ filename: {chain} }}, private_key: {{ filename: {key} }} }}")
    }
}

fn san(name: &str) -> SanType {
    if name.contains("://") {
        return SanType::URI(name.try_into().expect("a URI"));
    }
    match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().expect("a name")),
    }
}

//! Where keys and certificates lie: files, the configuration itself, the environment, files of secrets.

use std::env::VarError;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use proxy_core::config::{CertificateSource, Material, Secret, TlsCertificate, Validation, ValidationSource};
use proxy_core::xds::translate;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use xds_proto::type_url;

use super::TlsError;
use crate::files;

/// Reads a text.
pub(super) fn read(material: &Material) -> Result<Vec<u8>, TlsError> {
    match material {
        Material::Inline(bytes) => Ok(bytes.to_vec()),
        Material::File(path) => {
            std::fs::read(&**path).map_err(|error| TlsError::new(path, format!("cannot be read: {error}")))
        }
        // The library's words would hold the variable's.
        Material::Environment(name) => {
            std::env::var(&**name).map(String::into_bytes).map_err(|error| match error {
                VarError::NotPresent => TlsError::new(material, "is not set"),
                VarError::NotUnicode(_) => TlsError::new(material, "is not text"),
            })
        }
    }
}

/// The certificates of a text in PEM; at least one.
pub(super) fn certificates(material: &Material) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(material)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = read.map_err(|error| TlsError::new(material, format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(TlsError::new(material, "holds no certificate"));
    }
    Ok(found)
}

/// The first key of a text in PEM.
pub(super) fn key(material: &Material) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(material)?;
    // What is wrong with it is said without any of it.
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::new(material, "holds no private key in PEM"))
}

/// The revocations of a text in PEM; at least one list.
pub(super) fn revocations(
    material: &Material,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let text = read(material)?;
    let read: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let found = read.map_err(|error| TlsError::new(material, format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(TlsError::new(material, "holds no revocation list"));
    }
    Ok(found)
}

/// A chain and its key, wherever they are described.
pub(super) fn certificate_of(source: &CertificateSource) -> Result<TlsCertificate, TlsError> {
    match source {
        CertificateSource::Inline(certificate) => Ok(certificate.clone()),
        CertificateSource::SdsFile(name, path) => match secret(name, path)? {
            Secret::Certificate(certificate) => Ok(certificate),
            Secret::Validation(_) => Err(TlsError::new(path, format!("secret {name:?} is no certificate"))),
        },
        CertificateSource::Sds(name) => Err(TlsError(format!("secret {name:?} has not come"))),
    }
}

/// Whom to trust, wherever that is described.
pub(super) fn validation_of(source: &ValidationSource) -> Result<Validation, TlsError> {
    match source {
        ValidationSource::None => Ok(Validation::default()),
        ValidationSource::Inline(validation) => Ok(validation.clone()),
        ValidationSource::SdsFile(beside, name, path) => match secret(name, path)? {
            Secret::Validation(validation) => Ok(beside.with(&validation)),
            Secret::Certificate(_) => {
                Err(TlsError::new(path, format!("secret {name:?} is no validation context")))
            }
        },
        ValidationSource::Sds(_, name) => Err(TlsError(format!("secret {name:?} has not come"))),
    }
}

fn secret(name: &str, path: &Arc<str>) -> Result<Secret, TlsError> {
    let (response, source) = files::read(path, type_url::SECRET).map_err(TlsError)?;
    for resource in &response.resources {
        let accepted =
            translate::secret(resource).map_err(|rejection| TlsError(source.describe(&rejection)))?;
        if accepted.name == name {
            return Ok(accepted.value);
        }
    }
    Err(TlsError::new(path, format!("holds no secret {name:?}")))
}

/// What a file says of itself without being read: when it changes, it is read. None of one that is not there.
pub(super) type Stamp = Option<[i64; 7]>;

/// Through every link: replacing one of them replaces the file.
pub(super) fn stamp(paths: &[Arc<str>]) -> Vec<Stamp> {
    let of = |path: &Arc<str>| {
        let data = std::fs::metadata(&**path).ok()?;
        let (inode, device) = (data.ino() as i64, data.dev() as i64);
        // What the mode allows changes the time of change alone.
        let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
        Some([inode, device, data.len() as i64, times[0], times[1], times[2], times[3]])
    };
    paths.iter().map(of).collect()
}

/// The files that a context depends on.
pub(super) fn paths(certificates: &[CertificateSource], validation: &ValidationSource) -> Vec<Arc<str>> {
    let mut paths = Vec::new();
    let mut note = |material: &Material| {
        if let Material::File(path) = material {
            paths.push(path.clone());
        }
    };
    for source in certificates {
        if let Ok(certificate) = certificate_of(source) {
            note(&certificate.chain);
            note(&certificate.key);
        }
    }
    if let Ok(validation) = validation_of(validation) {
        validation.trusted_ca.iter().chain(&validation.crl).for_each(&mut note);
        validation.trust_domains.iter().for_each(|(_, bundle)| note(bundle));
    }
    for source in certificates {
        if let CertificateSource::SdsFile(_, path) = source {
            paths.push(path.clone());
        }
    }
    if let ValidationSource::SdsFile(_, _, path) = validation {
        paths.push(path.clone());
    }
    paths
}

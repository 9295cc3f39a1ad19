//! One authority and the two certificates that it issued, P-256, as files: what every peer of a run uses.

use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The name that the server's certificate is for.
pub(crate) const SERVER_NAME: &str = "bench.example.com";

/// Writes `ca.pem`, and for `server` and `client` the chain (`.pem`), the key (`.key`) and both in one (`-all.pem`).
pub(crate) fn write(folder: &Path) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "benches");
    let key = KeyPair::generate()?;
    std::fs::write(folder.join("ca.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for (file, name) in [("server", SERVER_NAME), ("client", "client.example.com")] {
        let key = KeyPair::generate()?;
        let chain = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?.pem();
        let key = key.serialize_pem();
        std::fs::write(folder.join(format!("{file}.pem")), &chain)?;
        std::fs::write(folder.join(format!("{file}.key")), &key)?;
        std::fs::write(folder.join(format!("{file}-all.pem")), chain + &key)?;
    }
    Ok(())
}

//! What people wrote for others: Istio's traffic kinds, `MCPRoute` and service files, as Gateway API and `weir.dev/v1`.
//!
//! A field that has no equal here is refused by its name, never left out: a rule that is half understood sends requests where
//! nobody meant them to go. What is understood otherwise than there is told as a warning.

mod istio;
mod mcp;
mod service_file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use xds_proto::json::did_you_mean;

use crate::model::{Problem, Resource, problem, validate};

pub use mcp::export as export_mcp_route;

/// What documents lack and the caller knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// `metadata.name`, where a document has none.
    pub name: Option<String>,
    /// `spec.hosts`, where a `VirtualService` has none.
    pub host: Option<String>,
}

/// What came of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// In the order of what they are about.
    pub resources: Vec<Resource>,
    /// What is understood otherwise than where it was written for.
    pub warnings: Vec<String>,
}

/// A document that is not imported. One sentence with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NotImported {
    line: Option<(u64, u64)>,
    message: String,
}

impl fmt::Display for NotImported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.line {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl NotImported {
    fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
}

/// A document as others write it: with or without a name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Foreign<S> {
    #[expect(dead_code, reason = "read by whoever chose the type")]
    api_version: String,
    #[expect(dead_code, reason = "read by whoever chose the type")]
    kind: String,
    #[serde(default)]
    metadata: ForeignMetadata,
    spec: S,
    #[serde(default)]
    #[expect(dead_code, reason = "dropped")]
    status: Option<Value>,
}

/// `metadata`, of which the name may be missing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ForeignMetadata {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl ForeignMetadata {
    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

/// Documents with the lines they begin on.
struct Document<'a> {
    first_line: u64,
    text: &'a str,
}

impl Document<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, NotImported> {
        serde_saphyr::from_str(self.text).map_err(|error| {
            let Problem { line, column, message } = problem(&error);
            NotImported { line: Some((self.first_line - 1 + line, column)), message }
        })
    }
}

/// Says which field has no equal here.
fn refuse(at: &str, fields: &[(&str, bool)]) -> Result<(), NotImported> {
    match fields.iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(NotImported::new(format!("{at}.{field}: has no equal in this version"))),
        None => Ok(()),
    }
}

/// Reads documents that were written for others.
///
/// # Errors
/// The first that cannot be meant here, with the field.
pub fn import(text: &str, given: &Given) -> Result<Imported, NotImported> {
    let mut mesh = istio::Mesh::default();
    let mut services = service_file::Services::default();
    let mut imported = Imported::default();
    for (first_line, text) in crate::model::documents(text) {
        let document = Document { first_line, text };
        if service_file::is_one(&document.read()?) {
            services.add(document.read()?, &mut imported.warnings)?;
            continue;
        }
        let Header { api_version, kind } = document.read()?;
        let group = api_version.split('/').next().unwrap_or_default();
        match (group, kind.as_str()) {
            ("networking.istio.io", "VirtualService") => mesh.virtual_services.push(document.read()?),
            ("networking.istio.io", "DestinationRule") => mesh.destination_rules.push(document.read()?),
            ("networking.istio.io", "Gateway") => mesh.gateways.push(document.read()?),
            ("networking.istio.io", "ServiceEntry") => mesh.service_entries.push(document.read()?),
            ("networking.mesh.alipay.com", "MCPRoute") => {
                imported.resources.extend(mcp::import(document.read()?, given)?);
            }
            ("security.istio.io", "AuthorizationPolicy") => {
                let message = "AuthorizationPolicy needs RBAC, which this version lacks";
                return Err(NotImported { line: Some((first_line, 1)), message: message.to_owned() });
            }
            ("security.istio.io", "PeerAuthentication") => {
                let policy = istio::peer_authentication(document.read()?, given, &mut imported.warnings)?;
                imported.resources.push(policy);
            }
            _ => {
                let known = [
                    "VirtualService",
                    "DestinationRule",
                    "Gateway",
                    "ServiceEntry",
                    "PeerAuthentication",
                    "MCPRoute",
                ];
                let hint = did_you_mean(&kind, known);
                let message = format!("{api_version} {kind} is nothing that can be imported{hint}");
                return Err(NotImported { line: Some((first_line, 1)), message });
            }
        }
    }
    imported.resources.extend(services.into_resources(given));
    mesh.import(given, &mut imported)?;
    for resource in &imported.resources {
        validate(resource).map_err(|flaw| NotImported::new(format!("{}: {flaw}", resource.key())))?;
    }
    Ok(imported)
}

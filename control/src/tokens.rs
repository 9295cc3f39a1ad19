//! Who may do what: tokens with a role, bound to namespaces.

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::{Commit, Compare, Store, StoreError, Write};

const PREFIX: &str = "tokens/";

/// What a token's holder may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Everything.
    Admin,
    /// Read and change resources, instances and configuration of its namespaces.
    Developer,
    /// Read everything of its namespaces, and the audit.
    Auditor,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Auditor => "auditor",
        })
    }
}

/// Whose token it is, and what for. The token itself is nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Holder {
    /// Who it is in versions and in the audit.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: Role,
    /// Where; everywhere if empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) namespaces: BTreeSet<String>,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub(crate) created: Option<String>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Look at what is served.
    Read,
    /// Look at what is served to all namespaces.
    ReadAll,
    /// Change what is served.
    Write,
    /// Read the audit.
    Audit,
    /// Say who may do what.
    Administer,
}

impl Holder {
    /// Whether it may. Without a namespace, the whole of the control plane is meant.
    pub(crate) fn may(&self, verb: Verb, namespace: Option<&str>) -> bool {
        let is_there = self.namespaces.is_empty()
            || namespace.is_some_and(|namespace| self.namespaces.contains(namespace));
        let is_theirs = match verb {
            Verb::Read | Verb::ReadAll => true,
            Verb::Write => matches!(self.role, Role::Admin | Role::Developer),
            Verb::Audit => matches!(self.role, Role::Admin | Role::Auditor),
            Verb::Administer => self.role == Role::Admin,
        };
        // What is of no namespace can be read by everyone who may read anything.
        is_theirs && (is_there || (verb == Verb::Read && namespace.is_none()))
    }
}

fn key(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    format!("{PREFIX}{}", hex(hash.as_ref()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token that nobody can guess.
fn fresh() -> Result<String, StoreError> {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).map_err(|_| StoreError::Unavailable("no random numbers".to_owned()))?;
    Ok(format!("weir_{}", hex(&bytes)))
}

/// Makes a token. It is told this once.
pub(crate) async fn create(store: &dyn Store, mut holder: Holder) -> Result<String, StoreError> {
    let token = fresh()?;
    holder.created = Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
    let value = serde_json::to_vec(&holder).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let writes = vec![Write::Put(key(&token), value, None)];
    store.commit(Commit { compares: Vec::new(), writes }).await?;
    Ok(token)
}

/// Whose token it is.
pub(crate) async fn holder(store: &dyn Store, token: &str) -> Result<Option<Holder>, StoreError> {
    let key = key(token);
    let found = store.read(&key).await?;
    Ok(found.entries.get(&key).and_then(|entry| serde_json::from_slice(&entry.value).ok()))
}

/// All holders, with what names their tokens.
pub(crate) async fn list(store: &dyn Store) -> Result<Vec<(String, Holder)>, StoreError> {
    let found = store.read(PREFIX).await?;
    let holder = |(key, entry): (&String, &crate::store::Entry)| {
        let id = key.strip_prefix(PREFIX)?.get(..16)?.to_owned();
        Some((id, serde_json::from_slice(&entry.value).ok()?))
    };
    Ok(found.entries.iter().filter_map(holder).collect())
}

/// Ends a token by what names it. False: there is none.
pub(crate) async fn revoke(store: &dyn Store, id: &str) -> Result<bool, StoreError> {
    if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(false);
    }
    let found = store.read(&format!("{PREFIX}{id}")).await?;
    let Some((key, entry)) = found.entries.into_iter().next() else { return Ok(false) };
    let compares = vec![Compare { key: key.clone(), modified: entry.modified }];
    store.commit(Commit { compares, writes: vec![Write::Delete(key)] }).await?;
    Ok(true)
}

/// The first token of a store that has none: an admin's.
pub(crate) async fn first(store: &dyn Store) -> Result<Option<String>, StoreError> {
    if !store.read(PREFIX).await?.entries.is_empty() {
        return Ok(None);
    }
    let holder =
        Holder { name: "admin".to_owned(), role: Role::Admin, namespaces: BTreeSet::new(), created: None };
    create(store, holder).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_bound_to_their_namespaces() {
        let holder = |role, namespaces: &[&str]| Holder {
            name: "ann".to_owned(),
            role,
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
            created: None,
        };
        use Role::{Admin, Auditor, Developer};
        use Verb::{Administer, Audit, Read, Write};
        for (role, namespaces, verb, namespace, may) in [
            (Admin, &[][..], Administer, None, true),
            (Admin, &["a"][..], Administer, None, false),
            (Developer, &[][..], Write, Some("a"), true),
            (Developer, &["a"][..], Write, Some("a"), true),
            (Developer, &["a"][..], Write, Some("b"), false),
            (Developer, &["a"][..], Read, Some("b"), false),
            (Developer, &["a"][..], Read, None, true),
            (Developer, &[][..], Audit, None, false),
            (Auditor, &[][..], Write, Some("a"), false),
            (Auditor, &[][..], Audit, None, true),
            (Auditor, &["a"][..], Read, Some("a"), true),
            (Auditor, &[][..], Administer, None, false),
        ] {
            assert_eq!(holder(role, namespaces).may(verb, namespace), may, "{role} {verb:?} {namespace:?}");
        }
    }

    #[tokio::test]
    async fn a_token_is_known_until_it_is_revoked() {
        let store = crate::store::Redb::in_memory().expect("a store");
        let token = first(&store).await.expect("made").expect("the first");
        assert_eq!(first(&store).await, Ok(None), "told once");
        assert_eq!(holder(&store, &token).await.expect("read").map(|h| h.role), Some(Role::Admin));
        assert_eq!(holder(&store, "weir_0").await, Ok(None));
        let kept = store.read("").await.expect("read");
        assert!(!format!("{kept:?}").contains(&token), "the token itself is nowhere");
        let id = list(&store).await.expect("read")[0].0.clone();
        assert_eq!(revoke(&store, &id).await, Ok(true));
        assert_eq!(revoke(&store, &id).await, Ok(false));
        assert_eq!(holder(&store, &token).await, Ok(None));
    }
}

//! How versions lie in the store.
//!
//! ```text
//!   head                  the newest version's number
//!   versions/<number>     who made it, when and why, and what every resource that it changed says from then on
//! ```
//! One commit writes both, and compares `head`: of two controllers that make a version at once, one is told to look again.

use std::sync::Arc;

use control_core::model::{ObjectKey, Resource};
use control_core::version::{Catalog, Proposal, Version, Written};
use serde::{Deserialize, Serialize};

use crate::store::{Commit, Compare, Revision, Store, StoreError, Write};

const HEAD: &str = "head";
pub(crate) const VERSIONS: &str = "versions/";

/// What resources say from a version on; none where they are gone.
pub(crate) type Contents = Vec<(ObjectKey, Option<Arc<Resource>>)>;

/// A version as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: Version,
    /// In the order of `version.changes`.
    written: Vec<Written>,
}

/// The versions of a store.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The commit that last wrote `head`.
    head: Revision,
}

fn version_key(number: u64) -> String {
    format!("{VERSIONS}{number:020}")
}

fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("it holds what this program does not understand: {error}"))
}

/// A version and what it wrote.
pub(crate) fn read(value: &[u8]) -> Result<(Arc<Version>, Contents), StoreError> {
    let Record { version, written } = serde_json::from_slice(value).map_err(unreadable)?;
    if written.len() != version.changes.len() {
        return Err(unreadable("a version without its contents"));
    }
    let contents = version.changes.iter().zip(&written);
    let contents = contents.map(|(change, written)| {
        Ok((change.key.clone(), written.read(change.key.kind).map_err(unreadable)?))
    });
    let contents = contents.collect::<Result<_, StoreError>>()?;
    Ok((Arc::new(version), contents))
}

impl Journal {
    /// Everything that the store knows.
    pub(crate) async fn load(store: &dyn Store) -> Result<(Self, Catalog), StoreError> {
        let mut journal = Self::default();
        let mut catalog = Catalog::default();
        journal.catch_up(store, &mut catalog).await?;
        Ok((journal, catalog))
    }

    /// Takes the versions that others made since.
    pub(crate) async fn catch_up(
        &mut self,
        store: &dyn Store,
        catalog: &mut Catalog,
    ) -> Result<(), StoreError> {
        let head = store.read(HEAD).await?;
        self.head = head.entries.get(HEAD).map_or(0, |entry| entry.modified);
        let known = catalog.current().map_or(0, |version| version.number);
        for (key, entry) in store.read(VERSIONS).await?.entries {
            if key > version_key(known) {
                let (version, contents) = read(&entry.value)?;
                catalog.restore(version, contents);
            }
        }
        Ok(())
    }

    /// Makes a version the newest one, with what else is to be written with it.
    pub(crate) async fn append(
        &mut self,
        store: &dyn Store,
        proposal: &Proposal,
        mut compares: Vec<Compare>,
        mut writes: Vec<Write>,
    ) -> Result<Revision, StoreError> {
        let written = proposal.written.iter().map(|(_, after)| Written::new(after.as_ref()));
        let record = Record {
            version: (*proposal.version).clone(),
            written: written.collect::<Result<_, _>>().map_err(unreadable)?,
        };
        let number = record.version.number;
        let record = serde_json::to_vec(&record).map_err(unreadable)?;
        writes.push(Write::Put(version_key(number), record, None));
        writes.push(Write::Put(HEAD.to_owned(), number.to_string().into_bytes(), None));
        compares.push(Compare { key: HEAD.to_owned(), modified: self.head });
        self.head = store.commit(Commit { compares, writes }).await?;
        Ok(self.head)
    }

    /// A version and what it wrote.
    pub(crate) async fn version(
        store: &dyn Store,
        number: u64,
    ) -> Result<Option<(Arc<Version>, Contents)>, StoreError> {
        let key = version_key(number);
        let found = store.read(&key).await?;
        found.entries.get(&key).map(|entry| read(&entry.value)).transpose()
    }
}

//! Versions: every configuration that was ever served, immutable, each with its parent, and what it changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::model::{Kind, ObjectKey, Objects, Resource};

/// One configuration and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Counts up from 1.
    pub number: u64,
    /// The version it replaced.
    pub parent: Option<u64>,
    /// Who made it.
    pub author: String,
    /// When it was taken.
    #[serde(with = "rfc3339")]
    pub time: SystemTime,
    /// Why.
    pub reason: String,
    /// What is different from its parent.
    pub changes: Vec<Change>,
}

/// What a version did with a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The resource.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// What became of it.
    pub action: ChangeAction,
    /// The version that wrote it before, or took it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// What became of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    /// There was none of that name.
    Created,
    /// It says something else.
    Updated,
    /// It is gone.
    Deleted,
}

/// What somebody wants to be different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// The resource is to say this.
    Put(Arc<Resource>),
    /// There is to be no such resource.
    Delete(ObjectKey),
}

impl Edit {
    /// The resource that is meant.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Put(resource) => resource.key(),
            Self::Delete(key) => key.clone(),
        }
    }
}

/// A version that nobody has taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// What it is.
    pub version: Arc<Version>,
    /// All resources with it.
    pub objects: Objects,
    /// What each changed resource says now; none where it is gone.
    pub written: Vec<(ObjectKey, Option<Arc<Resource>>)>,
}

/// The resources as they are, and the versions that led there.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    objects: Objects,
    /// The version that last changed each.
    modified: BTreeMap<ObjectKey, u64>,
    /// The version that took each away that is gone.
    deleted: BTreeMap<ObjectKey, u64>,
    versions: VecDeque<Arc<Version>>,
}

impl Catalog {
    /// Versions that are kept in memory.
    pub const LIMIT: usize = 1_024;

    /// The resources.
    pub const fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The newest version.
    pub fn current(&self) -> Option<&Arc<Version>> {
        self.versions.back()
    }

    /// A version by its number, while it is kept.
    pub fn version(&self, number: u64) -> Option<&Arc<Version>> {
        let first = self.versions.front()?.number;
        self.versions.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// All that are kept, the oldest first.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = &Arc<Version>> {
        self.versions.iter()
    }

    /// The version that last changed a resource.
    pub fn modified(&self, key: &ObjectKey) -> Option<u64> {
        self.modified.get(key).copied()
    }

    /// The version that last changed a resource, or took it away.
    pub fn touched(&self, key: &ObjectKey) -> Option<u64> {
        self.modified.get(key).or_else(|| self.deleted.get(key)).copied()
    }

    /// What the next version would be. `None`: nothing would be different.
    pub fn propose(
        &self,
        edits: impl IntoIterator<Item = Edit>,
        author: &str,
        reason: &str,
        time: SystemTime,
    ) -> Option<Proposal> {
        let mut objects = self.objects.clone();
        let mut written: BTreeMap<ObjectKey, Option<Arc<Resource>>> = BTreeMap::new();
        for edit in edits {
            let key = edit.key();
            let after = match edit {
                Edit::Put(resource) => {
                    let resource = dated(resource, self.objects.get(&key), time);
                    objects.put(resource.clone());
                    Some(resource)
                }
                Edit::Delete(_) => {
                    objects.remove(&key);
                    None
                }
            };
            written.insert(key, after);
        }
        written.retain(|key, after| self.objects.get(key) != after.as_ref());
        if written.is_empty() {
            return None;
        }
        let changes = written.iter().map(|(key, after)| {
            let action = match (self.objects.get(key), after) {
                (None, _) => ChangeAction::Created,
                (Some(_), Some(_)) => ChangeAction::Updated,
                (Some(_), None) => ChangeAction::Deleted,
            };
            Change { key: key.clone(), action, before: self.touched(key) }
        });
        let parent = self.current().map(|version| version.number);
        let version = Version {
            number: parent.unwrap_or(0) + 1,
            parent,
            author: author.to_owned(),
            time,
            reason: reason.to_owned(),
            changes: changes.collect(),
        };
        Some(Proposal { version: Arc::new(version), objects, written: written.into_iter().collect() })
    }

    /// Takes a version that was proposed on the current one.
    pub fn accept(&mut self, proposal: Proposal) {
        let Proposal { version, objects, written } = proposal;
        for (key, after) in written {
            self.note(key, after.is_some(), version.number);
        }
        self.objects = objects;
        self.remember(version);
    }

    /// Takes a version that was made elsewhere, or before: the next one, with what it wrote.
    pub fn restore(&mut self, version: Arc<Version>, written: Vec<(ObjectKey, Option<Arc<Resource>>)>) {
        for (key, after) in written {
            self.note(key.clone(), after.is_some(), version.number);
            match after {
                Some(resource) => drop(self.objects.put(resource)),
                None => drop(self.objects.remove(&key)),
            }
        }
        self.remember(version);
    }

    fn note(&mut self, key: ObjectKey, is_there: bool, number: u64) {
        let (here, gone) = match is_there {
            true => (&mut self.modified, &mut self.deleted),
            false => (&mut self.deleted, &mut self.modified),
        };
        gone.remove(&key);
        here.insert(key, number);
    }

    fn remember(&mut self, version: Arc<Version>) {
        if self.versions.len() == Self::LIMIT {
            self.versions.pop_front();
        }
        self.versions.push_back(version);
    }
}

/// A resource with the time of its making, which is its age among those that want the same. It stays that of the first.
fn dated(resource: Arc<Resource>, before: Option<&Arc<Resource>>, time: SystemTime) -> Arc<Resource> {
    let before = before.and_then(|before| before.metadata().creation_timestamp.clone());
    let given = resource.metadata().creation_timestamp.clone();
    let created = before.or(given).unwrap_or_else(|| humantime::format_rfc3339_millis(time).to_string());
    if resource.metadata().creation_timestamp.as_ref() == Some(&created) {
        return resource;
    }
    let mut dated = Arc::unwrap_or_clone(resource);
    dated.metadata_mut().creation_timestamp = Some(created);
    Arc::new(dated)
}

/// A resource in the store, as the version that wrote it left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written(pub Option<serde_json::Value>);

impl Written {
    /// From what a proposal writes.
    ///
    /// # Errors
    /// As [`Resource::to_value`].
    pub fn new(after: Option<&Arc<Resource>>) -> Result<Self, serde_json::Error> {
        after.map(|resource| resource.to_value()).transpose().map(Self)
    }

    /// The resource, if there is one.
    ///
    /// # Errors
    /// It is not one of that kind: another program wrote it.
    pub fn read(&self, kind: Kind) -> Result<Option<Arc<Resource>>, serde_json::Error> {
        self.0.as_ref().map(|value| Resource::from_value(kind, value).map(Arc::new)).transpose()
    }
}

/// Times as `2026-11-22T08:40:14.007Z`.
mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(super::printable(*time)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339_weak(&text).map_err(de::Error::custom)
    }
}

/// Before 1970 and after 9999 there is no such text.
fn printable(time: SystemTime) -> SystemTime {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    time.clamp(SystemTime::UNIX_EPOCH, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, BackendSpec, Metadata, Object};

    fn backend(name: &str, label: &str) -> Arc<Resource> {
        let mut metadata = Metadata::named("default", name);
        metadata.labels.insert("is".to_owned(), label.to_owned());
        let backend: Backend = Object::new(Kind::Backend, metadata, BackendSpec::default());
        Arc::new(backend.into())
    }

    fn put(catalog: &mut Catalog, resource: Arc<Resource>) -> Option<u64> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(catalog.versions.len() as u64);
        let proposal = catalog.propose([Edit::Put(resource)], "a", "why", time)?;
        let number = proposal.version.number;
        catalog.accept(proposal);
        Some(number)
    }

    #[test]
    fn versions_have_parents_and_do_not_repeat() {
        let mut catalog = Catalog::default();
        assert_eq!(put(&mut catalog, backend("v1", "a")), Some(1));
        assert_eq!(put(&mut catalog, backend("v1", "a")), None);
        assert_eq!(put(&mut catalog, backend("v1", "b")), Some(2));
        let current = catalog.current().expect("two");
        assert_eq!((current.parent, current.changes[0].action), (Some(1), ChangeAction::Updated));
        let created = catalog.objects().iter().next().expect("one").1.metadata().creation_timestamp.clone();
        assert_eq!(created.as_deref(), Some("1970-01-01T00:00:00.000Z"), "the age stays that of the first");
    }

    #[test]
    fn the_history_is_bounded_and_numbers_go_on() {
        let mut catalog = Catalog::default();
        for i in 0..2_000 {
            put(&mut catalog, backend("v1", &i.to_string()));
        }
        assert_eq!(catalog.versions().count(), Catalog::LIMIT);
        assert_eq!(catalog.current().expect("one").number, 2_000);
        assert_eq!(catalog.version(1_999).map(|v| v.number), Some(1_999));
        assert!(catalog.version(5).is_none() && catalog.version(2_001).is_none());
    }

    #[test]
    fn what_is_written_can_be_restored_elsewhere() {
        let mut catalog = Catalog::default();
        let proposal =
            catalog.propose([Edit::Put(backend("v1", "a"))], "a", "", SystemTime::UNIX_EPOCH).expect("new");
        let text = serde_json::to_string(&*proposal.version).expect("written");
        let version: Version = serde_json::from_str(&text).expect("read");
        assert_eq!(version, *proposal.version);
        let mut other = Catalog::default();
        other.restore(Arc::new(version), proposal.written.clone());
        catalog.accept(proposal);
        assert_eq!(other.objects(), catalog.objects());
        let deletion = Edit::Delete(ObjectKey::new(Kind::Backend, "default", "v1"));
        let gone = other.propose([deletion.clone()], "b", "", SystemTime::UNIX_EPOCH).expect("there was one");
        assert_eq!(gone.version.changes[0].action, ChangeAction::Deleted);
        other.accept(gone);
        assert!(other.objects().is_empty());
        assert!(other.propose([deletion], "b", "", SystemTime::UNIX_EPOCH).is_none());
    }
}

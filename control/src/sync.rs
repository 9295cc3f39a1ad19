//! What people keep in files becomes versions: a change of a file is a change of the resources in it.
//!
//! A resource that was changed elsewhere and not in its file stays as it is, and is told of as drift.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use control_core::model::{ObjectKey, Resource};
use control_core::version::Edit;

use crate::audit;
use crate::hub::{Hub, Refused, Wanted};
use crate::store::{Directory, Write};

/// Hashes of what was last taken of each resource of the source: `source/<kind>/<namespace>/<name>`.
const TAKEN: &str = "source/";

/// What is waited before the store is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows a directory.
#[derive(Debug)]
pub(crate) struct Sync {
    directory: Directory,
    hub: Arc<Hub>,
    taken: BTreeMap<ObjectKey, Arc<Resource>>,
    said: Vec<String>,
    /// Resources that say something else than their files, as of a version.
    drift: BTreeSet<ObjectKey>,
    seen: u64,
}

impl Sync {
    pub(crate) const fn new(directory: Directory, hub: Arc<Hub>) -> Self {
        Self { directory, hub, taken: BTreeMap::new(), said: Vec::new(), drift: BTreeSet::new(), seen: 0 }
    }
}

fn taken_key(key: &ObjectKey) -> String {
    format!("{TAKEN}{}/{}/{}", key.kind, key.namespace, key.name)
}

fn hash(resource: &Resource) -> String {
    let value = resource.to_value().map(|value| value.to_string()).unwrap_or_default();
    crate::tokens::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.as_bytes()).as_ref())
}

impl Sync {
    /// Takes what the files say as the process starts. A resource that was changed elsewhere since its file was last taken
    /// stays as it is.
    pub(crate) async fn begin(&mut self) -> Result<(), Refused> {
        let tree = self.directory.follow().borrow().clone();
        let before = self.hub.store.read(TAKEN).await?.entries;
        let state = self.hub.state();
        let is_new = |key: &ObjectKey, resource: &Resource| {
            before.get(&taken_key(key)).is_none_or(|entry| entry.value != hash(resource).as_bytes())
        };
        let mut edits: Vec<_> = tree
            .resources
            .iter()
            .filter(|(key, (_, resource))| is_new(key, resource))
            .map(|(_, (_, resource))| Edit::Put(resource.clone()))
            .collect();
        self.taken =
            tree.resources.iter().map(|(key, (_, resource))| (key.clone(), resource.clone())).collect();
        let gone =
            state.catalog.objects().iter().filter(|(key, _)| {
                before.contains_key(&taken_key(key)) && !tree.resources.contains_key(*key)
            });
        for (key, resource) in gone {
            match tree.refused.is_empty() {
                true => edits.push(Edit::Delete(key.clone())),
                // It may be in what is not understood.
                false => drop(self.taken.insert(key.clone(), resource.clone())),
            }
        }
        self.take_what_can_be(edits).await?;
        self.look_for_drift(self.taken.keys().cloned().collect());
        Ok(())
    }

    /// Follows changes for as long as the process lives.
    pub(crate) async fn follow(mut self) {
        let mut trees = self.directory.follow();
        let mut states = self.hub.states();
        trees.mark_changed();
        loop {
            tokio::select! {
                changed = trees.changed() => if changed.is_err() { return },
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    states.mark_unchanged();
                    self.look_for_drift(Vec::new());
                    continue;
                }
            }
            let tree = trees.borrow_and_update().clone();
            if tree.refused != self.said {
                self.said.clone_from(&tree.refused);
                for refused in &tree.refused {
                    tracing::warn!("refused, what was served of it stays: {refused}");
                    self.hub.refuse(refused.clone());
                }
            }
            let mut now: BTreeMap<_, _> =
                tree.resources.iter().map(|(key, (_, resource))| (key.clone(), resource.clone())).collect();
            let said = now.iter().filter(|(key, resource)| self.taken.get(*key) != Some(*resource));
            let mut edits: Vec<_> = said.map(|(_, resource)| Edit::Put(resource.clone())).collect();
            let gone: Vec<_> = self.taken.iter().filter(|(key, _)| !now.contains_key(*key)).collect();
            match tree.refused.is_empty() {
                true => edits.extend(gone.into_iter().map(|(key, _)| Edit::Delete(key.clone()))),
                // They may be in what is not understood.
                false => now.extend(gone.into_iter().map(|(key, resource)| (key.clone(), resource.clone()))),
            }
            let said = edits.iter().map(Edit::key).collect();
            match self.take_what_can_be(edits).await {
                Ok(()) => {
                    self.taken = now;
                    self.look_for_drift(said);
                    if tree.refused.is_empty() && self.said.is_empty() {
                        self.hub.refusals(|refusals| refusals.current = None);
                    }
                }
                Err(error) => {
                    tracing::warn!("what the source says waits for the store: {error}");
                    self.hub.refuse(error.to_string());
                    tokio::time::sleep(AGAIN).await;
                    trees.mark_changed();
                }
            }
        }
    }

    /// Takes everything at once, or, where something cannot be taken, everything else. An error is one of the store.
    async fn take_what_can_be(&mut self, edits: Vec<Edit>) -> Result<(), Refused> {
        let refused = match self.take(edits.clone()).await {
            Err(refused @ Refused::Invalid(_)) if edits.len() == 1 => vec![refused],
            Err(Refused::Invalid(_)) => {
                let mut refused = Vec::new();
                for edit in edits {
                    match self.take(vec![edit]).await {
                        Err(invalid @ Refused::Invalid(_)) => refused.push(invalid),
                        other => other?,
                    }
                }
                refused
            }
            other => return other,
        };
        for reason in refused {
            tracing::warn!("refused, what was served of it stays: {reason}");
            self.said.push(reason.to_string());
            self.hub.refuse(reason.to_string());
        }
        Ok(())
    }

    async fn take(&mut self, edits: Vec<Edit>) -> Result<(), Refused> {
        let path = self.directory.path().display().to_string();
        if !edits.is_empty() {
            let event = audit::Event {
                trace_id: String::new(),
                operator: "file".to_owned(),
                action: "apply".to_owned(),
                target_env: String::new(),
                details: format!("{path} changed"),
            };
            let beside = edits.iter().map(remembered).collect();
            let wanted = Wanted {
                edits,
                author: "file".to_owned(),
                reason: format!("{path} changed"),
                expected: Vec::new(),
                event: Some(event),
                beside,
                is_dry_run: false,
            };
            let done = self.hub.change(wanted).await?;
            if let Some(version) = done.version {
                tracing::info!(version = version.number, source = path, "configuration taken");
            }
            for warning in done.warnings {
                tracing::warn!("{warning}");
            }
        }
        Ok(())
    }

    /// Which resources say something else than their files: of these, of those that the newest version wrote, and of those
    /// that did before.
    fn look_for_drift(&mut self, mut keys: Vec<ObjectKey>) {
        let state = self.hub.state();
        let newest = state.catalog.current().map_or(0, |version| version.number);
        match newest.saturating_sub(self.seen) {
            0 => {}
            1 => keys.extend(state.contents.iter().map(|(key, _)| key.clone())),
            _ => keys.extend(self.taken.keys().cloned()),
        }
        self.seen = newest;
        keys.extend(self.drift.iter().cloned());
        for key in keys {
            let differs = self.taken.get(&key).is_some_and(|resource| {
                state.catalog.objects().get(&key).is_none_or(|served| !is_same(resource, served))
            });
            match differs {
                true => drop(self.drift.insert(key)),
                false => drop(self.drift.remove(&key)),
            }
        }
        let drift = self.drift.iter().cloned().collect();
        self.hub.refusals(|refusals| refusals.drift = drift);
    }
}

/// What is remembered of an edit, for the next start.
fn remembered(edit: &Edit) -> Write {
    match edit {
        Edit::Put(resource) => Write::Put(taken_key(&resource.key()), hash(resource).into_bytes(), None),
        Edit::Delete(key) => Write::Delete(taken_key(key)),
    }
}

/// Whether a resource is what its file says, but for the time of its making.
fn is_same(file: &Resource, served: &Resource) -> bool {
    let mut file = file.clone();
    if file.metadata().creation_timestamp.is_none() {
        file.metadata_mut().creation_timestamp.clone_from(&served.metadata().creation_timestamp);
    }
    file == *served
}

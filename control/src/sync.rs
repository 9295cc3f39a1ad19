//! What people keep in files becomes versions: a change of a file is a change of the resources in it.
//!
//! A resource that was changed elsewhere and not in its file stays as it is, and is told of as drift.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_core::model::{ObjectKey, Resource};
use control_core::version::Edit;

use crate::audit;
use crate::hub::{Hub, Refused, Wanted};
use crate::store::{Directory, Write};

/// Hashes of what was last taken of each resource of the source.
const TAKEN: &str = "source";

/// Follows a directory.
#[derive(Debug)]
pub(crate) struct Sync {
    directory: Directory,
    hub: Arc<Hub>,
    taken: BTreeMap<ObjectKey, Arc<Resource>>,
    said: Vec<String>,
}

impl Sync {
    pub(crate) const fn new(directory: Directory, hub: Arc<Hub>) -> Self {
        Self { directory, hub, taken: BTreeMap::new(), said: Vec::new() }
    }
}

/// As it lies in the store, by the resource's name as text.
type Taken = BTreeMap<String, String>;

fn hash(resource: &Resource) -> String {
    let value = resource.to_value().map(|value| value.to_string()).unwrap_or_default();
    crate::tokens::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.as_bytes()).as_ref())
}

impl Sync {
    /// Takes what the files say as the process starts. A resource that was changed elsewhere since its file was last taken
    /// stays as it is.
    pub(crate) async fn begin(&mut self) -> Result<(), Refused> {
        let tree = self.directory.follow().borrow().clone();
        let before: Taken = match self.hub.store.read(TAKEN).await?.entries.get(TAKEN) {
            Some(entry) => serde_json::from_slice(&entry.value).unwrap_or_default(),
            None => Taken::new(),
        };
        let state = self.hub.state();
        let is_new = |key: &ObjectKey, resource: &Resource| {
            before.get(&key.to_string()).is_none_or(|hash_before| *hash_before != hash(resource))
        };
        let mut edits: Vec<_> = tree
            .resources
            .iter()
            .filter(|(key, (_, resource))| is_new(key, resource))
            .map(|(_, (_, resource))| Edit::Put(resource.clone()))
            .collect();
        let gone = state.catalog.objects().iter().map(|(key, _)| key);
        let gone =
            gone.filter(|key| before.contains_key(&key.to_string()) && !tree.resources.contains_key(*key));
        edits.extend(gone.cloned().map(Edit::Delete));
        self.taken =
            tree.resources.iter().map(|(key, (_, resource))| (key.clone(), resource.clone())).collect();
        self.take(edits).await
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
                    self.look_for_drift();
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
            let now: BTreeMap<_, _> =
                tree.resources.iter().map(|(key, (_, resource))| (key.clone(), resource.clone())).collect();
            let said = now.iter().filter(|(key, resource)| self.taken.get(*key) != Some(*resource));
            let mut edits: Vec<_> = said.map(|(_, resource)| Edit::Put(resource.clone())).collect();
            edits.extend(self.taken.keys().filter(|key| !now.contains_key(*key)).cloned().map(Edit::Delete));
            self.taken = now;
            match self.take(edits).await {
                Ok(()) if tree.refused.is_empty() => self.hub.refusals(|refusals| refusals.current = None),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!("the source was refused, the last version stays: {error}");
                    self.hub.refuse(error.to_string());
                }
            }
        }
    }

    async fn take(&self, edits: Vec<Edit>) -> Result<(), Refused> {
        let path = self.directory.path().display();
        if !edits.is_empty() {
            let event = audit::Event {
                trace_id: String::new(),
                operator: "file".to_owned(),
                action: "apply".to_owned(),
                target_env: String::new(),
                details: format!("{path} changed"),
            };
            let wanted = Wanted {
                edits,
                author: "file".to_owned(),
                reason: format!("{path} changed"),
                expected: Vec::new(),
                event: Some(event),
                beside: vec![self.remembered()],
                is_dry_run: false,
            };
            let done = self.hub.change(wanted).await?;
            if let Some(version) = done.version {
                tracing::info!(version = version.number, source = %path, "configuration taken");
            }
            for warning in done.warnings {
                tracing::warn!("{warning}");
            }
        }
        self.look_for_drift();
        Ok(())
    }

    /// What was taken, for the next start.
    fn remembered(&self) -> Write {
        let taken: Taken =
            self.taken.iter().map(|(key, resource)| (key.to_string(), hash(resource))).collect();
        Write::Put(TAKEN.to_owned(), serde_json::to_vec(&taken).unwrap_or_default(), None)
    }

    /// Which resources say something else than their files.
    fn look_for_drift(&self) {
        let state = self.hub.state();
        let is_same = |ours: &Resource, theirs: &Resource| {
            let mut ours = ours.clone();
            ours.metadata_mut().creation_timestamp.clone_from(&theirs.metadata().creation_timestamp);
            ours == *theirs
        };
        let differs = |(key, resource): &(&ObjectKey, &Arc<Resource>)| {
            state.catalog.objects().get(key).is_none_or(|served| !is_same(resource, served))
        };
        let drift = self.taken.iter().filter(differs).map(|(key, _)| key.clone()).collect();
        self.hub.refusals(|refusals| refusals.drift = drift);
    }
}

//! Resources in files, as a store: read whole, watched, taken only when a writer is done.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_core::model::{Document, Memory, ObjectKey, Origin, Refused, Resource, read};
use control_core::version::Written;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tonic::async_trait;

use super::{
    Change as Told, Changes, Commit, Entry, LeaseId, Revision, Snapshot, Store, StoreError, WATCH_QUEUE,
};

/// Quiet after the last event before the source is read, as others may follow.
const SETTLE: Duration = Duration::from_millis(3);
/// As long as somebody writes and says nothing more, wait this long for the end.
const WRITING: Duration = Duration::from_millis(250);
/// Changes that no event tells of (network file systems) are found this often.
const RESCAN: Duration = Duration::from_secs(1);
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A file, or a folder of files that end in `.yaml`, `.yml` or `.json`, as a store that people write with an editor.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
    tree: watch::Sender<Arc<Tree>>,
}

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Counts what was different.
    pub(crate) revision: Revision,
    /// By name. What a file that is not understood said before is still here.
    pub(crate) resources: BTreeMap<ObjectKey, (Origin, Arc<Resource>)>,
    /// What is not understood, a sentence each.
    pub(crate) refused: Vec<String>,
}

impl Directory {
    /// Reads it for the first time. What is not understood is in the tree.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Follower), String> {
        let mut reader = Reader { path: path.clone(), last: None, memory: Memory::default() };
        let content = reader.content()?;
        let tree = reader.read(&content, &Tree::default());
        reader.last = Some(content);
        let directory = Self { path, tree: watch::Sender::new(Arc::new(tree)) };
        Ok((directory.clone(), Follower { directory, reader }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the files say, now and from now on.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Tree>> {
        self.tree.subscribe()
    }
}

/// Reads the files again when they change.
#[derive(Debug)]
pub(crate) struct Follower {
    directory: Directory,
    reader: Reader,
}

#[derive(Debug)]
struct Reader {
    path: PathBuf,
    /// What was last read; `None` where it could not be read.
    last: Option<Content>,
    memory: Memory,
}

/// The bytes of a source at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content(Vec<(PathBuf, String)>);

impl Follower {
    /// Follows changes for as long as the process lives.
    pub(crate) async fn follow(mut self) {
        let (events, mut incoming) = mpsc::unbounded_channel();
        let mut watch = Watch::new(&self.directory.path, events);
        loop {
            // Watched first, then read: a change in between is seen by either.
            watch.refresh();
            self.look();
            settle(&mut incoming, &self.directory.path).await;
        }
    }

    fn look(&mut self) {
        let before = self.directory.tree.borrow().clone();
        let tree = match self.reader.content() {
            Ok(content) if self.reader.last.as_ref() == Some(&content) => return,
            Ok(content) => {
                let tree = self.reader.read(&content, &before);
                self.reader.last = Some(content);
                tree
            }
            // Said once, not at every rescan.
            Err(_) if self.reader.last.is_none() => return,
            Err(refused) => {
                self.reader.last = None;
                Tree { refused: vec![refused], ..(*before).clone() }
            }
        };
        let is_different = tree.resources != before.resources;
        let revision = before.revision + u64::from(is_different);
        self.directory.tree.send_replace(Arc::new(Tree { revision, ..tree }));
    }
}

impl Reader {
    fn content(&self) -> Result<Content, String> {
        let unreadable = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let metadata = std::fs::metadata(&self.path).map_err(|e| unreadable(&self.path, e))?;
        let files = if metadata.is_dir() {
            files_in(&self.path).map_err(|e| unreadable(&self.path, e))?
        } else {
            vec![self.path.clone()]
        };
        let read = |path: PathBuf| {
            let text = read_file(&path).map_err(|e| unreadable(&path, e))?;
            Ok((path, text))
        };
        files.into_iter().map(read).collect::<Result<_, _>>().map(Content)
    }

    /// What the files say. Where one is not understood, nothing that it said before is gone.
    fn read(&mut self, content: &Content, before: &Tree) -> Tree {
        self.memory.begin();
        let mut tree = Tree { revision: before.revision, ..Tree::default() };
        for (file, text) in &content.0 {
            let name: Arc<str> = file.display().to_string().into();
            let mut is_whole = true;
            for Document { origin, content } in read(&name, text, &mut self.memory) {
                let refused = match content {
                    Ok(resource) => tree.take(origin, resource).err(),
                    Err(refused) => Some(refused),
                };
                is_whole &= refused.is_none();
                tree.refused.extend(refused.map(|refused| refused.to_string()));
            }
            if !is_whole {
                let of_file = before.resources.iter().filter(|(_, (origin, _))| origin.file == name);
                for (key, said) in of_file {
                    tree.resources.entry(key.clone()).or_insert_with(|| said.clone());
                }
            }
        }
        // Nothing at all is what a file looks like while it is being written, and what a wrong mount looks like.
        if tree.resources.is_empty() && tree.refused.is_empty() {
            tree.refused.push(format!("{}: the source holds no resources", self.path.display()));
        }
        if tree.resources.is_empty() {
            tree.resources.clone_from(&before.resources);
        }
        tree
    }
}

impl Tree {
    fn take(&mut self, origin: Origin, resource: Arc<Resource>) -> Result<(), Refused> {
        let key = resource.key();
        if let Some((first, _)) = self.resources.get(&key) {
            let message = format!("{key} is already defined in {first}");
            return Err(Refused { file: origin.file, line: origin.line, column: 1, message, key: Some(key) });
        }
        self.resources.insert(key, (origin, resource));
        Ok(())
    }

    fn entries(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let entry = |(key, (_, resource)): (&ObjectKey, &(Origin, Arc<Resource>))| {
            let path = format!("objects/{}/{}/{}", key.kind, key.namespace, key.name);
            let value = Written::new(Some(resource)).ok()?;
            Some((path, serde_json::to_vec(&value).ok()?))
        };
        self.resources.iter().filter_map(entry).filter(|(key, _)| key.starts_with(prefix)).collect()
    }
}

#[async_trait]
impl Store for Directory {
    async fn read(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let tree = self.tree.borrow().clone();
        let revision = tree.revision;
        let entry = |(key, value)| (key, Entry { value, modified: revision });
        Ok(Snapshot { revision, entries: tree.entries(prefix).into_iter().map(entry).collect() })
    }

    async fn commit(&self, _: Commit) -> Result<Revision, StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Changes, StoreError> {
        let mut trees = self.follow();
        let mut before = trees.borrow_and_update().clone();
        // Files have no past.
        if from < before.revision {
            return Err(StoreError::Compacted(before.revision));
        }
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let prefix = prefix.to_owned();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = trees.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let tree = trees.borrow_and_update().clone();
                let (old, new) = (before.entries(&prefix), tree.entries(&prefix));
                let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), None));
                let said = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
                let said = said.map(|(key, value)| (key.clone(), Some(value.clone())));
                for (key, value) in gone.chain(said) {
                    let change = Told { revision: tree.revision, key, value };
                    if sender.send(Ok(change)).await.is_err() {
                        return;
                    }
                }
                before = tree;
            }
        });
        Ok(receiver)
    }

    async fn grant(&self, _: Duration) -> Result<LeaseId, StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn keep_alive(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }
}

/// The folder's own files by name. Hidden ones are left out: editors and Kubernetes keep theirs there.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // Follows links, as Kubernetes mounts each file as one.
        if known && !hidden && std::fs::metadata(&path).is_ok_and(|m| m.is_file()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read_to_string(path)
}

/// Waits for a change, or a rescan, and then until no file is being written; for a second at most, as somebody may never
/// stop.
async fn settle(events: &mut mpsc::UnboundedReceiver<Change>, source: &Path) {
    let Ok(Some(first)) = timeout_at(Instant::now() + RESCAN, events.recv()).await else { return };
    let limit = Instant::now() + RESCAN;
    let mut open = BTreeSet::new();
    let mut change = first;
    loop {
        match change {
            Change::Writing(path) => drop(open.insert(path)),
            Change::Done(path) => drop(open.remove(&path)),
            // All there is came at once.
            Change::Moved(path) if path == source && open.is_empty() => return,
            Change::Moved(path) => drop(open.remove(&path)),
        }
        let quiet = if open.is_empty() { SETTLE } else { WRITING };
        match timeout_at(limit.min(Instant::now() + quiet), events.recv()).await {
            Ok(Some(next)) => change = next,
            Ok(None) | Err(_) => return,
        }
    }
}

/// What an event says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// It is new, or its content changes: the writer has it open, or will put something in its place.
    Writing(PathBuf),
    /// It is whole: closed, linked.
    Done(PathBuf),
    /// Another file was put in its place, whole.
    Moved(PathBuf),
}

impl Change {
    fn of(event: &Event) -> Option<Self> {
        // Of a rename, the last path is the new one.
        let path = event.paths.last()?.clone();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Self::Done(path)),
            EventKind::Modify(ModifyKind::Data(_))
            | EventKind::Create(CreateKind::File)
            | EventKind::Remove(_) => Some(Self::Writing(path)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Some(Self::Moved(path)),
            EventKind::Access(_) => None,
            _ => Some(Self::Done(path)),
        }
    }
}

/// Whether a change of `path` can be one of the source: of a file of its kinds, of a link, or of a folder. A log that
/// grows beside the source is neither.
fn concerns(source: &Path, path: &Path) -> bool {
    let is_resource = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    let is_plain_file = path.symlink_metadata().is_ok_and(|m| m.is_file());
    path == source || path.file_name() == source.file_name() || is_resource || !is_plain_file
}

/// The folders whose events matter: those of the path and of what it links to, as a swap of a link changes nothing in the
/// folder that the old file was in.
struct Watch {
    path: PathBuf,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Watch {
    fn new(path: &Path, events: mpsc::UnboundedSender<Change>) -> Self {
        let source = path.to_owned();
        let handler = move |event: notify::Result<Event>| {
            let event = event.ok().filter(|e| e.paths.iter().any(|path| concerns(&source, path)));
            if let Some(change) = event.as_ref().and_then(Change::of) {
                let _ = events.send(change);
            }
        };
        let watcher = notify::recommended_watcher(handler);
        if let Err(error) = &watcher {
            tracing::warn!(%error, "changes are found by looking once a second only");
        }
        Self { path: path.to_owned(), watcher: watcher.ok(), watched: BTreeSet::new() }
    }

    fn refresh(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = folders(&self.path);
        for gone in self.watched.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        self.watched.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            if !self.watched.contains(&folder) && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(folder);
            }
        }
    }
}

fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut add = |path: &Path| {
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        folders.extend(folder.map(|f| if f.as_os_str().is_empty() { Path::new(".") } else { f }.to_owned()));
    };
    add(path);
    if let Ok(target) = path.canonicalize() {
        add(&target);
    }
    // A folder's entries may be links into another folder, which is swapped as a whole.
    for entry in path.read_dir().into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_symlink())
            && let Ok(target) = entry.path().canonicalize()
        {
            add(&target);
        }
    }
    folders
}

#[cfg(test)]
mod tests;

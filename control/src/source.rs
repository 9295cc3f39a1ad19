//! Resources in files: read whole, watched, taken only when a writer is done.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_core::model::{Memory, Objects, read};
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::hub::{Hub, RefusedSource};

/// Quiet after the last event before the source is read, as others may follow.
const SETTLE: Duration = Duration::from_millis(3);
/// As long as somebody writes and says nothing more, wait this long for the end.
const WRITING: Duration = Duration::from_millis(250);
/// Changes that no event tells of (network file systems) are found this often.
const RESCAN: Duration = Duration::from_secs(1);
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A file, or a folder of files that end in `.yaml`, `.yml` or `.json`.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    /// What was last read, taken or refused; `None` where it could not be read.
    last: Option<Content>,
    memory: Memory,
}

/// The bytes of a source at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content(Vec<(PathBuf, String)>);

impl Source {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, last: None, memory: Memory::default() }
    }

    /// Reads the source and takes it as the first version.
    pub(crate) fn load(&mut self, hub: &Hub) -> Result<(), RefusedSource> {
        let content = self.content()?;
        take(hub, &content, &self.path, &mut self.memory)?;
        self.last = Some(content);
        Ok(())
    }

    /// Follows changes for as long as the process lives.
    pub(crate) async fn follow(mut self, hub: Arc<Hub>) {
        let (events, mut incoming) = mpsc::unbounded_channel();
        let mut watch = Watch::new(&self.path, events);
        loop {
            // Watched first, then read: a change in between is seen by either.
            watch.refresh();
            if let Err(refused) = self.take_changes(&hub) {
                tracing::warn!("the source was refused, the last version stays: {refused}");
                hub.refuse(&refused);
            }
            settle(&mut incoming, &self.path).await;
        }
    }

    fn take_changes(&mut self, hub: &Hub) -> Result<(), RefusedSource> {
        match self.content() {
            Ok(content) if self.last.as_ref() == Some(&content) => Ok(()),
            Ok(content) => {
                let taken = take(hub, &content, &self.path, &mut self.memory);
                self.last = Some(content);
                taken
            }
            // Said once, not at every rescan.
            Err(_) if self.last.is_none() => Ok(()),
            Err(refused) => {
                self.last = None;
                Err(refused)
            }
        }
    }

    fn content(&self) -> Result<Content, RefusedSource> {
        let unreadable =
            |path: &Path, error: io::Error| RefusedSource(format!("{}: {error}", path.display()));
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
}

fn take(hub: &Hub, content: &Content, path: &Path, memory: &mut Memory) -> Result<(), RefusedSource> {
    memory.begin();
    let mut objects = Objects::default();
    for (file, text) in &content.0 {
        let name: Arc<str> = file.display().to_string().into();
        read(&name, text, memory, &mut objects).map_err(|error| RefusedSource(error.to_string()))?;
    }
    let reason = format!("{} changed", path.display());
    if let Some(version) = hub.take(&objects, "file", &reason)? {
        tracing::info!(version = version.number, source = %path.display(), "configuration taken");
    }
    Ok(())
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

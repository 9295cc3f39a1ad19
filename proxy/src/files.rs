//! Files that hold resources (`path_config_source`): read at the start, and again when they, or a symbolic link on the way
//! to them, are replaced.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use proxy_core::xds::Rejection;
use tokio::sync::mpsc;
use xds_proto::envoy::service::discovery::v3::DiscoveryResponse;
use xds_proto::{gate, json};

use crate::controller::SharedController;

/// Some file systems report no changes: everything is looked at again after this.
const POLL: Duration = Duration::from_secs(1);
/// Several events make one replacement.
const SETTLE: Duration = Duration::from_millis(2);

/// What tells one content of a file from the next without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It was taken.
    Taken,
    /// It was refused beside the configuration of this generation: beside another one it may be taken.
    Refused(u64),
}

type Followed = BTreeMap<(&'static str, Arc<str>), (Option<Stamp>, Fate)>;

/// Follows the files that the configuration names, for as long as the process lives.
pub(crate) async fn follow(controller: SharedController) {
    let (events, mut incoming) = mpsc::unbounded_channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event as well, and says nothing.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = events.send(());
        }
    });
    let mut watcher =
        watcher.inspect_err(|error| tracing::warn!(%error, "files are looked at once a second only")).ok();
    let changed = controller.borrow().changed();
    let mut followed = Followed::new();
    let mut watched: Vec<PathBuf> = Vec::new();
    loop {
        // Listeners that a file brings may name other files.
        while look(&controller, &mut followed) {
            watch(watcher.as_mut(), &followed, &mut watched);
        }
        watch(watcher.as_mut(), &followed, &mut watched);
        tokio::select! {
            event = incoming.recv() => {
                if event.is_none() {
                    tokio::time::sleep(POLL).await;
                }
                tokio::time::sleep(SETTLE).await;
                while incoming.try_recv().is_ok() {}
            }
            () = changed.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Takes every file that changed. Whether there was one.
fn look(controller: &SharedController, followed: &mut Followed) -> bool {
    let wanted = controller.borrow().client.wanted_files();
    followed.retain(|file, _| wanted.contains(file));
    let mut took = false;
    for (type_url, path) in wanted {
        let stamp = stamp(Path::new(&*path));
        let is_known = followed.get(&(type_url, path.clone())).is_some_and(|(known, fate)| {
            let controller = controller.borrow();
            *known == stamp
                && match fate {
                    // What a listener that came back wants may have been let go of meanwhile.
                    Fate::Taken => controller.client.resources().holds_file(type_url, &path),
                    Fate::Refused(generation) => *generation == controller.snapshot().generation,
                }
        });
        if is_known {
            continue;
        }
        took = true;
        let started = Instant::now();
        let is_taken = match read(&path, type_url) {
            Ok((response, source)) => {
                let read = started.elapsed();
                let is_taken = controller.borrow_mut().receive_file(&path, response, &source);
                tracing::debug!(%path, ?read, taken = ?started.elapsed(), "a file was looked at");
                is_taken
            }
            Err(reason) => {
                controller.borrow_mut().refuse_file(type_url, &reason);
                // Nothing but another content helps.
                true
            }
        };
        let generation = controller.borrow().snapshot().generation;
        let fate = if is_taken { Fate::Taken } else { Fate::Refused(generation) };
        followed.insert((type_url, path), (stamp, fate));
    }
    took
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
    })
}

/// Where resources come from, for the places of what is refused.
#[derive(Debug)]
pub(crate) struct Source {
    path: Arc<str>,
    text: String,
    /// The names of the resources, in their order.
    names: Vec<Option<String>>,
    /// Places that may still be looked for: each costs a walk through the text.
    places: Cell<u32>,
}

/// The most places that are looked for in one text.
const MOST_PLACES: u32 = 50;

/// Envoy's form: a DiscoveryResponse, as JSON or YAML. Resources of other types than the one that is wanted are refused with
/// it. An error begins with the file and the place.
pub(crate) fn read(path: &Arc<str>, type_url: &str) -> Result<(DiscoveryResponse, Source), String> {
    let text = std::fs::read_to_string(&**path).map_err(|error| format!("{path}: {error}"))?;
    parse(path, text, type_url)
}

/// The same of a text that was read.
pub(crate) fn parse(
    path: &Arc<str>,
    text: String,
    type_url: &str,
) -> Result<(DiscoveryResponse, Source), String> {
    // Keys that are not known are errors here.
    let (mut response, _) = json::read::<DiscoveryResponse>(&text).map_err(|error| match error.place {
        Some(_) => format!("{path}:{error}"),
        None => format!("{path}: {error}"),
    })?;
    type_url.clone_into(&mut response.type_url);
    let names = response.resources.iter().map(|any| gate::resource_name(&any.value)).collect();
    Ok((response, Source { path: path.clone(), text, names, places: Cell::new(MOST_PLACES) }))
}

impl Source {
    /// The file.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Where something of a resource stands, as `file:line:column`; the file alone where there is no such resource.
    pub(crate) fn place_of(&self, resource: &str, path: &str) -> Option<String> {
        let index = self.names.iter().position(|name| name.as_deref() == Some(resource))?;
        let left = self.places.get();
        self.places.set(left.saturating_sub(1));
        let place = match left {
            0 => None,
            _ => json::place_of(&self.text, &format!("resources[{index}].{path}")),
        };
        Some(place.map_or_else(|| self.path.to_string(), |place| format!("{}:{place}", self.path)))
    }

    /// A refusal of one of the resources, with the place.
    pub(crate) fn describe(&self, rejection: &Rejection) -> String {
        let place = rejection.resource.as_deref().and_then(|name| self.place_of(name, &rejection.path));
        format!("{}: {rejection}", place.as_deref().unwrap_or(&self.path))
    }
}

/// Watches the folders of the files, and those that links on the way lead to.
fn watch(watcher: Option<&mut RecommendedWatcher>, followed: &Followed, watched: &mut Vec<PathBuf>) {
    let Some(watcher) = watcher else { return };
    let mut wanted = Vec::new();
    for (_, path) in followed.keys() {
        let path = Path::new(&**path);
        let folders = [
            path.parent().map(Path::to_owned),
            path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned)),
        ];
        for folder in folders.into_iter().flatten() {
            let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
            if !wanted.contains(&folder) {
                wanted.push(folder);
            }
        }
    }
    for folder in watched.extract_if(.., |folder| !wanted.contains(folder)) {
        let _ = watcher.unwatch(&folder);
    }
    for folder in wanted {
        if !watched.contains(&folder) && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
            watched.push(folder);
        }
    }
}

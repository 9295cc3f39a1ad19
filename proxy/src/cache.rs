//! The last accepted configuration, on disk: a proxy that starts while its control plane is away serves what it served before.
//!
//! The file is one line that names its form, who wrote it and a checksum, and then responses as they came, resource by
//! resource with their versions. Private keys are never in it: what holds one is left out, and so is not served before the
//! control plane is back.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use xds_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use xxhash_rust::xxh3::xxh3_64;

use crate::controller::SharedController;

/// The form of the file.
const FORM: &str = "weir-xds-cache/1";
/// The most that is read.
const MAX_BYTES: u64 = 1 << 30;
/// How long changes are gathered before they are written.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("is not a configuration that weir-proxy has written")]
    Form,
    #[error("is damaged: its checksum is another one")]
    Damaged,
    #[error("is of another node, {0:?}")]
    OfAnother(String),
}

/// What a file holds, and when it was written.
pub(crate) struct Cached {
    pub(crate) responses: Vec<DeltaDiscoveryResponse>,
    pub(crate) written: Option<SystemTime>,
}

/// Reads a file; none where there is none.
pub(crate) fn read(path: &Path, node: &str) -> Result<Option<Cached>, CacheError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let written = file.metadata()?.modified().ok();
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(CacheError::Form)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| CacheError::Form)?;
    let mut words = head.splitn(3, ' ');
    if words.next() != Some(FORM) {
        return Err(CacheError::Form);
    }
    let (sum, of) = words.next().zip(words.next()).ok_or(CacheError::Form)?;
    let mut body = &bytes[end + 1..];
    if sum != format!("{:016x}", xxh3_64(body)) {
        return Err(CacheError::Damaged);
    }
    if of != node {
        return Err(CacheError::OfAnother(of.to_owned()));
    }
    let mut responses = Vec::new();
    while !body.is_empty() {
        let response = DeltaDiscoveryResponse::decode_length_delimited(&mut body);
        responses.push(response.map_err(|_| CacheError::Form)?);
    }
    Ok(Some(Cached { responses, written }))
}

/// Replaces a file as a whole: whoever reads it sees the old one or the new one. Nothing is written where it would say what it
/// said `last`, or nothing. Returns the checksum.
fn write(
    path: &Path,
    node: &str,
    responses: &[DeltaDiscoveryResponse],
    last: Option<u64>,
) -> io::Result<u64> {
    let body: Vec<u8> =
        responses.iter().flat_map(|response| response.encode_length_delimited_to_vec()).collect();
    let sum = xxh3_64(&body);
    if last == Some(sum) || responses.is_empty() {
        return Ok(sum);
    }
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let next = PathBuf::from(next);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    // One that was there already may be open to others.
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{FORM} {sum:016x} {node}")?;
    file.write_all(&body)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    Ok(sum)
}

/// Writes what was accepted whenever it has changed, for as long as the process lives.
pub(crate) async fn keep(controller: SharedController, path: PathBuf) {
    let changed = controller.borrow().changed();
    let mut last = None;
    loop {
        // Armed before the state is looked at: what changes while it is written is written next.
        let mut next = pin!(changed.notified());
        next.as_mut().enable();
        // What came from the file says nothing new.
        let is_stale = controller.borrow().is_stale();
        if !is_stale {
            let (node, responses) = {
                let controller = controller.borrow();
                (controller.node.id.clone(), controller.client.accepted())
            };
            let to = path.clone();
            let written = tokio::task::spawn_blocking(move || write(&to, &node, &responses, last)).await;
            match written.map_err(io::Error::other).and_then(|written| written) {
                Ok(sum) => last = Some(sum),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the configuration cannot be kept");
                }
            }
        }
        next.await;
        tokio::time::sleep(PAUSE).await;
    }
}

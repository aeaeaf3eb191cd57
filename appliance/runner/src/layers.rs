//! The layers of all images: each unpacked once, sealed, and mounted for whoever runs on it.
//!
//! ```text
//! layers/HEX.erofs       a sealed layer, root's, mode 0444; nothing else counts
//! unpack/TICKET/tree     a layer that is being unpacked, owned by a slot
//! unpack/TICKET/layer    the same on its way to be sealed
//! m/base/N               a sealed layer that is in use, mounted
//! m/SLOT/N               the same with the slot's ids, for the slot's jail to stack
//! ```
//!
//! A layer's name is the digest of its *blob*, packed as it came, and not the digest of its tar (the diff id),
//! though the tar is what it holds. The provider has verified that the blob is what its name says. The diff id
//! is computed by the unpacker, from bytes that a stranger chose; a source that took the unpacker over could
//! have it say any diff id, and so put its own files in the place of a layer that others use. About the blob's
//! name it has no say: the worst that it can spoil is its own layer. The diff id is still compared, once, when
//! the layer is made; an image that gives another one for a blob that is already here is not looked at twice.
//!
//! Invariants: a sealed layer never changes; one is made by one caller at a time; one that somebody holds is
//! neither removed nor unmounted; mounts live in the runner's own mount namespace, so none outlives it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use runner::image::{Content, ImageLayer};
use runner::layer::Bounds;
use runner::protocol::{Digest, Exit, Refusal, SOURCES_MAX};

use crate::link::{Link, LinkError, Watch};
use crate::orders::{Order, StepFailed};
use crate::slots::Slot;
use crate::state_dir::{StateError, failed, list, make_dir, remove_abandoned};

mod collect;
mod make;
mod mount;
mod sealed;

pub(crate) use collect::{CacheLimits, LayerInfo};
pub(crate) use mount::Held;

use make::Maker;
use sealed::Superblock;

/// All layers.
#[derive(Debug)]
pub(crate) struct Layers {
    state: PathBuf,
    link: Arc<Link>,
    limits: CacheLimits,
    table: Mutex<Table>,
    made: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    making: BTreeSet<Digest>,
    mounted: BTreeMap<Digest, Mounted>,
    /// Of slots that have held something; at most [`SOURCES_MAX`] of those that hold nothing now.
    namespaces: BTreeMap<Slot, Arc<OwnedFd>>,
}

/// A layer that is mounted, under a number that makes short names.
#[derive(Debug)]
struct Mounted {
    number: u32,
    /// How many hold it, by slot.
    holders: BTreeMap<Slot, u32>,
}

/// A layer that stands sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Bytes of file content written; 0 if `already`.
    pub(crate) bytes: u64,
    /// Entries read; 0 if `already`.
    pub(crate) entries: u64,
    /// What it takes of its image's bounds.
    pub(crate) weight: Bounds,
    /// It had been made before.
    pub(crate) already: bool,
}

/// Why there is no such layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayersError {
    #[error(transparent)]
    File(#[from] StateError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{operation} the layer at {}", path.display())]
    Mount {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The content store.
    #[error(transparent)]
    Blob(Refusal),
    #[error("{detail}")]
    Refused { detail: String },
    #[error("the layer's tar has digest sha256:{found} instead of {expected}")]
    DiffId { expected: Digest, found: String },
    #[error("no space to unpack a layer: {detail}")]
    NoSpace { detail: String },
    #[error("a step of the unpacker or of the sealing failed")]
    Step(#[source] StepFailed),
    #[error("mkfs.erofs is not below /usr; install the Debian package erofs-utils")]
    NoSealer,
    #[error("mkfs.erofs ended with {exit:?}: {complaint}")]
    SealFailed { exit: Exit, complaint: String },
    #[error("mkfs.erofs did not end within {0:?}")]
    SealTimeout(Duration),
    #[error("layer {digest} is not here; prepare the image again")]
    Absent { digest: Digest },
    #[error("layer {digest} was damaged and has been thrown away; prepare the image again")]
    Damaged { digest: Digest },
}

// === impl Layers ===

impl Layers {
    /// Takes over the layers below `state`, and removes what an earlier runner left half made or the disk has
    /// damaged. Nobody else may use the directory.
    pub(crate) fn open(state: &Path, link: Arc<Link>, limits: CacheLimits) -> Result<Self, LayersError> {
        // A private image is not for every user of the host who knows its digest.
        for (name, mode) in [("layers", 0o700), ("unpack", 0o711), ("m", 0o711), ("m/base", 0o700)] {
            make_dir(&state.join(name), mode)?;
        }
        for tree in list(&state.join("unpack"))? {
            remove_abandoned(&tree)?;
        }
        for path in list(&state.join("layers"))? {
            if sealed::digest_of(&path).is_none() || Superblock::read(&path).is_err() {
                tracing::warn!(path = %path.display(), "a layer that is not whole is removed");
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        let state = state.to_owned();
        Ok(Self { state, link, limits, table: Mutex::default(), made: Condvar::new() })
    }

    /// Whether the layer stands sealed.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.sealed(digest).is_file()
    }

    /// Unpacks and seals `layer` with the ids of `slot`, unless it stands. Waits for whoever is at it already.
    pub(crate) fn keep(
        &self,
        slot: Slot,
        layer: &ImageLayer,
        content: &Content,
        bounds: Bounds,
    ) -> Result<Kept, LayersError> {
        let digest = &layer.digest;
        let mut table = self.table();
        loop {
            let path = self.sealed(digest);
            match Superblock::read(&path) {
                Ok(found) => return kept_before(&path, found, bounds),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) if table.mounted.contains_key(digest) => {
                    return Err(LayersError::Mount { operation: "read the superblock of", path, source });
                }
                Err(error) => {
                    tracing::warn!(layer = %digest, %error, "a damaged layer is removed");
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            }
            if table.making.insert(digest.clone()) {
                break;
            }
            // Bounded by the maker's own deadlines.
            table = self.made.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        drop(table);
        let _turn = Turn { layers: self, digest };
        Maker { state: &self.state, link: &self.link, slot }.make(layer, content, bounds)
    }

    /// Mounts the layers of an image, lowest first, for the jail of `slot`, until the answer is dropped.
    pub(crate) fn hold(self: &Arc<Self>, slot: Slot, layers: &[Digest]) -> Result<Held, LayersError> {
        let namespace = self.namespace(slot)?;
        let mut held = Held::nothing(self.clone(), slot);
        let mounted = {
            let mut table = self.table();
            // Overlayfs takes no layer twice. Where one lies over itself, the upper shows all of the lower.
            let topmost = layers.iter().enumerate().filter(|(at, layer)| !layers[at + 1..].contains(layer));
            topmost.map(|(_, layer)| layer).try_for_each(|layer| self.mount(&mut table, &mut held, layer, &namespace))
        };
        // Only now, without the table, may what has been mounted go again.
        mounted.map(|()| held)
    }

    /// The user namespace whose ids are the slot's.
    fn namespace(&self, slot: Slot) -> Result<Arc<OwnedFd>, LayersError> {
        if let Some(namespace) = self.table().namespaces.get(&slot) {
            return Ok(namespace.clone());
        }
        let ticket = self.link.ticket();
        let order = Order::MapIds { ticket, slot };
        let (_, fds) = self.link.order(ticket, &order, &[], Arc::new(Watch::default()))?;
        let namespace = fds.into_iter().next().map(Arc::new).ok_or(LinkError::Silent)?;
        let mut table = self.table();
        let Table { namespaces, mounted, .. } = &mut *table;
        if namespaces.len() >= SOURCES_MAX {
            namespaces.retain(|slot, _| mounted.values().any(|mounted| mounted.holders.contains_key(slot)));
        }
        namespaces.insert(slot, namespace.clone());
        Ok(namespace)
    }

    fn sealed(&self, digest: &Digest) -> PathBuf {
        sealed::path(&self.state, digest)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a layer that stands takes of its image's bounds. What was counted when it was made is not known any more;
/// what it is on the disk is near.
fn kept_before(path: &Path, found: Superblock, bounds: Bounds) -> Result<Kept, LayersError> {
    touch(path)?;
    let weight = Bounds { bytes: found.bytes, entries: found.inodes };
    if weight.bytes > bounds.bytes || weight.entries > bounds.entries {
        let detail = "its layers together are more than an image may unpack to".to_owned();
        return Err(LayersError::Refused { detail });
    }
    Ok(Kept { bytes: 0, entries: 0, weight, already: true })
}

/// One maker's turn at one layer.
struct Turn<'a> {
    layers: &'a Layers,
    digest: &'a Digest,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.layers.table().making.remove(self.digest);
        self.layers.made.notify_all();
    }
}

/// Notes that a layer is used: what is collected is what was not used for longest.
fn touch(path: &Path) -> Result<(), StateError> {
    File::open(path).and_then(|file| file.set_modified(SystemTime::now())).map_err(failed("touch", path))
}

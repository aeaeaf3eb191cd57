//! Mounts sealed layers: once as they are, and once for each slot that stacks them, with the slot's ids.
//!
//! An image speaks of ids 0 to 65535, and so does its sealed layer; an id-mapped mount shows them as the ids of
//! a slot without a byte being written. Both mounts are read-only, and neither a set-uid bit nor a device of a
//! layer means anything there, even if whoever sealed it put one in.
//!
//! What the kernel reads was written by the distribution's program, not by the layer's author, who would have to
//! take over a confined program first to hand the kernel bytes of their own.
//!
//! The kernel reads the file itself, without a block device (erofs since 6.12).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runner::protocol::Digest;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::sealed::Superblock;
use super::{Layers, LayersError, Mounted, Table, touch};
use crate::kernel::{mount_add_attributes, mount_map_ids};
use crate::slots::Slot;
use crate::state_dir::make_dir;

const SEALED: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NOSUID).union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// What overlayfs asks of a directory; of the root of a layer it does not.
const OPAQUE: &str = "user.overlay.opaque";

/// Layers that are mounted for one jail, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    layers: Arc<Layers>,
    slot: Slot,
    digests: Vec<Digest>,
    lower: Vec<String>,
}

// === impl Held ===

impl Held {
    pub(super) fn nothing(layers: Arc<Layers>, slot: Slot) -> Self {
        Self { layers, slot, digests: Vec::new(), lower: Vec::new() }
    }

    /// Where the layers are, lowest first, relative to the state directory.
    pub(crate) fn lower(&self) -> Vec<String> {
        self.lower.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.layers.table();
        for digest in &self.digests {
            self.layers.release(&mut table, self.slot, digest);
        }
    }
}

// === impl Layers ===

impl Layers {
    /// Mounts one more layer for `held`.
    pub(super) fn mount(
        &self,
        table: &mut Table,
        held: &mut Held,
        digest: &Digest,
        namespace: &OwnedFd,
    ) -> Result<(), LayersError> {
        let sealed = self.sealed(digest);
        if !self.has(digest) {
            return Err(LayersError::Absent { digest: digest.clone() });
        }
        let number = match table.mounted.get(digest) {
            Some(mounted) => mounted.number,
            None => {
                let number = free_number(table);
                let place = self.base(number);
                make_dir(&place, 0o700)?;
                if let Err((operation, error)) = mount_base(&sealed, &place) {
                    return Err(self.not_mounted(digest, operation, error));
                }
                table.mounted.insert(digest.clone(), Mounted { number, holders: [].into() });
                number
            }
        };
        let slot = held.slot;
        let relative = format!("m/{}/{number}", slot.number());
        let place = self.state.join(&relative);
        let mounted = touch(&sealed).map_err(LayersError::from).and_then(|()| {
            if table.mounted.get(digest).is_some_and(|mounted| mounted.holders.contains_key(&slot)) {
                return Ok(());
            }
            make_dir(&self.state.join(format!("m/{}", slot.number())), 0o711)?;
            make_dir(&place, 0o700)?;
            mount_for(&self.base(number), &place, namespace).map_err(|(operation, source)| {
                let path = place.clone();
                LayersError::Mount { operation, path, source }
            })
        });
        if let Err(error) = mounted {
            self.release_base(table, digest);
            return Err(error);
        }
        if let Some(mounted) = table.mounted.get_mut(digest) {
            *mounted.holders.entry(slot).or_default() += 1;
        }
        held.digests.push(digest.clone());
        if is_opaque(&place) {
            // It hides all that is below it.
            held.lower.clear();
        }
        held.lower.push(relative);
        Ok(())
    }

    /// One holder less of a layer.
    fn release(&self, table: &mut Table, slot: Slot, digest: &Digest) {
        let Some(mounted) = table.mounted.get_mut(digest) else { return };
        if let Some(holders) = mounted.holders.get_mut(&slot) {
            *holders -= 1;
            if *holders > 0 {
                return;
            }
        }
        mounted.holders.remove(&slot);
        let slot_dir = self.state.join(format!("m/{}", slot.number()));
        detach(&slot_dir.join(mounted.number.to_string()));
        // Not empty while the slot holds others.
        let _ = fs::remove_dir(&slot_dir);
        self.release_base(table, digest);
    }

    fn release_base(&self, table: &mut Table, digest: &Digest) {
        if let Some(mounted) = table.mounted.get(digest).filter(|mounted| mounted.holders.is_empty()) {
            detach(&self.base(mounted.number));
            table.mounted.remove(digest);
        }
    }

    /// Throws away a layer that the kernel does not take, so that it is made again.
    fn not_mounted(&self, digest: &Digest, operation: &'static str, source: io::Error) -> LayersError {
        let path = self.sealed(digest);
        let unsound = [Errno::INVAL, Errno::UCLEAN, Errno::BADMSG, Errno::OPNOTSUPP, Errno::IO];
        let is_unsound = Errno::from_io_error(&source).is_some_and(|errno| unsound.contains(&errno));
        if is_unsound && (Superblock::read(&path).is_err() || operation == CREATE) && fs::remove_file(&path).is_ok() {
            tracing::warn!(layer = %digest, error = %source, "a damaged layer is removed");
            return LayersError::Damaged { digest: digest.clone() };
        }
        LayersError::Mount { operation, path, source }
    }

    fn base(&self, number: u32) -> PathBuf {
        self.state.join(format!("m/base/{number}"))
    }
}

/// The step at which the kernel reads the superblock.
const CREATE: &str = "read the superblock of";

fn mount_base(sealed: &Path, place: &Path) -> Result<(), (&'static str, io::Error)> {
    let step = |operation: &'static str| move |errno: Errno| (operation, io::Error::from(errno));
    // Found here rather than by the kernel, which would say of a directory that it is no block device.
    let whole = File::open(sealed).and_then(|_| Superblock::read(sealed));
    if whole.is_err() {
        return Err((CREATE, Errno::UCLEAN.into()));
    }
    let fs = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step("open erofs for"))?;
    fsconfig_set_string(&fs, "source", sealed).map_err(step("name"))?;
    fsconfig_create(&fs).map_err(step(CREATE))?;
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, SEALED).map_err(step("mount"))?;
    attach(&mount, place).map_err(step("attach"))
}

fn mount_for(base: &Path, place: &Path, namespace: &OwnedFd) -> Result<(), (&'static str, io::Error)> {
    let step = |operation: &'static str| move |errno: Errno| (operation, io::Error::from(errno));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, base, flags).map_err(step("clone"))?;
    mount_map_ids(&mount, namespace).map_err(|error| ("map the ids of", error))?;
    mount_add_attributes(&mount, u64::from(SEALED.bits())).map_err(|error| ("restrict", error))?;
    attach(&mount, place).map_err(step("attach"))
}

fn attach(mount: &OwnedFd, place: &Path) -> rustix::io::Result<()> {
    move_mount(mount.as_fd(), "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Lazily: a jail that is on its way out may still have it open.
fn detach(place: &Path) {
    if let Err(error) = unmount(place, UnmountFlags::DETACH) {
        tracing::warn!(path = %place.display(), %error, "a layer stays mounted");
        return;
    }
    // An empty directory; the next mount makes it again.
    let _ = fs::remove_dir(place);
}

fn is_opaque(root: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(root, OPAQUE, &mut value[..]).is_ok_and(|length| value[..length] == *b"y")
}

fn free_number(table: &Table) -> u32 {
    let mut taken: Vec<u32> = table.mounted.values().map(|mounted| mounted.number).collect();
    taken.sort_unstable();
    let mut free = 0;
    for number in taken {
        free += u32::from(number == free);
    }
    free
}

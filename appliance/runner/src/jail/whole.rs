//! An image that is its own root: of one layer, with everything that the jail mounts on already in it, and never
//! written to. It needs no overlay, which costs each start a file system and each read of a cached page a sixth.
//!
//! Invariant: it is this or an overlay before anything is attached, and what is attached to it is the same.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::{ETC_FILES, IN_IMAGE, NO_LINKS};
use crate::orders::{JailPlan, Step, StepFailed};

/// A mount of the only layer, if nothing has to be made in it; `None` says that an overlay is needed.
pub(super) fn whole(plan: &JailPlan) -> Result<Option<OwnedFd>, StepFailed> {
    let ([layer], true) = (plan.root.lower.as_slice(), plan.root.is_sealed) else {
        return Ok(None);
    };
    // The layer is mounted read-only, without set-uid and without devices, and so is its clone.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let image = open_tree(CWD, layer.as_str(), flags).step("clone the image's mount")?;
    Ok(has_every_place(&image, plan).then_some(image))
}

fn has_every_place(image: &OwnedFd, plan: &JailPlan) -> bool {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let is_there =
        |path: &str, flags: OFlags, resolve: ResolveFlags| openat2(image, path, flags, Mode::empty(), resolve).is_ok();
    ["tmp", "proc", "dev"].iter().all(|name| is_there(name, directory, NO_LINKS))
        && plan.mounts.iter().all(|mount| is_there(mount.target(), directory, IN_IMAGE))
        && ETC_FILES.iter().all(|name| is_there(&format!("etc/{name}"), OFlags::PATH | OFlags::CLOEXEC, IN_IMAGE))
        && is_there(&plan.working_dir, directory, IN_IMAGE)
}

//! The image's layers below, what the run writes above.

use std::os::fd::OwnedFd;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use crate::orders::{RootPlan, Step, StepFailed};

/// Stacks the layers of `root`. They are named one by one, because one name after another fits the kernel's 255
/// bytes where all of them would not. `userxattr` because the mounter is no root of the host, so `trusted.*`
/// attributes are not its to read or write.
pub(super) fn overlay(root: &RootPlan) -> Result<OwnedFd, StepFailed> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step("open overlayfs")?;
    for layer in root.lower.iter().rev() {
        fsconfig_set_string(&fs, "lowerdir+", layer.as_str()).step("stack a layer of the image")?;
    }
    fsconfig_set_string(&fs, "upperdir", root.upper.as_str()).step("set the overlay's upperdir")?;
    fsconfig_set_string(&fs, "workdir", root.work.as_str()).step("set the overlay's workdir")?;
    fsconfig_set_flag(&fs, "userxattr").step("set the overlay's userxattr")?;
    fsconfig_create(&fs).step("create the overlay")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step("mount the overlay")
}

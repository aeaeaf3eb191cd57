//! An image as a jail would see it: its sealed layers, read by this kernel, under a real overlay, without a
//! runner in between.
//!
//! The layers are attached where only the thread that stacks them can see them, because kernels before 6.15 stack
//! nothing else; the overlay keeps them, and is attached nowhere, so nothing is left.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use runner::protocol::Digest;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

use hostile::rig::Rig;

pub(crate) struct Seen {
    mount: OwnedFd,
}

impl Seen {
    pub(crate) fn of(rig: &Rig, manifest: &Digest) -> Self {
        let layers = layers(rig, manifest);
        let (empty, place) = (rig.path("empty"), rig.path("layer"));
        for dir in [&empty, &place] {
            std::fs::create_dir_all(dir).expect("mkdir");
        }
        let stack = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).expect("private");
            let layers: Vec<OwnedFd> = layers.iter().map(|path| erofs(path, &place)).collect();
            let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("overlayfs");
            for layer in layers.iter().rev() {
                fsconfig_set_string(&fs, "lowerdir+", path_of(layer)).expect("a layer");
            }
            // Overlayfs takes no single layer.
            fsconfig_set_string(&fs, "lowerdir+", &empty).expect("a layer");
            fsconfig_set_flag(&fs, "userxattr").expect("userxattr");
            fsconfig_create(&fs).expect("an overlay");
            fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect("an overlay")
        };
        Self { mount: std::thread::spawn(stack).join().expect("no panic") }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        path_of(&self.mount).join(below)
    }
}

/// Where the layers of an image stand, lowest first.
pub(crate) fn layers(rig: &Rig, manifest: &Digest) -> Vec<PathBuf> {
    let manifest = std::fs::read(rig.content().join("blobs/sha256").join(manifest.hex())).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("a manifest");
    let digests = manifest["layers"].as_array().expect("layers").iter();
    let digests = digests.map(|layer| layer["digest"].as_str().expect("a digest").parse::<Digest>());
    digests.map(|digest| rig.state(&format!("layers/{}.erofs", digest.expect("a digest").hex()))).collect()
}

/// Mounts a layer, over those that are there.
fn erofs(path: &Path, place: &Path) -> OwnedFd {
    let fs = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).expect("erofs");
    fsconfig_set_string(&fs, "source", path).expect("a source");
    fsconfig_create(&fs).expect("an image");
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).expect("a mount");
    move_mount(&mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).expect("attach");
    mount
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

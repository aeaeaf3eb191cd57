//! Makes one sealed layer: has its blob unpacked, has the tree sealed, and puts the result in its place.
//!
//! Both are done by confined children of the spawner; what is left to do here, by root, follows no name that a
//! layer chose. Whatever goes wrong, nothing is left: tree and half-made file share a directory, which goes when the
//! maker is done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runner::image::{Content, ImageLayer};
use runner::layer::{Applied, Bounds};
use runner::protocol::Exit;
use runner::wire;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};

use super::sealed::{self, Superblock};
use super::{Kept, LayersError};
use crate::link::{Link, LinkError, Watch};
use crate::orders::{Order, SealPlan, UnpackPlan, Unpacked};
use crate::slots::Slot;
use crate::state_dir::{StateError, failed, remove};

/// How long the unpacking of one layer may take; a client gives up waiting for the whole image at the same time.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How long the sealing may take: the largest image, 32 GiB, at 40 MB/s.
const SEAL_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// What an entry may cost beyond its content: its inode and name, a long link target, the end of a block.
const ENTRY_BYTES: u64 = 3 * 4096;

/// What an empty layer may cost.
const SEALED_BYTES_MIN: u64 = 1 << 20;

/// How much of what `mkfs.erofs` complains about is kept.
const COMPLAINT_BYTES: u64 = 4096;

/// How much of what the unpacker says is wrong reaches the client.
const DETAIL_BYTES_MAX: usize = 8 * 1024;

/// Where `mkfs.erofs` is, besides on the search path.
const PROGRAMS: [&str; 2] = ["/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs"];

/// Makes layers with the ids of one slot.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    pub(super) state: &'a Path,
    pub(super) link: &'a Link,
    pub(super) slot: Slot,
}

/// A directory that goes when the maker is done, or fails.
#[derive(Debug)]
struct Scratch(PathBuf);

// === impl Maker ===

impl Maker<'_> {
    /// Makes `layer`, of which no sealed file stands and which nobody else is making.
    pub(super) fn make(&self, layer: &ImageLayer, content: &Content, bounds: Bounds) -> Result<Kept, LayersError> {
        let program = program()?;
        let blob = content.layer(layer).map_err(LayersError::Blob)?;
        let ticket = self.link.ticket();
        let parent = format!("unpack/{}", ticket.0);
        let (tree, half) = (format!("{parent}/tree"), format!("{parent}/layer"));
        let scratch = self.scratch(self.state.join(&parent))?;
        self.make_dir(&scratch.0.join("tree"), 0o755, Some(self.slot.base_id()))?;

        let plan = UnpackPlan { ticket, slot: self.slot, target: tree.clone(), compression: layer.compression, bounds };
        let applied = self.unpack(plan, &blob)?;
        if applied.diff_id != layer.diff_id.hex() {
            return Err(LayersError::DiffId { expected: layer.diff_id.clone(), found: applied.diff_id });
        }
        let half_path = scratch.0.join("layer");
        let file = self.output(&half_path)?;
        let bytes_max =
            applied.file_bytes.saturating_add(applied.entries * ENTRY_BYTES).saturating_add(SEALED_BYTES_MIN);
        let ticket = self.link.ticket();
        self.seal(SealPlan { ticket, slot: self.slot, program, tree, output: half, bytes_max })?;
        put(&file, &half_path, &sealed::path(self.state, &layer.digest))?;
        let weight = Bounds { bytes: applied.stream_bytes, entries: applied.entries };
        Ok(Kept { bytes: applied.file_bytes, entries: applied.entries, weight, already: false })
    }

    /// Has a layer unpacked; when this returns, nobody writes to its target any more.
    fn unpack(&self, plan: UnpackPlan, blob: &OwnedFd) -> Result<Applied, LayersError> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .and_then(|(near, far)| {
                set_socket_timeout(&near, Timeout::Recv, Some(UNPACK_TIMEOUT))?;
                Ok((near, far))
            })
            .map_err(|error| failed("make a socket for", self.state)(error.into()))?;
        let watch = Arc::new(Watch::default());
        let (ticket, bounds) = (plan.ticket, plan.bounds);
        let fds = [far.as_fd(), blob.as_fd()];
        let (_, pidfds) = self.link.order(ticket, &Order::Unpack(plan), &fds, watch.clone())?;
        drop(far);
        let unpacked = wire::receive(&near);
        // After an answer it is ending anyway; without one it must.
        kill(&pidfds);
        watch.wait();
        match unpacked {
            // The unpacker's word, and it may have been taken over.
            Ok((Unpacked::Done(applied), _)) if applied.is_within(bounds) => Ok(applied),
            Ok((Unpacked::Done(_), _)) => {
                Err(LayersError::Refused { detail: "the unpacker counted beyond its bounds".to_owned() })
            }
            Ok((Unpacked::Refused { detail }, _)) => Err(LayersError::Refused { detail: short(detail) }),
            Ok((Unpacked::NoSpace { detail }, _)) => Err(LayersError::NoSpace { detail: short(detail) }),
            Ok((Unpacked::Failed(failure), _)) => Err(LayersError::Step(failure)),
            Err(error) => Err(LayersError::Refused { detail: format!("the unpacker did not survive it ({error})") }),
        }
    }

    /// Has a tree sealed; when this returns, nobody writes to the output any more.
    fn seal(&self, plan: SealPlan) -> Result<(), LayersError> {
        let complaints = complaints().map_err(failed("make a file for complaints about", self.state))?;
        let watch = Arc::new(Watch::default());
        let ticket = plan.ticket;
        let order = Order::Seal(plan);
        let begun = self.link.order(ticket, &order, &[complaints.as_fd()], watch.clone());
        let (_, pidfds) = begun.map_err(|error| match error {
            LinkError::Failed(failure) => LayersError::Step(failure),
            other => other.into(),
        })?;
        let Some(exit) = watch.wait_for(SEAL_TIMEOUT) else {
            kill(&pidfds);
            watch.wait();
            return Err(LayersError::SealTimeout(SEAL_TIMEOUT));
        };
        if exit == Exit::Code(0) { Ok(()) } else { Err(seal_failed(exit, complaints)) }
    }

    /// A directory that the slot's root may walk through, and nobody else: what is in it is not for the host's
    /// users to read, and its names are not for the slot to change.
    fn scratch(&self, path: PathBuf) -> Result<Scratch, StateError> {
        remove(&path)?;
        self.make_dir(&path, 0o710, None)?;
        Ok(Scratch(path))
    }

    /// Makes a directory of `owner`, or of ours, and of the slot's group.
    fn make_dir(&self, path: &Path, mode: u32, owner: Option<u32>) -> Result<(), StateError> {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(failed("make", path))?;
        chown(path, owner, Some(self.slot.base_id())).map_err(failed("give away", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
    }

    /// An empty file that the slot may write.
    fn output(&self, path: &Path) -> Result<File, StateError> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(failed("make", path))?;
        fchown(&file, Some(self.slot.base_id()), Some(self.slot.base_id())).map_err(failed("give away", path))?;
        Ok(file)
    }
}

// === impl Scratch ===

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(%error, "an unpacked layer is left until the runner starts again");
        }
    }
}

/// Takes a finished file from the slot, and gives it the name under which it counts.
fn put(output: &File, half: &Path, sealed: &Path) -> Result<(), LayersError> {
    // Of a file that is not one, nothing is to be expected but that its maker was taken over.
    Superblock::read(half).map_err(failed("read the superblock of", half))?;
    fchown(output, Some(0), Some(0)).map_err(failed("take", half))?;
    output.set_permissions(fs::Permissions::from_mode(0o444)).map_err(failed("set the mode of", half))?;
    output.sync_all().map_err(failed("sync", half))?;
    fs::rename(half, sealed).map_err(failed("rename", half))?;
    let parent = sealed.parent().unwrap_or(sealed);
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))?;
    Ok(())
}

/// The first `mkfs.erofs` below `/usr`: nothing else of the host is there where it runs.
fn program() -> Result<String, LayersError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("mkfs.erofs"));
    let candidates = PROGRAMS.iter().map(PathBuf::from).chain(on_path);
    let found = candidates.filter_map(|path| fs::canonicalize(path).ok()).find(|path| path.starts_with("/usr"));
    found.and_then(|path| path.into_os_string().into_string().ok()).ok_or(LayersError::NoSealer)
}

/// A file in memory that cannot grow.
fn complaints() -> io::Result<OwnedFd> {
    let file = memfd_create("complaints", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, COMPLAINT_BYTES)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

fn seal_failed(exit: Exit, complaints: OwnedFd) -> LayersError {
    let mut bytes = Vec::new();
    let mut file = File::from(complaints);
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(COMPLAINT_BYTES).read_to_end(&mut bytes));
    let complaint = match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n', '\r', ' ']).escape_debug().to_string(),
        Err(error) => error.to_string(),
    };
    LayersError::SealFailed { exit, complaint }
}

/// So much of what went wrong that it fits a reply.
fn short(mut detail: String) -> String {
    detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
    detail
}

fn kill(pidfds: &[OwnedFd]) {
    for pidfd in pidfds {
        // It can only have ended already.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
}

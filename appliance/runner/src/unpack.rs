//! Unpacks an image's layers: what the child of a `clone3` does with descriptors of blobs and one directory.
//!
//! It trusts nothing that it reads. Before the first byte is read the directory is the process's root, the
//! host's tree is gone, there is no network, and of root's powers only the giving away of files within the
//! slot's ids is left. So a path that escapes has nowhere to go; the checks on paths exist to give it a name.

mod entry_path;
mod layer;
mod meter;
mod tree;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use runner::wire;
use rustix::process::Resource;

use crate::jail::{Filter, Kept, become_mapped_root, become_root, drop_privileges, limit_common};
use crate::kernel;
use crate::orders::{Step, StepFailed, UnpackPlan, Unpacked};

/// The most layers of one image.
pub(crate) const LAYERS_MAX: usize = 128;

/// The most tar entries of one image, all layers together.
pub(crate) const ENTRIES_MAX: u64 = 500_000;

/// How many times larger than its blob a layer may be, beyond its first [`RATIO_FREE_BYTES`].
/// Deflate cannot exceed 1032; real layers stay below 20.
pub(crate) const RATIO_MAX: u64 = 200;

/// What a layer may unpack to before its ratio counts: a small layer of zeroes harms nobody.
pub(crate) const RATIO_FREE_BYTES: u64 = 64 << 20;

/// The unpacker's address space, in bytes: zstd's largest window, a hostile header, and room.
const ADDRESS_SPACE_BYTES: u64 = 2 << 30;

/// Unpacks, reports on `result`, and ends.
pub(crate) fn enter(plan: &UnpackPlan, result: &OwnedFd, blobs: Vec<OwnedFd>, filter: &Filter) -> ! {
    let unpacked = match confine(plan, result, &blobs, filter) {
        Ok(()) => unpack(plan, blobs),
        Err(failure) => Unpacked::Failed(failure),
    };
    let sent = wire::send(result, &unpacked, &[]);
    kernel::exit_now(i32::from(sent.is_err()))
}

fn confine(plan: &UnpackPlan, result: &OwnedFd, blobs: &[OwnedFd], filter: &Filter) -> Result<(), StepFailed> {
    let mut keep = vec![result.as_fd()];
    keep.extend(blobs.iter().map(AsFd::as_fd));
    kernel::close_all_but(&keep).step("close descriptors")?;
    become_mapped_root().step("become the slot's root")?;
    become_root(&plan.target)?;
    limit_common().step("set resource limits")?;
    crate::jail::lower(Resource::Fsize, plan.bytes_max).step("set resource limits")?;
    crate::jail::lower(Resource::As, ADDRESS_SPACE_BYTES).step("set resource limits")?;
    drop_privileges(0, 0, Kept::FileOwnership)?;
    filter.apply().step("attach the seccomp filter")
}

fn unpack(plan: &UnpackPlan, blobs: Vec<OwnedFd>) -> Unpacked {
    let mut budget = meter::Budget::new(plan.bytes_max);
    for (number, (layer, blob)) in plan.layers.iter().zip(blobs).enumerate() {
        match layer::apply(layer, File::from(blob), &mut budget) {
            Ok(found) if found == layer.diff_id => {}
            Ok(found) => return Unpacked::DigestMismatch { layer: number, found },
            Err(broken) => return Unpacked::Refused { detail: format!("layer {number}: {}", chain(&broken)) },
        }
    }
    Unpacked::Done { bytes: budget.file_bytes, entries: budget.entries }
}

/// An error and its causes on one line; this is where the unpacker's errors are handled.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

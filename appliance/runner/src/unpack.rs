//! Unpacks one layer: what the child of a `clone3` does with the descriptor of a blob and one directory.
//!
//! It trusts nothing that it reads. Before the first byte is read the directory is the process's root, the
//! host's tree is gone, there is no network, and of root's powers only the giving away of files within the
//! slot's ids is left. So a path that escapes has nowhere to go; the checks on paths exist to give it a name.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc;
use runner::layer::{self, Broken};
use runner::wire;
use rustix::fs::{Mode, OFlags};
use rustix::process::Resource;

use crate::jail::{
    Files, Filter, Kept, NetworkUse, become_mapped_root, become_root, drop_privileges, limit_common, restrict,
};
use crate::kernel;
use crate::orders::{Step, StepFailed, UnpackPlan, Unpacked};

/// The unpacker's address space, in bytes: zstd's largest window, a hostile header, and room.
const ADDRESS_SPACE_BYTES: u64 = 2 << 30;

/// Unpacks, reports on `result`, and ends.
pub(crate) fn enter(plan: &UnpackPlan, result: &OwnedFd, blob: OwnedFd) -> ! {
    let unpacked = match confine(plan, result, &blob) {
        Ok(root) => unpack(plan, blob, root),
        Err(failure) => Unpacked::Failed(failure),
    };
    let sent = wire::send(result, &unpacked, &[]);
    kernel::exit_now(i32::from(sent.is_err()))
}

/// Answers the directory to unpack into, which is all that there is.
fn confine(plan: &UnpackPlan, result: &OwnedFd, blob: &OwnedFd) -> Result<OwnedFd, StepFailed> {
    kernel::close_all_but(&[result.as_fd(), blob.as_fd()]).step("close descriptors")?;
    become_mapped_root().step("become the slot's root")?;
    become_root(&plan.target)?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", directory, Mode::empty()).step("open the target")?;
    limit_common().step("set resource limits")?;
    crate::jail::lower(Resource::Fsize, plan.bounds.bytes).step("set resource limits")?;
    crate::jail::lower(Resource::As, ADDRESS_SPACE_BYTES).step("set resource limits")?;
    crate::jail::lower(Resource::Nproc, 1).step("set resource limits")?;
    drop_privileges(0, 0, Kept::FileOwnership)?;
    restrict(NetworkUse::None, Files::Unpacker)?;
    Filter::Unpacker.apply().step("attach the seccomp filter")?;
    Ok(root)
}

fn unpack(plan: &UnpackPlan, blob: OwnedFd, root: OwnedFd) -> Unpacked {
    match layer::apply(plan.compression, File::from(blob), plan.bounds, root) {
        Ok(applied) => Unpacked::Done(applied),
        Err(broken) => {
            let detail = chain(&broken);
            if is_lack_of_space(&broken) { Unpacked::NoSpace { detail } } else { Unpacked::Refused { detail } }
        }
    }
}

fn is_lack_of_space(broken: &Broken) -> bool {
    let full = [libc::ENOSPC, libc::EDQUOT];
    matches!(broken, Broken::Write { source, .. } if source.raw_os_error().is_some_and(|errno| full.contains(&errno)))
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

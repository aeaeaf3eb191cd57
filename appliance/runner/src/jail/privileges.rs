//! What a process may still do once it has stopped being root of its namespace.
//!
//! Invariants: after [`drop_privileges`] no set of capabilities (effective, permitted, inheritable, bounding,
//! ambient) holds more than was asked for, none can come back (secure bits are locked, no new privileges), and
//! the process dies with the spawner.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use runner::protocol::Limits;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::orders::{Step, StepFailed};

/// Which capabilities survive, and with them how much code is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// For foreign code.
    Nothing,
    /// For our own unpacker: what it takes to give files to other ids of the same range.
    FileOwnership,
    /// For a program of the host that reads the slot's files: what it takes to read all of them. It survives
    /// the program's execution.
    Reading,
}

/// Takes the ids that the parent has just mapped; until then the process is nobody, and its files cannot be
/// created.
pub(crate) fn become_mapped_root() -> nix::Result<()> {
    setgroups(&[])?;
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
}

/// Memory that one process may keep from being moved, in bytes: what the kernel itself gives.
const LOCKED_BYTES: u64 = 8 << 20;

/// What POSIX message queues of one user may hold, in bytes: what the kernel itself gives.
const QUEUED_BYTES: u64 = 819_200;

/// Applies the limits that a service is given.
pub(super) fn limit(limits: &Limits) -> rustix::io::Result<()> {
    lower(Resource::Nofile, limits.open_files)?;
    lower(Resource::Nproc, limits.processes)?;
    lower(Resource::Fsize, limits.file_bytes)?;
    lower(Resource::Memlock, LOCKED_BYTES)?;
    lower(Resource::Msgqueue, QUEUED_BYTES)?;
    // The kernel's `nice` 0, and no realtime priority.
    lower(Resource::Nice, 20)?;
    lower(Resource::Rtprio, 0)?;
    limit_common()
}

/// Applies the limits that every process here has: no core dumps.
pub(crate) fn limit_common() -> rustix::io::Result<()> {
    lower(Resource::Core, 0)
}

/// Sets both limits to `value`, or to the inherited hard limit where that is lower: raising one takes a
/// capability over the host.
pub(crate) fn lower(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let value = rustix::process::getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
    rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

/// Becomes `uid` and `gid` with the capabilities of `kept`, for good.
pub(crate) fn drop_privileges(uid: u32, gid: u32, kept: Kept) -> Result<(), StepFailed> {
    let survives = kept.survives_execution();
    let kept = kept.set();
    // While the bounding set still has it.
    let sets = rustix::thread::capabilities(None).step("read capabilities")?;
    let sets = CapabilitySets { inheritable: survives, ..sets };
    rustix::thread::set_capabilities(None, sets).step("set the inheritable set")?;
    for capability in every_capability() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Beyond the last capability that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            result => result.step("empty the bounding set")?,
        }
    }
    rustix::thread::clear_ambient_capability_set().step("empty the ambient set")?;
    if !survives.is_empty() {
        rustix::thread::configure_capability_in_ambient_set(survives, true).step("fill the ambient set")?;
    }
    rustix::thread::set_capabilities_secure_bits(LOCKED).step("lock the secure bits")?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).step("drop supplementary groups")?;
    setresgid(gid, gid, gid).step("become the service's group")?;
    setresuid(uid, uid, uid).step("become the service's user")?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: survives };
    rustix::thread::set_capabilities(None, sets).step("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).step("forbid dumps")?;
    // After the ids: changing those clears it. The lifeline covers the time before.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("tie life to the spawner")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

/// Every secure bit and its lock: being uid 0 means nothing, capabilities follow neither uid nor `execve`.
const LOCKED: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::KEEP_CAPS_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// By number, so that capabilities newer than this list are dropped too.
fn every_capability() -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit))
}

// === impl Kept ===

impl Kept {
    fn set(self) -> CapabilitySet {
        match self {
            Self::Nothing => CapabilitySet::empty(),
            Self::FileOwnership => CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER,
            Self::Reading => CapabilitySet::DAC_READ_SEARCH,
        }
    }

    /// At most one.
    fn survives_execution(self) -> CapabilitySet {
        match self {
            Self::Nothing | Self::FileOwnership => CapabilitySet::empty(),
            Self::Reading => self.set(),
        }
    }
}

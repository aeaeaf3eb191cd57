//! Keeps the key out of swap, core dumps and debuggers of the same user.
//!
//! Invariant: this runs before the key is read. Root on the rig can still read the memory of any process, and can use
//! the key by asking for it; nothing in this file claims otherwise. What the process may do later is in `filter`.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;

/// Memory that cannot be protected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// Core dumps and tracing cannot be switched off.
    #[error("make the process undumpable")]
    Undumpable(#[source] Errno),
    /// The limit on locked memory is too low.
    #[error(
        "lock memory, so that the key never reaches the swap: raise the limit (LimitMEMLOCK=infinity in the unit, \
         or `ulimit -l unlimited`), or pass --allow-swap on a development machine"
    )]
    Lock(#[source] Errno),
}

/// Makes the process undumpable and locks all its memory, present and future.
/// With `allow_swap` a machine that cannot lock memory is accepted, and the log says so.
/// Errors: every variant of [`MemoryError`].
pub(crate) fn lock_down(allow_swap: bool) -> Result<(), MemoryError> {
    prctl::set_dumpable(false).map_err(MemoryError::Undumpable)?;
    match mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        Err(errno) if allow_swap => {
            tracing::warn!(error = %errno, "memory is not locked");
            Ok(())
        }
        locked => locked.map_err(MemoryError::Lock),
    }
}

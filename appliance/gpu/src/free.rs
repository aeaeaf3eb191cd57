//! Whether a GPU is free: no process computes on it.
//!
//! Invariant: a wait ends at its deadline, whatever the driver says meanwhile.

use crate::driver::{Driver, GpuError};
use crate::inventory::GpuUuid;
use crate::telemetry::Process;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks: short against the seconds that a killed process is given to leave, long against one look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freedom {
    /// No process computes on it.
    Free,
    /// These do.
    Held(Vec<Process>),
}

// === impl Driver ===

impl Driver {
    /// Whether `gpu` is free of compute processes, but for those of `ignoring`, in the process namespace of the caller.
    /// Errors: [`GpuError::NoSuchGpu`], [`GpuError::Lost`], [`GpuError::ResetRequired`], [`GpuError::Call`].
    pub fn freedom(&self, gpu: &GpuUuid, ignoring: &[u32]) -> Result<Freedom, GpuError> {
        let others: Vec<_> =
            self.compute_processes(gpu)?.into_iter().filter(|process| !ignoring.contains(&process.pid)).collect();
        Ok(if others.is_empty() { Freedom::Free } else { Freedom::Held(others) })
    }

    /// Waits until `gpu` is free, `within` at most; blocks the thread. Errors: as [`Self::freedom`], at once.
    pub fn wait_free(&self, gpu: &GpuUuid, ignoring: &[u32], within: Duration) -> Result<Freedom, GpuError> {
        let began = Instant::now();
        loop {
            let freedom = self.freedom(gpu, ignoring)?;
            let left = within.saturating_sub(began.elapsed());
            if freedom == Freedom::Free || left.is_zero() {
                return Ok(freedom);
            }
            thread::sleep(LOOK_EVERY.min(left));
        }
    }
}

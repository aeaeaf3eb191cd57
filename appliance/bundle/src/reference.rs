//! A run on plain memory, in which every access is checked against its buffer.
//!
//! It shares no code with the validator, so that each is a test of the other. The kernels come from the caller. A launch
//! is given all buffers by index, `memory[view.buffer]`, and works at the offsets of its views. Buffers that it does not
//! name are empty while it runs, and what lies outside its views is masked with [`MASK`], so a kernel that strays finds
//! nothing of use. Bytes that it changes outside of what it may write are an error, not a result.

use std::ops::Range;

use thiserror::Error;

use crate::limits::REFERENCE_BYTES_MAX;
use crate::plan::{Access, Argument, Launch, Operation, Plan, View};

/// What a kernel sees in place of bytes that it was not given.
pub const MASK: u8 = 0xA5;

/// The buffers of a run, and what was done with them.
#[derive(Clone, Debug)]
pub struct Memory {
    buffers: Vec<Vec<u8>>,
    accesses: Vec<Recorded>,
}

/// One access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The index in [`Plan::operations`].
    pub operation: usize,
    /// The index in [`Plan::buffers`].
    pub buffer: usize,
    /// Which bytes.
    pub bytes: Range<usize>,
    /// What was done with them.
    pub access: Access,
}

/// A run that the reference refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// More memory than a test may take.
    #[error("the buffers have more than {REFERENCE_BYTES_MAX} bytes")]
    TooLarge,
    /// The inputs are longer or shorter than the plan says.
    #[error("the inputs have {got} bytes, the plan has {expected}")]
    Inputs {
        /// Bytes that came.
        got: usize,
        /// Bytes of the plan.
        expected: u64,
    },
    /// An access leaves its buffer, or its buffer is not there.
    #[error("operation {operation}: {view:?} is outside of its buffer")]
    Outside {
        /// The index in [`Plan::operations`].
        operation: usize,
        /// The access.
        view: View,
    },
    /// Two accesses of one operation touch the same bytes, and one of them writes.
    #[error("operation {operation}: {a:?} and {b:?} overlap")]
    Overlap {
        /// The index in [`Plan::operations`].
        operation: usize,
        /// One.
        a: View,
        /// The other.
        b: View,
    },
    /// A kernel changed bytes that it may not write.
    #[error("operation {operation}: kernel {kernel} changed byte {byte} of buffer {buffer}, which it may not")]
    Stray {
        /// The index in [`Plan::operations`].
        operation: usize,
        /// The kernel.
        kernel: String,
        /// The index in [`Plan::buffers`].
        buffer: usize,
        /// The first such byte.
        byte: usize,
    },
    /// A kernel refused its launch.
    #[error("operation {operation}: kernel {kernel}: {reason}")]
    Kernel {
        /// The index in [`Plan::operations`].
        operation: usize,
        /// The kernel.
        kernel: String,
        /// What it said.
        reason: String,
    },
}

/// A kernel on the CPU: one launch, on the buffers by index.
pub type Kernels<'a> = &'a mut dyn FnMut(&Launch, &mut [Vec<u8>]) -> Result<(), String>;

/// Runs `plan` on `inputs` (the input buffers one behind the other) and returns the output buffers, one behind the other.
/// Errors: see [`ReferenceError`].
pub fn run(plan: &Plan, inputs: &[u8], kernel: Kernels<'_>) -> Result<Vec<u8>, ReferenceError> {
    let mut memory = Memory::new(plan, inputs)?;
    for (index, operation) in plan.operations.iter().enumerate() {
        memory.step(index, operation, kernel)?;
    }
    let buffers = memory.buffers.iter().zip(&plan.buffers);
    Ok(buffers.filter(|(_, planned)| planned.has_output).flat_map(|(bytes, _)| bytes).copied().collect())
}

// === impl Memory ===

impl Memory {
    /// The buffers at the beginning. Errors: they are too large, or the inputs do not fit.
    pub fn new(plan: &Plan, inputs: &[u8]) -> Result<Memory, ReferenceError> {
        let total = plan.buffers.iter().try_fold(0_u64, |total, buffer| total.checked_add(buffer.bytes));
        if total.is_none_or(|total| total > REFERENCE_BYTES_MAX) {
            return Err(ReferenceError::TooLarge);
        }
        let expected = plan.buffers.iter().filter(|buffer| buffer.has_input).map(|buffer| buffer.bytes).sum();
        let wrong = ReferenceError::Inputs { got: inputs.len(), expected };
        let (mut buffers, mut rest) = (Vec::new(), inputs);
        for buffer in &plan.buffers {
            let bytes = usize::try_from(buffer.bytes).map_err(|_| ReferenceError::TooLarge)?;
            if buffer.has_input {
                let Some((own, behind)) = rest.split_at_checked(bytes) else { return Err(wrong) };
                buffers.push(own.to_vec());
                rest = behind;
            } else {
                buffers.push(vec![0; bytes]);
            }
        }
        if rest.is_empty() { Ok(Memory { buffers, accesses: Vec::new() }) } else { Err(wrong) }
    }

    /// What was accessed so far.
    pub fn accesses(&self) -> &[Recorded] {
        &self.accesses
    }

    /// The bytes of a buffer.
    pub fn buffer(&self, index: usize) -> Option<&[u8]> {
        self.buffers.get(index).map(Vec::as_slice)
    }

    /// Does one operation; `index` is its number. Errors: see [`ReferenceError`].
    pub fn step(&mut self, index: usize, operation: &Operation, kernel: Kernels<'_>) -> Result<(), ReferenceError> {
        match operation {
            Operation::Launch(launch) => self.launch(index, launch, kernel),
            Operation::Copy { from, to } => {
                self.access(index, &[(*from, Access::Read), (*to, Access::Write)])?;
                let source = self.buffers[from.buffer][range(*from)].to_vec();
                let target = &mut self.buffers[to.buffer][range(*to)];
                if source.len() != target.len() {
                    return Err(ReferenceError::Outside { operation: index, view: *to });
                }
                target.copy_from_slice(&source);
                Ok(())
            }
            Operation::Fill { view, pattern } => {
                self.access(index, &[(*view, Access::Write)])?;
                let target = self.buffers[view.buffer][range(*view)].iter_mut();
                target.zip(pattern.iter().cycle()).for_each(|(byte, value)| *byte = *value);
                Ok(())
            }
            Operation::Mark(_) => Ok(()),
        }
    }

    fn launch(&mut self, index: usize, launch: &Launch, kernel: Kernels<'_>) -> Result<(), ReferenceError> {
        let views = launch.arguments.iter().filter_map(|argument| match argument {
            Argument::View { view, access } => Some((*view, *access)),
            Argument::Scalar(_) => None,
        });
        let views: Vec<_> = views.collect();
        self.access(index, &views)?;
        // What the kernel may see, and for each byte whether it may write it.
        let mut given: Vec<Vec<u8>> = vec![Vec::new(); self.buffers.len()];
        let mut writable: Vec<Vec<bool>> = vec![Vec::new(); self.buffers.len()];
        for (view, access) in &views {
            let own = &self.buffers[view.buffer];
            given[view.buffer].resize(own.len(), MASK);
            writable[view.buffer].resize(own.len(), false);
            given[view.buffer][range(*view)].copy_from_slice(&own[range(*view)]);
            writable[view.buffer][range(*view)].fill(access.writes());
        }
        let before = given.clone();
        kernel(launch, &mut given).map_err(|reason| ReferenceError::Kernel {
            operation: index,
            kernel: launch.kernel.clone(),
            reason,
        })?;
        for (buffer, (after, before)) in given.iter().zip(&before).enumerate() {
            let stray = |byte| ReferenceError::Stray { operation: index, kernel: launch.kernel.clone(), buffer, byte };
            if after.len() != before.len() {
                return Err(stray(before.len().min(after.len())));
            }
            for (byte, (after, before)) in after.iter().zip(before).enumerate() {
                if after == before {
                    continue;
                }
                if !writable[buffer][byte] {
                    return Err(stray(byte));
                }
                self.buffers[buffer][byte] = *after;
            }
        }
        Ok(())
    }

    /// Checks the accesses of one operation, and records them.
    fn access(&mut self, operation: usize, views: &[(View, Access)]) -> Result<(), ReferenceError> {
        for (number, (view, access)) in views.iter().enumerate() {
            let outside = ReferenceError::Outside { operation, view: *view };
            let size = self.buffers.get(view.buffer).map(Vec::len).and_then(|bytes| u64::try_from(bytes).ok());
            let end = view.offset_bytes.checked_add(view.bytes);
            if size.zip(end).is_none_or(|(size, end)| end > size) {
                return Err(outside);
            }
            for (earlier, other) in &views[..number] {
                let apart = earlier.buffer != view.buffer
                    || range(*earlier).end <= range(*view).start
                    || range(*view).end <= range(*earlier).start;
                if !apart && (access.writes() || other.writes()) {
                    return Err(ReferenceError::Overlap { operation, a: *earlier, b: *view });
                }
            }
            let bytes = range(*view);
            self.accesses.push(Recorded { operation, buffer: view.buffer, bytes, access: *access });
        }
        Ok(())
    }
}

/// The bytes of a view that lies in a buffer of this memory.
fn range(view: View) -> Range<usize> {
    let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    place(view.offset_bytes)..place(view.offset_bytes.saturating_add(view.bytes))
}

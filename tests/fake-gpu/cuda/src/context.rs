//! A context: one process's memory on one GPU, and how its work stands.

use fake_gpu_script::Fault;

use crate::code::Code;
use crate::memory::Memory;

/// How the work of a context stands. It only ever goes forward, from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// All that was asked for is done.
    Done,
    /// A kernel ended badly, and nobody waited for it yet.
    Ended(Fault),
    /// Somebody did; every call gives this code until the process ends.
    Broken(Code),
}

/// One context.
#[derive(Debug)]
pub(crate) struct Context {
    /// The GPU's ordinal.
    pub(crate) device: i32,
    /// The primary context is kept for as long as somebody retains it; others have one owner.
    pub(crate) primary: bool,
    pub(crate) retained: u32,
    pub(crate) memory: Memory,
    pub(crate) work: Work,
}

// === impl Context ===

impl Context {
    pub(crate) fn new(device: i32, primary: bool, scrub: bool) -> Context {
        Context { device, primary, retained: 1, memory: Memory::new(scrub), work: Work::Done }
    }
}

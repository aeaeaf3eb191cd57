//! A plan: what one run of a function does, with every number known.
//!
//! [`Function::plan`](crate::Function::plan) returns only plans that passed [`Plan::check`]: no view, copy or fill
//! leaves its buffer, and what a launch writes it shares with no other of its arguments. A buffer begins as its input,
//! or as zeros. The fields are public so that workers and tests can read and take apart a plan; changing one makes it
//! another plan, that has to be checked again.

mod check;
mod unroll;

use serde::Serialize;
use thiserror::Error;

use crate::digest::Digest;
use crate::limits::OPERATIONS_MAX;
use crate::scalar::{ElementType, Scalar};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The function's name.
    pub function: String,
    /// In the order of their names. Views count from here.
    pub buffers: Vec<PlannedBuffer>,
    /// In the order in which they run, one after the other.
    pub operations: Vec<Operation>,
    /// What the buffers take together, each rounded up to 512 bytes.
    pub vram_bytes: u64,
    /// The deadline of the run, wall-clock.
    pub seconds: u32,
    /// Names of the marks, in the order in which they are passed. [`Operation::Mark`] counts from here.
    pub marks: Vec<String>,
}

/// A buffer of known size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedBuffer {
    /// Its name in the function.
    pub name: String,
    /// What it is made of.
    pub element: ElementType,
    /// How many of them, at least one.
    pub elements: u64,
    /// `elements` times the bytes of one.
    pub bytes: u64,
    /// It begins as an input rather than as zeros.
    pub has_input: bool,
    /// It is read back in the end.
    pub has_output: bool,
}

/// One thing that a GPU does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Runs a kernel.
    Launch(Launch),
    /// Copies between buffers, or between places of one that do not overlap.
    Copy {
        /// What is read.
        from: View,
        /// What is written: as many bytes.
        to: View,
    },
    /// Writes one element all over a view.
    Fill {
        /// What is written.
        view: View,
        /// The bytes of one element.
        pattern: Vec<u8>,
    },
    /// An event, to measure time: the index of its name in [`Plan::marks`].
    Mark(usize),
}

/// A launch of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Launch {
    /// The index of its module in [`Bundle::modules`](crate::Bundle::modules).
    pub module: usize,
    /// The exported name.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// In the kernel's order.
    pub arguments: Vec<Argument>,
}

/// An argument of a launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Argument {
    /// The device address of a view: 8 bytes.
    View {
        /// The view.
        view: View,
        /// What the kernel does with it.
        access: Access,
    },
    /// A number by value.
    Scalar(Scalar),
}

/// What a kernel does with a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it. What it does not write keeps its value.
    Write,
    /// Both.
    ReadWrite,
}

/// A range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// The index in [`Plan::buffers`].
    pub buffer: usize,
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Why there is no plan for these parameters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A parameter is missing, unknown, of another type or out of its range.
    #[error("parameter {name}: {reason}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of the function cannot be with these parameters.
    #[error("{place}: {reason}")]
    Place {
        /// Such as `function.f.steps[2].arguments[0]`.
        place: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

// === impl Plan ===

impl Plan {
    /// Whether every access stays in its buffer and every number in its bounds, judged by the plan alone. What
    /// [`Function::plan`](crate::Function::plan) returns has passed. Errors: the first operation that does not.
    pub fn check(&self) -> Result<(), PlanError> {
        let at = |place: String| move |fault: check::Fault| PlanError::place(&place, fault);
        check::buffers(&self.buffers, None).map_err(at("buffers".to_owned()))?;
        let operations = u64::try_from(self.operations.len()).unwrap_or(u64::MAX);
        if operations > OPERATIONS_MAX {
            return Err(at("operations".to_owned())(check::Fault::of(format!("more than {OPERATIONS_MAX} of them"))));
        }
        for (index, operation) in self.operations.iter().enumerate() {
            check::operation(self, operation).map_err(at(format!("operations[{index}]")))?;
        }
        check::outputs(self).map_err(at("buffers".to_owned()))
    }

    /// The buffers that begin as inputs, in buffer order.
    pub fn inputs(&self) -> impl Iterator<Item = &PlannedBuffer> {
        self.buffers.iter().filter(|buffer| buffer.has_input)
    }

    /// The buffers that are read back, in buffer order.
    pub fn outputs(&self) -> impl Iterator<Item = &PlannedBuffer> {
        self.buffers.iter().filter(|buffer| buffer.has_output)
    }

    /// Bytes of all inputs, one behind the other without padding.
    pub fn input_bytes(&self) -> u64 {
        self.inputs().map(|buffer| buffer.bytes).sum()
    }

    /// Bytes of all outputs, one behind the other without padding.
    pub fn output_bytes(&self) -> u64 {
        self.outputs().map(|buffer| buffer.bytes).sum()
    }

    /// sha256 of the plan's JSON: the same plan has the same digest on every machine.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a plan has only names and numbers"))
    }
}

// === impl PlanError ===

impl PlanError {
    fn place(place: &str, fault: check::Fault) -> PlanError {
        PlanError::Place { place: format!("{place}{}", fault.within), reason: fault.reason }
    }
}

// === impl Access ===

impl Access {
    /// Whether the kernel may write.
    pub fn writes(self) -> bool {
        match self {
            Access::Read => false,
            Access::Write | Access::ReadWrite => true,
        }
    }
}

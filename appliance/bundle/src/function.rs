//! A function of a bundle: parameters, buffers and steps, checked as far as they can be without values.
//!
//! All names are resolved: a step knows its module, its buffers and the places of its names by number. What a step costs
//! is known in the worst case that the parameters' bounds allow, so no values make a plan too long.

mod buffers;
mod check;
mod parameters;
mod steps;

use serde::{Deserialize, Serialize};

pub use self::buffers::Buffer;
pub(crate) use self::buffers::{Image, OutputForm};
pub use self::parameters::Parameter;
pub(crate) use self::steps::{ArgumentStep, Ranged, Step, StepKind, Value};
use crate::expression::Expression;
use crate::pointer::Pointer;

/// What may be asked of a bundle.
#[derive(Clone, Debug)]
pub struct Function {
    name: String,
    determinism: Determinism,
    seconds: u32,
    pub(crate) vram_bytes: Option<Expression>,
    parameters: Vec<Parameter>,
    buffers: Vec<Buffer>,
    pub(crate) steps: Vec<Step>,
    pub(crate) marks: Vec<String>,
    pub(crate) times: Vec<Time>,
}

/// How alike two runs with the same inputs are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Determinism {
    /// The same bits on every GPU.
    BitwiseAny,
    /// The same bits on GPUs of one model.
    BitwiseSameClass,
    /// Nothing is promised.
    None,
    /// Numbers that differ by at most this.
    Tolerance {
        /// How much, finite and at least zero.
        tolerance: f64,
        /// Of what.
        metric: Metric,
    },
}

/// What a tolerance is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The size of the expected number.
    Relative,
    /// Nothing: the difference itself.
    Absolute,
}

/// Milliseconds between two marks, for the response.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    /// Index in the marks.
    pub(crate) from: usize,
    /// Index in the marks, later.
    pub(crate) until: usize,
    /// Where it stands in the response.
    pub(crate) to: Pointer,
}

// === impl Function ===

impl Function {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The deadline of a run, wall-clock, 1 to 3600.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// What its author promises about two runs.
    pub fn determinism(&self) -> Determinism {
        self.determinism
    }

    /// In the order of their names.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// In the order of their names.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }
}

//! Direct CUDA: what the runner says of its GPUs, and how a bundle's function is run on one.
//!
//! The runner parses no bundle. What belongs to a job travels as descriptors of sealed memory: the archive, the bytes
//! of its inputs, machine code made from its PTX, and, back, the bytes of its outputs.

use cuda::messages::{Done, JobTimings, Measured, WarmTimings};
use gpu::health::State;
use gpu::telemetry::Sample;
use serde::{Deserialize, Serialize};

use super::{Exit, SourceName};

/// The most GPUs of one machine.
pub const GPUS_MAX: usize = 16;

/// The most bytes that a job takes, and the most that it gives back: what four gibibytes of memory hold besides the rest.
pub const JOB_BYTES_MAX: u64 = 1 << 30;

/// The most PTX modules of one job; their machine code comes as descriptors. Source: the bundle's own bound.
pub const CUBINS_MAX: usize = 32;

/// The longest that a job may run, in seconds. Source: the bundle's own bound.
pub const JOB_SECONDS_MAX: u32 = 3600;

/// The longest that a job may wait for a GPU, in milliseconds.
pub const GPU_WAIT_MS_MAX: u64 = 600_000;

/// What this machine has for direct CUDA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpus {
    /// The driver's own version, such as `550.54.14`.
    pub driver: Option<String>,
    /// The newest CUDA that the driver supports.
    pub cuda: Option<bundle::Version>,
    /// The version of the PTX compiler; without one, only bundles with machine code for the GPU run.
    pub compiler: Option<bundle::Version>,
    /// Why no bundle runs at all, if that is so, and what to do.
    pub why: Option<String>,
    /// At most [`GPUS_MAX`], in NVML's order.
    pub gpus: Vec<GpuReport>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuReport {
    /// What it is.
    pub gpu: gpu::Gpu,
    /// Whether it is offered, and if not, why.
    pub state: State,
    /// What the worker that waits took to get warm; `None` while there is none.
    pub warm: Option<WarmTimings>,
    /// How it does; `None` in the first second.
    pub sample: Option<Sample>,
    /// What it was last measured to do; `None` until somebody asks for a measurement.
    pub bench: Option<Bench>,
}

/// What one GPU was measured to do, and under which conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    /// When, Unix seconds.
    pub at_unix: u64,
    /// The driver's own version then.
    pub driver: Option<String>,
    /// The highest clock of the multiprocessors that was seen while it computed, megahertz.
    pub sm_mhz: Option<u32>,
    /// The same of the memory.
    pub memory_mhz: Option<u32>,
    /// How fast bytes move within the GPU, and between it and the host.
    pub bandwidth: Measured,
    /// Multiplications and additions of 32-bit floats, fused, without tensor cores.
    pub fp32: Throughput,
    /// Products of 16-bit floats summed in 32 bits by the tensor cores, through `mma.sync`, which is not all that GPUs
    /// of compute capability 9.0 and later can do.
    pub fp16: Throughput,
}

/// Figures that were just taken, and of which GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// Which.
    pub gpu: gpu::GpuUuid,
    /// The figures.
    pub bench: Bench,
}

/// A rate of arithmetic, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throughput {
    /// 10¹² operations per second; a multiplication and an addition are two.
    Tflops(f64),
    /// It was not measured, for this reason.
    Unknown(String),
}

/// One run of one function.
///
/// Descriptors beside the request: the archive; the inputs in the order of the plan's buffers; the machine code of each
/// PTX module, in the bundle's order. All are sealed against writing, growing and shrinking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Whose job it is.
    pub source: SourceName,
    /// Names the job in the log and in what is counted against it; a task's address, or any short word.
    pub job: String,
    /// What the archive hashes to.
    pub bundle: bundle::Digest,
    /// Which function.
    pub function: String,
    /// Its parameters.
    pub parameters: bundle::Parameters,
    /// Bytes of the outputs, at most [`JOB_BYTES_MAX`].
    pub output_bytes: u64,
    /// How long it may run, in seconds, at most [`JOB_SECONDS_MAX`].
    pub seconds: u32,
    /// How long it may wait for a GPU, in milliseconds, at most [`GPU_WAIT_MS_MAX`].
    pub wait_ms: u64,
    /// On this GPU; `None`: on any that is offered.
    pub gpu: Option<gpu::GpuUuid>,
}

/// What became of a [`Launch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launched {
    /// Where.
    pub gpu: gpu::GpuUuid,
    /// How it ended.
    pub end: End,
    /// From the runner's receipt of the request until a worker had the job, in microseconds.
    pub waited_us: u64,
    /// From then until the worker had answered, or was dead, in microseconds.
    pub took_us: u64,
    /// Whether a worker was warm when the job came.
    pub was_warm: bool,
    /// What that worker's start took.
    pub warm: WarmTimings,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// The worker said so; with [`Done::Ran`] the outputs come as a descriptor.
    Answered {
        /// What it said.
        done: Done,
    },
    /// It did not answer in time, and was killed.
    Deadline {
        /// How long it had, in seconds.
        seconds: u32,
    },
    /// Its GPU was lost, or had to be reset, and it was killed for that.
    GpuLost {
        /// Why.
        why: String,
    },
    /// The worker ended without a word.
    Died {
        /// How.
        exit: Exit,
    },
}

// === impl Launched ===

impl Launched {
    /// The timings of a job that ran.
    #[must_use]
    pub fn timings(&self) -> Option<JobTimings> {
        match &self.end {
            End::Answered { done: Done::Ran(ran) } => Some(ran.timings),
            End::Answered { done: Done::Failed(_) } | End::Deadline { .. } | End::GpuLost { .. } | End::Died { .. } => {
                None
            }
        }
    }
}

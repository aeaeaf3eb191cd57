//! Where jobs run: on workers that the runner keeps in its jail, or, where jails cannot be made, on the same workers
//! started without one.
//!
//! Invariant: who reads an [`Outcome`] cannot tell the two apart but by [`Backend::place`].

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use cuda::messages::{Failure, Ran, WarmTimings};

use crate::jailed::Jailed;
use crate::kit::{Ask, Kit};
use crate::report::Place;
use crate::worker::Worker;

/// How a job ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// The outputs are there.
    Ran(Ran),
    /// The worker said why not.
    Failed(Failure),
    /// It did not answer in time, and was killed.
    Deadline,
    /// It ended without an answer, or its GPU was lost.
    Gone(String),
    /// It was not even begun.
    Refused(String),
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    pub(crate) outputs: Vec<u8>,
    /// From the asking until a worker had the job.
    pub(crate) waited: Duration,
    /// From the asking until the worker was gone and the outputs were here.
    pub(crate) total: Duration,
    /// Whether a worker was warm when the job came.
    pub(crate) was_warm: bool,
    /// What that worker's start took.
    pub(crate) warm: WarmTimings,
}

/// Where jobs run.
#[derive(Debug)]
pub(crate) enum Backend {
    /// Through the runner.
    Jailed(Box<Jailed>),
    /// Without a jail.
    Unjailed(Unjailed),
}

/// Workers without a jail, of which one may be warm.
#[derive(Debug)]
pub(crate) struct Unjailed {
    program: PathBuf,
    uuid: String,
    warm: Option<Worker>,
}

// === impl Ended ===

impl Ended {
    pub(crate) fn ran(&self) -> Option<&Ran> {
        match self {
            Self::Ran(ran) => Some(ran),
            Self::Failed(_) | Self::Deadline | Self::Gone(_) | Self::Refused(_) => None,
        }
    }

    /// In words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Ran(_) => "ran to its end".to_owned(),
            Self::Failed(Failure { class, code, name, during, detail }) => {
                format!("{class:?}: {during}: {name} ({code}) {detail}")
            }
            Self::Deadline => "killed at its deadline".to_owned(),
            Self::Gone(why) => format!("the worker is gone: {why}"),
            Self::Refused(why) => format!("refused: {why}"),
        }
    }

    /// Whether the driver knows no kernel of this name: one that is not there knows the examples only.
    pub(crate) fn is_unknown_kernel(&self) -> bool {
        matches!(self, Self::Failed(of) if of.code == NOT_SUPPORTED && of.during.starts_with("launch"))
    }
}

/// `CUDA_ERROR_NOT_SUPPORTED`, which a driver with a GPU has no reason to answer a launch with.
const NOT_SUPPORTED: i32 = 801;

// === impl Outcome ===

impl Outcome {
    /// The run, or an error that says how it ended instead.
    pub(crate) fn ran(&self) -> Result<&Ran> {
        self.ended.ran().ok_or_else(|| anyhow::anyhow!("{}", self.ended.words()))
    }
}

// === impl Backend ===

impl Backend {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Jailed(_) => Place::Jail,
            Self::Unjailed(_) => Place::OutsideTheJail,
        }
    }

    /// Waits until a worker is warm.
    pub(crate) fn settle(&mut self) -> Result<()> {
        match self {
            Self::Jailed(jailed) => jailed.settle(),
            Self::Unjailed(unjailed) => unjailed.settle(),
        }
    }

    /// Runs a job, on the warm worker if there is one.
    pub(crate) fn launch(&mut self, ask: &Ask) -> Result<Outcome> {
        match self {
            Self::Jailed(jailed) => jailed.launch(ask),
            Self::Unjailed(unjailed) => unjailed.launch(ask),
        }
    }

    /// Machine code of PTX, and what the linker took, in a process without a GPU.
    pub(crate) fn compile(&self, kit: &Kit, ptx: &[u8]) -> Result<(Vec<u8>, Duration)> {
        match self {
            Self::Jailed(jailed) => jailed.compile(kit.arch(), ptx),
            Self::Unjailed(unjailed) => crate::worker::compile(&unjailed.program, kit.arch(), ptx),
        }
    }

    /// Runs a job on a worker that was warm before.
    pub(crate) fn launch_warm(&mut self, ask: &Ask) -> Result<Outcome> {
        self.settle()?;
        self.launch(ask)
    }
}

// === impl Unjailed ===

impl Unjailed {
    pub(crate) fn new(program: PathBuf, uuid: String) -> Self {
        Self { program, uuid, warm: None }
    }

    pub(crate) fn settle(&mut self) -> Result<()> {
        if self.warm.is_none() {
            self.warm = Some(self.start()?);
        }
        Ok(())
    }

    /// A worker that nobody had before.
    pub(crate) fn start(&self) -> Result<Worker> {
        Worker::start(&self.program, &self.uuid)
    }

    pub(crate) fn launch(&mut self, ask: &Ask) -> Result<Outcome> {
        let asked = Instant::now();
        match self.warm.take() {
            Some(worker) => worker.perform(ask, asked, true),
            None => self.start()?.perform(ask, asked, false),
        }
    }
}

//! Submits the operations of a plan, in order, to one stream.
//!
//! Invariants: the device is never more than two batches behind what was submitted, so that a fault of an operation
//! ends the job soon after it, and the driver's queue stays short; the device is not kept waiting for that.

use std::collections::BTreeMap;

use bundle::{Launch, Operation, Plan};

use crate::driver::{DevicePointer, Driver, Event, Kernel, Refused, Shape, Stream};
use crate::job::{JobError, Worker, refused};
use crate::launch::{Arguments, address};
use crate::memory::{MoveError, Pattern};
use crate::stopwatch::Stopwatch;

/// Operations of a batch. The driver's queue takes about as many launches before it makes the next one wait.
const BATCH: usize = 1024;

/// Dynamic shared memory that every launch may have without asking, in bytes.
const SHARED_BYTES_UNASKED: u32 = 48 << 10;

/// The kernels that a plan launches, by module and name.
#[derive(Debug, Default)]
pub(crate) struct Kernels(BTreeMap<usize, BTreeMap<String, Kernel>>);

/// What the operations work with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// What to do.
    pub(crate) plan: &'a Plan,
    /// With what.
    pub(crate) kernels: &'a Kernels,
    /// On what, in the order of [`Plan::buffers`].
    pub(crate) buffers: &'a [DevicePointer],
}

/// A run to come: its events are made before it begins.
#[derive(Debug)]
pub(crate) struct Run {
    begin: Event,
    marks: Vec<Event>,
    /// Behind the last batch and the one before.
    batches: [Event; 2],
    arguments: Arguments,
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Of each mark, since the beginning.
    pub(crate) marks_ms: Vec<f64>,
    /// Until the first launch was submitted; 0 without any.
    pub(crate) first_launch_us: u64,
}

// === impl Kernels ===

impl Kernels {
    /// Whether the kernel of `launch` is here.
    pub(crate) fn has(&self, launch: &Launch) -> bool {
        self.of(launch).is_some()
    }

    /// Keeps the kernel of `launch`.
    pub(crate) fn add(&mut self, launch: &Launch, kernel: Kernel) {
        self.0.entry(launch.module).or_default().insert(launch.kernel.clone(), kernel);
    }

    /// Asks for the shared memory that launches need beyond what every launch may have.
    pub(crate) fn allow_shared_bytes(&self, driver: &Driver, plan: &Plan) -> Result<(), JobError> {
        let mut largest = BTreeMap::<(usize, &str), u32>::new();
        for operation in &plan.operations {
            if let Operation::Launch(launch) = operation {
                let most = largest.entry((launch.module, &launch.kernel)).or_default();
                *most = launch.shared_bytes.max(*most);
            }
        }
        for ((module, name), bytes) in largest.into_iter().filter(|(_, bytes)| *bytes > SHARED_BYTES_UNASKED) {
            let Some(kernel) = self.0.get(&module).and_then(|kernels| kernels.get(name)) else { continue };
            let allowed = driver.allow_shared_bytes(*kernel, bytes);
            allowed.map_err(|source| refused(format!("allow {name} {bytes} bytes of shared memory"), source))?;
        }
        Ok(())
    }

    fn of(&self, launch: &Launch) -> Option<Kernel> {
        self.0.get(&launch.module)?.get(&launch.kernel).copied()
    }
}

// === impl Run ===

impl Run {
    /// Makes the events that the plan needs.
    pub(crate) fn new(driver: &Driver, plan: &Plan) -> Result<Self, Refused> {
        Ok(Self {
            begin: driver.event()?,
            marks: plan.marks.iter().map(|_| driver.event()).collect::<Result<_, _>>()?,
            batches: [driver.event()?, driver.event()?],
            arguments: Arguments::new(),
        })
    }

    /// Does all operations, and waits for the last.
    pub(crate) fn perform(&mut self, worker: &mut Worker, step: &Step<'_>) -> Result<Ended, JobError> {
        let watch = Stopwatch::start();
        let mut first_launch_us = 0;
        let during = |text: &str| {
            let text = text.to_owned();
            move |source| refused(text, source)
        };
        worker.driver.record(self.begin, worker.stream).map_err(during("begin"))?;
        for (index, operation) in step.plan.operations.iter().enumerate() {
            self.submit(worker, step, index, operation)?;
            if first_launch_us == 0 && matches!(operation, Operation::Launch(_)) {
                first_launch_us = watch.us().max(1);
            }
            if (index + 1) % BATCH == 0 {
                self.batches.reverse();
                let [last, before] = self.batches;
                let kept = worker.driver.record(last, worker.stream).and_then(|()| worker.driver.wait(before));
                kept.map_err(|source| refused(format!("run operations up to {}", index + 1), source))?;
            }
        }
        worker.driver.drain(worker.stream).map_err(during("run to the end"))?;
        let since_begin = |mark: &Event| worker.driver.elapsed_ms(self.begin, *mark);
        let marks_ms = self.marks.iter().map(since_begin).collect::<Result<_, _>>();
        Ok(Ended { marks_ms: marks_ms.map_err(during("read the marks"))?, first_launch_us })
    }

    fn submit(
        &mut self,
        worker: &mut Worker,
        step: &Step<'_>,
        index: usize,
        operation: &Operation,
    ) -> Result<(), JobError> {
        let Worker { driver, stream, staging, arch: _ } = worker;
        match operation {
            Operation::Launch(launch) => self.launch(driver, *stream, step, launch).map_err(|error| match error {
                LaunchError::Driver(source) => refused(format!("launch {} (operation {index})", launch.kernel), source),
                LaunchError::Plan(why) => {
                    JobError::TooMuch(format!("launch {} (operation {index}): {why}", launch.kernel))
                }
            }),
            Operation::Copy { from, to } => driver
                .copy(address(from, step.buffers), address(to, step.buffers), from.bytes.min(to.bytes), *stream)
                .map_err(|source| refused(format!("copy (operation {index})"), source)),
            Operation::Fill { view, pattern } => {
                let during = format!("fill (operation {index})");
                let Some(pattern) = Pattern::new(pattern) else {
                    return Err(JobError::TooMuch(format!("{during}: a pattern of {} bytes", pattern.len())));
                };
                let filled = staging.fill(driver, address(view, step.buffers), view.bytes, pattern);
                filled.map_err(|source| JobError::Move { during, source: MoveError::Driver(source) })
            }
            Operation::Mark(mark) => {
                let marked = driver.record(self.marks[*mark], *stream);
                marked.map_err(|source| refused(format!("mark (operation {index})"), source))
            }
        }
    }

    fn launch(&mut self, driver: &Driver, on: Stream, step: &Step<'_>, launch: &Launch) -> Result<(), LaunchError> {
        let kernel =
            step.kernels.of(launch).ok_or_else(|| LaunchError::Plan("no such kernel was loaded".to_owned()))?;
        self.arguments.set(&launch.arguments, step.buffers).map_err(|error| LaunchError::Plan(error.to_string()))?;
        let shape = Shape { grid: launch.grid, block: launch.block, shared_bytes: launch.shared_bytes };
        driver.launch(kernel, shape, &self.arguments, on).map_err(LaunchError::Driver)
    }
}

/// A launch that was not submitted.
enum LaunchError {
    Driver(Refused),
    Plan(String),
}

//! The owner's benchmark of one GPU: how fast bytes move, and how fast it computes.
//!
//! Invariants: each figure is taken by a worker of its own in a jail, like a job; what cannot be measured is told with
//! its reason, beside what can.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cuda::messages::{Done, Measured, Measuring};
use gpu::{Driver, Gpu};
use runner::memory;
use runner::protocol::{Bench, Refusal, Throughput};

use super::bench::{self, Kernel};
use super::home::Home;
use super::job::{self, Ended, Given, LOOK_EVERY};
use super::words;
use super::worker::{Heard, Worker};
use crate::furniture::Device;
use crate::sources::Sources;

/// How long each figure may take: seconds on a slow GPU, and a driver that begins anew takes seconds too.
const WITHIN: Duration = Duration::from_secs(60);

/// A measurement that has been given to a keeper.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) fp32: Code,
    pub(super) fp16: Code,
    /// The driver's own version.
    pub(super) driver: Option<String>,
    pub(super) reply: SyncSender<Result<Bench, Refusal>>,
}

/// A kernel that can be run, or why it cannot.
pub(super) type Code = Result<Ready, String>;

/// A kernel that can be run.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) kernel: Kernel,
    pub(super) bench: bench::Bench,
    pub(super) cubin: OwnedFd,
}

/// Whatever it takes to start workers on one GPU.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) sources: Arc<Sources>,
    pub(super) home: Arc<Home>,
    pub(super) driver: Arc<Driver>,
    pub(super) gpu: Gpu,
    pub(super) devices: Vec<Device>,
}

/// The highest clocks that were seen, megahertz.
#[derive(Clone, Copy, Debug, Default)]
struct Clocks {
    sm_mhz: Option<u32>,
    memory_mhz: Option<u32>,
}

/// Is told which worker measures, every now and then, and may say why it has to stop.
pub(super) type Meanwhile<'a> = dyn FnMut(&Arc<Worker>) -> Option<String> + 'a;

/// Takes all figures. The GPU has no other worker.
///
/// Errors: the GPU's fault, in words. It has to prove itself after it.
pub(super) fn take(site: &Site, asked: &Asked, meanwhile: &mut Meanwhile<'_>) -> Result<Bench, String> {
    let bandwidth = bandwidth(site, meanwhile)?;
    let mut clocks = Clocks::default();
    let fp32 = rate(site, &asked.fp32, &mut clocks, meanwhile)?;
    let fp16 = rate(site, &asked.fp16, &mut clocks, meanwhile)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let Clocks { sm_mhz, memory_mhz } = clocks;
    Ok(Bench { at_unix: since.as_secs(), driver: asked.driver.clone(), sm_mhz, memory_mhz, bandwidth, fp32, fp16 })
}

fn bandwidth(site: &Site, meanwhile: &mut Meanwhile<'_>) -> Result<Measured, String> {
    let worker = Worker::for_measuring(&site.sources, &site.home, &site.gpu.uuid, &site.devices);
    let worker = Arc::new(worker.map_err(|refusal| refusal.to_string())?);
    let deadline = Instant::now() + WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match worker.hear::<Measuring>(left.min(LOOK_EVERY)) {
            Heard::Said(Measuring::Measured(measured)) => {
                // It ends by itself now; one that does not is made to.
                if worker.await_end().is_none() {
                    worker.kill();
                }
                return Ok(measured);
            }
            Heard::Said(Measuring::Failed { why }) => return Err(why),
            Heard::Gone => return Err(format!("the worker that measures ended: {}", worker.last_words())),
            Heard::Nothing if left.is_zero() => {
                return Err(format!("the copies took longer than {} s", WITHIN.as_secs()));
            }
            Heard::Nothing => {}
        }
        if let Some(why) = meanwhile(&worker) {
            return Err(why);
        }
    }
}

fn rate(site: &Site, code: &Code, clocks: &mut Clocks, meanwhile: &mut Meanwhile<'_>) -> Result<Throughput, String> {
    let ready = match code {
        Ok(ready) => ready,
        Err(why) => return Ok(Throughput::Unknown(why.clone())),
    };
    let worker = Worker::on_gpu(&site.sources, &site.home, &site.gpu.uuid, &site.devices);
    let worker = Arc::new(worker.map_err(|refusal| refusal.to_string())?);
    worker.await_warm()?;
    // It has no inputs, which are bytes all the same.
    let inputs = memory::sealed("no inputs", &[]).map_err(|error| words(&error))?;
    let given = Given {
        job: ready.bench.job(),
        fds: vec![ready.bench.archive().as_fd(), inputs.as_fd(), ready.cubin.as_fd()],
        output_bytes: bench::OUTPUT_BYTES,
        within: WITHIN,
    };
    let look = || {
        clocks.look(site);
        meanwhile(&worker)
    };
    let (ended, outputs) = job::perform(&worker, &given, look).map_err(|refusal| refusal.to_string())?;
    let ran = match ended {
        Ended::Answered(Done::Ran(ran)) => ran,
        Ended::Answered(Done::Failed(failure)) => {
            let why = format!("it failed at {}: {} {}", failure.during, failure.name, failure.detail);
            return if failure.class.is_device_fault() { Err(why) } else { Ok(Throughput::Unknown(why)) };
        }
        Ended::Deadline => return Err(format!("the arithmetic took longer than {} s", WITHIN.as_secs())),
        Ended::Killed(why) => return Err(why),
        Ended::Died(exit) => return Err(format!("the worker ended: {exit:?}")),
    };
    let read = memory::seal("outputs", &outputs);
    let read = read.and_then(|()| memory::read("outputs", outputs, bench::OUTPUT_BYTES));
    let found = read.map_err(|error| words(&error))?;
    Ok(ready.kernel.throughput(&ran.marks_ms, &found))
}

// === impl Clocks ===

impl Clocks {
    /// Looks how fast the GPU is now. One that does not say is looked at again.
    fn look(&mut self, site: &Site) {
        let Ok(sample) = site.driver.sample(&site.gpu.uuid) else { return };
        self.sm_mhz = self.sm_mhz.max(sample.clocks.sm_mhz);
        self.memory_mhz = self.memory_mhz.max(sample.clocks.memory_mhz);
    }
}

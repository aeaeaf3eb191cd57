//! The worker that holds a GPU: gets warm, waits for one job, does it, ends.
//!
//! Invariants: it says one greeting and at most one answer; it reads at most one job; it never asks the driver for
//! anything after the driver has reported a failure. What the environment says about devices and PTX is for whoever
//! started it to set; the driver reads it, this does not.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use bundle::Arch;
use cuda::class::Class;
use cuda::messages::{DETAIL_BYTES_MAX, Done, Failure, Greeting, Job, Warm, WarmTimings, clipped};

use crate::Outcome;
use crate::driver::{Driver, LoadError, Refused};
use crate::job::{self, Worker};
use crate::memory::Staging;
use crate::socket;
use crate::stopwatch::Stopwatch;

/// Lives the whole life of a worker.
pub(crate) fn run(socket: &OwnedFd) -> anyhow::Result<Outcome> {
    let (mut worker, warm) = match warm_up() {
        Ok(warmed) => warmed,
        Err(cold) => {
            socket::send(socket, &Greeting::Failed(cold.failure()))?;
            return Ok(Outcome::NoDriver);
        }
    };
    socket::send(socket, &Greeting::Warm(warm))?;
    let Some((job, fds)) = socket::receive::<Job>(socket).context("wait for a job")? else {
        return Ok(Outcome::Done);
    };
    socket::stop_listening(socket);
    let (done, outcome) = match job::perform(&mut worker, &job, fds) {
        Ok(ran) => (Done::Ran(ran), Outcome::Done),
        Err(error) => (Done::Failed(error.failure()), Outcome::JobFailed),
    };
    socket::send(socket, &done).context("tell what became of the job")?;
    Ok(outcome)
}

/// Why there is no warm worker.
#[derive(Debug, thiserror::Error)]
enum Cold {
    #[error("load the driver")]
    Load(#[source] LoadError),
    #[error("{during}")]
    Driver {
        during: &'static str,
        #[source]
        source: Refused,
    },
}

/// All that takes time and is the same for every job: the library, the context, a stream, pinned memory.
fn warm_up() -> Result<(Worker, Warm), Cold> {
    let at = |during| move |source| Cold::Driver { during, source };
    let mut timings = WarmTimings::default();
    let mut watch = Stopwatch::start();
    let driver = Driver::load().map_err(Cold::Load)?;
    timings.load_us = watch.lap_us();

    driver.init().map_err(at("begin with the driver"))?;
    timings.init_us = watch.lap_us();

    let version = driver.version().map_err(at("ask for the driver's version"))?;
    let device = driver.device(0).map_err(at("take the first device"))?;
    let name = driver.name(device).map_err(at("ask for the device's name"))?;
    let compute_capability = driver.compute_capability(device).map_err(at("ask what the device is"))?;
    driver.enter(device).map_err(at("make a context"))?;
    let stream = driver.stream().map_err(at("make a stream"))?;
    let staging = Staging::new(&driver, stream).map_err(at("pin memory for copies"))?;
    driver.drain(stream).map_err(at("use the stream"))?;
    let (vram_free_bytes, vram_total_bytes) = driver.memory().map_err(at("ask for the device's memory"))?;
    timings.context_us = watch.lap_us();

    let arch = Arch::new(compute_capability.0, compute_capability.1);
    let warm = Warm { device: name, compute_capability, driver: version, vram_total_bytes, vram_free_bytes, timings };
    Ok((Worker { driver, arch, stream, staging }, warm))
}

// === impl Cold ===

impl Cold {
    fn failure(&self) -> Failure {
        let (class, code, name) = match self {
            Self::Load(_) => (Class::Driver, 0, String::new()),
            Self::Driver { source, .. } => (source.class(), source.code, source.name.clone()),
        };
        let why = anyhow::Chain::new(self).skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let detail = match hint(code) {
            Some(hint) => format!("{why}: {hint}"),
            None => why,
        };
        Failure { class, code, name, during: self.to_string(), detail: clipped(&detail, DETAIL_BYTES_MAX).to_owned() }
    }
}

/// What somebody can do about a driver that does not begin.
pub(crate) fn hint(code: i32) -> Option<&'static str> {
    match code {
        34 => Some("libcuda.so.1 is the toolkit's stub, not the driver's; take it out of the library path"),
        46 => Some("the device does not answer or is held by another process; look at the kernel's log"),
        100 => Some("no NVIDIA GPU is visible; are its device nodes there, and does CUDA_VISIBLE_DEVICES name it?"),
        802 => Some("the system is not ready for CUDA; on NVSwitch machines start the fabric manager"),
        803 => Some("the driver's library and its kernel module are of different versions; reboot after an update"),
        999 => Some("the driver cannot say why; are the device nodes there, and is the kernel module loaded?"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_does_not_begin_is_explained() {
        let check = |code, class, word: &str| {
            let source = Refused { call: "cuInit", code, name: "CUDA_ERROR_X".to_owned() };
            let failure = Cold::Driver { during: "begin with the driver", source }.failure();
            assert_eq!((failure.class, failure.code, failure.during.as_str()), (class, code, "begin with the driver"));
            assert!(failure.detail.starts_with("cuInit ended with CUDA_ERROR_X"), "{}", failure.detail);
            assert!(failure.detail.contains(word), "{}", failure.detail);
        };
        check(100, Class::DeviceLost, "CUDA_VISIBLE_DEVICES");
        check(803, Class::Driver, "reboot");
        check(999, Class::Driver, "kernel module");
        check(3, Class::Driver, "(3)");
    }
}

//! One worker: `rig-cuda` in a jail, and the socket to it.
//!
//! Invariant: a worker that is dropped is dead, with everything that it had on the GPU; nobody waits for it longer than
//! [`END_TIMEOUT`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cuda::messages::{Greeting, Warm};
use gpu::GpuUuid;
use runner::protocol::{Exit, Limits, Refusal, ServiceSpec};
use runner::wire::{self, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::home::{Home, LIBRARIES, PROGRAM};
use crate::furniture::Device;
use crate::orders::WorkerPlan;
use crate::sources::{Sources, WorkerRun};

/// How long a killed worker may take to be gone: the driver tears its channels down.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a worker may take to get warm: a driver that has no client begins anew, in seconds for each GPU.
const WARM_TIMEOUT: Duration = Duration::from_secs(60);

/// How long handing over a message may take; the worker does nothing but wait for it.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What a worker may use. Threads are the driver's; pinned memory counts as memory.
const LIMITS: Limits = Limits {
    open_files: 1024,
    processes: 128,
    file_bytes: 2 << 30,
    tmp_bytes: 64 << 20,
    shm_bytes: 64 << 20,
    scratch_bytes: 0,
    memory_bytes: 0,
    cpu_millis: 0,
};

/// The most memory of a compiler, in bytes: kernels as people write them take some 100 MiB, and PTX that is built to take
/// more and more takes gigabytes within its time.
const COMPILER_MEMORY_BYTES: u64 = 4 << 30;

/// A worker that has been started.
#[derive(Debug)]
pub(super) struct Worker {
    run: Arc<WorkerRun>,
    socket: OwnedFd,
}

/// What came of waiting for a message.
#[derive(Debug)]
pub(super) enum Heard<T> {
    /// This.
    Said(T),
    /// Nothing yet.
    Nothing,
    /// Nothing ever: it has ended, or speaks another language.
    Gone,
}

// === impl Worker ===

impl Worker {
    /// Starts a worker for a GPU, which begins to get warm.
    pub(super) fn on_gpu(
        sources: &Arc<Sources>,
        home: &Home,
        uuid: &GpuUuid,
        devices: &[Device],
    ) -> Result<Self, Refusal> {
        Self::start(sources, home, &format!("rig.{uuid}"), "gpu", LIMITS, environment_for(uuid), devices)
    }

    /// Starts a worker that measures how fast bytes move on a GPU that has no other worker.
    pub(super) fn for_measuring(
        sources: &Arc<Sources>,
        home: &Home,
        uuid: &GpuUuid,
        devices: &[Device],
    ) -> Result<Self, Refusal> {
        Self::start(sources, home, &format!("rig.{uuid}"), "measure", LIMITS, environment_for(uuid), devices)
    }

    /// Starts a worker that has no GPU.
    pub(super) fn for_compiling(sources: &Arc<Sources>, home: &Home) -> Result<Self, Refusal> {
        let limits = Limits { memory_bytes: COMPILER_MEMORY_BYTES, ..LIMITS };
        Self::start(sources, home, "rig.compiler", "compile", limits, Vec::new(), &[])
    }

    fn start(
        sources: &Arc<Sources>,
        home: &Home,
        name: &str,
        role: &str,
        limits: Limits,
        mut environment: Vec<(String, String)>,
        devices: &[Device],
    ) -> Result<Self, Refusal> {
        let internal =
            |what: &str, error: &dyn std::error::Error| Refusal::Internal { detail: format!("{what}: {error}") };
        let name = name.parse().map_err(|error| internal("name a worker", &error))?;
        environment.push(("LD_LIBRARY_PATH".to_owned(), LIBRARIES.to_owned()));
        let spec = ServiceSpec {
            command: Some(vec![PROGRAM.to_owned(), role.to_owned()]),
            environment,
            working_dir: Some("/tmp".to_owned()),
            user: Some("1:1".to_owned()),
            read_only: true,
            limits,
            ..ServiceSpec::default()
        };
        let (socket, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| internal("make a worker's socket", &error))?;
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))
            .map_err(|error| internal("limit a worker's socket", &error))?;
        let plan = WorkerPlan { devices: devices.iter().map(|device| device.name.clone()).collect() };
        let run = sources.start_worker(&name, &home.manifest, spec, plan, devices, far.as_fd())?;
        Ok(Self { run: Arc::new(run), socket })
    }

    /// Waits until the worker is warm.
    ///
    /// Errors: why it never will be, in words.
    pub(super) fn await_warm(&self) -> Result<Warm, String> {
        let deadline = Instant::now() + WARM_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.hear::<Greeting>(left) {
                Heard::Said(Greeting::Warm(warm)) => return Ok(warm),
                Heard::Said(Greeting::Failed(failure)) => {
                    return Err(format!("{}: {} {}", failure.during, failure.name, failure.detail));
                }
                Heard::Gone => return Err(format!("the worker ended before it was warm: {}", self.last_words())),
                Heard::Nothing if Instant::now() >= deadline => {
                    return Err(format!("the worker was not warm within {} s", WARM_TIMEOUT.as_secs()));
                }
                Heard::Nothing => {}
            }
        }
    }

    pub(super) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        wire::send(&self.socket, message, fds)
    }

    /// Waits for a message, at most `within`.
    pub(super) fn hear<T: DeserializeOwned>(&self, within: Duration) -> Heard<T> {
        let within = Timespec {
            tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(within.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&within)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Heard::Nothing,
            Err(_) => Heard::Gone,
            Ok(_) => match wire::receive(&self.socket) {
                // A descriptor that it sends is closed.
                Ok((message, _)) => Heard::Said(message),
                Err(_) => Heard::Gone,
            },
        }
    }

    /// Its processes, as the machine numbers them.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.run.pids()
    }

    /// Whether it has not ended.
    pub(super) fn lives(&self) -> bool {
        self.run.lives()
    }

    /// How it ended, if it does within [`END_TIMEOUT`].
    pub(super) fn await_end(&self) -> Option<Exit> {
        self.run.await_end(END_TIMEOUT)
    }

    /// Kills it, and waits until it is gone; answers whether that came true in time.
    pub(super) fn kill(&self) -> bool {
        self.run.kill();
        self.await_end().is_some()
    }

    /// How it ended and the end of what it printed.
    pub(super) fn last_words(&self) -> String {
        match self.await_end() {
            Some(exit) => format!("{exit:?}; {}", self.run.printed().trim()),
            None => "it hangs".to_owned(),
        }
    }
}

/// What the driver reads in a worker on this GPU.
fn environment_for(uuid: &GpuUuid) -> Vec<(String, String)> {
    vec![
        ("CUDA_VISIBLE_DEVICES".to_owned(), uuid.to_string()),
        // The GPU's worker loads machine code and nothing else; the driver has no say in it.
        ("CUDA_DISABLE_PTX_JIT".to_owned(), "1".to_owned()),
        // A cache would be a way from one job to the next.
        ("CUDA_CACHE_DISABLE".to_owned(), "1".to_owned()),
        // What cannot be loaded fails before paid time begins.
        ("CUDA_MODULE_LOADING".to_owned(), "EAGER".to_owned()),
    ]
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.lives() && !self.kill() {
            tracing::error!("a worker does not die; its GPU is not free");
        }
    }
}

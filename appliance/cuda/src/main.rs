//! `rig-cuda`: does one thing with CUDA, in a process of its own, and ends. See the library's documentation.
//!
//! The roles `gpu` and `compile` are the runner's, which starts them in a jail; `probe` and `measure` may be asked by
//! anyone. Unsafe code stands in `driver.rs` and `linker.rs`, which open the two C libraries.

mod roles;

mod job;

mod run;

mod launch;

mod memory;

mod scan;

mod image;

mod driver;

mod linker;

mod socket;

mod mapped;

mod stopwatch;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use cuda::messages::SOCKET_FD;

/// Runs the plan of a kernel bundle on one GPU, in a process that is used once.
///
/// Exit codes: 0 done, or told to go; 1 failed, and said why on standard error; 2 the command line is wrong; 3 no
/// driver or no GPU to work with; 4 the job was not done, and the starter was told why.
#[derive(Debug, Parser)]
#[command(name = "rig-cuda", version)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

/// What to be.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Role {
    /// Print, as JSON, what this machine has for CUDA: the driver, its GPUs, the linker, the libraries they map
    ///
    /// Finding nothing is an answer too: the exit code is 0, and "why" says what is missing.
    Probe,
    /// Print, as JSON, how fast bytes move within the first GPU and between it and the host
    ///
    /// Medians of 7 copies of 256 MiB, or of a quarter of the free memory if that is less. CUDA_VISIBLE_DEVICES says
    /// which GPU is the first. If descriptor 3 is a SOCK_SEQPACKET Unix socket, the answer goes there and nothing is
    /// printed.
    Measure,
    /// Hold the first GPU, wait for one job at descriptor 3, do it, end
    ///
    /// The runner starts this in a jail, with CUDA_VISIBLE_DEVICES set to one GPU and CUDA_DISABLE_PTX_JIT to 1.
    /// Descriptor 3 is a SOCK_SEQPACKET Unix socket: a greeting goes out, a job with its descriptors comes in, an
    /// answer goes out. If the socket is closed instead of a job, it ends.
    Gpu,
    /// Turn one module's PTX into machine code at the request that comes at descriptor 3, without a GPU, end
    ///
    /// The runner starts this in a jail. Needs libnvJitLink.so.13 or .12 where the loader looks.
    Compile,
}

/// What the process's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, or told to go.
    Done = 0,
    /// Failed, and said why on standard error.
    Failed = 1,
    /// There is nothing to work with.
    NoDriver = 3,
    /// The job was not done; whoever sent it was told why.
    JobFailed = 4,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.role {
        Role::Probe => roles::probe::run(),
        Role::Measure => roles::measure::run(socket().ok().as_ref()),
        Role::Gpu => socket().and_then(|socket| roles::gpu::run(&socket)),
        Role::Compile => socket().and_then(|socket| roles::compile::run(&socket)),
    };
    let outcome = outcome.unwrap_or_else(|error| {
        eprintln!("rig-cuda: {error:#}");
        Outcome::Failed
    });
    ExitCode::from(outcome as u8)
}

fn socket() -> anyhow::Result<OwnedFd> {
    driver::inherited(SOCKET_FD).context("take the socket at descriptor 3; this role is for the runner to start")
}

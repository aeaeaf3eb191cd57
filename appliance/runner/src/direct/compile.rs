//! PTX to machine code, in a worker that has no GPU and ends with it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cuda::messages::{Compile, Compiled};
use runner::memory;
use runner::protocol::{Exit, Refusal};

use super::home::Home;
use super::words;
use super::worker::{Heard, Worker};
use crate::sources::Sources;

/// How long the compiler may take: a bundle's largest PTX takes seconds, one that is built to take for ever is ended.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The most PTX, in bytes; a bundle's own bound.
const PTX_BYTES_MAX: u64 = 64 << 20;

pub(super) fn compile(
    sources: &Arc<Sources>,
    home: &Home,
    arch: bundle::Arch,
    ptx: OwnedFd,
) -> Result<(OwnedFd, u64), Refusal> {
    let internal = |error: &dyn std::error::Error| Refusal::Internal { detail: words(error) };
    memory::length("the PTX", &ptx, PTX_BYTES_MAX).map_err(|error| Refusal::BadLaunch { detail: words(&error) })?;
    let cubin = memory::blank("machine code", 0).map_err(|error| internal(&error))?;
    let worker = Worker::for_compiling(sources, home)?;
    worker.send(&Compile { arch }, &[ptx.as_fd(), cubin.as_fd()]).map_err(|error| internal(&error))?;
    match worker.hear(TIMEOUT) {
        Heard::Said(Compiled::Compiled { us, .. }) => {
            // Nobody can write to it any more once its writer is dead.
            drop(worker);
            memory::seal("machine code", &cubin).map_err(|error| internal(&error))?;
            Ok((cubin, us))
        }
        Heard::Said(Compiled::Refused { log }) => Err(Refusal::BadPtx { log }),
        Heard::Said(Compiled::Failed { why }) => Err(Refusal::NoCompiler { why }),
        Heard::Nothing => {
            let log = format!("it was not compiled within {} s", TIMEOUT.as_secs());
            Err(Refusal::BadPtx { log })
        }
        Heard::Gone => Err(match worker.await_end() {
            // Its own crash, or what it took beyond its limits: the PTX asked for that.
            Some(Exit::Signal(_)) => Refusal::BadPtx { log: "the compiler ended over it".to_owned() },
            exit => Refusal::Internal { detail: format!("the compiler did not begin: {exit:?}") },
        }),
    }
}

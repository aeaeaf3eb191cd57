//! The worker that turns PTX into machine code. It has no GPU and no driver, and reads one request.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;
use cuda::messages::{Compile, Compiled, DETAIL_BYTES_MAX, clipped};

use crate::Outcome;
use crate::job::read;
use crate::linker::{CompileError, Linker};
use crate::socket;
use crate::stopwatch::Stopwatch;

/// The longest PTX, in bytes: what a whole bundle may be.
const PTX_BYTES_MAX: u64 = 64 << 20;

/// Lives the whole life of a worker.
pub(crate) fn run(socket: &OwnedFd) -> anyhow::Result<Outcome> {
    let Some((request, fds)) = socket::receive::<Compile>(socket).context("wait for a request")? else {
        return Ok(Outcome::Done);
    };
    socket::stop_listening(socket);
    let answer = compile(request, fds).unwrap_or_else(|error| {
        let why = format!("{error:#}");
        Compiled::Failed { why: clipped(&why, DETAIL_BYTES_MAX).to_owned() }
    });
    socket::send(socket, &answer).context("tell what became of the PTX")?;
    Ok(match answer {
        Compiled::Compiled { .. } => Outcome::Done,
        Compiled::Refused { .. } | Compiled::Failed { .. } => Outcome::JobFailed,
    })
}

fn compile(request: Compile, fds: Vec<OwnedFd>) -> anyhow::Result<Compiled> {
    let fds: [OwnedFd; 2] = fds.try_into().map_err(|fds: Vec<_>| {
        anyhow::anyhow!("{} descriptors, but a request has 2: the PTX, and a file for the machine code", fds.len())
    })?;
    let [ptx, cubin] = fds.map(File::from);
    let ptx = read(&ptx, "PTX", PTX_BYTES_MAX)?;
    let linker = Linker::load()?;
    let watch = Stopwatch::start();
    match linker.compile(&ptx, request.arch) {
        Ok(code) => {
            let us = watch.us();
            cubin.write_all_at(&code, 0).context("write the machine code")?;
            Ok(Compiled::Compiled { bytes: u64::try_from(code.len())?, us })
        }
        Err(CompileError::Refused(log)) => Ok(Compiled::Refused { log }),
        Err(error @ (CompileError::Linker { .. } | CompileError::TooLong(_))) => Err(error.into()),
    }
}

//! One job on one worker, from its handing over until the worker is gone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use cuda::messages::{Done, Job, WarmTimings};
use runner::memory;
use runner::protocol::{Exit, Launch, Launched, Refusal};

use super::worker::{Heard, Worker};

/// Between two looks at what else happens while a job runs. Its own end is noticed at once.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is answered to whoever launched.
pub(super) type Answer = Result<(Launched, Option<OwnedFd>), Refusal>;

/// A launch that has been given to a keeper.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) launch: Launch,
    pub(super) fds: Vec<OwnedFd>,
    /// When it was asked for.
    pub(super) asked: Instant,
    /// When nobody waits for it any more who has not been given a worker by then.
    pub(super) expires: Instant,
    pub(super) reply: SyncSender<Answer>,
}

/// How a job ended, before it is told.
#[derive(Debug)]
pub(super) enum Ended {
    Answered(Done),
    Deadline,
    /// The keeper's health wanted it dead.
    Killed(String),
    Died(Exit),
}

/// What a worker is given.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) job: Job,
    /// The archive, the inputs, the machine code.
    pub(super) fds: Vec<BorrowedFd<'a>>,
    pub(super) output_bytes: u64,
    pub(super) within: Duration,
}

/// A worker's start, as its job is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun {
    pub(super) was_warm: bool,
    pub(super) timings: WarmTimings,
}

/// Gives the job to the worker and waits for its end; `meanwhile` may say that it has to die. The outputs can be written
/// by nobody when this returns, because the worker is dead.
pub(super) fn perform(
    worker: &Worker,
    given: &Given<'_>,
    mut meanwhile: impl FnMut() -> Option<String>,
) -> Result<(Ended, OwnedFd), Refusal> {
    let internal = |error: &dyn std::error::Error| Refusal::Internal { detail: super::words(error) };
    let outputs = memory::blank("outputs", given.output_bytes).map_err(|error| internal(&error))?;
    let mut fds = given.fds.clone();
    fds.insert(2.min(fds.len()), outputs.as_fd());
    let deadline = Instant::now() + given.within;
    if let Err(error) = worker.send(&given.job, &fds) {
        tracing::warn!(error = super::words(&error), "a worker was gone before its job");
        let exit = if worker.kill() { worker.await_end() } else { None };
        return Ok((Ended::Died(exit.unwrap_or(Exit::Signal(9))), outputs));
    }
    let ended = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match worker.hear::<Done>(left.min(LOOK_EVERY)) {
            Heard::Said(done) => break Ended::Answered(done),
            Heard::Gone => break Ended::Died(worker.await_end().unwrap_or(Exit::Signal(9))),
            Heard::Nothing if left.is_zero() => break Ended::Deadline,
            Heard::Nothing => {}
        }
        if let Some(why) = meanwhile() {
            break Ended::Killed(why);
        }
    };
    // It ends by itself when it has answered; one that does not is made to.
    if !matches!(ended, Ended::Answered(_)) || worker.await_end().is_none() {
        worker.kill();
    }
    Ok((ended, outputs))
}

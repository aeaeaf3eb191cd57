//! The life of a run: a task's JSON is bound, its inputs are gathered, a GPU is chosen, the runner launches, and what is
//! left becomes the response.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bundle::{Bound, InputSource, Parameters, Plan};
use runner::protocol::{GPU_WAIT_MS_MAX, JOB_BYTES_MAX, JOB_SECONDS_MAX, Launch, Launched};
use tokio::time::Instant;
use tracing::{info, warn};
use work::task::Run;

use super::choice::{self, Choice, Needs};
use super::end::judged;
use super::result::Left;
use super::{Direct, DirectError, Loaded, ROOM_MIB, Returned, blocking};
use crate::container::name_of;
use crate::{chain_of, unix_now};

/// The share of the time that is left which a launch may wait for a GPU in any case, one part of so many.
const WAIT_SHARE: u32 = 4;

/// Time until a launch that nobody took is asked for again; it doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A run that is understood.
struct Job {
    function: String,
    parameters: Parameters,
    plan: Plan,
    inputs: Vec<InputSource>,
}

// === impl Direct ===

impl Direct {
    /// Runs a task on a GPU and keeps its response in the store, no later than at the run's deadline. `body` is the task's
    /// `data`. Errors: [`DirectError::is_final`] says whose fault it was.
    pub async fn run(&self, run: &Run, body: Vec<u8>) -> Result<Returned, DirectError> {
        let left = Duration::from_secs(run.deadline.saturating_sub(unix_now()));
        let until = Instant::now() + left;
        let done = tokio::time::timeout(left, self.run_until(until, run, body)).await;
        done.unwrap_or(Err(DirectError::TooLate))
    }

    async fn run_until(&self, until: Instant, run: &Run, body: Vec<u8>) -> Result<Returned, DirectError> {
        let task = &run.input.attempt.bid.task;
        let loaded = self.loaded().get(&task.source).cloned().ok_or(DirectError::NotLoaded)?;
        let (of_bundle, name, result_bytes_max) = (loaded.clone(), run.input.function.clone(), self.result_bytes_max);
        let mut job = blocking(move || Job::bind(&of_bundle, name, &body, result_bytes_max)).await?;
        // Dropped when the response is in the store.
        let room = self.room.acquire_many(room_mib(&job.plan)).await;
        let _room = room.expect("the semaphore is never closed");
        let inputs = Arc::new(self.gather(&job.plan, std::mem::take(&mut job.inputs)).await?);
        let mut pause = PAUSE_MIN;
        let (launched, outputs) = loop {
            match self.try_to_launch(until, run, &loaded, &job, &inputs).await {
                // A run that fails counts against its task, and the attempt is paid: so it waits while there is time.
                Err(error) if error.has_not_begun() && left_until(until)? > 2 * pause => {
                    warn!(task = %task.id, error = chain_of(&error), "no GPU takes the job yet");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                done => break done?,
            }
        };
        let Launched { gpu, end, waited_us, took_us, was_warm, warm: _ } = launched;
        let ran = judged(end)?;
        info!(task = %task.id, %gpu, waited_us, took_us, was_warm, timings = ?ran.timings, "job has run");
        let outputs = outputs.ok_or_else(|| DirectError::Machine("it ran, and its outputs did not come".to_owned()))?;
        let Job { function, parameters, plan, inputs: _ } = job;
        self.keep(task.id, Left { loaded, function, parameters, plan, outputs, ran, gpu }).await
    }

    async fn try_to_launch(
        &self,
        until: Instant,
        run: &Run,
        loaded: &Arc<Loaded>,
        job: &Job,
        inputs: &Arc<OwnedFd>,
    ) -> Result<(Launched, Option<OwnedFd>), DirectError> {
        let task = &run.input.attempt.bid.task;
        let choice = self.choice(loaded, job.plan.vram_bytes).await?;
        let (seconds, wait_ms) = times(job.plan.seconds, left_until(until)?);
        let launch = Launch {
            source: name_of(task.source),
            job: task.id.to_string(),
            bundle: loaded.bundle.digest(),
            function: job.function.clone(),
            parameters: job.parameters.clone(),
            output_bytes: job.plan.output_bytes(),
            seconds,
            wait_ms,
            gpu: choice.gpu,
        };
        self.launch(loaded.clone(), choice.arch, launch, inputs.clone()).await
    }

    /// Where a launch goes. Only where GPUs differ the runner is asked how they are.
    async fn choice(&self, loaded: &Loaded, vram_bytes: u64) -> Result<Choice, DirectError> {
        let archs = loaded.archs();
        let needs = Needs { archs: &archs, vram_bytes };
        if let Some(any) = choice::any(&loaded.gpus, needs) {
            return Ok(any);
        }
        if !choice::fits(&loaded.gpus, needs) {
            let why = format!("its buffers take {vram_bytes} bytes, and no GPU here that it runs on has as many");
            return Err(DirectError::Unfit { why });
        }
        let now = self.gpus.usable().await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        choice::choose(&now, needs, turn).ok_or_else(|| DirectError::NoGpu { why: choice::why_none(&now) })
    }

    async fn launch(
        &self,
        loaded: Arc<Loaded>,
        arch: bundle::Arch,
        launch: Launch,
        inputs: Arc<OwnedFd>,
    ) -> Result<(Launched, Option<OwnedFd>), DirectError> {
        let launched = self.gpus.ask(move |runner| {
            let code = loaded.code.get(&arch).map(|code| code.as_slice()).unwrap_or_default();
            let fds: Vec<BorrowedFd<'_>> =
                [&loaded.archive, &*inputs].into_iter().chain(code).map(AsFd::as_fd).collect();
            runner.launch(launch, &fds)
        });
        launched.await.map_err(DirectError::Launch)
    }
}

// === impl Job ===

impl Job {
    /// Binds a task's `data` to a function, and refuses what would not fit before anything is fetched or launched.
    fn bind(loaded: &Loaded, name: String, body: &[u8], result_bytes_max: u64) -> Result<Job, DirectError> {
        let Some(function) = loaded.functions().find(|function| function.name() == name) else {
            return Err(DirectError::NoFunction { name, serves: loaded.names().into_iter().collect() });
        };
        let data = serde_json::from_slice(body).map_err(DirectError::NotJson)?;
        let Bound { parameters, inputs } = function.bind(&data).map_err(DirectError::Bind)?;
        let plan = function.plan(&parameters).map_err(|error| DirectError::Bind(bundle::BindError::Plan(error)))?;
        for (what, bytes) in [("inputs", plan.input_bytes()), ("outputs", plan.output_bytes())] {
            if bytes > JOB_BYTES_MAX {
                return Err(DirectError::TooMuch { what, bytes, max: JOB_BYTES_MAX });
            }
        }
        let bytes = function.response_bytes_min(&plan);
        if bytes > result_bytes_max {
            return Err(DirectError::ResultTooBig { bytes, max: result_bytes_max });
        }
        Ok(Job { function: name, parameters, plan, inputs })
    }
}

/// What a run's inputs and outputs take of the room for all, in MiB.
fn room_mib(plan: &Plan) -> u32 {
    let mib = plan.input_bytes().saturating_add(plan.output_bytes()).div_ceil(1 << 20);
    u32::try_from(mib).unwrap_or(u32::MAX).min(ROOM_MIB)
}

/// The time until then. Errors: there is none; a launch then would only take a GPU from others.
fn left_until(until: Instant) -> Result<Duration, DirectError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(DirectError::TooLate) } else { Ok(left) }
}

/// How long a launch may run, in seconds, and how long it may wait for a GPU, in milliseconds, when so much time is
/// `left`. It runs no longer than its bundle says. It waits as long as it can run in full afterwards; if that is never,
/// a share of what is left, as a GPU is back in a moment when the last job has just ended.
fn times(seconds: u32, left: Duration) -> (u32, u64) {
    let runs = u32::try_from(left.as_secs()).unwrap_or(u32::MAX).clamp(1, seconds.clamp(1, JOB_SECONDS_MAX));
    let spare = left.saturating_sub(Duration::from_secs(runs.into()));
    let wait = spare.max(left / WAIT_SHARE).min(Duration::from_millis(GPU_WAIT_MS_MAX));
    (runs, u64::try_from(wait.as_millis()).unwrap_or(GPU_WAIT_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_runs_and_waits_no_longer_than_there_is_time() {
        let check = |seconds, left_ms, expected: (u32, u64)| {
            assert_eq!(times(seconds, Duration::from_millis(left_ms)), expected, "{seconds} s of {left_ms} ms");
        };
        check(20, 100_000, (20, 80_000));
        check(20, 24_000, (20, 6_000));
        check(20, 20_000, (20, 5_000));
        check(20, 8_000, (8, 2_000));
        check(20, 500, (1, 125));
        check(20, 0, (1, 0));
        check(0, 8_000, (1, 7_000));
        check(u32::MAX, 10_000_000, (JOB_SECONDS_MAX, GPU_WAIT_MS_MAX));
        check(1, u64::MAX, (1, GPU_WAIT_MS_MAX));
    }
}

//! A runner of the report's own, with state and socket in a directory that goes away with it.
//!
//! Invariant: when this is dropped the runner has ended, and every jail with it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bundle::Arch;
use cuda::messages::{CUBIN_BYTES_MAX, Done};
use gpu::health::State;
use runner::client::{Client, ClientError};
use runner::memory;
use runner::protocol::{End, GpuReport, Launch, Refusal};

use crate::backend::{Ended, Outcome};
use crate::kit::{Ask, Kit};
use crate::worker::awaited;

/// How long the runner may take until its socket answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// How long a GPU may take to be offered: a cold driver, the workers' image, and a canary that reads all of its memory.
const OFFERED_WITHIN: Duration = Duration::from_secs(90);

/// How long a job may wait for the GPU.
const WAIT_MS: u64 = 60_000;

/// How much of the runner's log an error carries, in bytes.
const LOG_BYTES: usize = 600;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// The runner and its one GPU of interest.
#[derive(Debug)]
pub(crate) struct Jailed {
    runner: Child,
    pub(crate) client: Client,
    uuid: String,
    dir: tempfile::TempDir,
}

// === impl Jailed ===

impl Jailed {
    /// Starts a runner below `place`, and waits until it offers the GPU with this UUID.
    ///
    /// Errors: why jobs cannot run in a jail here.
    pub(crate) fn start(kit: &Kit, place: &Path, uuid: &str) -> Result<Self> {
        anyhow::ensure!(rustix::process::geteuid().is_root(), "jails take root");
        let dir = tempfile::Builder::new().prefix("gpu-report-").tempdir_in(place).context("make a directory")?;
        let log = File::create(dir.path().join("log")).context("make the runner's log")?;
        std::fs::create_dir_all(dir.path().join("content/blobs/sha256"))?;
        let mut command = Command::new(kit.program("rig-runner"));
        command.arg("run");
        for (option, name) in [("--socket", "socket"), ("--content", "content"), ("--state", "state")] {
            command.arg(option).arg(dir.path().join(name));
        }
        command.arg("--cuda-worker").arg(kit.program("rig-cuda"));
        match std::env::var_os("RIG_CGROUP") {
            Some(cgroup) => command.arg("--cgroup").arg(cgroup),
            None => command.arg("--rlimits-only"),
        };
        command.env("RIG_LOG", "info").env_remove("JOURNAL_STREAM").stdin(Stdio::null()).stdout(Stdio::null());
        let runner = command.stderr(log).spawn().context("start the runner")?;
        let client = Client::new(dir.path().join("socket"));
        let mut jailed = Self { runner, client, uuid: uuid.to_owned(), dir };
        jailed.answers()?;
        jailed.settle().with_context(|| format!("the runner says: {}", jailed.log()))?;
        Ok(jailed)
    }

    fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + ANSWERS_WITHIN;
        while self.client.gpus().is_err() {
            if let Some(status) = self.runner.try_wait()? {
                bail!("the runner ended with {status}: {}", self.log());
            }
            anyhow::ensure!(Instant::now() < deadline, "the runner does not answer: {}", self.log());
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until the GPU is offered and a worker is warm.
    pub(crate) fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + OFFERED_WITHIN;
        loop {
            let gpus = self.client.gpus()?;
            if let Some(why) = gpus.why {
                bail!("no bundle runs: {why}");
            }
            let report = gpus.gpus.into_iter().find(|report| report.gpu.uuid.to_string() == self.uuid);
            let report = report.with_context(|| format!("the runner does not know {}", self.uuid))?;
            match &report.state {
                State::Offered if report.warm.is_some() => return Ok(()),
                state @ (State::Withdrawn { .. } | State::GaveUp { .. }) => {
                    bail!("the runner does not use the GPU: {state}")
                }
                State::Offered
                | State::Unproven { .. }
                | State::Busy { .. }
                | State::Suspect { .. }
                | State::NeedsReset { .. } => {}
            }
            let within = OFFERED_WITHIN.as_secs();
            anyhow::ensure!(Instant::now() < deadline, "the GPU is not offered within {within} s: {}", report.state);
            std::thread::sleep(PAUSE);
        }
    }

    /// The GPU, as the runner sees it now.
    pub(crate) fn gpu(&self) -> Result<GpuReport> {
        let gpus = self.client.gpus()?.gpus;
        gpus.into_iter().find(|report| report.gpu.uuid.to_string() == self.uuid).context("the GPU is gone")
    }

    pub(crate) fn launch(&self, ask: &Ask) -> Result<Outcome> {
        let mut given = vec![memory::sealed("the archive", &ask.archive)?, memory::sealed("inputs", &ask.inputs)?];
        for code in &ask.cubins {
            given.push(memory::sealed("machine code", code)?);
        }
        let fds: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
        let launch = Launch {
            source: "report".parse().context("name the source")?,
            job: "report".to_owned(),
            bundle: ask.digest,
            function: ask.function.clone(),
            parameters: ask.parameters.clone(),
            output_bytes: ask.output_bytes,
            seconds: ask.seconds,
            wait_ms: WAIT_MS,
            gpu: Some(self.gpu()?.gpu.uuid),
        };
        let asked = Instant::now();
        let (launched, outputs) = match self.client.launch(launch, &fds) {
            Ok(launched) => launched,
            Err(ClientError::Refused(refusal)) => {
                let total = asked.elapsed();
                let ended = Ended::Refused(refusal.to_string());
                let (was_warm, warm) = (false, Default::default());
                return Ok(Outcome { ended, outputs: Vec::new(), waited: total, total, was_warm, warm });
            }
            Err(error) => return Err(error).context("launch"),
        };
        let outputs = outputs.map(|fd| memory::read("outputs", fd, ask.output_bytes)).transpose()?.unwrap_or_default();
        let total = asked.elapsed();
        let ended = match launched.end {
            End::Answered { done: Done::Ran(ran) } => Ended::Ran(ran),
            End::Answered { done: Done::Failed(failure) } => Ended::Failed(failure),
            End::Deadline { .. } => Ended::Deadline,
            End::GpuLost { why } => Ended::Gone(why),
            End::Died { exit } => Ended::Gone(format!("{exit:?}")),
        };
        let waited = Duration::from_micros(launched.waited_us);
        Ok(Outcome { ended, outputs, waited, total, was_warm: launched.was_warm, warm: launched.warm })
    }

    /// Machine code of PTX, and what the linker took.
    pub(crate) fn compile(&self, arch: Arch, ptx: &[u8]) -> Result<(Vec<u8>, Duration)> {
        let ptx = memory::sealed("PTX", ptx)?;
        match self.client.compile(arch, ptx.as_fd()) {
            Ok((code, us)) => Ok((memory::read("machine code", code, CUBIN_BYTES_MAX)?, Duration::from_micros(us))),
            Err(ClientError::Refused(Refusal::NoCompiler { why })) => bail!("there is no linker: {why}"),
            Err(error) => Err(error).context("have the runner compile"),
        }
    }

    /// The runner's process.
    pub(crate) fn pid(&self) -> u32 {
        self.runner.id()
    }

    /// The end of what the runner said.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let from = text.ceil_char_boundary(text.len().saturating_sub(LOG_BYTES));
        text[from..].trim().to_owned()
    }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.runner.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It ends its workers before it ends itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if !matches!(awaited(&mut self.runner, Duration::from_secs(10)), Ok(Some(_))) {
            let _ = self.runner.kill();
            let _ = self.runner.wait();
        }
    }
}

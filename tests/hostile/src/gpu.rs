//! A runner with GPUs that are not there: the driver of `tests/fake-gpu` beside the loader's own libraries, and what it
//! takes to have the runner run a bundle.
//!
//! What the worker loads is sealed when the runner starts; what NVML says may change at any time.

mod jobs;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use bundle::Bundle;
use fake_gpu_script::{Gpu, Script, install};
use gpu::GpuUuid;
use runner::client::{Client, ClientError};
use runner::memory;
use runner::protocol::{End, GpuReport, Launch, Launched};

use crate::observed::jailed;
use crate::rig::{Rig, Setup, binary, name, wait_for};

pub use jobs::{Job, gemm, one_launch};

/// A launch on its way.
pub type Begun = JoinHandle<Result<(Launched, Vec<u8>), ClientError>>;

/// A runner and its driver.
#[derive(Debug)]
pub struct GpuRig {
    /// The runner.
    pub rig: Rig,
    driver: tempfile::TempDir,
    script: Mutex<Script>,
}

// === impl GpuRig ===

impl GpuRig {
    /// A runner on a machine with what `script` says, whose GPUs have been looked at.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn new(script: Script) -> Self {
        Self::with(script, Setup::default())
    }

    /// The same, with a setup of its own.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn with(script: Script, setup: Setup) -> Self {
        Self::furnished(script, setup, |_| {})
    }

    /// The same, with more or less in the driver's directory when the runner starts.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn furnished(script: Script, setup: Setup, furnish: impl FnOnce(&Path)) -> Self {
        Self::start(script, setup, furnish, &binary("rig-cuda", "RIG_CUDA"))
    }

    /// The same, with another program for a worker.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn worked_by(script: Script, setup: Setup, worker: &Path) -> Self {
        Self::start(script, setup, |_| {}, worker)
    }

    fn start(script: Script, setup: Setup, furnish: impl FnOnce(&Path), worker: &Path) -> Self {
        let driver = tempfile::tempdir().expect("a directory");
        put(&driver, &script);
        furnish(driver.path());
        let rig = setup
            .env("LD_LIBRARY_PATH", driver.path().to_str().expect("UTF-8"))
            .options(&["--cuda-worker", worker.to_str().expect("UTF-8")])
            .start();
        Self { rig, driver, script: Mutex::new(script) }
    }

    /// A runner with one healthy GPU that is offered.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn healthy() -> Self {
        Self::offering(|_| {})
    }

    /// The same, of a machine that differs from the healthy one.
    ///
    /// # Panics
    /// If its GPU is not offered.
    #[must_use]
    pub fn offering(change: impl FnOnce(&mut Script)) -> Self {
        let mut script = small();
        change(&mut script);
        let rig = Self::new(script);
        rig.offered();
        rig
    }

    /// Changes what the driver does from now on. Of `libcuda.so.1` a runner that runs has a copy: only NVML changes.
    ///
    /// # Panics
    /// If the files cannot be replaced.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut script);
        put(&self.driver, &script);
    }

    /// Where the driver's libraries are.
    #[must_use]
    pub fn driver(&self) -> PathBuf {
        self.driver.path().to_owned()
    }

    /// Every GPU, as the runner reports it.
    ///
    /// # Panics
    /// If the runner does not answer.
    #[must_use]
    pub fn gpus(&self) -> Vec<GpuReport> {
        self.rig.client.gpus().expect("GPUs").gpus
    }

    /// The first GPU, as the runner reports it.
    ///
    /// # Panics
    /// If it reports none.
    #[must_use]
    pub fn gpu(&self) -> GpuReport {
        let gpus = self.rig.client.gpus().expect("GPUs");
        gpus.gpus.first().cloned().unwrap_or_else(|| panic!("no GPU: {:?}", gpus.why))
    }

    /// Waits until every GPU is offered and has a warm worker; answers the first one's name.
    ///
    /// # Panics
    /// If that never comes true.
    pub fn offered(&self) -> GpuUuid {
        wait_for("the GPUs to be offered", || {
            let gpus = self.gpus();
            let are_offered = gpus.iter().all(|report| report.state.is_offered() && report.warm.is_some());
            gpus.into_iter().next().filter(|_| are_offered).map(|report| report.gpu.uuid)
        })
    }

    /// Waits until the first GPU's state, in words, holds `words`; answers all of it.
    ///
    /// # Panics
    /// If it never does.
    pub fn becomes(&self, words: &str) -> String {
        wait_for(words, || Some(self.gpu().state.to_string()).filter(|state| state.contains(words)))
    }

    /// The processes of workers, as the machine numbers them; the first processes of their jails are not among them.
    ///
    /// # Panics
    /// If the runner does not run.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        let is_worker =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "rig-cuda\n");
        jailed(self.rig.spawner_pid()).into_iter().filter(is_worker).collect()
    }

    /// The one worker that there is.
    ///
    /// # Panics
    /// If there is none, or several.
    #[must_use]
    pub fn worker(&self) -> u32 {
        match self.workers()[..] {
            [worker] => worker,
            ref others => panic!("the workers are {others:?}"),
        }
    }

    /// Runs a job under its function's own limit.
    ///
    /// # Errors
    /// What the runner refuses.
    pub fn launch(&self, job: &Job) -> Result<(Launched, Vec<u8>), ClientError> {
        self.launch_within(job, 30)
    }

    /// The same, within so many seconds.
    ///
    /// # Errors
    /// What the runner refuses.
    pub fn launch_within(&self, job: &Job, seconds: u32) -> Result<(Launched, Vec<u8>), ClientError> {
        let (launch, fds) = order(job, seconds);
        self.launch_with(launch, &fds)
    }

    /// The same, in full.
    ///
    /// # Errors
    /// What the runner refuses.
    pub fn launch_with(&self, launch: Launch, fds: &[OwnedFd]) -> Result<(Launched, Vec<u8>), ClientError> {
        launch_by(&self.rig.client, launch, fds)
    }

    /// Launches, and does not wait for anything.
    pub fn begin(&self, launch: Launch, fds: Vec<OwnedFd>) -> Begun {
        let client = self.rig.client.clone();
        std::thread::spawn(move || launch_by(&client, launch, &fds))
    }

    /// Launches a job that may run for so many seconds, and waits until the first GPU is busy with it.
    ///
    /// # Panics
    /// If it never is.
    pub fn running(&self, job: &Job, seconds: u32) -> Begun {
        let (launch, fds) = order(job, seconds);
        let begun = self.begin(launch, fds);
        self.becomes("busy with");
        begun
    }

    /// How a job ends.
    ///
    /// # Panics
    /// If the runner refuses it.
    pub fn end(&self, job: &Job) -> End {
        self.launch(job).expect("launched").0.end
    }

    /// Panics unless every GPU is offered again, with one worker, and the next job runs.
    ///
    /// # Panics
    /// See above.
    pub fn still_works(&self) {
        // A worker that was killed is told as warm until the runner has looked.
        wait_for("as many workers as GPUs", || {
            self.offered();
            (self.workers().len() == self.gpus().len()).then_some(())
        });
        let job = Job { function: "copied".to_owned(), ..one_launch("not_launched") };
        let (launched, outputs) = self.launch(&job).expect("launched");
        assert!(launched.timings().is_some(), "{:?}", launched.end);
        assert!(outputs == job.inputs, "the job came back with other bytes");
        self.offered();
    }
}

/// What a launch of a job takes.
///
/// # Panics
/// If the bundle is not valid.
#[must_use]
pub fn order(job: &Job, seconds: u32) -> (Launch, Vec<OwnedFd>) {
    let bundle = Bundle::parse(&job.archive).expect("a valid bundle");
    let plan = bundle.function(&job.function).expect("a function").plan(&job.parameters).expect("a plan");
    let launch = Launch {
        source: name("bundles"),
        job: "a-job".to_owned(),
        bundle: bundle.digest(),
        function: job.function.clone(),
        parameters: job.parameters.clone(),
        output_bytes: plan.output_bytes(),
        seconds,
        wait_ms: 20_000,
        gpu: None,
    };
    let sealed = |what, bytes: &[u8]| memory::sealed(what, bytes).expect("memory");
    (launch, vec![sealed("an archive", &job.archive), sealed("inputs", &job.inputs)])
}

fn launch_by(client: &Client, launch: Launch, fds: &[OwnedFd]) -> Result<(Launched, Vec<u8>), ClientError> {
    let bytes = launch.output_bytes;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let (launched, outputs) = client.launch(launch, &fds)?;
    let outputs = outputs.map(|fd| memory::read("outputs", fd, bytes).expect("sealed outputs"));
    Ok((launched, outputs.unwrap_or_default()))
}

/// One healthy GPU with little memory, because all of it is scanned before the GPU is offered.
#[must_use]
pub fn small() -> Script {
    let gpu = Gpu { vram_bytes: 96 << 20, ..Gpu::numbered(0) };
    Script { gpus: vec![gpu], ..Script::default() }
}

fn put(driver: &tempfile::TempDir, script: &Script) {
    let built =
        |library| fake_gpu_script::built(library).expect("a fake library; cargo build -p fake-cuda -p fake-nvml");
    install(driver.path(), &built("fake_cuda"), &built("fake_nvml"), script).expect("install the driver");
}

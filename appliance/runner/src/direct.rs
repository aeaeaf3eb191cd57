//! Direct CUDA: GPUs that run bundles, each through a worker that does one job and ends.
//!
//! A worker is the program `rig-cuda` in a jail like any other, made of an image that the runner builds of that program
//! and of the driver's libraries ([`home`]). It has the device nodes of one GPU and nothing else of the machine. What
//! a stranger wrote (the archive, PTX, inputs) is read by workers alone; here it is a descriptor.
//!
//! Each GPU has a keeper, a thread that owns its health and its worker ([`keeper`]); PTX becomes machine code in a
//! worker without a GPU ([`compile`]). What there is not (a driver, a program, a compiler) is said once, in words, and
//! everything else works without it.

mod bench;
mod canary;
mod compile;
mod figures;
mod home;
mod job;
mod keeper;
mod late;
mod measure;
mod nodes;
mod probe;
mod settings;
mod state_file;
mod steer;
mod worker;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use cuda::messages::{Probe, WarmTimings};
use gpu::health::{Event, Remedy, State};
use gpu::settings::Checked;
use gpu::watch::{Notice, Watch};
use gpu::{Driver, Gpu, GpuUuid};
use runner::protocol::{
    CUBINS_MAX, GPU_WAIT_MS_MAX, GPUS_MAX, GpuReport, Gpus, JOB_BYTES_MAX, JOB_SECONDS_MAX, Launch, Launched,
    Measurement, Refusal, SourceName,
};

use crate::sources::Sources;
use bench::Kernel;
use figures::Figures;
use home::Home;
use keeper::{Command, Keeper};
pub(crate) use late::Late;
use measure::Ready;
pub(crate) use settings::{SettingsFile, SettingsFileError};
use steer::Steering;

/// What the names of the runner's own sources begin with. Nobody else may use such a name.
const OWN: &str = "rig.";

/// The longest name of a job, in bytes: a task's address, with room.
const JOB_NAME_BYTES_MAX: usize = 64;

/// How long a measurement waits for a GPU that has a job.
const MEASURE_WAIT: Duration = Duration::from_secs(2);

/// What to do where there is no compiler.
const NO_LINKER: &str = "libnvJitLink is not in the loader's path; install CUDA's, or the Python package \
                         nvidia-nvjitlink-cu12 and name its directory to the loader, and restart the runner";

/// The most requests that wait for GPUs: half of the runner's connections, so that the other half is free.
const WAITING_MAX: usize = 16;

/// How long after its wait a job may still be handed to a worker; whoever asked waits a minute more than that.
const HANDED_WITHIN: Duration = Duration::from_secs(30);

/// How long a keeper may do nothing: longer than a canary and the start of its worker take together.
const SILENT_MAX: Duration = Duration::from_secs(240);

/// How long somebody waits for the compiler, which then has 60 s: together less than whoever asked waits.
const COMPILER_WAIT: Duration = Duration::from_secs(25);

/// Between two looks whether the compiler is free.
const COMPILER_PAUSE: Duration = Duration::from_millis(20);

/// Everything about GPUs.
#[derive(Debug)]
pub(crate) struct Direct {
    driver: Option<String>,
    probe: Probe,
    why: Option<String>,
    home: Option<Arc<Home>>,
    watch: Option<Arc<Watch>>,
    table: Arc<Table>,
    keepers: BTreeMap<GpuUuid, Sender<Command>>,
    compiling: Mutex<()>,
    figures: Option<Figures>,
    steering: Mutex<Option<Steering>>,
    /// Requests that wait for a GPU or for the end of what runs on it.
    waiting: AtomicUsize,
}

/// Counts one request for as long as it lives.
struct Place<'a>(&'a AtomicUsize);

/// What keepers tell, and launches wait for.
#[derive(Debug, Default)]
struct Table {
    gpus: Mutex<BTreeMap<GpuUuid, Entry>>,
    changed: Condvar,
}

/// One GPU, as its keeper last told.
#[derive(Clone, Debug)]
struct Entry {
    gpu: Gpu,
    state: State,
    warm: Option<WarmTimings>,
    /// A launch has it, or is about to.
    is_taken: bool,
    /// When its keeper last did something.
    heard: Instant,
}

// === impl Direct ===

impl Direct {
    /// Looks for a driver, sets its GPUs as `settings` say, and begins to keep them. Nothing missing is an error.
    ///
    /// Errors: a value of the settings that a GPU does not take.
    pub(crate) fn start(
        sources: &Arc<Sources>,
        program: &Path,
        settings: Option<&SettingsFile>,
    ) -> Result<Self, SettingsFileError> {
        // What asks first for a device finds its node.
        nodes::make_missing();
        let probe = match probe::probe(program) {
            Ok(probe) => probe,
            Err(error) => return Ok(Self::without(Probe::default(), format!("{error:#}"))),
        };
        // Without a device that answers nothing would ever get warm, and every keeper would say so again and again.
        if probe.libcuda.is_none() || probe.devices.is_empty() {
            let why = probe.why.clone().unwrap_or_else(|| "the driver shows no GPU".to_owned());
            return Ok(Self::without(probe, why));
        }
        let driver = match Driver::open() {
            Ok(driver) => Arc::new(driver),
            Err(error) => return Ok(Self::without(probe, words(&error))),
        };
        let inventory = match driver.inventory() {
            Ok(inventory) => inventory,
            Err(error) => return Ok(Self::without(probe, words(&error))),
        };
        let state = sources.state.path();
        let stuck = steer::restore_abandoned(state, &driver);
        let settings = settings.map(|file| accepted(file, &driver, &inventory.gpus)).transpose()?.unwrap_or_default();
        let home = match Home::build(sources, program, &probe) {
            Ok(home) => Arc::new(home),
            Err(error) => {
                return Ok(Self::without(probe, format!("the workers' image cannot be made: {}", words(&error))));
            }
        };
        let (watch, notices) = match Watch::start(driver.clone()) {
            Ok((watch, notices)) => (Some(Arc::new(watch)), Some(notices)),
            Err(error) => {
                tracing::warn!(error = words(&error), "the GPUs are not watched");
                (None, None)
            }
        };
        // Before the first canary: it is to pass under what holds for jobs.
        let steering = Steering::begin(state, &driver, &settings, stuck, watch.clone());
        let table = Arc::new(Table::default());
        let mut keepers = BTreeMap::new();
        for gpu in inventory.gpus.iter().take(GPUS_MAX) {
            tracing::info!(gpu = %gpu.uuid, model = gpu.model, "a GPU is kept");
            let (commands, inbox) = channel();
            let (driver, table) = (driver.clone(), table.clone());
            let keeper = Keeper::new(sources.clone(), home.clone(), driver, gpu.clone(), table, inbox);
            match std::thread::Builder::new().name("gpu".to_owned()).spawn(move || keeper.run()) {
                Ok(_) => drop(keepers.insert(gpu.uuid.clone(), commands)),
                Err(error) => tracing::error!(%error, gpu = %gpu.uuid, "a GPU cannot be kept"),
            }
        }
        if let Some(notices) = notices {
            let keepers = keepers.clone();
            let pass_on = move || pass_on(&notices, &keepers);
            if let Err(error) = std::thread::Builder::new().name("gpu-notices".to_owned()).spawn(pass_on) {
                tracing::error!(%error, "what the driver reports reaches nobody");
            }
        }
        let why = keepers.is_empty().then(|| "the driver lists no GPU that answers".to_owned());
        let driver = inventory.driver_version;
        Ok(Self {
            driver,
            probe,
            why,
            home: Some(home),
            watch,
            table,
            keepers,
            compiling: Mutex::default(),
            figures: Some(Figures::open(state)),
            steering: Mutex::new(steering),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Not known yet.
    fn looking() -> Self {
        Self::nothing(
            Probe::default(),
            "the driver has not answered yet; ask again, or see the kernel's log".to_owned(),
        )
    }

    /// Without GPUs; `why` is told once, here, and to whoever asks.
    pub(crate) fn without(probe: Probe, why: String) -> Self {
        tracing::info!(why, "no bundle runs on this machine");
        Self::nothing(probe, why)
    }

    fn nothing(probe: Probe, why: String) -> Self {
        Self {
            driver: None,
            probe,
            why: Some(why),
            home: None,
            watch: None,
            table: Arc::default(),
            keepers: BTreeMap::new(),
            compiling: Mutex::default(),
            figures: None,
            steering: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(crate) fn gpus(&self) -> Gpus {
        let entries = self.table.gpus();
        let report = |entry: &Entry| GpuReport {
            gpu: entry.gpu.clone(),
            state: entry.state(),
            warm: entry.warm,
            sample: self.watch.as_ref().and_then(|watch| watch.latest(&entry.gpu.uuid)),
            bench: self.figures.as_ref().and_then(|figures| figures.of(&entry.gpu.uuid)),
        };
        let mut gpus: Vec<GpuReport> = entries.values().map(report).collect();
        gpus.sort_by_key(|report| report.gpu.index);
        Gpus {
            driver: self.driver.clone(),
            cuda: self.probe.driver_version,
            compiler: self.probe.linker_version,
            why: self.why.clone(),
            gpus,
        }
    }

    /// Tries GPUs again that were given up.
    pub(crate) fn retry(&self) -> Gpus {
        for keeper in self.keepers.values() {
            // A keeper that is gone has said why.
            let _ = keeper.send(Command::Event(Event::Retry));
        }
        self.gpus()
    }

    /// Machine code of PTX, and what it took in microseconds.
    pub(crate) fn compile(
        &self,
        sources: &Arc<Sources>,
        arch: bundle::Arch,
        ptx: OwnedFd,
    ) -> Result<(OwnedFd, u64), Refusal> {
        let (Some(home), Some(_)) = (&self.home, &self.probe.linker) else {
            let why = self.why.clone().unwrap_or_else(|| NO_LINKER.to_owned());
            return Err(Refusal::NoCompiler { why });
        };
        let _turn = self.compilers_turn()?;
        compile::compile(sources, home, arch, ptx)
    }

    /// One at a time: a compiler takes a processor and much memory. Whoever would wait until nobody waits for him is sent
    /// away.
    fn compilers_turn(&self) -> Result<MutexGuard<'_, ()>, Refusal> {
        let deadline = Instant::now() + COMPILER_WAIT;
        loop {
            match self.compiling.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(Refusal::Busy { limit: 1 }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(COMPILER_PAUSE),
            }
        }
    }

    /// Runs a function of a bundle on a GPU that is offered, and answers how it ended.
    pub(crate) fn launch(&self, launch: Launch, fds: Vec<OwnedFd>) -> Result<(Launched, Option<OwnedFd>), Refusal> {
        let asked = Instant::now();
        check(&launch, &fds)?;
        if let Some(why) = &self.why {
            return Err(Refusal::NoGpu { why: why.clone() });
        }
        let _place = self.place()?;
        let gpu = self.table.take(launch.gpu.as_ref(), Duration::from_millis(launch.wait_ms))?;
        let expires = asked + Duration::from_millis(launch.wait_ms) + HANDED_WITHIN;
        let (reply, answer) = sync_channel(1);
        let job = Command::Job(Box::new(job::Asked { launch, fds, asked, expires, reply }));
        let keeper = self.keepers.get(&gpu).ok_or_else(|| self.lost(&gpu))?;
        keeper.send(job).map_err(|_| self.lost(&gpu))?;
        answer.recv().map_err(|_| self.lost(&gpu))?
    }

    /// One of the places of those who wait for a GPU: the runner's connections are for others, too.
    fn place(&self) -> Result<Place<'_>, Refusal> {
        let place = Place(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            return Err(Refusal::GpuBusy { waited_ms: 0 });
        }
        Ok(place)
    }

    /// A GPU whose keeper is gone takes nothing more.
    fn lost(&self, gpu: &GpuUuid) -> Refusal {
        let why = "its keeper is gone; restart the runner".to_owned();
        let state = State::Withdrawn { why: why.clone(), remedy: Remedy::Operator };
        self.table.tell(gpu, |entry| (entry.state, entry.is_taken) = (state, false));
        Refusal::NoGpu { why: format!("{gpu}: {why}") }
    }

    /// Measures a GPU that is offered and idle, and keeps what came of it.
    pub(crate) fn measure(&self, sources: &Arc<Sources>, wanted: Option<&GpuUuid>) -> Result<Measurement, Refusal> {
        if let Some(why) = &self.why {
            return Err(Refusal::NoGpu { why: why.clone() });
        }
        let _place = self.place()?;
        let gpu = self.table.take(wanted, MEASURE_WAIT)?;
        let keeper = self.keepers.get(&gpu).ok_or_else(|| self.lost(&gpu))?;
        let arch = self.table.gpus().get(&gpu).and_then(|entry| entry.gpu.compute_capability);
        let arch = arch.map(|capability| bundle::Arch::new(capability.major, capability.minor));
        let (reply, answer) = sync_channel(1);
        let asked = measure::Asked {
            fp32: self.code(sources, Kernel::Fma, arch),
            fp16: self.code(sources, Kernel::Mma, arch),
            driver: self.driver.clone(),
            reply,
        };
        keeper.send(Command::Measure(Box::new(asked))).map_err(|_| self.lost(&gpu))?;
        let bench = answer.recv().map_err(|_| self.lost(&gpu))??;
        if let Some(Err(error)) = self.figures.as_ref().map(|figures| figures.keep(gpu.clone(), bench.clone())) {
            tracing::error!(%error, %gpu, "the figures of a GPU are not on disk");
        }
        Ok(Measurement { gpu, bench })
    }

    /// A kernel of the benchmark as machine code, or why there is none.
    fn code(&self, sources: &Arc<Sources>, kernel: Kernel, arch: Option<bundle::Arch>) -> measure::Code {
        let arch = arch.ok_or_else(|| "the board does not say its compute capability".to_owned())?;
        let target = kernel.target();
        if !target.runs_on(bundle::Kind::Ptx, arch) {
            return Err(format!("it is measured on {target} and later, and this GPU is {arch}"));
        }
        let bench = bench::Bench::new(kernel).map_err(|error| words(&error))?;
        let ptx = bench.ptx.try_clone().map_err(|error| words(&error))?;
        let (cubin, _) = self.compile(sources, arch, ptx).map_err(|refusal| refusal.to_string())?;
        Ok(Ready { kernel, bench, cubin })
    }

    /// Ends every worker, and puts GPUs back as they were set. Jobs that run are lost.
    pub(crate) fn stop(&self) {
        let told = self.keepers.values().filter_map(|keeper| {
            let (done, ended) = sync_channel(1);
            keeper.send(Command::Stop(done)).is_ok().then_some(ended)
        });
        // All are told before any is waited for, and all have the same time.
        let told: Vec<_> = told.collect();
        let deadline = Instant::now() + worker::END_TIMEOUT;
        for ended in told {
            let _ = ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        drop(self.steering.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What of the owner's settings holds for each GPU.
fn accepted(file: &SettingsFile, driver: &Driver, gpus: &[Gpu]) -> Result<Vec<Checked>, SettingsFileError> {
    for absent in file.named().filter(|named| gpus.iter().all(|gpu| gpu.uuid != **named)) {
        tracing::warn!(gpu = %absent, "there are settings for a GPU that is not there");
    }
    let mut accepted = Vec::new();
    for gpu in gpus {
        match driver.limits(&gpu.uuid) {
            Ok(limits) => accepted.extend(file.check(&limits)?),
            Err(error) => {
                tracing::error!(gpu = %gpu.uuid, error = words(&error), "a GPU that does not answer is not set")
            }
        }
    }
    Ok(accepted)
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a name is one of the runner's own sources.
pub(crate) fn is_own(name: &SourceName) -> bool {
    name.as_str().starts_with(OWN)
}

/// Refuses what cannot be run, whoever asks for it.
fn check(launch: &Launch, fds: &[OwnedFd]) -> Result<(), Refusal> {
    let bad = |detail: String| Err(Refusal::BadLaunch { detail });
    if launch.output_bytes > JOB_BYTES_MAX {
        return bad(format!("it has outputs of {} bytes, of at most {JOB_BYTES_MAX}", launch.output_bytes));
    }
    if launch.seconds == 0 || launch.seconds > JOB_SECONDS_MAX {
        return bad(format!("it may run for {} s, of 1 to {JOB_SECONDS_MAX}", launch.seconds));
    }
    if launch.wait_ms > GPU_WAIT_MS_MAX {
        return bad(format!("it may wait for {} ms, of at most {GPU_WAIT_MS_MAX}", launch.wait_ms));
    }
    if launch.job.is_empty()
        || launch.job.len() > JOB_NAME_BYTES_MAX
        || !launch.job.bytes().all(|b| b.is_ascii_graphic())
    {
        return bad(format!("its name is not 1 to {JOB_NAME_BYTES_MAX} printed characters"));
    }
    if fds.len() < 2 || fds.len() > 2 + CUBINS_MAX {
        return bad(format!("it came with {} descriptors, of 2 to {}", fds.len(), 2 + CUBINS_MAX));
    }
    for (what, fd) in ["the archive", "the inputs"].into_iter().chain(std::iter::repeat("machine code")).zip(fds) {
        runner::memory::length(what, fd, JOB_BYTES_MAX)
            .map_err(|error| Refusal::BadLaunch { detail: words(&error) })?;
    }
    Ok(())
}

/// Brings what the driver reports to whom it is about, for as long as the watch lives.
fn pass_on(notices: &Receiver<Notice>, keepers: &BTreeMap<GpuUuid, Sender<Command>>) {
    let tell_all = |event: &Event| {
        for keeper in keepers.values() {
            let _ = keeper.send(Command::Event(event.clone()));
        }
    };
    for notice in notices {
        match notice {
            Notice::Observed { gpu, what, .. } => {
                tracing::warn!(%gpu, ?what, "the driver reports");
                if let Some(keeper) = keepers.get(&gpu) {
                    let _ = keeper.send(Command::Event(what.into()));
                }
            }
            Notice::Missed(count) => {
                tell_all(&Event::Doubt { why: format!("{count} reports of the driver were missed") })
            }
            Notice::DriverGone => tell_all(&Event::DriverMissing),
        }
    }
}

/// An error and its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

// === impl Entry ===

impl Entry {
    /// What its keeper last told, unless that was too long ago: then a call into the driver has not returned.
    fn state(&self) -> State {
        let silent = self.heard.elapsed();
        if silent < SILENT_MAX {
            return self.state.clone();
        }
        let why = format!("the driver has not answered for {} s; it was {}", silent.as_secs(), self.state);
        State::Withdrawn { why, remedy: Remedy::PowerCycle }
    }
}

// === impl Table ===

impl Table {
    fn gpus(&self) -> MutexGuard<'_, BTreeMap<GpuUuid, Entry>> {
        self.gpus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A keeper does something.
    fn hear(&self, uuid: &GpuUuid) {
        if let Some(entry) = self.gpus().get_mut(uuid) {
            entry.heard = Instant::now();
        }
    }

    /// What a keeper tells of its GPU now.
    fn tell(&self, uuid: &GpuUuid, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.gpus().get_mut(uuid) {
            change(entry);
        }
        self.changed.notify_all();
    }

    /// Takes a GPU that is offered and that nobody has, a warm one first.
    fn take(&self, wanted: Option<&GpuUuid>, within: Duration) -> Result<GpuUuid, Refusal> {
        let deadline = Instant::now() + within;
        let mut gpus = self.gpus();
        loop {
            let may = |entry: &&mut Entry| wanted.is_none_or(|wanted| *wanted == entry.gpu.uuid);
            let free = gpus.values_mut().filter(may).filter(|entry| entry.state().is_offered() && !entry.is_taken);
            if let Some(entry) = free.max_by_key(|entry| entry.warm.is_some()) {
                entry.is_taken = true;
                return Ok(entry.gpu.uuid.clone());
            }
            // Whoever will never take a job is not waited for.
            let hopeless = |entry: &Entry| matches!(entry.state(), State::Withdrawn { .. } | State::GaveUp { .. });
            let mut candidates = gpus.values().filter(|entry| wanted.is_none_or(|wanted| *wanted == entry.gpu.uuid));
            if candidates.clone().all(hopeless) {
                let why = candidates.next().map_or_else(
                    || "there is no such GPU".to_owned(),
                    |entry| format!("{}: {}", entry.gpu.uuid, entry.state()),
                );
                return Err(Refusal::NoGpu { why });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waited_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                return Err(Refusal::GpuBusy { waited_ms });
            }
            gpus = self.changed.wait_timeout(gpus, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

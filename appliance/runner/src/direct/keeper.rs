//! The keeper of one GPU: a thread that owns its health, its warm worker and its one job at a time.
//!
//! Invariants: a job runs only on a GPU that its health offers; a worker does one job; what the health asks for is done
//! in its order and answered; the next launch finds a warm worker unless it comes at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use cuda::messages::{Done, Job, Warm};
use gpu::health::{CanaryId, Event, FREE_WITHIN_MS, Health, JobId, State, Step};
use gpu::{Driver, Freedom, Gpu};
use runner::memory;
use runner::protocol::{End, Exit, Launched, Refusal};

use super::canary::Canary;
use super::home::Home;
use super::job::{self, Asked, Begun, Ended, Given};
use super::measure::{self, Site};
use super::worker::Worker;
use super::{Entry, Table, nodes, words};
use crate::furniture::Device;
use crate::sources::Sources;

/// Between two looks at a GPU that nothing happens to.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// What a GPU that is measured is busy with.
const MEASURING: &str = "the benchmark";

/// How long a GPU that was given up is left alone.
const RETRY_EVERY: Duration = Duration::from_secs(600);

/// After a worker did not get warm, the next is not tried for so long.
const COLD_PAUSE: Duration = Duration::from_secs(5);

/// What a keeper is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Run this; the GPU was taken for it.
    Job(Box<Asked>),
    /// Measure the GPU, which was taken for it.
    Measure(Box<measure::Asked>),
    /// This happened to the GPU.
    Event(Event),
    /// End.
    Stop(SyncSender<()>),
}

/// One GPU and all that is kept of it.
#[derive(Debug)]
pub(super) struct Keeper {
    sources: Arc<Sources>,
    home: Arc<Home>,
    driver: Arc<Driver>,
    gpu: Gpu,
    devices: Vec<Device>,
    table: Arc<Table>,
    health: Health,
    began: Instant,
    worker: Option<(Worker, Warm)>,
    /// No worker is tried before then.
    cold_until: Option<Instant>,
    canary: Option<Canary>,
    /// Why the job that runs has to die.
    doomed: Option<String>,
    /// It was told to end while a job ran.
    is_over: bool,
    /// Of the job that runs, until whoever launched it has the answer.
    busy: Option<Arc<Worker>>,
    /// What takes long and is done once that answer was given.
    owed: Vec<Step>,
    inbox: Receiver<Command>,
    /// What was asked for while a canary sang.
    later: VecDeque<Command>,
    /// Processes of the last worker, which must leave the GPU; what others have there is theirs.
    last: Vec<u32>,
    /// When a GPU that was given up is tried again.
    retry_at: Option<Instant>,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(
        sources: Arc<Sources>,
        home: Arc<Home>,
        driver: Arc<Driver>,
        gpu: Gpu,
        table: Arc<Table>,
        inbox: Receiver<Command>,
    ) -> Self {
        let health = Health::new(0);
        let (state, heard) = (health.state().clone(), Instant::now());
        let entry = Entry { gpu: gpu.clone(), state, warm: None, is_taken: false, heard };
        table.gpus().insert(gpu.uuid.clone(), entry);
        Self {
            sources,
            home,
            driver,
            devices: nodes::of_gpu(gpu.minor),
            gpu,
            table,
            health,
            began: Instant::now(),
            worker: None,
            cold_until: None,
            canary: None,
            doomed: None,
            is_over: false,
            busy: None,
            owed: Vec::new(),
            inbox,
            later: VecDeque::new(),
            last: Vec::new(),
            retry_at: None,
        }
    }

    /// Keeps the GPU until it is told to stop.
    pub(super) fn run(mut self) {
        self.feed(Event::Tick);
        while !self.is_over {
            self.keep_warm();
            self.tell();
            let waiting = self.later.pop_front();
            match waiting.map_or_else(|| self.inbox.recv_timeout(TICK_EVERY), Ok) {
                Ok(Command::Job(asked)) => self.perform(*asked),
                Ok(Command::Measure(asked)) => self.measure(&asked),
                Ok(Command::Event(event)) => self.feed(event),
                Ok(Command::Stop(done)) => {
                    self.worker = None;
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let event = if self.is_to_be_retried() { Event::Retry } else { Event::Tick };
                    self.feed(event);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether it was given up a while ago: what failed then may have been the machine around it.
    fn is_to_be_retried(&mut self) -> bool {
        if !matches!(self.health.state(), State::GaveUp { .. }) {
            self.retry_at = None;
            return false;
        }
        let due = *self.retry_at.get_or_insert_with(|| Instant::now() + RETRY_EVERY);
        let is_due = Instant::now() >= due;
        if is_due {
            self.retry_at = None;
        }
        is_due
    }

    /// Tells its health, and does what that asks for, until it asks for nothing more.
    fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.table.hear(&self.gpu.uuid);
            let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let before = self.health.state().to_string();
            let steps = self.health.handle(now_ms, event);
            let state = self.health.state().to_string();
            if before != state {
                tracing::info!(gpu = %self.gpu.uuid, state, "a GPU's state changed");
                self.tell();
            }
            for step in steps {
                if self.busy.is_some() && takes_long(&step) {
                    self.owed.push(step);
                } else {
                    events.extend(self.carry_out(step));
                }
            }
        }
    }

    /// Answers what came of it, after what the driver reported meanwhile: a canary that passed after a fault proves
    /// nothing.
    fn carry_out(&mut self, step: Step) -> Vec<Event> {
        let is_long = takes_long(&step);
        let done = self.carry_out_alone(step);
        let mut events = if is_long { self.reported() } else { Vec::new() };
        events.extend(done);
        events
    }

    /// What the driver has reported by now. What else was asked for waits.
    fn reported(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Event(event) => events.push(event),
                other @ (Command::Job(_) | Command::Measure(_) | Command::Stop(_)) => self.later.push_back(other),
            }
        }
        events
    }

    fn carry_out_alone(&mut self, step: Step) -> Option<Event> {
        match step {
            Step::RunCanary(canary) => Some(self.prove(canary)),
            Step::Kill(_) => {
                self.doomed = Some(self.health.state().to_string());
                // At once: what follows waits until nobody computes on the GPU.
                if let Some(worker) = &self.busy {
                    worker.kill();
                }
                None
            }
            Step::WaitFree => Some(self.wait_free()),
            // NVML has no reset, and the driver's own program needs the GPU without any client, this process included.
            Step::Reset => Some(Event::ResetFailed { why: "the runner resets no GPU; reboot the machine".to_owned() }),
            Step::Withdraw(why) => {
                tracing::error!(gpu = %self.gpu.uuid, why, "a GPU is withdrawn");
                self.worker = None;
                None
            }
            Step::Offer => None,
            Step::CountAgainst(job, xid) => {
                tracing::warn!(gpu = %self.gpu.uuid, job = job.0, xid, "a job caused an Xid");
                None
            }
            Step::RepeatOffender { xid, jobs } => {
                tracing::error!(gpu = %self.gpu.uuid, xid, ?jobs, "several jobs had the same Xid: the GPU is suspect");
                None
            }
        }
    }

    /// A canary on a worker of its own.
    fn prove(&mut self, canary: CanaryId) -> Event {
        match self.sing() {
            Ok(dirty_bytes) => Event::CanaryPassed { canary, dirty_bytes },
            Err(why) => {
                tracing::warn!(gpu = %self.gpu.uuid, why, "a GPU's canary failed");
                Event::CanaryFailed { canary, why }
            }
        }
    }

    fn sing(&mut self) -> Result<u64, String> {
        let worker = match self.worker.take() {
            Some((worker, _)) if worker.lives() => worker,
            _ => self.warm_worker()?.0,
        };
        if self.canary.is_none() {
            self.canary = Some(Canary::new().map_err(|error| format!("the canary cannot be made: {error}"))?);
        }
        let Some(canary) = &self.canary else { return Err("there is no canary".to_owned()) };
        canary.sing(&worker, self.gpu.vram_bytes.unwrap_or(0), || self.table.hear(&self.gpu.uuid))
    }

    /// Waits until the last worker's processes are off the GPU. What somebody else has there, such as a program of its
    /// owner, says nothing about it.
    fn wait_free(&self) -> Event {
        let mut ignored: Vec<u32> = self.worker.iter().flat_map(|(worker, _)| worker.pids()).collect();
        if let Ok(Freedom::Held(processes)) = self.driver.freedom(&self.gpu.uuid, &ignored) {
            let foreign: Vec<u32> = processes.iter().map(|process| process.pid).collect();
            let foreign: Vec<u32> = foreign.into_iter().filter(|pid| !self.last.contains(pid)).collect();
            if !foreign.is_empty() {
                tracing::warn!(gpu = %self.gpu.uuid, ?foreign, "others compute on a GPU");
            }
            ignored.extend(foreign);
        }
        match self.driver.wait_free(&self.gpu.uuid, &ignored, Duration::from_millis(FREE_WITHIN_MS)) {
            Ok(Freedom::Free) => Event::GpuFree,
            Ok(Freedom::Held(processes)) => {
                tracing::warn!(gpu = %self.gpu.uuid, ?processes, "a GPU is held by other processes");
                Event::GpuNotFree
            }
            Err(gpu::GpuError::Lost { .. }) => Event::FallenOffTheBus,
            Err(gpu::GpuError::ResetRequired { .. }) => Event::GpuNotFree,
            Err(error) => {
                // Not every board says. The canary finds out.
                tracing::warn!(gpu = %self.gpu.uuid, error = words(&error), "it cannot be said whether a GPU is free");
                Event::GpuFree
            }
        }
    }

    fn warm_worker(&mut self) -> Result<(Worker, Warm), String> {
        let worker = Worker::on_gpu(&self.sources, &self.home, &self.gpu.uuid, &self.devices);
        let worker = worker.map_err(|refusal| refusal.to_string())?;
        let warm = worker.await_warm()?;
        Ok((worker, warm))
    }

    /// Has a worker wait for the next job, if one may come.
    fn keep_warm(&mut self) {
        if self.worker.as_ref().is_some_and(|(worker, _)| !worker.lives()) {
            self.worker = None;
        }
        let is_due = self.cold_until.is_none_or(|until| Instant::now() >= until);
        if self.worker.is_some() || !self.health.state().is_offered() || !is_due {
            return;
        }
        match self.warm_worker() {
            Ok(warmed) => (self.worker, self.cold_until) = (Some(warmed), None),
            Err(why) => {
                tracing::warn!(gpu = %self.gpu.uuid, why, "a worker does not get warm");
                self.cold_until = Some(Instant::now() + COLD_PAUSE);
                self.feed(Event::Doubt { why });
            }
        }
    }

    fn perform(&mut self, asked: Asked) {
        let Asked { launch, fds, asked, expires, reply } = asked;
        let refuse = |why: String| drop(reply.send(Err(Refusal::NoGpu { why })));
        if Instant::now() > expires {
            self.table.tell(&self.gpu.uuid, |entry| entry.is_taken = false);
            return drop(reply.send(Err(Refusal::GpuBusy { waited_ms: launch.wait_ms })));
        }
        if !self.health.state().is_offered() {
            self.table.tell(&self.gpu.uuid, |entry| entry.is_taken = false);
            return refuse(format!("{}: {}", self.gpu.uuid, self.health.state()));
        }
        let was_warm = self.worker.as_ref().is_some_and(|(worker, _)| worker.lives());
        let (worker, warm) = match self.worker.take().filter(|_| was_warm).map_or_else(|| self.warm_worker(), Ok) {
            Ok(warmed) => warmed,
            Err(why) => {
                refuse(format!("{}: {why}", self.gpu.uuid));
                self.feed(Event::Doubt { why });
                return self.table.tell(&self.gpu.uuid, |entry| entry.is_taken = false);
            }
        };
        let begun = Begun { was_warm, timings: warm.timings };
        let name = JobId(launch.job.clone());
        let worker = Arc::new(worker);
        (self.busy, self.doomed) = (Some(worker.clone()), None);
        self.feed(Event::JobStarted(name.clone()));
        let waited = asked.elapsed();
        let given = Given {
            job: Job {
                bundle: launch.bundle,
                function: launch.function.clone(),
                parameters: launch.parameters.clone(),
                scan: false,
            },
            fds: fds.iter().map(AsFd::as_fd).collect(),
            output_bytes: launch.output_bytes,
            within: Duration::from_secs(u64::from(launch.seconds)),
        };
        let gave = Instant::now();
        let mut stopping = None;
        self.last = worker.pids();
        let performed = job::perform(&worker, &given, || self.look_around(&mut stopping));
        let took = gave.elapsed();
        let is_dead = !worker.lives();
        drop(worker);
        let (end, outputs) = match performed {
            Ok((ended, outputs)) => (sound(ended, &outputs, is_dead), Some(outputs)),
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                (Ended::Died(Exit::Signal(0)), None)
            }
        };
        let (class, is_sticky) = judge(&end);
        if matches!(end, Ended::Deadline) {
            self.feed(Event::DeadlineKill(name.clone()));
        }
        tracing::info!(gpu = %self.gpu.uuid, job = name.0, class, elapsed_ms = took.as_millis(), "a job ended");
        if let Some(outputs) = outputs {
            let launched = Launched {
                gpu: self.gpu.uuid.clone(),
                end: told(end, launch.seconds),
                waited_us: u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
                took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                was_warm: begun.was_warm,
                warm: begun.timings,
            };
            let ran = matches!(&launched.end, End::Answered { done: Done::Ran(_) });
            // Whoever asked may be gone; then so are the outputs.
            let _ = reply.send(Ok((launched, ran.then_some(outputs))));
        }
        if let Some(done) = stopping {
            return self.end(&done);
        }
        self.catch_up();
        self.feed(Event::JobEnded { job: name, class, is_sticky });
        self.table.tell(&self.gpu.uuid, |entry| entry.is_taken = false);
    }

    /// Takes the figures of the GPU. For its health it is a job.
    fn measure(&mut self, asked: &measure::Asked) {
        if !self.health.state().is_offered() {
            self.table.tell(&self.gpu.uuid, |entry| entry.is_taken = false);
            let why = format!("{}: {}", self.gpu.uuid, self.health.state());
            return drop(asked.reply.send(Err(Refusal::NoGpu { why })));
        }
        // What waits warm has memory and time of the GPU.
        self.worker = None;
        let name = JobId(MEASURING.to_owned());
        self.doomed = None;
        self.feed(Event::JobStarted(name.clone()));
        let site = Site {
            sources: self.sources.clone(),
            home: self.home.clone(),
            driver: self.driver.clone(),
            gpu: self.gpu.clone(),
            devices: self.devices.clone(),
        };
        let mut stopping = None;
        let taken = measure::take(&site, asked, &mut |worker| {
            self.busy = Some(worker.clone());
            self.last = worker.pids();
            self.look_around(&mut stopping)
        });
        tracing::info!(gpu = %self.gpu.uuid, ?taken, "a GPU was measured");
        let (class, is_sticky) = if taken.is_ok() { ("measured", false) } else { ("failed", true) };
        let why = |why| Refusal::NoGpu { why: format!("{} could not be measured: {why}", self.gpu.uuid) };
        // Whoever asked may be gone.
        let _ = asked.reply.send(taken.map_err(why));
        if let Some(done) = stopping {
            return self.end(&done);
        }
        self.catch_up();
        self.feed(Event::JobEnded { job: name, class: class.to_owned(), is_sticky });
        self.table.tell(&self.gpu.uuid, |entry| entry.is_taken = false);
    }

    /// Ends, without a look at what the GPU needs: the next runner takes nothing for granted.
    fn end(&mut self, done: &SyncSender<()>) {
        (self.is_over, self.busy) = (true, None);
        self.owed.clear();
        let _ = done.send(());
    }

    /// Does what had to wait for the end of a job.
    fn catch_up(&mut self) {
        self.busy = None;
        for step in std::mem::take(&mut self.owed) {
            for event in self.carry_out(step) {
                self.feed(event);
            }
        }
    }

    /// What happens while a worker does its job; answers why it has to die, if it has to.
    fn look_around(&mut self, stopping: &mut Option<SyncSender<()>>) -> Option<String> {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Event(event) => self.feed(event),
                Command::Stop(done) => {
                    *stopping = Some(done);
                    return Some("the runner stops".to_owned());
                }
                // Nobody is given a GPU that is taken.
                Command::Job(other) => drop(other.reply.send(Err(Refusal::GpuBusy { waited_ms: 0 }))),
                Command::Measure(other) => drop(other.reply.send(Err(Refusal::GpuBusy { waited_ms: 0 }))),
            }
        }
        self.feed(Event::Tick);
        self.doomed.take()
    }

    /// Tells everybody else how the GPU is.
    fn tell(&self) {
        let (state, warm) = (self.health.state().clone(), self.worker.as_ref().map(|(_, warm)| warm.timings));
        self.table.tell(&self.gpu.uuid, |entry| (entry.state, entry.warm) = (state, warm));
    }
}

/// Whether a step waits for the GPU or for a worker.
fn takes_long(step: &Step) -> bool {
    match step {
        Step::WaitFree | Step::RunCanary(_) | Step::Reset => true,
        Step::Kill(_) | Step::Withdraw(_) | Step::Offer | Step::CountAgainst(..) | Step::RepeatOffender { .. } => false,
    }
}

/// What a job's end is worth: outputs of a worker that does not die, or that cannot be sealed because somebody else saw
/// to that, are nobody's.
fn sound(ended: Ended, outputs: &OwnedFd, is_dead: bool) -> Ended {
    if !matches!(ended, Ended::Answered(Done::Ran(_))) {
        return ended;
    }
    match memory::seal("outputs", outputs) {
        Ok(()) if is_dead => ended,
        sealed => {
            tracing::error!(?sealed, is_dead, "the outputs of a job can still be written");
            Ended::Died(Exit::Signal(0))
        }
    }
}

/// The word for an end, and whether the GPU has to prove itself after it.
fn judge(ended: &Ended) -> (String, bool) {
    match ended {
        Ended::Answered(Done::Ran(_)) => ("ran".to_owned(), false),
        Ended::Answered(Done::Failed(failure)) => (format!("{:?}", failure.class), failure.class.is_device_fault()),
        Ended::Deadline => ("deadline".to_owned(), true),
        Ended::Killed(_) => ("killed".to_owned(), true),
        Ended::Died(_) => ("died".to_owned(), true),
    }
}

fn told(ended: Ended, seconds: u32) -> End {
    match ended {
        Ended::Answered(done) => End::Answered { done },
        Ended::Deadline => End::Deadline { seconds },
        Ended::Killed(why) => End::GpuLost { why },
        Ended::Died(exit) => End::Died { exit },
    }
}

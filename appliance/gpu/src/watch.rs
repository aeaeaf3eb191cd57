//! A thread that looks after all GPUs: it waits for the driver's events and takes a sample of each GPU every second.
//!
//! Invariants:
//! - The thread never panics, never waits for its reader and never spins: notices that find no room are counted and
//!   told as [`Notice::Missed`], and a driver that answers every wait with an error is asked once a second.
//! - A GPU that does not answer is told once, until it answers again.
//! - Dropping the [`Watch`] ends the thread within [`SAMPLE_EVERY`] and the time of one round of samples.
//!
//! Where the driver has no events, or a board takes no part in them, the samples still show what counters tell.

use crate::driver::sample::{sample, unix_ms};
use crate::driver::{Driver, GpuError};
use crate::health::Event;
use crate::inventory::GpuUuid;
use crate::recovery::RecoveryAction;
use crate::telemetry::{CounterFault, Ring, Sample, Summary, faults_between};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::event::EventData;
use nvml_wrapper::{Device, EventSet};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two samples of a GPU; also how long one wait for events takes at most.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Notices that wait for their reader. A fault gives a handful; this is room for many at once.
pub const NOTICES_MAX: usize = 256;

/// NVML's number for an Xid whose number it does not know.
const XID_UNKNOWN: u32 = 999;

/// Something that the reader has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something happened to a GPU.
    Observed {
        /// Which.
        gpu: GpuUuid,
        /// When it was noticed, Unix milliseconds.
        at_ms: u64,
        /// What.
        what: Observation,
    },
    /// So many notices found no room. Any GPU may have had a fault: an [`Event::Doubt`] for each.
    Missed(u64),
    /// The driver was unloaded or updated under us; no GPU can be seen any more: an [`Event::DriverMissing`] for each.
    /// Told once.
    DriverGone,
}

/// What happened to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The driver reported an Xid; 999 if it did not say which.
    Xid(u32),
    /// Memory lost bits.
    EccUncorrected,
    /// It does not answer any more.
    FallenOffTheBus,
    /// The driver changed what it says that the GPU needs.
    Recovery(RecoveryAction),
}

/// The thread that watches, and the samples it took.
#[derive(Debug)]
pub struct Watch {
    rings: Rings,
    /// Dropping it ends the thread.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Rings = Arc<Mutex<BTreeMap<GpuUuid, Ring>>>;

struct Watched<'nvml> {
    gpu: GpuUuid,
    device: Device<'nvml>,
    last: Option<Sample>,
    is_silent: bool,
}

struct Outlet {
    notices: SyncSender<Notice>,
    missed: u64,
    is_driver_gone: bool,
}

// === impl Watch ===

impl Watch {
    /// Begins to watch the GPUs that the driver lists now. The driver stays open until the watch is dropped.
    /// Errors: [`GpuError::System`] if the driver lists none at all, [`GpuError::Thread`].
    pub fn start(driver: Arc<Driver>) -> Result<(Self, Receiver<Notice>), GpuError> {
        let gpus: Vec<GpuUuid> = driver.inventory()?.gpus.into_iter().map(|gpu| gpu.uuid).collect();
        let rings: Rings = Arc::new(Mutex::new(gpus.iter().map(|gpu| (gpu.clone(), Ring::default())).collect()));
        let (notices, reader) = sync_channel(NOTICES_MAX);
        let (alive, ended) = channel();
        let shared = Arc::clone(&rings);
        let run = move || {
            let outlet = Outlet { notices, missed: 0, is_driver_gone: false };
            watch(&driver, &gpus, &shared, outlet, &ended);
        };
        let thread = thread::Builder::new().name("gpu-watch".to_owned()).spawn(run).map_err(GpuError::Thread)?;
        Ok((Self { rings, alive: Some(alive), thread: Some(thread) }, reader))
    }

    /// The newest sample of a GPU.
    pub fn latest(&self, gpu: &GpuUuid) -> Option<Sample> {
        lock(&self.rings).get(gpu)?.latest().cloned()
    }

    /// The samples of a GPU, oldest first.
    pub fn samples(&self, gpu: &GpuUuid) -> Vec<Sample> {
        lock(&self.rings).get(gpu).map(|ring| ring.samples().cloned().collect()).unwrap_or_default()
    }

    /// The last minutes of a GPU.
    pub fn summary(&self, gpu: &GpuUuid) -> Option<Summary> {
        lock(&self.rings).get(gpu)?.summary()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nobody to tell here.
            let _ = thread.join();
        }
    }
}

fn lock(rings: &Mutex<BTreeMap<GpuUuid, Ring>>) -> MutexGuard<'_, BTreeMap<GpuUuid, Ring>> {
    rings.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Observation ===

impl From<Observation> for Event {
    fn from(observation: Observation) -> Self {
        match observation {
            Observation::Xid(number) => Self::Xid(number),
            Observation::EccUncorrected => Self::EccUncorrected,
            Observation::FallenOffTheBus => Self::FallenOffTheBus,
            Observation::Recovery(action) => Self::Recovery(action),
        }
    }
}

// === The thread ===

fn watch(driver: &Driver, gpus: &[GpuUuid], rings: &Rings, mut outlet: Outlet, ended: &Receiver<()>) {
    let mut watched: Vec<Watched<'_>> = Vec::new();
    for gpu in gpus {
        match driver.device(gpu) {
            Ok(device) => watched.push(Watched { gpu: gpu.clone(), device, last: None, is_silent: false }),
            Err(_) => outlet.tell(gpu, Observation::FallenOffTheBus),
        }
    }
    let events = subscribe(driver, &watched);
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            for one in &mut watched {
                one.look(rings, &mut outlet);
            }
            next = Instant::now() + SAMPLE_EVERY;
            outlet.tell_missed();
        }
        let left = next.saturating_duration_since(Instant::now());
        let pause = match events.as_ref().map(|set| set.wait(u32::try_from(left.as_millis()).unwrap_or(u32::MAX))) {
            Some(Ok(event)) => {
                report(&event, &watched, &mut outlet);
                Duration::ZERO
            }
            Some(Err(NvmlError::Timeout)) => Duration::ZERO,
            // The samples find out what is wrong with which GPU.
            Some(Err(_)) | None => left,
        };
        match ended.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// An event set with every GPU that takes part; `None` if none does. A registration that fails takes the set with it,
/// so each GPU is tried on a set of its own first.
fn subscribe<'nvml>(driver: &'nvml Driver, watched: &[Watched<'nvml>]) -> Option<EventSet<'nvml>> {
    let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let kinds = |device: &Device<'nvml>| device.supported_event_types().unwrap_or(EventTypes::empty()) & wanted;
    let mut takes_part = Vec::new();
    for Watched { device, .. } in watched {
        let kinds = kinds(device);
        let set = driver.nvml().create_event_set().ok()?;
        if !kinds.is_empty() && device.register_events(kinds, set).is_ok() {
            takes_part.push((device, kinds));
        }
    }
    if takes_part.is_empty() {
        return None;
    }
    let set = driver.nvml().create_event_set().ok()?;
    takes_part.into_iter().try_fold(set, |set, (device, kinds)| device.register_events(kinds, set).ok())
}

/// An event of a GPU that is not watched, such as a MIG instance's, is its parent's to tell.
fn report(event: &EventData<'_>, watched: &[Watched<'_>], outlet: &mut Outlet) {
    let Ok(uuid) = event.device.uuid() else { return outlet.missed() };
    let Some(one) = watched.iter().find(|one| one.gpu.as_str() == uuid) else { return };
    if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) {
        outlet.tell(&one.gpu, Observation::EccUncorrected);
    }
    match event.event_data {
        Some(XidError::Value(number)) => {
            let number = u32::try_from(number).unwrap_or(XID_UNKNOWN);
            outlet.tell(&one.gpu, Observation::Xid(number));
        }
        Some(XidError::Unknown) => outlet.tell(&one.gpu, Observation::Xid(XID_UNKNOWN)),
        None => {}
    }
}

// === impl Watched ===

impl Watched<'_> {
    fn look(&mut self, rings: &Rings, outlet: &mut Outlet) {
        match sample(&self.device) {
            Ok(sample) => {
                self.is_silent = false;
                for fault in faults_between(self.last.as_ref(), &sample) {
                    outlet.tell(
                        &self.gpu,
                        match fault {
                            CounterFault::EccUncorrected => Observation::EccUncorrected,
                            CounterFault::Recovery(action) => Observation::Recovery(action),
                        },
                    );
                }
                lock(rings).entry(self.gpu.clone()).or_default().push(sample.clone());
                self.last = Some(sample);
            }
            Err(error) if !self.is_silent => {
                self.is_silent = true;
                match error {
                    NvmlError::GpuLost => outlet.tell(&self.gpu, Observation::FallenOffTheBus),
                    NvmlError::ResetRequired => {
                        outlet.tell(&self.gpu, Observation::Recovery(RecoveryAction::GpuReset));
                    }
                    _ => outlet.driver_is_gone(),
                }
            }
            Err(_) => {}
        }
    }
}

// === impl Outlet ===

impl Outlet {
    fn tell(&mut self, gpu: &GpuUuid, what: Observation) {
        self.send(Notice::Observed { gpu: gpu.clone(), at_ms: unix_ms(), what });
    }

    fn driver_is_gone(&mut self) {
        if !self.is_driver_gone {
            self.is_driver_gone = true;
            self.send(Notice::DriverGone);
        }
    }

    fn missed(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }

    fn tell_missed(&mut self) {
        if self.missed > 0 && self.notices.try_send(Notice::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
    }

    fn send(&mut self, notice: Notice) {
        self.tell_missed();
        match self.notices.try_send(notice) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.missed(),
            // Nobody listens any more; the watch still takes samples.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

//! Every source that the runner holds: prepares, opens, starts, stops, and knows them.
//!
//! Invariants: a source is opened, started or stopped by one caller at a time; the table is locked only to look or
//! to change an entry, never across anything that can block; when a run has ended, its directory, its disk, its
//! cgroup and its hold on its image go before anyone is told; the callback listener, in which an answer may wait
//! for a provider that was away, goes when the source is stopped.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runner::image::Content;
use runner::protocol::{
    Confinement, Digest, Ending, GRACE_MS_MAX, LOG_TAIL_BYTES_MAX, Refusal, RunNumber, SERVICES_TOTAL_MAX, SOURCES_MAX,
    ServiceName, ServiceSpec, ServiceState, SourceName, SourcePlan, SourceState, Started, VolumeName, WAIT_MS_MAX,
};

use crate::berths::Berths;
use crate::cgroup::IoMax;
use crate::disk::{Disk, DiskError, Disks};
use crate::layers::Layers;
use crate::link::Link;
use crate::logs;
use crate::network::Egress;
use crate::slots::{Slot, Slots};
use crate::state_dir::StateDir;

mod images;
mod launch;
mod open;
mod run;
mod work;

use open::{Source, Volume};
use run::Run;
pub(crate) use work::WorkerRun;

/// How much of ended services' logs stands in one list, in bytes: half of a message.
const LIST_TAILS_BYTES: usize = 32 * 1024;

/// How much of one ended service's log stands in a list at most, in bytes.
const LIST_TAIL_BYTES: usize = 1024;

/// How long a connection into a jail may take. Its network answers at once; a full backlog does not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// All sources, and what they are made with.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) content: Content,
    /// Images of the runner's own making.
    pub(crate) own: Content,
    /// What the runner's own programs run as. Nobody can name them.
    pub(crate) own_sources: Mutex<BTreeMap<SourceName, Arc<Source>>>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) state: StateDir,
    pub(crate) slots: Slots,
    pub(crate) disks: Disks,
    pub(crate) berths: Arc<Berths>,
    pub(crate) link: Arc<Link>,
    /// What sources that may talk to the internet get of it; `None`: no source may.
    pub(crate) egress: Option<Egress>,
    /// The most bytes that one image may have when uncompressed.
    pub(crate) unpacked_bytes_max: u64,
    /// What one jail may ask of the disks.
    pub(crate) io_max: Vec<IoMax>,
    /// What a jail may use whose spec does not say, in bytes.
    pub(crate) memory_bytes: u64,
    pub(crate) open: Mutex<BTreeMap<SourceName, Arc<Source>>>,
}

// === impl Sources ===

impl Sources {
    pub(crate) fn open(&self, name: &SourceName, plan: SourcePlan) -> Result<bool, Refusal> {
        refuse_own(name)?;
        open::check(&plan)?;
        let (slot, _turn) = self.slots.turn(name).map_err(|error| internal(&error))?;
        if let Some(source) = self.sources().get(name) {
            if source.plan == plan {
                return Ok(true);
            }
            return Err(Refusal::RunsDifferently { source_name: name.clone(), difference: "plan".to_owned() });
        }
        let services: usize = self.sources().values().map(|source| source.plan.services.len()).sum();
        if self.sources().len() >= SOURCES_MAX {
            return Err(Refusal::TooManySources { limit: format!("{SOURCES_MAX} sources") });
        }
        if services + plan.services.len() > SERVICES_TOTAL_MAX {
            return Err(Refusal::TooManySources { limit: format!("{services} of {SERVICES_TOTAL_MAX} services") });
        }
        let volumes = self.volumes(slot, &plan)?;
        let source = Source::new(name.clone(), slot, plan, self.egress.as_ref(), volumes)?;
        self.sources().insert(name.clone(), Arc::new(source));
        Ok(false)
    }

    fn volumes(&self, slot: Slot, plan: &SourcePlan) -> Result<BTreeMap<VolumeName, Volume>, Refusal> {
        let mut volumes = BTreeMap::new();
        for volume in &plan.volumes {
            let (file, mount) = self.state.volume(slot, &volume.name).map_err(|error| internal(&error))?;
            let disk = self.disks.volume(&file, volume.bytes, &self.state.path().join(&mount), slot);
            let disk = disk.map_err(disk_refused)?;
            volumes.insert(volume.name.clone(), Volume { data: Disk::room(&mount, "data"), _disk: disk });
        }
        Ok(volumes)
    }

    pub(crate) fn start(
        self: &Arc<Self>,
        name: &SourceName,
        service: &ServiceName,
        manifest: &Digest,
        spec: ServiceSpec,
    ) -> Result<Started, Refusal> {
        let (source, _turn) = self.turn(name)?;
        source.number(service)?;
        let present = source.runs().get(service).cloned();
        if let Some(run) = present.filter(|run| run.over().is_none()) {
            return match run.difference(manifest, &spec) {
                None => Ok(Started { run: RunNumber(run.number.0), already: true }),
                Some(difference) => {
                    let difference = difference.to_owned();
                    Err(Refusal::RunsDifferently { source_name: name.clone(), difference })
                }
            };
        }
        let run = self.launch(&source, service, manifest, spec, None)?;
        let started = Started { run: RunNumber(run.number.0), already: false };
        source.runs().insert(service.clone(), run);
        Ok(started)
    }

    /// A stream to a port of a service.
    pub(crate) fn connect(&self, name: &SourceName, service: &ServiceName, port: u16) -> Result<TcpStream, Refusal> {
        let source = self.source(name)?;
        let not_running = || Refusal::NotRunning { source_name: name.clone(), service: service.clone() };
        let number = source.number(service)?;
        source.run(service)?.over().map_or(Ok(()), |_| Err(not_running()))?;
        let hub = source.hub.as_ref().ok_or_else(|| Refusal::BadPlan { detail: "it has no network".to_owned() })?;
        hub.connect(number, port, CONNECT_TIMEOUT).map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::TimedOut => {
                Refusal::NotListening { source_name: name.clone(), service: service.clone(), port }
            }
            _ => Refusal::Internal { detail: format!("connect into the jail: {error}") },
        })
    }

    /// The callback listener of a source that has not been stopped.
    pub(crate) fn listener(&self, name: &SourceName) -> Result<Arc<OwnedFd>, Refusal> {
        let source = self.source(name)?;
        let hub = source.hub.as_ref().ok_or_else(|| Refusal::BadPlan { detail: "it has no network".to_owned() })?;
        Ok(hub.listener().clone())
    }

    pub(crate) fn stop_service(
        &self,
        name: &SourceName,
        service: &ServiceName,
        grace_ms: u64,
    ) -> Result<Ending, Refusal> {
        let (source, _turn) = self.turn(name)?;
        let run = source.run(service)?;
        let how = end(&source, service, &run, Duration::from_millis(grace_ms.min(GRACE_MS_MAX)))?;
        source.runs().remove(service);
        Ok(how)
    }

    pub(crate) fn stop(&self, name: &SourceName, grace_ms: u64) -> Result<Ending, Refusal> {
        let (source, _turn) = self.turn(name)?;
        let how = stop_services(&source, Duration::from_millis(grace_ms.min(GRACE_MS_MAX)))?;
        self.sources().remove(name);
        Ok(how)
    }

    /// Removes everything that is kept of a source that is not open, its slot included.
    pub(crate) fn forget(&self, name: &SourceName) -> Result<(), Refusal> {
        let Some(slot) = self.slots.known(name).map_err(|error| internal(&error))? else { return Ok(()) };
        // Nobody else takes both, so nobody waits for us while we wait.
        let _images = self.slots.lock_images(slot);
        let _turn = self.slots.lock_run(slot);
        if self.slots.known(name).map_err(|error| internal(&error))? != Some(slot) {
            return Ok(());
        }
        if self.sources().contains_key(name) {
            return Err(Refusal::RunsDifferently { source_name: name.clone(), difference: "plan".to_owned() });
        }
        self.state.forget(slot, name).map_err(|error| internal(&error))?;
        self.slots.free(name).map_err(|error| internal(&error))
    }

    pub(crate) fn confinement(&self) -> Confinement {
        if self.berths.has_cgroups() { Confinement::Cgroups } else { Confinement::RlimitsOnly }
    }

    pub(crate) fn list(&self) -> Result<BTreeMap<SourceName, SourceState>, Refusal> {
        let sources: Vec<Arc<Source>> = self.sources().values().cloned().collect();
        let ended = sources.iter().map(|source| source.runs().values().filter(|run| run.over().is_some()).count());
        let tail = LIST_TAILS_BYTES / ended.sum::<usize>().max(1);
        let state = |source: Arc<Source>| {
            let runs = source.runs().clone();
            let services = runs.into_iter().map(|(service, run)| {
                let state = self.state_of(&source, &service, &run, tail)?;
                Ok((service, state))
            });
            let services = services.collect::<Result<_, Refusal>>()?;
            let traffic = source.hub.as_ref().map(crate::network::Hub::traffic).transpose();
            let traffic = traffic.map_err(|error| internal(&error))?.unwrap_or_default();
            let (received_bytes, sent_bytes) = (traffic.received_bytes, traffic.sent_bytes);
            Ok((source.name.clone(), SourceState { services, received_bytes, sent_bytes }))
        };
        sources.into_iter().map(state).collect()
    }

    /// What a service is doing, or became of it.
    pub(crate) fn wait(
        &self,
        name: &SourceName,
        service: &ServiceName,
        timeout_ms: u64,
    ) -> Result<ServiceState, Refusal> {
        let source = self.source(name)?;
        let run = source.run(service)?;
        run.is_over_within(Duration::from_millis(timeout_ms.min(WAIT_MS_MAX)));
        self.state_of(&source, service, &run, LIST_TAIL_BYTES)
    }

    fn state_of(
        &self,
        source: &Source,
        service: &ServiceName,
        run: &Run,
        tail_bytes: usize,
    ) -> Result<ServiceState, Refusal> {
        let Some(over) = run.over() else {
            let (health, memory_bytes) = (run.health(), run.memory_bytes());
            return Ok(ServiceState::Running { pid: run.pid, since_unix: run.since_unix, health, memory_bytes });
        };
        let log_tail = logs::tail(&self.state.logs(&source.name, service), tail_bytes.min(LIST_TAIL_BYTES));
        let log_tail = log_tail.map_err(|error| internal(&error))?;
        Ok(ServiceState::Exited { exit: over.exit, out_of_memory: over.out_of_memory, log_tail })
    }

    pub(crate) fn logs(&self, source: &SourceName, service: &ServiceName) -> Result<String, Refusal> {
        logs::tail(&self.state.logs(source, service), LOG_TAIL_BYTES_MAX).map_err(|error| internal(&error))
    }

    /// Stops everything, at once; for when the runner itself is told to end.
    pub(crate) fn stop_all(&self, grace: Duration) {
        let sources: Vec<Arc<Source>> = self.sources().values().cloned().collect();
        let runs = || sources.iter().flat_map(|source| source.runs().values().cloned().collect::<Vec<_>>());
        runs().for_each(|run| run.terminate());
        let deadline = Instant::now() + grace;
        for run in runs() {
            run.stop(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Waits until nobody else starts or stops something of a source that is open, and answers it.
    fn turn(&self, name: &SourceName) -> Result<(Arc<Source>, MutexGuard<'_, ()>), Refusal> {
        loop {
            let source = self.source(name)?;
            let turn = self.slots.lock_run(source.slot);
            // It may have been stopped while we waited, and opened again.
            if Arc::ptr_eq(&source, &self.source(name)?) {
                return Ok((source, turn));
            }
        }
    }

    fn source(&self, name: &SourceName) -> Result<Arc<Source>, Refusal> {
        self.sources().get(name).cloned().ok_or_else(|| Refusal::NotOpen { source_name: name.clone() })
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<SourceName, Arc<Source>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends all services of a source side by side; answers what the slowest took.
fn stop_services(source: &Source, grace: Duration) -> Result<Ending, Refusal> {
    let runs = source.runs().clone();
    runs.values().for_each(|run| run.terminate());
    let deadline = Instant::now() + grace;
    let mut slowest = Ending::AlreadyExited;
    for (service, run) in runs {
        let how = end(source, &service, &run, deadline.saturating_duration_since(Instant::now()))?;
        slowest = slowest.max(how);
    }
    Ok(slowest)
}

fn end(source: &Source, service: &ServiceName, run: &Run, grace: Duration) -> Result<Ending, Refusal> {
    run.stop(grace).ok_or_else(|| {
        let detail = format!("service {service} of source {} was killed and is not gone", source.name);
        Refusal::Internal { detail }
    })
}

/// What a caller is told of a disk that cannot be had.
fn disk_refused(error: DiskError) -> Refusal {
    match error {
        DiskError::Full { free_bytes, needed_bytes } => Refusal::DiskFull { free_bytes, needed_bytes },
        other => internal(&other),
    }
}

/// The runner's own names are nobody else's.
fn refuse_own(name: &SourceName) -> Result<(), Refusal> {
    if crate::direct::is_own(name) {
        return Err(Refusal::BadPlan { detail: format!("{name} is a name of the runner's own") });
    }
    Ok(())
}

/// Logs the whole chain, here where it is handled, and tells the client the same.
fn internal(error: &dyn std::error::Error) -> Refusal {
    let mut detail = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        detail.push_str(": ");
        detail.push_str(&error.to_string());
        cause = error.source();
    }
    tracing::error!(error = detail, "the runner failed at a request");
    Refusal::Internal { detail }
}

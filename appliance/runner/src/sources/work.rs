//! The runner's own programs in jails: what they have that no service has, and how they end.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use runner::protocol::{Digest, Exit, NetworkPolicy, Refusal, ServiceName, ServiceSpec, SourceName, SourcePlan};

use super::open::Source;
use super::run::Run;
use super::{Sources, internal};
use crate::furniture::Device;
use crate::logs;
use crate::orders::WorkerPlan;

/// The one service of each of the runner's own sources.
const SERVICE: &str = "worker";

/// What only the runner's own programs get.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) plan: WorkerPlan,
    pub(super) devices: &'a [Device],
    /// The far end of the runner's socket to it.
    pub(super) socket: BorrowedFd<'a>,
}

/// A run of one of them.
#[derive(Debug)]
pub(crate) struct WorkerRun {
    run: Arc<Run>,
    log: PathBuf,
}

// === impl Sources ===

impl Sources {
    /// Starts one of the runner's own programs, of an image that [`prepare_own`](Self::prepare_own) sealed, in a jail
    /// without any network.
    pub(crate) fn start_worker(
        self: &Arc<Self>,
        name: &SourceName,
        manifest: &Digest,
        spec: ServiceSpec,
        plan: WorkerPlan,
        devices: &[Device],
        socket: BorrowedFd<'_>,
    ) -> Result<WorkerRun, Refusal> {
        let service: ServiceName = SERVICE.parse().map_err(|error| internal(&error))?;
        let source = self.own_source(name, &service)?;
        let log = self.state.logs(name, &service);
        let run = self.launch(&source, &service, manifest, spec, Some(Work { plan, devices, socket }))?;
        Ok(WorkerRun { run, log })
    }

    fn own_source(&self, name: &SourceName, service: &ServiceName) -> Result<Arc<Source>, Refusal> {
        let mut own = self.own_sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = own.get(name) {
            return Ok(source.clone());
        }
        let plan = SourcePlan {
            network: NetworkPolicy::None,
            services: vec![service.clone()],
            aliases: Vec::new(),
            published: Vec::new(),
            volumes: Vec::new(),
        };
        let slot = self.slots.of(name).map_err(|error| internal(&error))?;
        let source = Arc::new(Source::new(name.clone(), slot, plan, None, [].into())?);
        own.insert(name.clone(), source.clone());
        Ok(source)
    }
}

// === impl WorkerRun ===

impl WorkerRun {
    pub(crate) fn lives(&self) -> bool {
        self.run.over().is_none()
    }

    /// How it ended, if it does in time; nothing of it is left then.
    pub(crate) fn await_end(&self, within: Duration) -> Option<Exit> {
        self.run.is_over_within(within).then(|| self.run.over().map(|over| over.exit)).flatten()
    }

    pub(crate) fn kill(&self) {
        self.run.kill();
    }

    /// The end of what it printed.
    pub(crate) fn printed(&self) -> String {
        logs::tail(&self.log, PRINTED_BYTES_MAX).unwrap_or_default()
    }

    /// Its first process and those that this one made, as the machine numbers them.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let first = self.run.pid.cast_unsigned();
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        std::iter::once(first).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }
}

/// How much of what a worker printed goes into a reason, in bytes.
const PRINTED_BYTES_MAX: usize = 512;

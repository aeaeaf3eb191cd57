//! One run of one service, from its start until nobody asks about it any more.
//!
//! Invariant: a run goes from running to over once, when no process, mount, cgroup or file of it is left.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runner::protocol::{Digest, Ending, Exit, Health, ServiceSpec};
use rustix::process::{Signal, pidfd_send_signal};

use crate::cgroup::Cgroup;
use crate::link::Watch;
use crate::orders::Ticket;

/// How long to wait for a killed jail to be reaped and swept.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(10);

/// One run of one service.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: Ticket,
    pub(super) pid: i32,
    pub(super) since_unix: u64,
    manifest: Digest,
    spec: ServiceSpec,
    pidfd: OwnedFd,
    watch: Arc<Watch>,
    /// While it runs, on a machine with cgroups.
    cgroup: Mutex<Option<Cgroup>>,
    over: Mutex<Option<Over>>,
    ended: Condvar,
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) number: Ticket,
    pub(super) manifest: Digest,
    pub(super) spec: ServiceSpec,
}

/// What the spawner made of it.
#[derive(Debug)]
pub(super) struct Jail {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) watch: Arc<Watch>,
    pub(super) cgroup: Option<Cgroup>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    pub(super) exit: Exit,
    pub(super) out_of_memory: bool,
}

// === impl Run ===

impl Run {
    pub(super) fn new(wanted: Wanted, jail: Jail) -> Self {
        let Wanted { number, manifest, spec } = wanted;
        let Jail { pid, pidfd, watch, cgroup } = jail;
        let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (cgroup, over, ended) = (Mutex::new(cgroup), Mutex::default(), Condvar::new());
        Self { number, pid, since_unix, manifest, spec, pidfd, watch, cgroup, over, ended }
    }

    /// How it ended, once it has.
    pub(super) fn over(&self) -> Option<Over> {
        *self.lock()
    }

    /// Nothing of it is left.
    pub(super) fn end(&self, over: Over) {
        *self.lock() = Some(over);
        self.ended.notify_all();
    }

    pub(super) fn health(&self) -> Health {
        match self.spec.health {
            None => Health::Untested,
            Some(_) => self.watch.health().unwrap_or(Health::Starting),
        }
    }

    /// Bytes of memory that the jail uses now, where that is known.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        Some(self.cgroup().as_ref()?.usage().ok()?.memory_bytes)
    }

    /// Asks the service to end, which takes it as long as it likes.
    pub(super) fn terminate(&self) {
        // An error can only mean that the jail has ended meanwhile.
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
    }

    /// Ends every process of the jail: with its first process the kernel ends the pid namespace, and the cgroup
    /// ends what has not got that far.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        if let Some(Err(error)) = self.cgroup().as_ref().map(Cgroup::kill) {
            tracing::warn!(run = self.number.0, %error, "a cgroup was not killed");
        }
    }

    /// SIGTERM, `grace`, SIGKILL. `None` if even that did not end it in time.
    pub(super) fn stop(&self, grace: Duration) -> Option<Ending> {
        if self.over().is_some() {
            return Some(Ending::AlreadyExited);
        }
        self.terminate();
        if self.is_over_within(grace) {
            return Some(Ending::Terminated);
        }
        self.kill();
        self.is_over_within(SWEEP_TIMEOUT).then_some(Ending::Killed)
    }

    /// The first thing in which this run differs from what is asked for.
    pub(super) fn difference(&self, manifest: &Digest, spec: &ServiceSpec) -> Option<&'static str> {
        let ServiceSpec {
            command,
            entrypoint,
            environment,
            working_dir,
            user,
            read_only,
            volumes,
            tmpfs,
            health,
            limits,
        } = &self.spec;
        let differences = [
            ("image", self.manifest != *manifest),
            ("command", *command != spec.command),
            ("entrypoint", *entrypoint != spec.entrypoint),
            ("environment", *environment != spec.environment),
            ("working_dir", *working_dir != spec.working_dir),
            ("user", *user != spec.user),
            ("read_only", *read_only != spec.read_only),
            ("volumes", *volumes != spec.volumes),
            ("tmpfs", *tmpfs != spec.tmpfs),
            ("health", *health != spec.health),
            ("limits", *limits != spec.limits),
        ];
        differences.into_iter().find_map(|(name, differs)| differs.then_some(name))
    }

    /// Whether it is over before `timeout` is.
    pub(super) fn is_over_within(&self, timeout: Duration) -> bool {
        let running = |over: &mut Option<Over>| over.is_none();
        let waited = self.ended.wait_timeout_while(self.lock(), timeout, running);
        let (over, _) = waited.unwrap_or_else(PoisonError::into_inner);
        over.is_some()
    }

    /// The jail's cgroup, to be removed.
    pub(super) fn take_cgroup(&self) -> Option<Cgroup> {
        self.cgroup().take()
    }

    fn cgroup(&self) -> MutexGuard<'_, Option<Cgroup>> {
        self.cgroup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Over>> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

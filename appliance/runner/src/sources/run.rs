//! One run of one source, from its start until nobody asks about it any more.
//!
//! Invariant: a run goes from running to over once, when nothing of it is left but its callback listener; that
//! one outlives the jail, because a last callback may wait in it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runner::protocol::{Digest, Ending, Exit, ServiceSpec};
use rustix::process::{Signal, pidfd_send_signal};

use crate::orders::Ticket;

/// How long to wait for a killed jail to be reaped and swept.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(10);

/// One run of one source.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: Ticket,
    pub(super) pid: i32,
    pub(super) since_unix: u64,
    manifest: Digest,
    spec: ServiceSpec,
    pidfd: OwnedFd,
    stage: Mutex<Stage>,
    over: Condvar,
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
    pub(super) netns: OwnedFd,
    pub(super) listener: OwnedFd,
}

#[derive(Debug)]
enum Stage {
    Running { netns: Arc<OwnedFd>, listener: Arc<OwnedFd> },
    Over { exit: Exit, listener: Arc<OwnedFd> },
}

// === impl Run ===

impl Run {
    pub(super) fn new(wanted: Wanted, jail: Jail) -> Self {
        let Wanted { number, manifest, spec } = wanted;
        let Jail { pid, pidfd, netns, listener } = jail;
        let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let stage = Mutex::new(Stage::Running { netns: Arc::new(netns), listener: Arc::new(listener) });
        Self { number, pid, since_unix, manifest, spec, pidfd, stage, over: Condvar::new() }
    }

    /// How the service ended, once it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        match *self.stage() {
            Stage::Running { .. } => None,
            Stage::Over { exit, .. } => Some(exit),
        }
    }

    /// The jail's network namespace, while there is a jail.
    pub(super) fn netns(&self) -> Option<Arc<OwnedFd>> {
        match &*self.stage() {
            Stage::Running { netns, .. } => Some(netns.clone()),
            Stage::Over { .. } => None,
        }
    }

    pub(super) fn listener(&self) -> Arc<OwnedFd> {
        self.stage().listener()
    }

    /// Nothing of the jail is left.
    pub(super) fn end(&self, exit: Exit) {
        let mut stage = self.stage();
        *stage = Stage::Over { exit, listener: stage.listener() };
        self.over.notify_all();
    }

    /// Asks the service to end, which takes it as long as it likes.
    pub(super) fn terminate(&self) {
        // An error can only mean that the jail has ended meanwhile.
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
    }

    /// Ends every process of the jail.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// SIGTERM, `grace`, SIGKILL. `None` if even that did not end it in time.
    pub(super) fn stop(&self, grace: Duration) -> Option<Ending> {
        if self.exit().is_some() {
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
        let ServiceSpec { command, entrypoint, environment, working_dir, user, read_only, limits } = &self.spec;
        let differences = [
            ("image", self.manifest != *manifest),
            ("command", *command != spec.command),
            ("entrypoint", *entrypoint != spec.entrypoint),
            ("environment", *environment != spec.environment),
            ("working_dir", *working_dir != spec.working_dir),
            ("user", *user != spec.user),
            ("read_only", *read_only != spec.read_only),
            ("limits", *limits != spec.limits),
        ];
        differences.into_iter().find_map(|(name, differs)| differs.then_some(name))
    }

    fn is_over_within(&self, timeout: Duration) -> bool {
        let running = |stage: &mut Stage| matches!(stage, Stage::Running { .. });
        let waited = self.over.wait_timeout_while(self.stage(), timeout, running);
        let (stage, _) = waited.unwrap_or_else(PoisonError::into_inner);
        matches!(*stage, Stage::Over { .. })
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Stage ===

impl Stage {
    fn listener(&self) -> Arc<OwnedFd> {
        match self {
            Self::Running { listener, .. } | Self::Over { listener, .. } => listener.clone(),
        }
    }
}

//! Every source that the runner holds: prepares, starts, stops, and knows them.
//!
//! Invariants: a source is started or stopped by one caller at a time, and unpacked for by one; the table is
//! locked only to look or to change an entry, never across anything that can block; when a run has ended, its
//! directory and our hold on its network namespace go before anyone is told; its callback listener, in which an
//! answer may wait for a provider that was away, goes when the source is stopped or started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runner::protocol::{
    Digest, Ending, GRACE_MS_MAX, LOG_TAIL_BYTES_MAX, Prepared, Refusal, RunNumber, SOURCES_MAX, ServiceSpec,
    SourceName, SourceState, Started,
};
use runner::wire;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};

use crate::image::Content;
use crate::link::{Link, LinkError, Watch};
use crate::logs::{self, Log};
use crate::orders::{JailPlan, Order, StepFailed, UnpackPlan, Unpacked};
use crate::service;
use crate::slots::{Slot, Slots};
use crate::state_dir::{StateDir, root_of};

mod run;

use run::{Jail, Run, Wanted};

/// How much of an ended source's log stands in a list, in bytes: [`SOURCES_MAX`] of them fit one message.
const LIST_TAIL_BYTES: usize = 1024;

/// How long an unpack may take; the client gives up at the same time.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// All sources.
#[derive(Debug)]
pub(crate) struct Sources {
    content: Content,
    state: StateDir,
    slots: Slots,
    link: Arc<Link>,
    /// The most bytes that one image may have when uncompressed.
    unpacked_bytes_max: u64,
    runs: Mutex<BTreeMap<SourceName, Arc<Run>>>,
}

// === impl Sources ===

impl Sources {
    pub(crate) fn new(content: Content, state: StateDir, link: Arc<Link>, unpacked_bytes_max: u64) -> Self {
        let slots = Slots::new(state.path());
        Self { content, state, slots, link, unpacked_bytes_max, runs: Mutex::default() }
    }

    pub(crate) fn prepare(&self, source: &SourceName, manifest: &Digest) -> Result<Prepared, Refusal> {
        let slot = self.slots.of(source).map_err(|error| internal(&error))?;
        let _turn = self.slots.lock_images(slot);
        if self.state.is_unpacked(slot, manifest) {
            return Ok(Prepared { bytes: 0, entries: 0, already: true });
        }
        let image = self.content.image(manifest)?;
        let (layers, blobs) = self.content.layers(image)?;
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let target = self.state.begin_root(slot, manifest).map_err(|error| internal(&error))?;
        let ticket = self.link.ticket();
        let plan = UnpackPlan { ticket, slot, target: target.clone(), layers, bytes_max: self.unpacked_bytes_max };
        let prepared = match self.unpack(plan, &blobs) {
            Ok(Unpacked::Done { bytes, entries }) => {
                let kept = self.state.keep_root(&target, slot, manifest);
                kept.map(|()| Prepared { bytes, entries, already: false }).map_err(|error| internal(&error))
            }
            Ok(Unpacked::DigestMismatch { layer, found }) => Err(layer_mismatch(layer, &diff_ids, &found)),
            Ok(Unpacked::Refused { detail }) => Err(Refusal::BadImage { detail }),
            Ok(Unpacked::Failed(failure)) => Err(jail_failed(failure)),
            Err(refusal) => Err(refusal),
        };
        if prepared.is_err() {
            self.state.discard(&target).map_err(|error| internal(&error))?;
        }
        prepared
    }

    /// Has an image unpacked; when this returns, nobody writes to its target any more.
    fn unpack(&self, plan: UnpackPlan, blobs: &[OwnedFd]) -> Result<Unpacked, Refusal> {
        let ticket = plan.ticket;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .and_then(|(near, far)| {
                set_socket_timeout(&near, Timeout::Recv, Some(UNPACK_TIMEOUT))?;
                Ok((near, far))
            })
            .map_err(|error| internal(&error))?;
        let mut fds = vec![far.as_fd()];
        fds.extend(blobs.iter().map(AsFd::as_fd));
        let watch = Arc::new(Watch::default());
        let begun = self.link.order(ticket, &Order::Unpack(plan), &fds, watch.clone());
        let (_, pidfds) = begun.map_err(link_failed)?;
        drop(fds);
        drop(far);
        let unpacked = wire::receive(&near);
        for pidfd in &pidfds {
            // After an answer it is ending anyway; without one it must.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        watch.wait();
        match unpacked {
            Ok((unpacked, _)) => Ok(unpacked),
            Err(error) => Err(Refusal::BadImage { detail: format!("the unpacker did not survive it ({error})") }),
        }
    }

    pub(crate) fn start(
        self: &Arc<Self>,
        source: &SourceName,
        manifest: &Digest,
        spec: ServiceSpec,
    ) -> Result<Started, Refusal> {
        let slot = self.slots.of(source).map_err(|error| internal(&error))?;
        let _turn = self.slots.lock_run(slot);
        let present = self.runs().get(source).cloned();
        if let Some(run) = present.filter(|run| run.exit().is_none()) {
            return match run.difference(manifest, &spec) {
                None => Ok(Started { run: RunNumber(run.number.0), already: true }),
                Some(difference) => {
                    let difference = difference.to_owned();
                    Err(Refusal::RunsDifferently { source_name: source.clone(), difference })
                }
            };
        }
        let held = self.runs().len();
        if held >= SOURCES_MAX && !self.runs().contains_key(source) {
            return Err(Refusal::TooManySources { limit: SOURCES_MAX });
        }
        if !self.state.is_unpacked(slot, manifest) {
            return Err(Refusal::NotPrepared { source_name: source.clone(), manifest: manifest.clone() });
        }
        let run = self.launch(source, slot, manifest, spec)?;
        let started = Started { run: RunNumber(run.number.0), already: false };
        self.runs().insert(source.clone(), run);
        Ok(started)
    }

    fn launch(
        self: &Arc<Self>,
        source: &SourceName,
        slot: Slot,
        manifest: &Digest,
        spec: ServiceSpec,
    ) -> Result<Arc<Run>, Refusal> {
        let root = root_of(slot, manifest);
        let image = self.content.image(manifest)?;
        let service = service::merge(&image.config, &spec, &self.state.path().join(&root))?;
        let number = self.link.ticket();
        let run_dir = self.state.begin_run(number, slot, source).map_err(|error| internal(&error))?;
        let plan = JailPlan {
            ticket: number,
            slot,
            root,
            run_dir: run_dir.clone(),
            hostname: source.to_string(),
            argv: service.argv,
            environment: service.environment,
            working_dir: service.working_dir,
            uid: service.user.uid,
            gid: service.user.gid,
            read_only: spec.read_only,
            limits: spec.limits,
        };
        let launched = self.order_jail(source, plan);
        let (jail, keeper) = match launched {
            Ok(launched) => launched,
            Err(refusal) => {
                self.state.discard(&run_dir).map_err(|error| internal(&error))?;
                return Err(refusal);
            }
        };
        let wanted = Wanted { number, manifest: manifest.clone(), spec };
        let run = Arc::new(Run::new(wanted, jail));
        let (sources, kept, name) = (self.clone(), run.clone(), source.clone());
        let spawned = std::thread::Builder::new().name("run".to_owned()).spawn(move || {
            keeper.log.follow(keeper.output);
            let exit = keeper.watch.wait();
            if let Err(error) = sources.state.discard(&run_dir) {
                tracing::warn!(source = %name, %error, "a run's directory is left");
            }
            kept.end(exit);
            tracing::info!(source = %name, run = kept.number.0, ?exit, "a source ended");
        });
        if let Err(error) = spawned {
            // Without a keeper nobody reads its output; the runner is out of threads and says so.
            run.kill();
            return Err(internal(&error));
        }
        tracing::info!(source = %source, run = number.0, pid = run.pid, "a source started");
        Ok(run)
    }

    fn order_jail(&self, source: &SourceName, plan: JailPlan) -> Result<(Jail, Keeper), Refusal> {
        let log = Log::begin(&self.state.logs(source)).map_err(|error| internal(&error))?;
        let (output, far) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| internal(&error))?;
        let watch = Arc::new(Watch::default());
        let ticket = plan.ticket;
        let order = Order::Start(Box::new(plan));
        let (pid, fds) = self.link.order(ticket, &order, &[far.as_fd()], watch.clone()).map_err(link_failed)?;
        let [pidfd, netns, listener] = <[OwnedFd; 3]>::try_from(fds)
            .map_err(|_| Refusal::Internal { detail: "the spawner sent no jail".to_owned() })?;
        Ok((Jail { pid, pidfd, netns, listener }, Keeper { log, output: File::from(output), watch }))
    }

    /// The network namespace of a running source.
    pub(crate) fn netns(&self, source: &SourceName) -> Result<Arc<OwnedFd>, Refusal> {
        self.run(source)?.netns().ok_or_else(|| not_running(source))
    }

    /// The callback listener of a source that has not been stopped.
    pub(crate) fn listener(&self, source: &SourceName) -> Result<Arc<OwnedFd>, Refusal> {
        Ok(self.run(source)?.listener())
    }

    pub(crate) fn stop(&self, source: &SourceName, grace_ms: u64) -> Result<Ending, Refusal> {
        // A name without a run gets no slot for having been asked about.
        self.run(source)?;
        let slot = self.slots.of(source).map_err(|error| internal(&error))?;
        let _turn = self.slots.lock_run(slot);
        let run = self.run(source)?;
        let grace = Duration::from_millis(grace_ms.min(GRACE_MS_MAX));
        let how = run.stop(grace).ok_or_else(|| {
            let detail = format!("source {source} was killed and is not gone");
            Refusal::Internal { detail }
        })?;
        self.runs().remove(source);
        Ok(how)
    }

    pub(crate) fn list(&self) -> Result<BTreeMap<SourceName, SourceState>, Refusal> {
        let runs = self.runs().clone();
        let state = |(source, run): (SourceName, Arc<Run>)| {
            let state = match run.exit() {
                None => SourceState::Running { pid: run.pid, since_unix: run.since_unix },
                Some(exit) => {
                    let tail = logs::tail(&self.state.logs(&source), LIST_TAIL_BYTES);
                    SourceState::Exited { exit, log_tail: tail.map_err(|error| internal(&error))? }
                }
            };
            Ok((source, state))
        };
        runs.into_iter().map(state).collect()
    }

    pub(crate) fn logs(&self, source: &SourceName) -> Result<String, Refusal> {
        logs::tail(&self.state.logs(source), LOG_TAIL_BYTES_MAX).map_err(|error| internal(&error))
    }

    /// Stops everything, at once; for when the runner itself is told to end.
    pub(crate) fn stop_all(&self, grace: Duration) {
        let runs: Vec<Arc<Run>> = self.runs().values().cloned().collect();
        runs.iter().for_each(|run| run.terminate());
        let deadline = Instant::now() + grace;
        for run in &runs {
            run.stop(deadline.saturating_duration_since(Instant::now()));
        }
    }

    fn run(&self, source: &SourceName) -> Result<Arc<Run>, Refusal> {
        self.runs().get(source).cloned().ok_or_else(|| not_running(source))
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<SourceName, Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread that keeps a run works with.
#[derive(Debug)]
struct Keeper {
    log: Log,
    output: File,
    watch: Arc<Watch>,
}

fn not_running(source: &SourceName) -> Refusal {
    Refusal::NotRunning { source_name: source.clone() }
}

fn jail_failed(StepFailed { step, errno }: StepFailed) -> Refusal {
    Refusal::JailFailed { step, errno }
}

fn link_failed(error: LinkError) -> Refusal {
    match error {
        LinkError::Failed(failure) => jail_failed(failure),
        other => internal(&other),
    }
}

fn layer_mismatch(layer: usize, diff_ids: &[String], found: &str) -> Refusal {
    let digest = |hex: &str| format!("sha256:{hex}").parse();
    let expected = diff_ids.get(layer).map_or("", String::as_str);
    match (digest(expected), digest(found)) {
        (Ok(expected), Ok(found)) => Refusal::DigestMismatch { object: format!("layer {layer}"), expected, found },
        _ => Refusal::Internal { detail: "the unpacker answered no digest".to_owned() },
    }
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

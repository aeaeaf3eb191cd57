//! `rig-runner`: turns verified images into jailed services. See the library's documentation for the rest.
//!
//! Three kinds of process come out of this binary: the runner, which answers the provider and touches nothing;
//! its spawner, which touches the kernel and decides nothing; and the children of the spawner, which become a
//! jail or unpack an image.

mod options;

mod server;

mod sources;

mod slots;

mod state_dir;

mod clear;

mod layers;

mod disk;

mod furniture;

mod berths;

mod cgroup;

mod network;

mod direct;

mod service;

mod logs;

mod link;

mod orders;

mod spawner;

mod jail;

mod unpack;

mod seal;

mod kernel;

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use notify::Notifier;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use options::{Command, Options, Run};

/// How long services may take to end when the runner is told to; systemd waits 90 s by default.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// What the runner's end means.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    ToldToStop = 0,
    Failed = 1,
    SpawnerDied = 3,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.command {
        Command::Run(run) => {
            log_to_journal_or_stderr();
            serve(&run)
        }
        Command::Spawner => spawner::run().map(|()| Outcome::ToldToStop).context("make jails"),
    };
    let outcome = outcome.unwrap_or_else(|error| {
        eprintln!("rig-runner: {error:#}");
        Outcome::Failed
    });
    ExitCode::from(outcome as u8)
}

fn serve(run: &Run) -> anyhow::Result<Outcome> {
    // Before any thread, so that every thread inherits it and only the descriptor sees these signals.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("block signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("await signals")?;

    // What is made for jails has the mode that it is given, whatever umask its starter had. Before any thread, because it
    // is that of all.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));

    let notifier = Notifier::from_environment();
    notifier.status("clears what an earlier runner left");
    allow_descriptors().context("raise the limit of descriptors")?;
    // What is mounted for jails is mounted for this process and its children alone, and goes with them.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", everything).context("make mounts private")?;

    let state = state_dir::StateDir::open(&run.state)?;
    let cache = layers::CacheLimits {
        bytes_max: run.cache_bytes_max,
        age_max: Duration::from_secs(run.cache_days_max.saturating_mul(24 * 60 * 60)),
    };
    let cgroups = run.limits.cgroup.as_deref().map(cgroup::Cgroups::open).transpose()?;
    if cgroups.is_none() {
        tracing::warn!("jails are limited by rlimits only: let no stranger's code run here");
    }
    if run.egress {
        network::clear_abandoned()?;
    }
    let io_max = match (&cgroups, run.job_disk_rate) {
        (None, _) | (_, 0) => Vec::new(),
        (Some(_), rate) => vec![disk_limit(state.path(), rate)?],
    };
    let (spawner_gone, alive) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
    let link = link::Link::start(state.path(), alive).context("start the spawner")?;
    let layers = Arc::new(layers::Layers::open(state.path(), link.clone(), cache)?);
    let berths = berths::Berths::start(link.clone(), cgroups).context("make the first berth")?;
    let slots = slots::Slots::new(state.path());
    let disks = disk::Disks::open(state.path())?;
    let sources = Arc::new(sources::Sources {
        content: runner::image::Content::new(&run.content),
        own: runner::image::Content::new(&state.path().join("own")),
        own_sources: std::sync::Mutex::default(),
        layers,
        state,
        slots,
        disks,
        berths,
        link,
        egress: run.egress.then(|| network::Egress {
            rate_bytes_per_s: run.egress_rate,
            total_bytes: run.egress_total,
            resolvers: run.resolvers.clone(),
        }),
        unpacked_bytes_max: run.unpacked_bytes_max,
        io_max,
        memory_bytes: run.job_memory.map_or_else(job_memory_bytes, Ok)?,
        open: std::sync::Mutex::default(),
    });
    let settings = run.gpu_settings.as_deref().map(direct::SettingsFile::read).transpose();
    let settings = settings.context("understand --gpu-settings")?;
    let direct = if run.no_gpu {
        let why = "the runner was started with --no-gpu".to_owned();
        direct::Late::known(direct::Direct::without(cuda::messages::Probe::default(), why))
    } else {
        let program = run.cuda_worker.clone().map_or_else(beside, Ok).context("find rig-cuda")?;
        let sources = sources.clone();
        let found = direct::Late::look(move || direct::Direct::start(&sources, &program, settings.as_ref()));
        found.context("set the GPUs as --gpu-settings says")?
    };
    let server = server::Server::listen(&run.socket, &run.allow_uids, sources.clone(), direct.clone())?;
    tracing::info!(socket = %run.socket.display(), "the runner listens");
    notifier.ready(if run.no_gpu { "makes jails, and leaves GPUs alone" } else { "makes jails" });

    loop {
        let mut ready = [
            PollFd::new(server.socket(), PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&spawner_gone, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context("wait for clients")?,
        };
        if !ready[2].revents().is_empty() {
            return Ok(Outcome::SpawnerDied);
        }
        if !ready[1].revents().is_empty() {
            tracing::info!("the runner is told to stop");
            notifier.stopping("ends the services that run");
            direct.now().stop();
            sources.stop_all(STOP_GRACE);
            sources.berths.clear();
            return Ok(Outcome::ToldToStop);
        }
        if !ready[0].revents().is_empty() {
            server.accept();
        }
    }
}

/// The workers' program, which ships beside this one.
fn beside() -> std::io::Result<std::path::PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("rig-cuda"))
}

/// Limits a jail on the disk that `dir` is on, in bytes per second.
fn disk_limit(dir: &Path, rate: u64) -> anyhow::Result<cgroup::IoMax> {
    let (major, minor) = disk::whole_disk(dir).with_context(|| {
        format!("find the disk of {}; with --job-disk-rate 0 jails are not limited on it", dir.display())
    })?;
    Ok(cgroup::IoMax { major, minor, read_bytes: Some(rate), write_bytes: Some(rate), reads: None, writes: None })
}

/// A full runner holds some 1,700 descriptors; a login shell allows 1,024, and may allow more when asked.
fn allow_descriptors() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
}

/// What the machine has, less what the rig needs for itself, in bytes.
fn job_memory_bytes() -> anyhow::Result<u64> {
    const RIG_BYTES: u64 = 1 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("find MemTotal in /proc/meminfo")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("read MemTotal of /proc/meminfo")?;
    Ok((kib * 1024).saturating_sub(RIG_BYTES).max(RIG_BYTES / 2))
}

/// To the journal if systemd connected it, else to standard error; `RIG_LOG` sets the filter.
fn log_to_journal_or_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RIG_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .init(),
    }
}

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

mod image;

mod service;

mod logs;

mod link;

mod orders;

mod spawner;

mod jail;

mod unpack;

mod kernel;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
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

    let state = state_dir::StateDir::open(&run.state)?;
    let (spawner_gone, alive) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
    let link = link::Link::start(state.path(), alive).context("start the spawner")?;
    let content = image::Content::new(&run.content);
    let sources = Arc::new(sources::Sources::new(content, state, link, run.unpacked_bytes_max));
    let server = server::Server::listen(&run.socket, &run.allow_uids, sources.clone())?;
    tracing::info!(socket = %run.socket.display(), "the runner listens");

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
            sources.stop_all(STOP_GRACE);
            return Ok(Outcome::ToldToStop);
        }
        if !ready[0].revents().is_empty() {
            server.accept();
        }
    }
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

//! `rig-provider`: reads `rig.toml`, meets the signer and the runner, and works until it is told to stop.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use appliance::board::Board;
use appliance::cache::Cache;
use appliance::container::{Containers, callback_secret};
use appliance::direct::Direct;
use appliance::face::Plate;
use appliance::gpus::Gpus;
use appliance::identity::{self, CHANGE_GRACE, Changed, Pace, Seen};
use appliance::intake::Intake;
use appliance::ledger::{Ledger, TagPins};
use appliance::perform::Performer;
use appliance::provider::{DESK_MAX, Provider, ProviderError};
use appliance::registry::{Allowed, Registry};
use appliance::seal::SignerSeal;
use appliance::settings::Settings;
use appliance::status::{self, Others};
use appliance::store::Store;
use appliance::{base_data, memory};
use chain::content::Content;
use chain::outbox::{Outbox, OutboxLimits};
use chain::rpc::Rpc;
use chain::watch::{Watch, WatchLimits};
use clap::Parser;
use notify::Notifier;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::prelude::*;

mod faces;

/// The exit code that asks to be started again: the signer signs for another address now.
const EXIT_CHANGED: u8 = 3;

/// Earns with this rig: registers to sources, attempts tasks, has them run, and submits the responses.
///
/// Exit codes: 0 stopped as asked, 1 could not start or go on (the message says why), 2 wrong usage, 3 the signer signs
/// for another address now: start it again.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  rig-provider --config /etc/rig/rig.toml\n\nIt needs a running rig-signer and rig-runner; `rig status` shows what it does."
)]
struct Arguments {
    /// The settings.
    #[arg(long, default_value = "/etc/rig/rig.toml")]
    config: PathBuf,
    /// Seconds that begun work has to finish in after SIGTERM.
    #[arg(long, default_value_t = 60)]
    drain_s: u64,
    /// Read the settings, say whether they are right, and end.
    #[arg(long)]
    check: bool,
}

/// Why the provider ended well.
enum Ended {
    /// Somebody told it to.
    Told,
    /// The signer signs for another address.
    Changed,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    begin_log();
    // Built by hand: two workers are plenty for a loop that waits, and blocking calls have their own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.context("start the runtime").and_then(|runtime| {
        let done = runtime.block_on(run(arguments));
        runtime.shutdown_timeout(Duration::from_secs(2));
        done
    });
    match done {
        Ok(Ended::Told) => ExitCode::SUCCESS,
        Ok(Ended::Changed) => ExitCode::from(EXIT_CHANGED),
        Err(error) => {
            eprintln!("rig-provider: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// To the journal when systemd started us, else to standard error. `RIG_LOG` filters, such as `info,appliance=debug`.
fn begin_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RIG_LOG").unwrap_or_else(|_| "info".into());
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let plain =
        journal.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false));
    tracing_subscriber::registry().with(filter).with(journal).with(plain).init();
}

async fn run(arguments: Arguments) -> anyhow::Result<Ended> {
    let notifier = Arc::new(Notifier::from_environment());
    let settings = Settings::read(&arguments.config)?;
    if arguments.check {
        let path = arguments.config.display();
        settings.check().map_err(|why| anyhow::anyhow!("{path}: {why}"))?;
        println!("{} is right", arguments.config.display());
        return Ok(Ended::Told);
    }
    let places = &settings.places;
    std::fs::create_dir_all(&places.state).with_context(|| format!("make {}", places.state.display()))?;

    notifier.status("asks rig-signer who signs");
    let signer = signer::Client::connect(&places.signer_socket).await.context("is rig-signer running?")?;
    let identity = signer.identity().await?;
    let me = identity.address;
    let (kept, state) = (identity.kept(), identity.state);
    info!(address = %me, tier = %kept, %state, owner = %settings.owner.address, "this rig's account");
    identity::aside::settle(&places.state, me)?;
    let (seen, shown_seen) = watch::channel(Seen::first(identity));

    notifier.status("looks for the chain");
    let rpc = Rpc::connect(settings.network.clone()).await?;
    let stop = CancellationToken::new();
    let seal = Arc::new(SignerSeal::new(signer, me));
    let (outbox, outbox_task) =
        Outbox::open(&places.state.join("outbox.db"), rpc.clone(), seal, OutboxLimits::default())?;
    let outbox_stop = CancellationToken::new();
    let outbox_work = tokio::spawn(outbox_task.run(outbox_stop.clone()));

    let ledger_path = places.state.join("ledger.db");
    let ledger = Ledger::open(&ledger_path)?;
    let cursor = ledger.cursor()?;
    let store = Arc::new(Store::open(&places.content)?);
    let limits = settings.limits.clone();
    let secret = callback_secret(&places.state.join("callback.key")).context("read the callback secret")?;
    let runner = runner::client::Client::new(&places.runner_socket);
    let board = Arc::new(Board::default());
    let cache = Arc::new(Cache::new(runner.clone(), store.clone()));
    let gpus = Gpus::new(runner.clone(), settings.gpu.enabled);
    let asked_runner = runner.clone();
    let containers = Arc::new(Containers::new(runner, store.clone(), board.clone(), secret, limits.result_bytes));
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let offered = offered(&gpus).await;
    let environments = settings.environments(offered.is_some());
    let base_data = base_data::document(&read("/proc/cpuinfo"), &read("/proc/meminfo"), offered.as_ref(), &identity);
    let rig = settings.rig(me, chain::content::cid::cid_of(&base_data).to_string(), environments);
    let allowed = Allowed { plain: limits.plain_registries.clone(), loopback: settings.content.allow_private };
    let registry = Registry::new(store.clone(), TagPins::open(&ledger_path)?, allowed, limits.image_bytes)?;
    let content = Content::new(settings.content.clone())?;
    let direct = Arc::new(Direct::new(gpus.clone(), content.clone(), store.clone(), limits.result_bytes));
    let performer = Arc::new(Performer {
        me,
        owner: settings.owner.address,
        base_data,
        rpc: rpc.clone(),
        outbox,
        content,
        store: store.clone(),
        registry,
        containers: containers.clone(),
        direct: direct.clone(),
        environments,
        cache: cache.clone(),
        board: board.clone(),
        limits,
        policies: settings.policies(),
    });

    let (desk, parcels) = mpsc::channel(DESK_MAX);
    let provider = Provider::open(ledger, performer, store, board, rpc.clone(), parcels)?;
    let from_block = match settings.work.from_block {
        Some(block) => block,
        None => chain::read::head(&rpc).await.map_or(0, |head| head.block),
    };
    let watch = Watch::new(rpc.clone(), cursor, from_block, WatchLimits::default());
    let poll = Duration::from_secs(settings.work.poll_s.max(1));
    let intake = Intake::new(rpc, &rig, watch, desk.clone(), poll);
    tokio::spawn(intake.run(stop.clone()));
    tokio::spawn(containers.watch(desk.clone(), stop.clone()));
    tokio::spawn(direct.watch(desk.clone(), stop.clone()));
    tokio::spawn(cache.clone().run(stop.clone()));
    tokio::spawn(memory::watch(desk.clone(), stop.clone()));
    let plate = Plate {
        notices: places.notices.clone(),
        name: settings.name(me),
        owner: settings.owner.address,
        chain_id: settings.network.chain_id,
    };
    let used_gpus = settings.gpu.enabled.then(|| gpus.clone());
    let sources =
        appliance::face::keep::Sources { plate, seen: shown_seen.clone(), desk: desk.clone(), gpus: used_gpus };
    let told = CancellationToken::new();
    let heard = faces::Heard { notifier, runner: asked_runner, told: told.clone() };
    let announced = faces::show(&settings, sources, heard, &stop).await;
    let socket = places.provider_socket.clone();
    let served = {
        let (desk, stop) = (desk, stop.clone());
        async move { status::serve(&socket, desk, Others { cache, gpus, seen: shown_seen }, stop).await }
    };
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "status socket is not served");
        }
    });

    tokio::spawn(wait_for_signal(told.clone()));
    let asked = Arc::new(signer::Client::connect(&places.signer_socket).await.context("is rig-signer running?")?);
    let ask = move || {
        let asked = asked.clone();
        async move { asked.identity().await }
    };
    let watched = identity::watch(ask, Pace::default(), seen, stop.clone());
    let work = provider.run(rig, told.clone(), Duration::from_secs(arguments.drain_s));
    let done = work_until_changed(work, watched, told).await;
    stop.cancel();
    outbox_stop.cancel();
    outbox_work.await.context("the outbox ended badly")??;
    if let Some(announced) = announced {
        let _ = announced.await;
    }
    done
}

/// Works until the work ends by itself, or the signer signs for another address: then the work is told to end, and is
/// waited for only shortly.
async fn work_until_changed(
    work: impl Future<Output = Result<(), ProviderError>>,
    watched: impl Future<Output = Option<Changed>>,
    told: CancellationToken,
) -> anyhow::Result<Ended> {
    tokio::pin!(work);
    let Changed { from, to } = tokio::select! {
        done = &mut work => return Ok(done.map(|()| Ended::Told)?),
        Some(changed) = watched => changed,
    };
    warn!(%from, %to, "the signer signs for another address now: this process ends, to be started again as that one");
    told.cancel();
    // Work that is not done by then is in the ledger, and waits there for the old address.
    if let Ok(done) = tokio::time::timeout(CHANGE_GRACE, work).await {
        done?;
    }
    Ok(Ended::Changed)
}

/// The GPUs that this start offers. What is found, or why nothing is, is said once.
async fn offered(gpus: &Gpus) -> Option<runner::protocol::Gpus> {
    match gpus.usable_at_start().await {
        Ok(report) => {
            let models: Vec<&str> = report.gpus.iter().map(|one| one.gpu.model.as_str()).collect();
            info!(gpus = models.join(", "), driver = report.driver, "GPUs run kernel bundles");
            Some(report)
        }
        Err(why) => {
            info!(why = format!("{:#}", anyhow::Error::new(why)), "no GPU is offered");
            None
        }
    }
}

async fn wait_for_signal(told: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be awaited");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    told.cancel();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use alloy_primitives::Address;

    use super::*;

    const CHANGED: Changed = Changed { from: Address::ZERO, to: Address::repeat_byte(1) };

    #[tokio::test]
    async fn a_change_of_address_lets_begun_work_end_and_ends_the_process() {
        let (told, drained) = (CancellationToken::new(), AtomicBool::new(false));
        let work = async {
            told.cancelled().await;
            drained.store(true, Ordering::SeqCst);
            Ok(())
        };
        let done = work_until_changed(work, std::future::ready(Some(CHANGED)), told.clone()).await;
        assert!(matches!(done, Ok(Ended::Changed)) && drained.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn work_that_hangs_is_not_waited_for_long() {
        let work = std::future::pending();
        let ended = work_until_changed(work, std::future::ready(Some(CHANGED)), CancellationToken::new());
        let done = tokio::time::timeout(4 * CHANGE_GRACE, ended).await.expect("in time");
        assert!(matches!(done, Ok(Ended::Changed)));
    }

    #[tokio::test]
    async fn a_watch_that_ended_ends_no_work() {
        let (told, watched) = (CancellationToken::new(), std::future::ready(None));
        let work = async {
            tokio::task::yield_now().await;
            Ok(())
        };
        assert!(matches!(work_until_changed(work, watched, told.clone()).await, Ok(Ended::Told)));
        assert!(!told.is_cancelled());
    }
}

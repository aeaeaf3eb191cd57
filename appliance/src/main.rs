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
use appliance::gpus::Gpus;
use appliance::intake::Intake;
use appliance::ledger::{Ledger, TagPins};
use appliance::perform::Performer;
use appliance::provider::{DESK_MAX, Provider};
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
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::prelude::*;

/// Earns with this rig: registers to sources, attempts tasks, has them run, and submits the responses.
///
/// Exit codes: 0 stopped as asked, 1 could not start or go on (the message says why), 2 wrong usage.
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
        Ok(()) => ExitCode::SUCCESS,
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

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = Settings::read(&arguments.config)?;
    if arguments.check {
        println!("{} is right", arguments.config.display());
        return Ok(());
    }
    let places = &settings.places;
    std::fs::create_dir_all(&places.state).with_context(|| format!("make {}", places.state.display()))?;

    let signer = signer::Client::connect(&places.signer_socket).await.context("is rig-signer running?")?;
    let identity = signer.identity().await?;
    let me = identity.address;
    info!(address = %me, tier = %identity.kept(), owner = %settings.owner.address, "this rig's account");

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
    let containers = Arc::new(Containers::new(runner, store.clone(), board.clone(), secret, limits.result_bytes));
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let offered = offered(&gpus).await;
    let environments = settings.environments(offered.is_some());
    let base_data = base_data::document(&read("/proc/cpuinfo"), &read("/proc/meminfo"), offered.as_ref());
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
    let intake = Intake::new(rpc, rig.provider, watch, desk.clone(), poll);
    tokio::spawn(intake.run(stop.clone()));
    tokio::spawn(containers.watch(desk.clone(), stop.clone()));
    tokio::spawn(direct.watch(desk.clone(), stop.clone()));
    tokio::spawn(cache.clone().run(stop.clone()));
    tokio::spawn(memory::watch(desk.clone(), stop.clone()));
    let socket = places.provider_socket.clone();
    let served = {
        let (desk, stop) = (desk, stop.clone());
        async move { status::serve(&socket, desk, Others { cache, gpus }, stop).await }
    };
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "status socket is not served");
        }
    });

    let told = CancellationToken::new();
    tokio::spawn(wait_for_signal(told.clone()));
    let done = provider.run(rig, told, Duration::from_secs(arguments.drain_s)).await;
    stop.cancel();
    outbox_stop.cancel();
    outbox_work.await.context("the outbox ended badly")??;
    Ok(done?)
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

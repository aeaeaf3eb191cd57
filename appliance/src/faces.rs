//! Where this rig shows itself, as far as `rig.toml` says so. What cannot be shown is logged: a rig earns unseen.

use std::sync::Arc;
use std::time::Duration;

use appliance::announce::announce;
use appliance::card::console::Console;
use appliance::card::{card, doing};
use appliance::face::keep::{Shown, Sources, keep};
use appliance::page;
use appliance::settings::Settings;
use notify::Notifier;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Pause between two questions to a runner that does not answer.
const RUNNER_PAUSE: Duration = Duration::from_secs(1);

/// What systemd is told with, and of.
pub(super) struct Heard {
    /// The way to systemd.
    pub(super) notifier: Arc<Notifier>,
    /// Who must answer before the rig is ready.
    pub(super) runner: runner::client::Client,
    /// Cancelled when the process is told to end.
    pub(super) told: CancellationToken,
}

/// Starts every face that the settings name, until `stop`. The book is looked at only if there is one. What is returned
/// ends when the local network was told goodbye.
pub(super) async fn show(
    settings: &Settings,
    sources: Sources,
    heard: Heard,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let (console, listen, lan) = (&settings.places.console, settings.status_page.at(), &settings.lan);
    if console.is_none() && listen.is_none() && !lan.announce && !heard.notifier.is_heard() {
        return None;
    }
    let shown = keep(sources, stop.clone());
    if heard.notifier.is_heard() {
        tokio::spawn(tell(heard, shown.clone(), stop.clone()));
    }
    let mut port = None;
    if let Some(listen) = listen {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                port = Some(listen.port());
                info!(%listen, "the status page is served");
                tokio::spawn(page::serve(listener, shown.clone(), stop.clone()));
            }
            Err(error) => warn!(%error, %listen, "the status page is not served"),
        }
    }
    if let Some(path) = console {
        match Console::start(path.clone()) {
            Ok(console) => drop(tokio::spawn(keep_card(console, shown.clone(), stop.clone()))),
            Err(error) => warn!(%error, "the card is not shown"),
        }
    }
    lan.announce.then(|| tokio::spawn(announce(lan.clone(), port, shown, stop.clone())))
}

/// Shows the card when it changes.
async fn keep_card(console: Console, mut shown: Shown, stop: CancellationToken) {
    let mut before = String::new();
    loop {
        let now = card(&shown.borrow_and_update());
        if now != before {
            console.show(now.clone());
            before = now;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = shown.changed() => if changed.is_err() { return },
        }
    }
}

/// Tells systemd that the rig is ready, once the runner answers and the book was looked at, which only a loop that turns
/// allows; and from then on what it does.
async fn tell(heard: Heard, mut shown: Shown, stop: CancellationToken) {
    let Heard { notifier, runner, told } = heard;
    notifier.status("asks rig-runner how it is");
    while let Err(error) = ask(runner.clone()).await {
        notifier.status(&format!("waits for rig-runner: {error}"));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RUNNER_PAUSE) => {}
        }
    }
    let (mut is_ready, mut before) = (false, String::new());
    loop {
        let face = shown.borrow_and_update().clone();
        let now = doing(&face);
        if !is_ready && face.tasks.is_some() {
            notifier.ready(&now);
            is_ready = true;
        } else if now != before {
            notifier.status(&now);
        }
        before = now;
        tokio::select! {
            () = stop.cancelled() => return,
            () = told.cancelled() => return notifier.stopping("begun work is finished first"),
            changed = shown.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether the runner answers. Errors: it does not, in words.
async fn ask(runner: runner::client::Client) -> Result<(), String> {
    let asked = tokio::task::spawn_blocking(move || runner.overview().map(drop));
    match asked.await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

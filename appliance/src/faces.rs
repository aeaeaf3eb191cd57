//! Where this rig shows itself, as far as `rig.toml` says so. What cannot be shown is logged: a rig earns unseen.

use appliance::announce::announce;
use appliance::card::card;
use appliance::card::console::Console;
use appliance::face::keep::{Shown, Sources, keep};
use appliance::page;
use appliance::settings::Settings;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Starts every face that the settings name, until `stop`. The book is looked at only if there is one. What is returned
/// ends when the local network was told goodbye.
pub(super) async fn show(settings: &Settings, sources: Sources, stop: &CancellationToken) -> Option<JoinHandle<()>> {
    let (console, listen, lan) = (&settings.places.console, settings.status_page.listen, &settings.lan);
    if console.is_none() && listen.is_none() && !lan.announce {
        return None;
    }
    let shown = keep(sources, stop.clone());
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

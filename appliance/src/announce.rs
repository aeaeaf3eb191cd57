//! Tells the local network that this rig is here: DNS-SD over multicast DNS, so that `rig pair --all` finds it.
//!
//! Everything that is told stands on the rig's console too. Whoever listens must not believe it: the pairing code, compared
//! by a person, is what ties the announcement to the machine.
//!
//! ```text
//! attic._opengpu-rig._tcp.local.   port: the status page's, or 9 (discard) where there is none
//! TXT  v=1  address=0x…  code=K7F2-QD9M-3XTA  tier=B  state=ID-00  name=attic  owner=0x…  paired=0
//! ```

use std::time::Duration;

use mdns_sd::{DaemonStatus, Error, IfKind, IfPredicate, ServiceDaemon, ServiceInfo};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::chain_of;
use crate::face::Face;
use crate::face::keep::Shown;
use crate::settings::Lan;

/// What kind of service a rig is. Source: RFC 6763; the name is not registered with IANA.
pub const SERVICE: &str = "_opengpu-rig._tcp.local.";

/// The version of what is told.
pub const VERSION: &str = "1";

/// The port of a rig without a status page: discard, which says that there is nothing to connect to.
pub const NO_PORT: u16 = 9;

/// How the links into jails are called. What runs there is told nothing, and their addresses are nobody else's matter.
pub(crate) const JAIL_LINKS: &str = "rig-up";

/// Time after which a failed announcement is tried again, such as one from before the network was up.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// Longest wait for the farewell at the end.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// What is told of a rig, in the order of its keys.
pub fn told(face: &Face) -> [(&'static str, String); 8] {
    [
        ("v", VERSION.to_owned()),
        ("address", face.address.to_string()),
        ("code", face.code.clone()),
        ("tier", face.tier.to_string()),
        ("state", face.state_code.to_owned()),
        ("name", face.name.to_string()),
        ("owner", face.owner.to_string()),
        ("paired", u8::from(face.is_paired).to_string()),
    ]
}

/// Announces the rig until `stop`, anew when something of it changes. `port`: the status page's. What fails is logged: a
/// rig earns without being found.
pub async fn announce(lan: Lan, port: Option<u16>, shown: Shown, stop: CancellationToken) {
    while let Err(error) = speak(&lan, port.unwrap_or(NO_PORT), shown.clone(), &stop).await {
        warn!(error = chain_of(&error), "this rig is not announced on the local network; it is tried again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
    }
}

async fn speak(lan: &Lan, port: u16, mut shown: Shown, stop: &CancellationToken) -> Result<(), Error> {
    let daemon = ServiceDaemon::new()?;
    match &lan.interface {
        Some(interface) => {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(IfKind::Name(interface.clone()))?;
        }
        None => {
            let is_jails = IfPredicate::new(|link| link.name.starts_with(JAIL_LINKS));
            daemon.disable_interface(IfKind::Predicate(is_jails))?;
        }
    }
    let mut before = None;
    loop {
        let face = shown.borrow_and_update().clone();
        let now = told(&face);
        if before.as_ref() != Some(&now) {
            let host = format!("{}.local.", face.name);
            let service = ServiceInfo::new(SERVICE, face.name.as_str(), &host, (), port, &now[..])?.enable_addr_auto();
            if before.is_none() {
                info!(service = service.get_fullname(), port, "announced on the local network");
            }
            daemon.register(service)?;
            before = Some(now);
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = shown.changed() => if changed.is_err() { break },
        }
    }
    farewell(daemon).await
}

/// Says goodbye, so that nobody shows a rig that is gone.
async fn farewell(daemon: ServiceDaemon) -> Result<(), Error> {
    let ended = daemon.shutdown()?;
    let wait = tokio::task::spawn_blocking(move || ended.recv_timeout(FAREWELL_MAX));
    if !matches!(wait.await, Ok(Ok(DaemonStatus::Shutdown))) {
        warn!("the local network was not told goodbye in time");
    }
    Ok(())
}

#[cfg(test)]
mod tests;

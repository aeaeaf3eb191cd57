//! Which rigs on the local network ask to be paired.
//!
//! A rig announces the service [`SERVICE`] by mDNS with a TXT record; see [`record`]. Nothing is sent but the question.
//!
//! Invariants:
//! * mDNS has no proof of anything: whoever is on the network can claim to be a rig and name an owner. So nothing here
//!   decides; a person compares the codes of the list with those that the rigs show themselves.
//! * A hostile answer can add rows, and nothing else: see [`list`].
//! * It ends in time, however much is answered.

use std::time::{Duration, Instant};

use mdns_sd::{IfKind, Receiver, RecvTimeoutError, ResolvedService, ServiceDaemon, ServiceEvent};
use nix::net::if_::if_nametoindex;
use thiserror::Error;

pub(crate) use self::list::{List, ROWS_MAX, Row};
use self::record::Record;
use crate::exit::{Exit, Failure};

mod list;
mod record;

/// The service's type, as DNS-SD writes it.
pub(crate) const SERVICE: &str = "_opengpu-rig._tcp.local.";

/// Names the loopback interface, which is left out otherwise.
const LOOPBACK: &str = "loopback";

/// The daemon thread only has to leave its loop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Subscriptions that a flood may end before we give up listening.
const SUBSCRIPTIONS_MAX: u32 = 100;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    Loopback,
    Named(String),
}

/// Why nothing was heard.
#[derive(Debug, Error)]
pub(crate) enum LanError {
    #[error("there is no network interface {0}")]
    NoInterface(String),
    #[error("ask the local network")]
    Mdns(#[source] mdns_sd::Error),
}

// === impl Interface ===

impl Interface {
    /// Reads an interface's name, or `loopback`.
    ///
    /// Errors: never; whether it is there is seen when it is used.
    pub(crate) fn parse(text: &str) -> Result<Interface, String> {
        Ok(if text == LOOPBACK { Interface::Loopback } else { Interface::Named(text.to_owned()) })
    }
}

/// Listens for the time `span`. Blocks its thread.
pub(crate) fn browse(interface: Option<&Interface>, span: Duration) -> Result<List, LanError> {
    let daemon = ServiceDaemon::new().map_err(LanError::Mdns)?;
    let list = choose(&daemon, interface).and_then(|()| listen(&daemon, span));
    let ended = daemon.shutdown();
    if let Ok(ended) = ended {
        // It ends with the process in any case.
        let _ = ended.recv_timeout(SHUTDOWN_TIMEOUT);
    }
    list
}

fn choose(daemon: &ServiceDaemon, interface: Option<&Interface>) -> Result<(), LanError> {
    let only = match interface {
        // A rig on this machine is heard on the network too.
        None => return daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6]).map_err(LanError::Mdns),
        Some(Interface::Loopback) => vec![IfKind::LoopbackV4, IfKind::LoopbackV6],
        Some(Interface::Named(name)) => {
            if_nametoindex(name.as_str()).map_err(|_| LanError::NoInterface(name.clone()))?;
            vec![IfKind::Name(name.clone())]
        }
    };
    daemon.disable_interface(IfKind::All).and_then(|()| daemon.enable_interface(only)).map_err(LanError::Mdns)
}

fn listen(daemon: &ServiceDaemon, span: Duration) -> Result<List, LanError> {
    let deadline = Instant::now() + span;
    let mut list = List::default();
    for _ in 0..SUBSCRIPTIONS_MAX {
        let events = daemon.browse(SERVICE).map_err(LanError::Mdns)?;
        if !hear(&events, deadline, &mut list) {
            break;
        }
        // More came at once than the subscription holds, and it was ended; what was heard is known to the next.
        tracing::debug!("subscription ended early");
    }
    let _ = daemon.stop_browse(SERVICE);
    Ok(list)
}

/// Hears until `deadline`; whether the subscription ended before.
fn hear(events: &Receiver<ServiceEvent>, deadline: Instant, list: &mut List) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match events.recv_timeout(left) {
            Ok(ServiceEvent::ServiceResolved(service)) => enter(list, &service),
            // That somebody says that a rig is gone is no reason to hide it.
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
}

fn enter(list: &mut List, service: &ResolvedService) {
    let strings = service.txt_properties.iter().map(|each| (each.key(), each.val().unwrap_or_default()));
    list.enter(&service.fullname, &service.host, Record::parse(strings));
}

impl From<LanError> for Failure {
    fn from(error: LanError) -> Failure {
        let (exit, next) = match &error {
            LanError::NoInterface(_) => (Exit::Usage, "list them with: ip link"),
            LanError::Mdns(_) => (
                Exit::Unreachable,
                "check that this machine is on the rigs' network, and that UDP port 5353 may be used",
            ),
        };
        Failure::new(exit, error).next(next)
    }
}

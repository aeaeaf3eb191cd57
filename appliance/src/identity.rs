//! Who signs for this rig, asked again while it runs.
//!
//! Invariants:
//! - One life of the provider works for one address. When the signer signs for another one (a successor took over, or
//!   the old key opened again), [`watch`] ends, the process drains and ends with it, and its supervisor starts it anew.
//! - What belongs to one address is never mixed with another's: see [`aside`].
//! - A signer that does not answer changes nothing but what people are shown.

pub mod aside;

use std::time::Duration;

use alloy_primitives::Address;
use serde_json::{Value, json};
use signer::{Error, Identity, KeyState};
use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::chain_of;

/// Time between two questions while the key is not open: a person may be standing before the machine.
pub const ASK_EVERY_CLOSED: Duration = Duration::from_secs(10);

/// Time between two questions while the key is open.
pub const ASK_EVERY_OPEN: Duration = Duration::from_secs(60);

/// What work may still take after the address changed, before the process ends: nothing of the old address can be signed
/// any more, so only what is being written is waited for.
pub const CHANGE_GRACE: Duration = Duration::from_secs(5);

/// What the signer said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its newest answer.
    pub identity: Identity,
    /// Why it did not answer since, if it did not.
    pub silence: Option<String>,
}

/// The signer signs for another address than at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// At the start.
    pub from: Address,
    /// Now.
    pub to: Address,
}

/// How often the signer is asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// While the key is open.
    pub open: Duration,
    /// While it is not.
    pub closed: Duration,
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Pace {
        Pace { open: ASK_EVERY_OPEN, closed: ASK_EVERY_CLOSED }
    }
}

// === impl Seen ===

impl Seen {
    /// The first answer.
    pub fn first(identity: Identity) -> Seen {
        Seen { identity, silence: None }
    }

    /// What to say of the phase while the rig only waits as a successor: that of an unpaired rig would send its owner to
    /// `rig pair`, which would leave the old pairing and its stake where they are.
    pub fn phase_words(&self) -> Option<&'static str> {
        let waits = self.identity.state != KeyState::Open && self.identity.replaces.is_some();
        waits.then_some("waiting under a new address until the owner runs `rig rotate`")
    }

    /// For `rig status`: every word that people are shown of it, so that all of them show the same.
    pub fn shown(&self) -> Value {
        let Identity { address, tier, fields, state, replaces } = self.identity;
        json!({
            "address": address.to_string(),
            "tier": tier,
            "fields": fields,
            "kept": self.identity.kept(),
            "code": self.identity.pairing_code(),
            "state": state,
            "state_code": state.code(),
            "what": state.what(),
            "next": state.next(),
            "replaces": replaces.map(|address| address.to_string()),
            "silence": self.silence,
        })
    }
}

/// Asks at this pace and shows the newest answer, until `stop` (then `None`) or until the address changes.
pub async fn watch<A>(ask: impl Fn() -> A, pace: Pace, seen: Sender<Seen>, stop: CancellationToken) -> Option<Changed>
where
    A: Future<Output = Result<Identity, Error>>,
{
    let from = seen.borrow().identity.address;
    loop {
        let is_open = seen.borrow().identity.state == KeyState::Open;
        let wait = if is_open { pace.open } else { pace.closed };
        let answer = async {
            tokio::time::sleep(wait).await;
            ask().await
        };
        let answer = tokio::select! {
            () = stop.cancelled() => return None,
            answer = answer => answer,
        };
        match answer {
            Ok(identity) => {
                note(&seen, identity);
                if identity.address != from {
                    return Some(Changed { from, to: identity.address });
                }
            }
            Err(error) => silent(&seen, chain_of(&error)),
        }
    }
}

fn note(seen: &Sender<Seen>, identity: Identity) {
    let newest = Seen::first(identity);
    seen.send_if_modified(|now| {
        let is_new = *now != newest;
        if now.identity.state != identity.state {
            info!(state = %identity.state, address = %identity.address, "the key's state changed");
        }
        *now = newest;
        is_new
    });
}

fn silent(seen: &Sender<Seen>, why: String) {
    seen.send_if_modified(|now| {
        let is_new = now.silence.as_ref() != Some(&why);
        if is_new {
            warn!(why, "the signer did not say who it is");
        }
        now.silence = Some(why);
        is_new
    });
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use signer::Tier;

    use super::*;

    const PACE: Pace = Pace { open: Duration::from_millis(1), closed: Duration::from_millis(1) };

    fn identity(address: u8, state: KeyState) -> Identity {
        Identity { address: Address::repeat_byte(address), tier: Tier::B, fields: 0, state, replaces: None }
    }

    /// What is shown after the signer gave these answers, newest first, and how the watch ended.
    async fn after(mut answers: Vec<Result<Identity, Error>>) -> (Seen, Option<Changed>) {
        let (seen, shown) = tokio::sync::watch::channel(Seen::first(identity(1, KeyState::Open)));
        let stop = CancellationToken::new();
        answers.reverse();
        let answers = Mutex::new(answers);
        let ask = || {
            let answer = answers.lock().expect("no holder panics").pop();
            let stop = stop.clone();
            async move {
                match answer {
                    Some(answer) => answer,
                    None => {
                        stop.cancel();
                        std::future::pending().await
                    }
                }
            }
        };
        let ended = watch(ask, PACE, seen, stop.clone()).await;
        (shown.borrow().clone(), ended)
    }

    fn nobody() -> Error {
        Error::Unreachable { path: "/run/signer.sock".into(), source: io::ErrorKind::NotFound.into() }
    }

    #[tokio::test]
    async fn a_change_of_state_is_shown_and_ends_nothing() {
        let (seen, ended) = after(vec![Ok(identity(1, KeyState::TpmLockout))]).await;
        assert_eq!((seen.identity.state, ended), (KeyState::TpmLockout, None));
        assert_eq!(seen.phase_words(), None, "nothing is to be rotated");
        let shown = seen.shown();
        assert_eq!(shown["state"], "tpm-lockout");
        assert_eq!(shown["state_code"], "ID-07");
        assert!(shown["next"].as_str().is_some_and(|next| next.contains("leave the machine on")), "{shown}");
    }

    #[tokio::test]
    async fn a_change_of_address_ends_the_watch_and_nothing_is_asked_after_it() {
        let (seen, ended) = after(vec![Ok(identity(2, KeyState::Open)), Ok(identity(1, KeyState::Open))]).await;
        assert_eq!(ended, Some(Changed { from: Address::repeat_byte(1), to: Address::repeat_byte(2) }));
        assert_eq!(seen.identity.address, Address::repeat_byte(2));
    }

    #[tokio::test]
    async fn a_signer_that_is_silent_is_said_so_until_it_speaks_again() {
        let (seen, ended) = after(vec![Err(nobody())]).await;
        assert!(seen.silence.is_some_and(|why| why.contains("/run/signer.sock")) && ended.is_none());
        assert_eq!(seen.identity, identity(1, KeyState::Open));
        let (seen, _) = after(vec![Err(nobody()), Ok(identity(1, KeyState::Open))]).await;
        assert_eq!(seen.silence, None);
    }
}

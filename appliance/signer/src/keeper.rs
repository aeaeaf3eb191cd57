//! The key as this process has it: open, closed, or waiting to be asked for again.
//!
//! Invariants:
//! * The scalar leaves this file only as a signature over an [`Entered`] permit.
//! * A closed key is a state, not an end: the socket is served, and says which state.
//! * A successor takes the closed key's place before its first signature exists, never by being looked at.
//! * What may pass is tried again with longer and longer pauses, and for as long as the process lives.

use std::path::Path;
use std::time::Duration;

use alloy::consensus::SignableTransaction;
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::Address;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use identity::{Claim, IdentityError, Options, Outcome, Succession, TlsKey};
use signer::policy::{BindError, KeyWish, Policy, PolicyFile, Refusal, Rule, TierWish};
use signer::{Identity, KeyState, Signed, Tier};
use tpm::Tpm;

use crate::filter::Reach;
use crate::journal::Entered;

/// First pause before a closed key is tried again: a TPM that is starting needs a second.
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// Longest pause. A lockout ends after minutes to hours; asking this often does not prolong it.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The key of one state directory, which no other process uses.
pub(crate) struct Keeper {
    options: Options,
    file: PolicyFile,
    _claim: Claim,
    state: KeyState,
    replaces: Option<Address>,
    held: Option<Held>,
    tpm: Option<Tpm>,
    /// Whether there was a connection to the TPM, which broke and did not come back yet.
    is_tpm_lost: bool,
    pause: Duration,
}

/// A key that signs, and the policy that is bound to it.
pub(crate) struct Held {
    signer: PrivateKeySigner,
    tls: TlsKey,
    tier: Tier,
    fields: u8,
    policy: Policy,
    succession: Option<Succession>,
}

/// A key that cannot be kept at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error("open the key")]
    Identity(#[from] IdentityError),
    #[error("bind the policy to the key")]
    Bind(#[from] BindError),
    #[error("the key that was opened is no secp256k1 key")]
    Scalar,
}

// === impl Keeper ===

impl Keeper {
    /// Opens the key, or bears the first one. Errors: every variant of [`KeeperError`].
    pub(crate) fn open(options: Options, file: PolicyFile, claim: Claim) -> Result<Self, KeeperError> {
        let state = KeyState::TpmBusy;
        let (replaces, held, tpm, pause) = (None, None, None, PAUSE_MIN);
        let is_tpm_lost = false;
        let mut keeper = Self { options, file, _claim: claim, state, replaces, held, tpm, is_tpm_lost, pause };
        keeper.try_again()?;
        Ok(keeper)
    }

    fn try_again(&mut self) -> Result<(), KeeperError> {
        // A TPM behind a socket takes one connection at a time.
        self.tpm = None;
        let Outcome { active, state, replaces, succession, tpm } = identity::open(&self.options)?;
        self.held = match active {
            Some(opened) => {
                let signer = PrivateKeySigner::from_slice(&opened.scalar[..]).map_err(|_| KeeperError::Scalar)?;
                let policy = Policy::bind(self.file.clone(), signer.address())?;
                let (tier, fields) = (tier_of(opened.tier), opened.fields);
                Some(Held { signer, tls: opened.tls, tier, fields, policy, succession })
            }
            None => None,
        };
        self.state = state_of(state);
        self.replaces = replaces.map(Address::from);
        (self.tpm, self.is_tpm_lost) = (tpm, false);
        Ok(())
    }

    /// How long to wait before [`Keeper::retry`]. `None`: nothing would be another now.
    pub(crate) fn pause(&self) -> Option<Duration> {
        (self.held.is_none() && may_pass(self.state)).then_some(self.pause)
    }

    /// Tries the closed key again. What goes wrong is logged: the next try may do better.
    pub(crate) fn retry(&mut self) {
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        match self.try_again() {
            Ok(()) => tracing::info!(state = self.state.code(), "key tried again"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "key not opened"),
        }
    }

    /// What the filter must leave in reach for [`Keeper::retry`], for the TPM and for the files of the key.
    pub(crate) fn reach(&self, sockets: &Path) -> Reach {
        let Options { state, tpm, hardware, approvals, .. } = &self.options;
        let (device, is_tpm_behind_socket) = match tpm {
            Some(tpm::Place::Device(path)) => (path.exists().then(|| path.clone()), false),
            Some(tpm::Place::Socket(_)) => (None, true),
            None => (None, false),
        };
        let mut read = Vec::new();
        if self.pause().is_some() {
            let approvals = approvals.iter().map(|file| crate::directory_of(file).to_owned());
            read.extend(approvals.chain(["sys", "proc"].map(|name| hardware.join(name))).filter(|path| path.exists()));
        }
        Reach { state: state.clone(), sockets: sockets.to_owned(), device, is_tpm_behind_socket, read }
    }

    /// Who signs. `None`: nobody.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let Held { signer, tier, fields, .. } = self.held.as_ref()?;
        let (state, replaces) = (self.state, self.replaces);
        Some(Identity { address: signer.address(), tier: *tier, fields: *fields, state, replaces })
    }

    pub(crate) fn state(&self) -> KeyState {
        self.state
    }

    /// The address of the closed key, where its file still tells.
    pub(crate) fn closed(&self) -> Option<Address> {
        self.replaces
    }

    /// The policy of the key that signs. Errors: [`Rule::KeyClosed`].
    pub(crate) fn policy(&self) -> Result<&Policy, Refusal> {
        self.held.as_ref().map(|held| &held.policy).ok_or_else(|| self.is_closed())
    }

    /// Signs what was permitted and entered. Deterministic (RFC 6979): the same transaction gives the same bytes.
    /// Errors: [`Rule::KeyClosed`], also for a successor that cannot take its place.
    pub(crate) fn sign(&mut self, entered: &Entered<'_>) -> Result<Signed, Refusal> {
        self.adopt()?;
        let closed = self.is_closed();
        let Some(held) = &self.held else { return Err(closed) };
        let tx = entered.permit().tx();
        let signature = held.signer.sign_hash_sync(&tx.signature_hash()).expect("a digest of 32 bytes can be signed");
        let envelope = tx.clone().into_envelope(signature);
        Ok(Signed { raw: envelope.encoded_2718().into(), hash: *envelope.tx_hash() })
    }

    /// The TLS key and the connection to the TPM that it may be in. Errors: `None` with a closed key.
    pub(crate) fn tls(&mut self) -> Option<(&TlsKey, Option<&mut Tpm>)> {
        let held = self.held.as_ref()?;
        Some((&held.tls, self.tpm.as_mut()))
    }

    /// Opens the connection to the TPM anew, after it broke. Returns whether there is one.
    pub(crate) fn reconnect(&mut self) -> bool {
        self.tpm = None;
        self.is_tpm_lost = true;
        let Some(place) = &self.options.tpm else { return false };
        match Tpm::open(place) {
            Ok(tpm) => (self.tpm, self.is_tpm_lost) = (Some(tpm), false),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the TPM does not come back"),
        }
        self.tpm.is_some()
    }

    pub(crate) fn is_tpm_lost(&self) -> bool {
        self.is_tpm_lost
    }

    fn adopt(&mut self) -> Result<(), Refusal> {
        let Some(succession) = self.held.as_mut().and_then(|held| held.succession.as_mut()) else { return Ok(()) };
        if let Err(error) = succession.adopt() {
            tracing::error!(error = &error as &dyn std::error::Error, "the successor did not take its place");
            return Err(Rule::KeyClosed.broken(format!("the successor cannot take the key's place: {error}")));
        }
        tracing::info!(state = self.state.code(), "the successor took the key's place");
        (self.state, self.replaces) = (KeyState::Open, None);
        if let Some(held) = &mut self.held {
            held.succession = None;
        }
        Ok(())
    }

    fn is_closed(&self) -> Refusal {
        Rule::KeyClosed.broken(format!("{}; {}", self.state, self.state.next()))
    }
}

/// Whether asking again may help where there is no key. Too few parts, and yet no successor: the machine has just started
/// and some of them are awaited. A TPM that fails mostly stays so, but may have stumbled once, and asking costs nothing.
fn may_pass(state: KeyState) -> bool {
    state.passes_with_time() || matches!(state, KeyState::BindingBroken | KeyState::TpmFailing)
}

/// The crate `identity` has its own words, since it knows nothing of this one.
pub(crate) fn tier_of(tier: identity::Tier) -> Tier {
    match tier {
        identity::Tier::S => Tier::S,
        identity::Tier::Four => Tier::Four,
        identity::Tier::B => Tier::B,
        identity::Tier::N => Tier::N,
    }
}

pub(crate) fn wish_of(wish: KeyWish) -> identity::Wish {
    match wish.tier {
        TierWish::Auto => identity::Wish::Auto,
        TierWish::S => identity::Wish::Exactly(identity::Tier::S),
        TierWish::Four => identity::Wish::Exactly(identity::Tier::Four),
        TierWish::B => identity::Wish::Exactly(identity::Tier::B),
        TierWish::N => identity::Wish::Exactly(identity::Tier::N),
    }
}

pub(crate) fn state_of(state: identity::KeyState) -> KeyState {
    match state {
        identity::KeyState::Open => KeyState::Open,
        identity::KeyState::TpmOff => KeyState::TpmOff,
        identity::KeyState::TpmCleared => KeyState::TpmCleared,
        identity::KeyState::TpmSwapped => KeyState::TpmSwapped,
        identity::KeyState::DiskMoved => KeyState::DiskMoved,
        identity::KeyState::SoftwareNotApproved => KeyState::SoftwareNotApproved,
        identity::KeyState::SoftwareRolledBack => KeyState::SoftwareRolledBack,
        identity::KeyState::TpmLockout => KeyState::TpmLockout,
        identity::KeyState::TpmBusy => KeyState::TpmBusy,
        identity::KeyState::TpmFailing => KeyState::TpmFailing,
        identity::KeyState::TpmOwned => KeyState::TpmOwned,
        identity::KeyState::NoSha256Bank => KeyState::NoSha256Bank,
        identity::KeyState::BindingBroken => KeyState::BindingBroken,
        identity::KeyState::KeyDamaged => KeyState::KeyDamaged,
        identity::KeyState::RotationAsked => KeyState::RotationAsked,
    }
}

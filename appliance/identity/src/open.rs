//! Opens the provider key, or performs what [`life`](crate::life) decides instead.
//!
//! Invariants:
//! * All of it happens under the directory's lock, so that two processes cannot bear two keys.
//! * The provider key is tried first, at each start: what was switched on again is used again.
//! * A successor that does not open is kept in `retired/`, never deleted: somebody may have sent it money. One whose TPM
//!   is off stays where it is, and is waited for.
//! * The hardware fields are read before anything is sealed.

use crate::birth::{self, Unborn};
use crate::file::{Body, Damage, FILE_BYTES_MAX, KeyFile};
use crate::life::{self, KeyState, Observed, Step, Trial, Verdict};
use crate::rig::{Rig, Shut};
use crate::secret::Scalar;
use crate::store::{PROVIDER, SUCCESSOR, Succession, retired_name};
use crate::tls::{self, TlsKey};
use crate::{Address, IdentityError, Opened, Options, Outcome, Tier, software};

/// A key that opened, before its TLS key is there.
pub(crate) struct Held {
    pub(crate) scalar: Scalar,
    pub(crate) tier: Tier,
    pub(crate) fields: u8,
    pub(crate) generation: u32,
    pub(crate) has_drifted: bool,
}

/// One key file, as far as it can be known.
pub(crate) struct Examined {
    pub(crate) verdict: Verdict,
    pub(crate) address: Option<Address>,
    pub(crate) held: Option<Held>,
    pub(crate) is_rotation_asked: bool,
}

/// Opens the provider key; bears it where there is none; takes its successor where it stays closed.
///
/// Blocks: a TPM takes up to some seconds, each hardware field an Argon2id. Errors: what leaves the state unknown; a
/// key that is closed is no error.
pub fn open(options: &Options) -> Result<Outcome, IdentityError> {
    let mut rig = Rig::new(options)?;
    if !rig.locked.has(PROVIDER) && rig.locked.has(SUCCESSOR) {
        // Somebody took the provider's file away. The key that was to follow it is there.
        rig.locked.follow(&retired_name(None))?;
    }
    let provider = examine(&mut rig, PROVIDER)?;
    match provider.verdict.step {
        Step::Use => {
            let mut held = provider.held.ok_or_else(|| rig.lost(PROVIDER))?;
            follow_drift(&mut rig, PROVIDER, &mut held)?;
            tracing::info!(address = %hex::encode(held.scalar.address()), tier = %held.tier, "key open");
            active(rig, held, KeyState::Open, None, None)
        }
        Step::Bear => match birth::first(&mut rig)? {
            Ok(held) => active(rig, held, KeyState::Open, None, None),
            Err(Unborn { state }) => closed(rig, state, None),
        },
        Step::Retry | Step::Wait => closed(rig, provider.verdict.state, provider.address),
        Step::Succeed => succeed(rig, &provider),
    }
}

/// The key of a file, or why it stays closed.
pub(crate) fn examine(rig: &mut Rig<'_>, name: &'static str) -> Result<Examined, IdentityError> {
    let mut observed = Observed {
        found: life::Found::Nothing,
        trial: Trial::Opened,
        same_ek: None,
        same_machine: None,
        is_rotation_asked: false,
        is_awaiting_parts: rig.is_awaiting_parts,
    };
    let nothing = |verdict| Examined { verdict, address: None, held: None, is_rotation_asked: false };
    let Some(bytes) = rig.locked.read(name, FILE_BYTES_MAX)? else {
        return Ok(nothing(life::decide(observed)));
    };
    let file = match KeyFile::parse(&bytes) {
        Ok(file) => file,
        Err(damage) => {
            observed.found = found_of(damage);
            tracing::error!(file = name, error = %damage, "key file refused");
            return Ok(nothing(life::decide(observed)));
        }
    };
    observed.found = match file.tier() {
        Tier::N => life::Found::Software,
        Tier::B => life::Found::Sealed,
        Tier::S | Tier::Four => life::Found::SealedToSoftware,
    };
    observed.is_rotation_asked = rig.options.generation > file.generation();
    let held = match attempt(rig, &file) {
        Ok(held) => Some(held),
        Err(Shut::Damaged(damage)) => {
            observed.found = found_of(damage);
            tracing::error!(file = name, error = %damage, "key file refused");
            None
        }
        Err(Shut::Trial(trial)) => {
            observed.trial = trial;
            if let (Trial::Tpm(tpm::Meaning::Integrity | tpm::Meaning::HandleGone), Body::Sealed(sealed)) =
                (trial, file.body())
            {
                observed.same_ek = rig.same_ek(sealed.ek);
                observed.same_machine = rig.same_machine(&sealed.evidence);
            }
            None
        }
    };
    let verdict = life::decide(observed);
    match verdict.state {
        KeyState::Open => {}
        state => tracing::warn!(
            file = name,
            address = %hex::encode(file.address()),
            tier = %file.tier(),
            ?state,
            step = ?verdict.step,
            ?observed,
            "key not used"
        ),
    }
    let is_rotation_asked = observed.is_rotation_asked;
    Ok(Examined { verdict, address: Some(file.address()), held, is_rotation_asked })
}

fn found_of(damage: Damage) -> life::Found {
    match damage {
        Damage::Future { .. } => life::Found::FromTheFuture,
        Damage::Length { .. }
        | Damage::Header
        | Damage::Checksum
        | Damage::Part { .. }
        | Damage::Scalar
        | Damage::Address => life::Found::Damaged,
    }
}

fn attempt(rig: &mut Rig<'_>, file: &KeyFile) -> Result<Held, Shut> {
    let (scalar, has_drifted) = match file.body() {
        Body::First(scalar) | Body::Plain(scalar) => (scalar.clone(), false),
        Body::Bound { binding, sealed, .. } => {
            let opened = software::unwrap(file, binding, sealed, &rig.fields);
            opened.map_err(|refusal| match refusal {
                software::Refusal::Broken => Shut::Trial(Trial::Unbound),
                software::Refusal::Damaged(damage) => Shut::Damaged(damage),
            })?
        }
        Body::Sealed(sealed) => {
            let secret = rig.unseal(sealed)?;
            let scalar = Scalar::from_slice(&secret).ok_or(Shut::Damaged(Damage::Scalar))?;
            if scalar.address() != file.address() {
                return Err(Shut::Damaged(Damage::Address));
            }
            (scalar, false)
        }
    };
    let (tier, fields, generation) = (file.tier(), file.body().fields(), file.generation());
    Ok(Held { scalar, tier, fields, generation, has_drifted })
}

/// Binds a key anew to the fields that are here, so that the next change is borne too.
fn follow_drift(rig: &mut Rig<'_>, name: &'static str, held: &mut Held) -> Result<(), IdentityError> {
    if !held.has_drifted {
        return Ok(());
    }
    if rig.is_awaiting_parts {
        // What is not here yet would be left out, and then too little would be here at the next start.
        tracing::info!("binding kept: some GPUs have not told their ids yet");
        return Ok(());
    }
    let file = software::wrap(held.scalar.clone(), held.generation, &rig.fields)?;
    match file.body().fields() {
        // With too few fields the old binding is the better one: it still opens.
        0 => tracing::warn!("binding kept: too few fields are here to bind anew"),
        fields => {
            rig.locked.rewrap(name, &file.to_bytes())?;
            tracing::info!(fields, was = held.fields, "key bound anew after a change of hardware");
            held.fields = fields;
        }
    }
    Ok(())
}

/// Comes to the successor of a provider key that stays closed.
fn succeed(mut rig: Rig<'_>, provider: &Examined) -> Result<Outcome, IdentityError> {
    let (state, replaces) = (provider.verdict.state, provider.address);
    let waiting = examine(&mut rig, SUCCESSOR)?;
    let held = match waiting.verdict.step {
        Step::Use => {
            let mut held = waiting.held.ok_or_else(|| rig.lost(SUCCESSOR))?;
            follow_drift(&mut rig, SUCCESSOR, &mut held)?;
            Ok(held)
        }
        Step::Bear => birth::successor(&mut rig)?,
        Step::Retry | Step::Wait => Err(Unborn { state: waiting.verdict.state }),
        // It opens again once the TPM is on, and somebody may have sent it money. A person can ask for another.
        Step::Succeed if waiting.verdict.state == KeyState::TpmOff && !waiting.is_rotation_asked => {
            tracing::warn!("the successor waits for its TPM; a greater generation bears another one");
            Err(Unborn { state: waiting.verdict.state })
        }
        Step::Succeed => {
            rig.locked.retire(SUCCESSOR, &retired_name(waiting.address))?;
            tracing::warn!(address = %retired_name(waiting.address), "successor retired before it was used");
            birth::successor(&mut rig)?
        }
    };
    match held {
        Ok(held) => {
            let address = held.scalar.address();
            tracing::warn!(address = %hex::encode(address), tier = %held.tier, ?state, "successor in use");
            let succession = Succession::new(rig.store.clone(), replaces, address);
            active(rig, held, state, replaces, Some(succession))
        }
        Err(Unborn { state }) => closed(rig, state, replaces),
    }
}

fn active(
    mut rig: Rig<'_>,
    held: Held,
    state: KeyState,
    replaces: Option<Address>,
    succession: Option<Succession>,
) -> Result<Outcome, IdentityError> {
    if held.tier == Tier::N && rig.options.tpm.is_some() {
        // Not sealed afterwards: copies of the file would stay, and the tier would promise what is not so.
        tracing::info!("software key on a rig with a TPM: ask for a new key to have one that the TPM holds");
    }
    let tls = match held.tier {
        Tier::N => TlsKey::of(&held.scalar),
        Tier::S | Tier::Four | Tier::B => match tls::in_tpm(&mut rig)? {
            Ok(key) => key,
            Err(state) if state.passes_with_time() => return closed(rig, state, replaces),
            Err(state) => {
                tracing::error!(?state, "no TLS key in the TPM, using one in software");
                TlsKey::of(&held.scalar)
            }
        },
    };
    let opened = Opened {
        address: held.scalar.address(),
        scalar: held.scalar.into_bytes(),
        fields: held.fields,
        tier: held.tier,
        generation: held.generation,
        tls,
    };
    Ok(Outcome { active: Some(opened), state, replaces, succession, tpm: rig.into_tpm() })
}

fn closed(rig: Rig<'_>, state: KeyState, replaces: Option<Address>) -> Result<Outcome, IdentityError> {
    tracing::warn!(?state, "no key in use");
    Ok(Outcome { active: None, state, replaces, succession: None, tpm: rig.into_tpm() })
}

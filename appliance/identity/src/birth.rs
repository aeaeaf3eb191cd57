//! Bears a key, at the best tier that this machine gives.
//!
//! Invariants:
//! * A key that was sealed is opened once before its file is written: what the TPM does not give back was never
//!   promised.
//! * The first key falls below tier B only where the wish was to choose, and only where there is no TPM or one that
//!   others own: a TPM that fails today may work tomorrow. A successor may fall to any tier, since the owner sees its
//!   tier before it is used. What passes with time is waited for and never falls.

use zeroize::Zeroizing;

use crate::binding::FIELDS_MIN;
use crate::file::KeyFile;
use crate::life::KeyState;
use crate::open::Held;
use crate::rig::Rig;
use crate::secret::Scalar;
use crate::store::{PROVIDER, SUCCESSOR};
use crate::{IdentityError, Tier, Wish, software};

/// No key was born.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unborn {
    /// Why.
    pub(crate) state: KeyState,
}

/// Bears the provider key of a new rig. Errors: those of files and random numbers.
pub(crate) fn first(rig: &mut Rig<'_>) -> Result<Result<Held, Unborn>, IdentityError> {
    let may_fall = match rig.options.wish {
        Wish::Auto => |state| matches!(state, KeyState::TpmOff | KeyState::TpmOwned),
        Wish::Exactly(_) => |_| false,
    };
    bear(rig, PROVIDER, may_fall)
}

/// Bears the key that follows a closed one. Errors: those of files and random numbers.
pub(crate) fn successor(rig: &mut Rig<'_>) -> Result<Result<Held, Unborn>, IdentityError> {
    bear(rig, SUCCESSOR, |state| !state.passes_with_time())
}

fn bear(
    rig: &mut Rig<'_>,
    name: &'static str,
    may_fall: fn(KeyState) -> bool,
) -> Result<Result<Held, Unborn>, IdentityError> {
    let mut tier = rig.options.wish.first();
    loop {
        let state = match at_tier(rig, tier)? {
            Ok((file, scalar)) => {
                rig.locked.bear(name, &file.to_bytes())?;
                let (fields, generation) = (file.body().fields(), file.generation());
                tracing::info!(file = name, address = %hex::encode(file.address()), %tier, fields, "key born");
                return Ok(Ok(Held { scalar, tier, fields, generation, has_drifted: false }));
            }
            Err(state) => state,
        };
        match tier.next_best() {
            Some(next) if may_fall(state) => {
                tracing::warn!(%tier, %next, ?state, "no key at this tier, trying the next");
                tier = next;
            }
            Some(_) | None => {
                tracing::warn!(%tier, ?state, "no key born");
                return Ok(Err(Unborn { state }));
            }
        }
    }
}

fn at_tier(rig: &mut Rig<'_>, tier: Tier) -> Result<Result<(KeyFile, Scalar), KeyState>, IdentityError> {
    let generation = rig.options.generation;
    match tier {
        // Bound to nothing it would stay so, also when the parts are here.
        Tier::N if rig.is_awaiting_parts && usize::from(rig.fields.count()) < FIELDS_MIN => {
            Ok(Err(KeyState::BindingBroken))
        }
        Tier::N => {
            let scalar = draw(rig)?;
            let file = software::wrap(scalar.clone(), generation, &rig.fields)?;
            Ok(Ok((file, scalar)))
        }
        Tier::S | Tier::Four | Tier::B => {
            if let Err(state) = rig.is_fit_for(tier) {
                return Ok(Err(state));
            }
            let scalar = draw(rig)?;
            let sealed = rig.seal(tier, &scalar, generation)?;
            Ok(sealed.map(|file| (file, scalar)))
        }
    }
}

/// From the system, and from the TPM where one answers: neither alone decides.
fn draw(rig: &mut Rig<'_>) -> Result<Scalar, IdentityError> {
    Scalar::draw(|bytes| {
        let more = rig.tpm().and_then(|tpm| tpm.random(bytes.len()).map_err(|fault| fault.meaning()));
        // A TPM that gives none leaves the system's numbers as they are, which are good alone.
        let more = more.unwrap_or_else(|_| Zeroizing::new(vec![0; bytes.len()]));
        if more.len() == bytes.len() {
            bytes.copy_from_slice(&more);
        }
        Ok(())
    })
}

//! What is done to a key that is open, on request: a lower tier, and the lock behind an update.
//!
//! A tier is only ever lowered. A higher one would be a promise about copies that nobody can take back: the file of a
//! software key, or the blob of a key at tier B, may lie in some backup and opens as before. Who wants a higher tier
//! asks for a new key.

use tpm::{RELEASE_COUNTER, Tpm};

use crate::approval::Rule;
use crate::file::KeyFile;
use crate::life::KeyState;
use crate::open::{Held, examine};
use crate::rig::{Rig, approvals};
use crate::store::{Claim, PROVIDER};
use crate::{IdentityError, Options, Tier, software};

/// Releases that may have been skipped between two confirmations. Each increment costs the TPM a write to its flash.
const INCREMENTS_MAX: u64 = 64;

/// Why a key stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The directory, or what stands in the way of knowing the state.
    #[error("change the key")]
    Identity(#[from] IdentityError),
    /// Only a key that is open can be changed.
    #[error("the provider key is not open: {state:?}")]
    Closed {
        /// Why not.
        state: KeyState,
    },
    /// Copies of the key may lie elsewhere.
    #[error(
        "a key of tier {from} does not become one of tier {to}, since copies of it stay as they are: ask for a new key"
    )]
    NotHonest {
        /// What it has.
        from: Tier,
        /// What was asked for.
        to: Tier,
    },
    /// The TPM does not give the tier.
    #[error("this machine gives no tier {to}: {state:?}")]
    Unfit {
        /// What was asked for.
        to: Tier,
        /// Why not.
        state: KeyState,
    },
    /// No release may have so large a step.
    #[error(
        "the counter is at {counter} and the release may have {limit}: more than {INCREMENTS_MAX} releases at once"
    )]
    TooFar {
        /// What the TPM shows.
        counter: u64,
        /// What the approval says.
        limit: u64,
    },
}

/// Wraps the provider key at the same tier again, or at a lower one: before a firmware update that will take the TPM
/// along, and where PCR 7 is about to change. Errors: every variant but `TooFar`; `Identity` while a signer runs.
pub fn change_tier(options: &Options, to: Tier) -> Result<(), ChangeError> {
    let _claim = Claim::take(&options.state)?;
    let mut rig = Rig::new(options)?;
    let provider = examine(&mut rig, PROVIDER)?;
    let Some(Held { scalar, tier: from, generation, .. }) = provider.held else {
        return Err(ChangeError::Closed { state: provider.verdict.state });
    };
    if !may_become(from, to) {
        return Err(ChangeError::NotHonest { from, to });
    }
    let file: KeyFile = match to {
        Tier::N => software::wrap(scalar, generation, &rig.fields)?,
        Tier::S | Tier::Four | Tier::B => {
            rig.is_fit_for(to).map_err(|state| ChangeError::Unfit { to, state })?;
            rig.seal(to, &scalar, generation)?.map_err(|state| ChangeError::Unfit { to, state })?
        }
    };
    rig.locked.rewrap(PROVIDER, &file.to_bytes())?;
    tracing::info!(address = %hex::encode(file.address()), %from, %to, "key wrapped at another tier");
    Ok(())
}

/// Whether all that opened the key before opens it still, so that no copy breaks what the new tier says.
fn may_become(from: Tier, to: Tier) -> bool {
    match (from, to) {
        (Tier::S, Tier::S) | (Tier::Four, Tier::Four) => true,
        (Tier::S | Tier::Four | Tier::B, Tier::B) => true,
        (Tier::S | Tier::Four | Tier::B | Tier::N, Tier::N) => true,
        (Tier::Four | Tier::B | Tier::N, Tier::S) | (Tier::S | Tier::B | Tier::N, Tier::Four) | (Tier::N, Tier::B) => {
            false
        }
    }
}

/// Raises the TPM's counter to the greatest value that the running release's approval allows, so that releases whose
/// approval ends below it open keys no more. Call it once an update is confirmed, with the signer's own connection.
///
/// It seals nothing anew. `None`: the provider key is of a tier without approvals. Errors: `Identity`, `Closed` where
/// what runs is not approved, `Unfit`, `TooFar`.
pub fn confirm_release(options: &Options, tier: Tier, tpm: &mut Tpm) -> Result<Option<u64>, ChangeError> {
    let Some(rule) = Rule::of(tier) else { return Ok(None) };
    let fault = |step| move |source| ChangeError::Identity(IdentityError::Tpm { step, source });
    let values = tpm.pcrs(&rule.pcrs).map_err(fault("read the measurements"))?;
    let approvals = approvals(options)?;
    // Only what the vendor signed may raise the counter: too high a value would lock every release out.
    let approval = options.vendor.and_then(|vendor| approvals.find(&vendor, tier, &values));
    let approval = approval.ok_or(ChangeError::Closed { state: KeyState::SoftwareNotApproved })?;
    let limit = approval.measured().counter_max;
    let found = tpm.counter(RELEASE_COUNTER).map_err(fault("read the counter"))?;
    let mut counter = found.ok_or(ChangeError::Unfit { to: tier, state: KeyState::TpmCleared })?;
    if limit.saturating_sub(counter) > INCREMENTS_MAX {
        return Err(ChangeError::TooFar { counter, limit });
    }
    while counter < limit {
        counter = tpm.increment(RELEASE_COUNTER).map_err(fault("raise the counter"))?;
    }
    tracing::info!(counter, release = approval.measured().release, "release confirmed");
    Ok(Some(counter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_never_raised() {
        let rank = |tier| match tier {
            Tier::S | Tier::Four => 2,
            Tier::B => 1,
            Tier::N => 0,
        };
        for from in Tier::ALL {
            for to in Tier::ALL {
                let expected = from == to || rank(to) < rank(from);
                assert_eq!(may_become(from, to), expected, "{from} {to}");
            }
        }
    }
}

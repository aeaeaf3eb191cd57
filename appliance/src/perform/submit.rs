//! Sending a transaction, in the words of a step: it happened, or what stood in the way.

use alloy_primitives::utils::format_ether;
use alloy_primitives::{Address, U256};
use chain::outbox::{Intent, SendError, Sent};
use work::step::Trouble;

use super::Performer;
use crate::chain_of;

/// Reasons with which the contract says that somebody else was first or time is up. Source: the SDK's revert map, and
/// the local network's own words for a repeated payload or attempt.
const LOST: &[&str] = &["AlreadyFinalized", "AlreadyConfirmed", "Expired", "AlreadySubmitted", "AlreadyAttempted"];

/// Reasons that pass when the owner does something, or with time.
const PASSING: &[&str] = &["InsufficientLockup", "NotEligible", "UnbondingNotElapsed"];

impl Performer {
    /// Sends a call from our account and waits until it is mined deep enough. `key` names the intent, so that a call that
    /// is under way already is joined. The caller has asked the chain whether it is needed at all.
    pub(super) async fn submit(&self, key: String, to: Address, data: Vec<u8>) -> Result<(), Trouble> {
        self.send(Intent { key, to, data: data.into(), value_wei: U256::ZERO }).await
    }

    /// Sends `intent` and waits until it is mined deep enough.
    pub(super) async fn send(&self, intent: Intent) -> Result<(), Trouble> {
        match self.outbox.send(intent).await {
            Ok(Sent::Mined { .. }) => Ok(()),
            Ok(Sent::Reverted { reason, .. }) | Err(SendError::WouldRevert { reason }) => Err(of_revert(&reason)),
            Err(SendError::Unfunded { have_wei, need_wei }) => Err(Trouble::passing(format!(
                "the account holds {} and sending needs {}: send gas to {}",
                format_ether(have_wei),
                format_ether(need_wei),
                self.me
            ))),
            Err(SendError::Refused { rule, why }) => {
                Err(Trouble::lasting(format!("the signer refused by rule {rule}: {why}")))
            }
            Err(error) => Err(Trouble::passing(chain_of(&error))),
        }
    }
}

fn of_revert(reason: &str) -> Trouble {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(LOST) {
        Trouble::lost(format!("the contract said {reason}"))
    } else if says(PASSING) {
        Trouble::passing(format!("the contract said {reason}"))
    } else {
        Trouble::lasting(format!("the contract said {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use work::step::TroubleKind;

    use super::of_revert;

    #[test]
    fn a_lost_race_is_an_outcome_and_a_short_stake_may_pass() {
        assert_eq!(of_revert("AlreadyFinalized").kind, TroubleKind::Lost);
        assert_eq!(of_revert("execution reverted: Nexus: Expired").kind, TroubleKind::Lost);
        assert_eq!(of_revert("InsufficientLockup").kind, TroubleKind::Passing);
        assert_eq!(of_revert("UnbondingNotElapsed").kind, TroubleKind::Passing);
        assert_eq!(of_revert("NotProvider").kind, TroubleKind::Final);
    }
}

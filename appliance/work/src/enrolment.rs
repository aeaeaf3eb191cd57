//! How the rig becomes a provider: gas, both halves of the pairing, base data, stake; and how it goes home.
//!
//! The phase is a pure function of the newest [`Standing`], the rig's settings, and two things that the chain forgets:
//! with whom this rig has been paired, and what could not be sent of its last coins. Without the first, a rig that its
//! owner removed would look like one that its owner has not named yet.
//!
//! A rig that was removed sends its coins to the owner that it was paired with, and to nobody else: a new owner in
//! `rig.toml` gets a rig that is not paired, not a rig that goes home.

use std::fmt;

use alloy_primitives::utils::format_ether;
use serde::{Deserialize, Serialize};

use crate::id::{ProviderId, Wei};
use crate::step::Trouble;

/// Seconds for which every reading must say that the owner has removed this rig before anything goes home: longer than
/// a re-org of the pairing takes to be mined again, and than one endpoint is alone with its word. Nobody is in a hurry:
/// the cooldown of a stake takes far longer.
pub const REMOVAL_GRACE_S: u64 = 30;

/// What the chain says of this provider at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Coin on the provider's account, for gas, in wei.
    pub gas_wei: Wei,
    /// Free balance in the vault, in wei.
    pub vault_wei: Wei,
    /// Stake locked in the vault, in wei.
    pub lockup_wei: Wei,
    /// `Terminal.masterOf(provider)`: whom we have named as our owner.
    pub master: Option<ProviderId>,
    /// `Terminal.isProvider(provider)`: whether an owner has named us.
    pub is_announced: bool,
    /// `Terminal.baseDataOf(provider)`.
    pub base_data_url: String,
    /// Stake on its way out of the vault, in wei.
    #[serde(default, skip_serializing_if = "Wei::is_zero")]
    pub unbonding_wei: Wei,
    /// Unix seconds from which it can be claimed. Whether the contract means this or the start of the cooldown is not
    /// known; a claim that comes too early is refused and tried again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unbonds_at: u64,
    /// `Terminal.providerOf(owner)` is this rig: the owner's newest word is its name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_newest: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where the rig stands on its way to being a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The chain has not answered yet.
    Unread,
    /// Too little gas on the account to send anything.
    Unfunded,
    /// We have to name our owner on chain.
    Announcing,
    /// The owner has to name us: `rig pair`.
    AwaitingOwner,
    /// Paired with somebody who is not the owner in `rig.toml`.
    ForeignOwner,
    /// Our base data has to be published.
    Describing,
    /// Paired and described.
    Paired,
    /// The owner has removed this rig: it brings home what is its own.
    GoingHome,
    /// The owner has removed this rig, and nothing is left here that could go home.
    Home,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Unread => "the chain has not answered yet",
            Phase::Unfunded => "waiting for gas: send coin to the rig's address, or run `rig pair`",
            Phase::Announcing => "naming the owner on chain",
            Phase::AwaitingOwner => "waiting for the owner: run `rig pair` with this rig's address",
            Phase::ForeignOwner => "paired with another owner: that owner must remove this provider first",
            Phase::Describing => "publishing what this rig is",
            Phase::Paired => "paired",
            Phase::GoingHome => "going home: the owner has removed this rig",
            Phase::Home => "home: nothing is left here",
        })
    }
}

/// Enrolment as the book holds it: the newest reading, and the step in hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The newest reading, `None` before the first.
    pub standing: Option<Standing>,
    /// Whether the step that the phase awaits has been handed out.
    pub is_asked: bool,
    /// How often that step has fallen through in a row.
    pub tries: u32,
    /// Unix seconds before which it is not tried again.
    pub not_before: u64,
    /// The newest trouble, if the last try fell through.
    pub trouble: Option<Trouble>,
    /// The owner with whom this rig was paired last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paired_with: Option<ProviderId>,
    /// What was left on the account when its coins were sent home, in wei: another transfer would cost more.
    #[serde(default, skip_serializing_if = "Wei::is_zero")]
    pub dust_wei: Wei,
    /// Unix seconds since which every reading has said that the owner has removed this rig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_since: Option<u64>,
}

// === impl Standing ===

impl Standing {
    /// Whether both halves of a pairing with `owner` are on chain.
    pub fn is_paired_with(&self, owner: ProviderId) -> bool {
        self.master == Some(owner) && self.is_announced
    }

    /// Whether `owner`, once paired with this rig, has ended that and has not named it again.
    pub fn is_let_go_by(&self, owner: ProviderId) -> bool {
        let is_named_again = self.is_announced && self.is_newest;
        !self.is_paired_with(owner) && !is_named_again
    }

    /// Whether the vault holds anything in this rig's name.
    fn has_in_vault(&self) -> bool {
        !(self.lockup_wei.is_zero() && self.unbonding_wei.is_zero() && self.vault_wei.is_zero())
    }
}

// === impl Enrolment ===

impl Enrolment {
    /// Where the rig stands. `owner` and `base_data_cid` come from the rig's settings; the CID is the last part of the
    /// link on chain.
    pub fn phase(&self, owner: ProviderId, base_data_cid: &str) -> Phase {
        let Some(now) = &self.standing else { return Phase::Unread };
        match now.master {
            Some(other) if other != owner => Phase::ForeignOwner,
            _ if self.is_removed(now, owner) && (now.has_in_vault() || now.gas_wei > self.dust_wei) => Phase::GoingHome,
            _ if self.is_removed(now, owner) => Phase::Home,
            _ if now.gas_wei.is_zero() => Phase::Unfunded,
            None => Phase::Announcing,
            Some(_) if !now.is_announced => Phase::AwaitingOwner,
            Some(_) if !now.base_data_url.ends_with(base_data_cid) => Phase::Describing,
            Some(_) => Phase::Paired,
        }
    }
    /// The phase in words for people, with amounts and times.
    pub fn words(&self, phase: Phase) -> String {
        match (&self.standing, phase) {
            (Some(now), Phase::GoingHome) => format!("going home: {}", self.on_the_way(now)),
            (Some(now), Phase::Home) if !now.gas_wei.is_zero() => {
                format!("{phase} but {} coin that would not pay for its own transfer", coin_words(now.gas_wei))
            }
            _ => phase.to_string(),
        }
    }

    fn on_the_way(&self, now: &Standing) -> String {
        if !now.unbonding_wei.is_zero() {
            format!("unbonding {} coin, free at {}", coin_words(now.unbonding_wei), utc_words(now.unbonds_at))
        } else if !now.lockup_wei.is_zero() {
            format!("{} coin of stake are to be unbonded", coin_words(now.lockup_wei))
        } else if !now.vault_wei.is_zero() {
            format!("withdrawing {} coin from the vault", coin_words(now.vault_wei))
        } else {
            format!("sending {} coin to the owner, less the gas", coin_words(now.gas_wei))
        }
    }

    /// Keeps with whom the newest reading says that this rig is paired, and since when that is over.
    pub(crate) fn note_owner(&mut self, owner: Option<ProviderId>, now: u64) {
        let is_paired = |owner: &ProviderId| self.standing.as_ref().is_some_and(|now| now.is_paired_with(*owner));
        if let Some(owner) = owner.filter(is_paired) {
            self.paired_with = Some(owner);
            self.dust_wei = Wei::ZERO;
        }
        let is_removed = |now: &Standing| owner.is_some_and(|owner| self.is_removed(now, owner));
        let since = self.standing.as_ref().is_some_and(is_removed).then(|| self.removed_since.unwrap_or(now));
        self.removed_since = since;
    }

    /// Unix seconds from which the removal is believed; 0 where there is none.
    pub(crate) fn goes_home_at(&self) -> u64 {
        self.removed_since.map_or(0, |since| since.saturating_add(REMOVAL_GRACE_S))
    }

    /// Whether `owner` has ended the pairing, and has not named this rig again.
    fn is_removed(&self, now: &Standing, owner: ProviderId) -> bool {
        self.paired_with == Some(owner) && now.is_let_go_by(owner)
    }
}

/// Wei as coin, without zeros at the end.
fn coin_words(wei: Wei) -> String {
    let text = format_ether(wei);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A moment of Unix seconds as people write it, in UTC: `2027-01-15 08:00:00 UTC`.
fn utc_words(at: u64) -> String {
    const DAY_S: u64 = 86_400;
    let (mut year, mut days) = (1970_u64, at / DAY_S);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Four hundred years have the same number of days each time.
    year = year.saturating_add(days / 146_097 * 400);
    days %= 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    for length in [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (at / 3_600 % 24, at / 60 % 60, at % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
}

#[cfg(test)]
mod tests {
    use super::utc_words;

    #[test]
    fn a_moment_is_written_as_the_calendar_has_it() {
        let check = |at, expected: &str| assert_eq!(utc_words(at), expected);
        check(0, "1970-01-01 00:00:00 UTC");
        check(951_782_400, "2000-02-29 00:00:00 UTC");
        check(951_868_799, "2000-02-29 23:59:59 UTC");
        check(1_800_000_000, "2027-01-15 08:00:00 UTC");
        check(4_107_542_400, "2100-03-01 00:00:00 UTC");
        check(253_402_300_799, "9999-12-31 23:59:59 UTC");
        assert!(!utc_words(u64::MAX).is_empty());
    }
}

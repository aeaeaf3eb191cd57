//! One intent on its way, as a pure function of what is stored and what was seen.
//!
//! ```text
//!             signed bytes stored          receipt of any version         64 deep
//!   Queued ───────────────────────► InFlight ─────────────────► Mined ─────────────► closed
//!     ▲                             │  ▲  │                       │ depth N: answered
//!     │  nonce spent by a stranger, │  │  └ sent again: same bytes, or a higher bid under the same nonce
//!     └──── 64 blocks ago ──────────┘  └───────────────────────────┘ the receipt is gone: same bytes again
//! ```
//!
//! Invariants:
//! * While any version of a row may still be mined, every further version carries the same nonce, so at most one of them
//!   ever counts. A row gets another nonce only through [`Turn::Renew`].
//! * Every version of every nonce of a row is looked for, for as long as the row is watched.
//! * A missing receipt is evidence only if the same answer's head had reached the block.

use alloy::primitives::{Address, B256, Bytes, U256};

use super::bid::Bid;

/// A receipt that is this many blocks deep is no longer looked at. Deeper than the re-orgs that any test or network of
/// this lineage has shown, and the depth to which [`crate::watch`] goes back.
pub(super) const FINAL_DEPTH: u64 = 64;
/// Versions of one row at most; 32 raises of an eighth are a factor of 43.
pub(super) const VERSIONS_MAX: usize = 32;

/// What shall be done on the chain, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Names the effect, such as `respond 0x…`. An unfinished row of the same key is joined, never doubled.
    pub key: String,
    /// The contract or account that is called.
    pub to: Address,
    /// Call data; empty for a plain transfer.
    pub data: Bytes,
    /// Coins sent along, in wei.
    pub value_wei: U256,
}

/// One intent, all that was signed for it, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) intent: Intent,
    pub(super) state: State,
    /// Oldest first.
    pub(super) versions: Vec<Version>,
    pub(super) timers: Timers,
}

/// Bytes that were signed and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) hash: B256,
    pub(super) nonce: u64,
    pub(super) gas: u64,
    pub(super) bid: Bid,
    pub(super) raw: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Stored; no nonce, nothing signed under one that is still free.
    Queued,
    /// Signed bytes exist. `overtaken_at` is the head at which the nonce was first seen spent without a receipt of ours.
    InFlight { nonce: u64, overtaken_at: Option<u64> },
    /// Included, and looked at until it is [`FINAL_DEPTH`] deep.
    Mined { nonce: u64, inclusion: Inclusion, is_answered: bool },
}

/// A receipt, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inclusion {
    pub(super) hash: B256,
    pub(super) block: u64,
    pub(super) block_hash: B256,
    pub(super) is_success: bool,
    pub(super) fee_wei: U256,
}

/// What is not stored: after a restart everything is due at once. Milliseconds of the task's own clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Timers {
    /// When the newest version was last offered.
    pub(super) sent_at_ms: Option<u64>,
    /// When the newest version was signed, or was last found not to be raisable.
    pub(super) bid_at_ms: Option<u64>,
    /// The newest bid was refused as too low or of an unknown type.
    pub(super) is_bid_refused: bool,
    /// When the estimate was first refused by a head that may be stale.
    pub(super) doubted_at_ms: Option<u64>,
    /// When it was last looked at.
    pub(super) seen_at_ms: Option<u64>,
}

/// One answer of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its newest block.
    pub(super) head: u64,
    /// Transactions of our account in it: the nonce that it expects next.
    pub(super) count: u64,
    /// The receipt of one of the row's versions.
    pub(super) inclusion: Option<Inclusion>,
    /// The task's clock.
    pub(super) now_ms: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) confirmations: u64,
    pub(super) rebroadcast_after_ms: u64,
    pub(super) replace_after_ms: u64,
}

/// What to do with a row now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Stay,
    /// Store this state and ask again.
    Become(State),
    /// Offer the newest version's bytes again.
    Broadcast,
    /// Sign a higher bid under the same nonce.
    Replace,
    /// Tell the callers, and remember that they know.
    Answer(Inclusion),
    /// Nothing can change any more: close the row.
    Settle,
    /// None of the versions can ever be mined: back to the queue for a fresh nonce.
    Renew,
}

// === impl State ===

impl State {
    /// Whether a new request of the same key shall wait for this row. After success it does for as long as the row is
    /// looked at, since the caller may have asked a replica that lags; after a failure the caller may try anew.
    pub(super) fn is_joinable(&self) -> bool {
        match self {
            Self::Queued | Self::InFlight { .. } | Self::Mined { is_answered: false, .. } => true,
            Self::Mined { inclusion, is_answered: true, .. } => inclusion.is_success,
        }
    }
}

// === impl Row ===

impl Row {
    /// The next turn, given what was seen.
    pub(super) fn next(&self, seen: &Seen, rules: &Rules) -> Turn {
        match self.state {
            State::Queued => match seen.inclusion {
                // A version under a lost nonce came back from the dead: the deepest re-org we can imagine.
                Some(inclusion) => self.included(inclusion),
                None => Turn::Stay,
            },
            State::InFlight { nonce, overtaken_at } => match seen.inclusion {
                Some(inclusion) => self.included(inclusion),
                None if seen.count > nonce => overtaken(nonce, overtaken_at, seen.head),
                None if overtaken_at.is_some() => Turn::Become(State::InFlight { nonce, overtaken_at: None }),
                None => self.push(nonce, seen, rules),
            },
            State::Mined { nonce, inclusion, is_answered } => match seen.inclusion {
                Some(now) if now == inclusion => deeper(inclusion, is_answered, seen.head, rules.confirmations),
                Some(now) => Turn::Become(State::Mined { nonce: self.nonce_of(now.hash), inclusion: now, is_answered }),
                None if seen.head < inclusion.block => Turn::Stay,
                None => Turn::Become(State::InFlight { nonce, overtaken_at: None }),
            },
        }
    }

    /// Says aloud what it means to become `state`.
    pub(super) fn announce(&self, state: &State) {
        let step = self.intent.key.as_str();
        match (self.state, state) {
            (State::Mined { inclusion, .. }, State::InFlight { .. }) => {
                tracing::warn!(step, tx = %inclusion.hash, block = inclusion.block, "receipt is gone after a re-org");
            }
            (_, State::InFlight { nonce, overtaken_at: Some(_) }) => {
                tracing::error!(step, nonce, "nonce is spent and no transaction of ours has a receipt");
            }
            (_, State::Mined { inclusion, .. }) => {
                tracing::debug!(step, tx = %inclusion.hash, block = inclusion.block, "transaction included");
            }
            (_, State::Queued | State::InFlight { overtaken_at: None, .. }) => {}
        }
    }

    /// The nonce that the row holds.
    pub(super) fn nonce(&self) -> Option<u64> {
        match self.state {
            State::Queued => None,
            State::InFlight { nonce, .. } | State::Mined { nonce, .. } => Some(nonce),
        }
    }

    fn included(&self, inclusion: Inclusion) -> Turn {
        Turn::Become(State::Mined { nonce: self.nonce_of(inclusion.hash), inclusion, is_answered: false })
    }

    fn nonce_of(&self, hash: B256) -> u64 {
        let version = self.versions.iter().find(|version| version.hash == hash);
        version.map_or(0, |version| version.nonce)
    }

    /// Only the transaction that the chain waits for is bid up: those behind it cannot be included anyway.
    fn push(&self, nonce: u64, seen: &Seen, rules: &Rules) -> Turn {
        let is_due =
            |since: Option<u64>, after: u64| since.is_none_or(|since| seen.now_ms >= since.saturating_add(after));
        let Timers { sent_at_ms, bid_at_ms, is_bid_refused, .. } = self.timers;
        let is_outbid = is_bid_refused && is_due(sent_at_ms, rules.rebroadcast_after_ms);
        let is_stuck = bid_at_ms.is_some() && is_due(bid_at_ms, rules.replace_after_ms);
        if seen.count == nonce && (is_outbid || is_stuck) && self.versions.len() < VERSIONS_MAX {
            Turn::Replace
        } else if is_due(sent_at_ms, rules.rebroadcast_after_ms) {
            Turn::Broadcast
        } else {
            Turn::Stay
        }
    }
}

fn overtaken(nonce: u64, since: Option<u64>, head: u64) -> Turn {
    match since {
        None => Turn::Become(State::InFlight { nonce, overtaken_at: Some(head) }),
        Some(since) if head >= since.saturating_add(FINAL_DEPTH) => Turn::Renew,
        Some(_) => Turn::Stay,
    }
}

fn deeper(inclusion: Inclusion, is_answered: bool, head: u64, confirmations: u64) -> Turn {
    let depth = (head + 1).saturating_sub(inclusion.block);
    if !is_answered {
        if depth >= confirmations.max(1) { Turn::Answer(inclusion) } else { Turn::Stay }
    } else if depth >= FINAL_DEPTH {
        Turn::Settle
    } else {
        Turn::Stay
    }
}

/// The nonce for the next transaction: what the chain expects (`count`), unless rows of our own hold that and more.
/// A chain that is ahead of us is believed; one that is behind has not seen our rows yet.
pub(super) fn choose_nonce(count: u64, held: impl Iterator<Item = u64>) -> u64 {
    held.max().map_or(count, |highest| count.max(highest.saturating_add(1)))
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;

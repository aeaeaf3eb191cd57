//! The TPM's count of resets and restarts, and its clock: what tells a copied or set-back TPM.
//!
//! Invariants: between two signed looks at one TPM the numbers only grow. They fall for two reasons: the TPM was cleared,
//! or it is a virtual TPM whose state was copied or set back. A clear also destroys every key of the storage hierarchy,
//! so a TLS key that is still there after the numbers fell convicts a copy; the numbers alone cannot tell the two apart.
//! A copy that was left to run until its numbers are greater is not seen here at all.

use serde::{Deserialize, Serialize};

/// How far the clock may fall after a reset without an orderly shutdown, milliseconds. A TPM may store it as seldom as
/// every 2^22 ms (TPM 2.0 library specification, part 1, "Clock"), and says with `is_safe` that it may have lost some.
pub const CLOCK_SLACK_MS: u64 = 1 << 22;

/// TPMS_CLOCK_INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Milliseconds that the TPM was powered since it was last cleared.
    pub ms: u64,
    /// TPM resets (power cycles) since it was last cleared.
    pub resets: u32,
    /// Times that it went on from a saved state since the last reset.
    pub restarts: u32,
    /// Whether no greater `ms` was ever signed.
    pub is_safe: bool,
}

/// What is known of the keys in the storage hierarchy, such as the TLS key, between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A key of before was certified again: the TPM was not cleared in between.
    Same,
    /// The keys are other ones.
    Other,
    /// Nobody looked.
    Unknown,
}

/// How the numbers moved between two looks at one TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// Onward, as they should.
    Onward,
    /// Back, and the storage keys are gone: the TPM was cleared. The rig enrols again, and its owner should know why.
    /// A virtual TPM that was set back to before its keys were made looks the same.
    Cleared,
    /// Back, although the storage keys are the same: another copy of this TPM, or its state was set back.
    SetBack,
    /// Back, and it is not known which of the two it is.
    ClearedOrSetBack,
}

// === impl Clock ===

impl Clock {
    /// How the numbers moved from `self` to `now`, a later look at the TPM with the same endorsement key.
    pub fn until(&self, now: &Clock, storage: Storage) -> Motion {
        if self.is_onward(now) {
            return Motion::Onward;
        }
        match storage {
            Storage::Same => Motion::SetBack,
            Storage::Other => Motion::Cleared,
            Storage::Unknown => Motion::ClearedOrSetBack,
        }
    }

    fn is_onward(&self, now: &Clock) -> bool {
        let is_same_run = (now.resets, now.restarts) == (self.resets, self.restarts);
        let may_have_lost = !is_same_run && !now.is_safe;
        let floor = if may_have_lost { self.ms.saturating_sub(CLOCK_SLACK_MS) } else { self.ms };
        (now.resets, now.restarts) >= (self.resets, self.restarts) && now.ms >= floor
    }
}

impl Motion {
    /// What happened, for people.
    pub fn words(self) -> &'static str {
        match self {
            Motion::Onward => "the TPM's counters and clock went on from where they were",
            Motion::Cleared => {
                "the TPM's counters went back and its storage keys are other ones: it was cleared, and the rig has to \
                 enrol again"
            }
            Motion::SetBack => {
                "the TPM's counters went back although its keys are the same: this is a copy of a virtual TPM, or one \
                 that was set back; do not trust it"
            }
            Motion::ClearedOrSetBack => {
                "the TPM's counters went back: it was cleared, or it is a copy; have its TLS key certified to know which"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(ms: u64, resets: u32, restarts: u32) -> Clock {
        Clock { ms, resets, restarts, is_safe: true }
    }

    #[test]
    fn numbers_that_grow_are_onward_and_others_are_judged_by_the_storage_keys() {
        let before = clock(5000, 3, 1);
        let check = |now: Clock, expected: [Motion; 3]| {
            let said = [Storage::Same, Storage::Other, Storage::Unknown].map(|storage| before.until(&now, storage));
            assert_eq!(said, expected, "{now:?}");
        };
        let back = [Motion::SetBack, Motion::Cleared, Motion::ClearedOrSetBack];
        check(before, [Motion::Onward; 3]);
        check(clock(5001, 3, 1), [Motion::Onward; 3]);
        check(clock(5001, 3, 2), [Motion::Onward; 3]);
        check(clock(5001, 4, 0), [Motion::Onward; 3]);
        check(clock(4999, 3, 1), back);
        check(clock(4999, 4, 0), back);
        check(clock(9000, 3, 0), back);
        check(clock(9000, 2, 7), back);
        check(clock(12, 0, 0), back);
    }

    #[test]
    fn a_clock_that_lost_minutes_in_a_power_cut_is_no_copy() {
        let before = clock(CLOCK_SLACK_MS + 500, 3, 0);
        let after_cut = |ms| Clock { ms, resets: 4, restarts: 0, is_safe: false };
        assert_eq!(before.until(&after_cut(500), Storage::Same), Motion::Onward);
        assert_eq!(before.until(&after_cut(499), Storage::Same), Motion::SetBack);
        let same_run = Clock { ms: 500, is_safe: false, ..before };
        assert_eq!(before.until(&same_run, Storage::Same), Motion::SetBack);
    }
}

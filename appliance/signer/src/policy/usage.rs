//! What was signed lately, in two sliding windows.
//!
//! Invariants: time only moves forward here (an earlier `now` counts as the latest seen, so a clock that steps
//! back cannot refill a budget); memory is bounded by the limits of the policy and by [`DAY_BUCKETS_MAX`].
//! The windows are in memory and start empty with the process.

use std::collections::VecDeque;
use std::time::Duration;

use super::Permit;

const MINUTE: Duration = Duration::from_secs(60);

/// The day is summed by the minute: 24 h in minutes, and one bucket that is still being filled.
const DAY_BUCKETS_MAX: usize = 24 * 60 + 1;

/// Signatures of the last minute and gas of the last day.
#[derive(Debug, Default)]
pub struct Usage {
    /// When each signature of the last minute was made, oldest first.
    calls: VecDeque<Duration>,
    /// Gas in wei per minute of the last day, oldest first; the key counts minutes since the clock's zero.
    buckets: VecDeque<(u64, u128)>,
}

// === impl Usage ===

impl Usage {
    /// Counts `permit` at `now`, and forgets what has left both windows.
    pub fn enter(&mut self, permit: &Permit<'_>, now: Duration) {
        let now = now.max(self.calls.back().copied().unwrap_or_default());
        while self.calls.front().is_some_and(|at| now - *at >= MINUTE) {
            self.calls.pop_front();
        }
        self.calls.push_back(now);

        let minute = minute_of(now);
        match self.buckets.back_mut() {
            Some((last, wei)) if *last == minute => *wei = wei.saturating_add(permit.gas_wei()),
            Some(_) | None => self.buckets.push_back((minute, permit.gas_wei())),
        }
        while self.buckets.front().is_some_and(|(at, _)| has_left_the_day(*at, minute)) {
            self.buckets.pop_front();
        }
        debug_assert!(self.buckets.len() <= DAY_BUCKETS_MAX, "one bucket per minute of the day");
    }

    /// Signatures in the 60 seconds before `now`.
    pub(super) fn calls_in_minute(&self, now: Duration) -> usize {
        self.calls.iter().filter(|at| now.saturating_sub(**at) < MINUTE).count()
    }

    /// Worst-case gas of the 24 hours before `now`, in wei. Up to one minute older counts as well.
    pub(super) fn gas_wei_in_day(&self, now: Duration) -> u128 {
        let minute = minute_of(now);
        let recent = self.buckets.iter().filter(|(at, _)| !has_left_the_day(*at, minute));
        recent.fold(0, |sum: u128, (_, wei)| sum.saturating_add(*wei))
    }
}

fn minute_of(now: Duration) -> u64 {
    now.as_secs() / MINUTE.as_secs()
}

fn has_left_the_day(bucket: u64, minute: u64) -> bool {
    minute.saturating_sub(bucket) >= DAY_BUCKETS_MAX as u64
}

//! What was signed lately, in two sliding windows.
//!
//! Invariants: time only moves forward here (an earlier `now` counts as the latest seen, so a clock that steps
//! back cannot refill a budget); memory is bounded by the limits of the policy and by [`DAY_MINUTES_MAX`].
//! The windows are in memory; whoever wants them to outlive the process keeps each [`Minute`] that
//! [`Usage::enter`] returns, and gives them back to [`Usage::restore`].

use std::collections::VecDeque;
use std::time::Duration;

use super::Permit;

const MINUTE: Duration = Duration::from_secs(60);

/// The day is summed by the minute: 24 h in minutes, and one that is still being filled.
pub(super) const DAY_MINUTES_MAX: usize = 24 * 60 + 1;

/// Signatures of the last minute and gas of the last day.
#[derive(Debug, Default)]
pub struct Usage {
    /// When each signature of the last minute was made, oldest first.
    calls: VecDeque<Duration>,
    /// The minutes of the last day in which anything was signed, oldest first.
    minutes: VecDeque<Minute>,
}

/// What was signed in one minute of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since the clock's zero.
    pub minute: u64,
    /// When the last signature of the minute was made, since the clock's zero.
    pub last: Duration,
    /// Signatures.
    pub calls: u32,
    /// Gas at worst price, in wei.
    pub gas_wei: u128,
}

// === impl Usage ===

impl Usage {
    /// The most minutes that [`Usage::restore`] has use for.
    pub const MINUTES_MAX: usize = DAY_MINUTES_MAX;

    /// The usage of an earlier process, in any order. Each minute's signatures count as made at its last moment, so
    /// that what is restored never allows more than what was. `calls_max` bounds how many are remembered.
    pub fn restore(minutes: impl IntoIterator<Item = Minute>, calls_max: u32) -> Self {
        let mut minutes: Vec<Minute> = minutes.into_iter().collect();
        minutes.sort_unstable_by_key(|minute| minute.minute);
        let newest = minutes.last().map_or(0, |minute| minute.minute);
        minutes.retain(|minute| !has_left_the_day(minute.minute, newest));
        let mut calls = VecDeque::new();
        // The windows overlap at most two minutes of the clock; older signatures have left the 60 seconds.
        for minute in minutes.iter().filter(|minute| newest - minute.minute <= 1) {
            let count = usize::try_from(minute.calls.min(calls_max)).unwrap_or(usize::MAX);
            calls.extend(std::iter::repeat_n(minute.last, count));
        }
        Self { calls, minutes: minutes.into() }
    }

    /// Counts `permit` at `now`, forgets what has left both windows, and returns the minute as it is now.
    pub fn enter(&mut self, permit: &Permit<'_>, now: Duration) -> Minute {
        let now = now.max(self.latest());
        while self.calls.front().is_some_and(|at| now - *at >= MINUTE) {
            self.calls.pop_front();
        }
        self.calls.push_back(now);

        let minute = minute_of(now);
        let before = self.minutes.pop_back_if(|last| last.minute == minute);
        let (calls, gas_wei) = before.map_or((0, 0), |before| (before.calls, before.gas_wei));
        let (calls, gas_wei) = (calls.saturating_add(1), gas_wei.saturating_add(permit.gas_wei()));
        let entered = Minute { minute, last: now, calls, gas_wei };
        self.minutes.push_back(entered);
        while self.minutes.front().is_some_and(|past| has_left_the_day(past.minute, minute)) {
            self.minutes.pop_front();
        }
        debug_assert!(self.minutes.len() <= DAY_MINUTES_MAX, "each minute of the day once");
        entered
    }

    /// The latest moment that was seen, since the clock's zero.
    pub fn latest(&self) -> Duration {
        self.minutes.back().map_or(Duration::ZERO, |minute| minute.last)
    }

    /// Signatures in the 60 seconds before `now`.
    pub(super) fn calls_in_minute(&self, now: Duration) -> usize {
        self.calls.iter().filter(|at| now.saturating_sub(**at) < MINUTE).count()
    }

    /// Worst-case gas of the 24 hours before `now`, in wei. Up to one minute older counts as well.
    pub(super) fn gas_wei_in_day(&self, now: Duration) -> u128 {
        let minute = minute_of(now);
        let recent = self.minutes.iter().filter(|past| !has_left_the_day(past.minute, minute));
        recent.fold(0, |sum: u128, past| sum.saturating_add(past.gas_wei))
    }
}

fn minute_of(now: Duration) -> u64 {
    now.as_secs() / MINUTE.as_secs()
}

fn has_left_the_day(past: u64, minute: u64) -> bool {
    minute.saturating_sub(past) >= DAY_MINUTES_MAX as u64
}

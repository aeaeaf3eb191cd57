//! What a GPU remembers of the last day: which jobs had which Xid, and its resets.
//!
//! Invariant: at most [`STRIKES_MAX`] of each; the oldest leave first.

use super::{
    JobId, REPEAT_JOBS, RESET_BACKOFF_MAX_MS, RESET_BACKOFF_MS, RESETS_AT_ONCE, STRIKES_MAX, STRIKES_WINDOW_MS,
};
use std::collections::VecDeque;

#[derive(Debug, Clone, Default)]
pub(super) struct Strikes {
    by_jobs: VecDeque<Strike>,
    resets_at_ms: VecDeque<u64>,
}

#[derive(Debug, Clone)]
struct Strike {
    at_ms: u64,
    xid: u32,
    job: JobId,
    /// It has spoken against the GPU already.
    is_spent: bool,
}

// === impl Strikes ===

impl Strikes {
    /// Whether this is the first time that `job` has `xid`.
    pub(super) fn add(&mut self, now_ms: u64, xid: u32, job: &JobId) -> bool {
        self.by_jobs.retain(|strike| is_recent(strike.at_ms, now_ms));
        if self.by_jobs.iter().any(|strike| strike.xid == xid && strike.job == *job) {
            return false;
        }
        if self.by_jobs.len() == STRIKES_MAX {
            self.by_jobs.pop_front();
        }
        self.by_jobs.push_back(Strike { at_ms: now_ms, xid, job: job.clone(), is_spent: false });
        true
    }

    /// The jobs that had `xid`, once there are [`REPEAT_JOBS`] of them. They count once, for the canary that follows
    /// answers for them.
    pub(super) fn take_repeated(&mut self, xid: u32) -> Option<Vec<JobId>> {
        let counts = |strike: &Strike| strike.xid == xid && !strike.is_spent;
        if self.by_jobs.iter().filter(|strike| counts(strike)).count() < REPEAT_JOBS {
            return None;
        }
        let spend = |strike: &mut Strike| {
            strike.is_spent = true;
            strike.job.clone()
        };
        Some(self.by_jobs.iter_mut().filter(|strike| counts(strike)).map(spend).collect())
    }

    /// How long the next reset has to wait for those before it.
    pub(super) fn reset_wait_ms(&mut self, now_ms: u64) -> u64 {
        self.resets_at_ms.retain(|at_ms| is_recent(*at_ms, now_ms));
        match self.resets_at_ms.len().checked_sub(RESETS_AT_ONCE) {
            None => 0,
            Some(beyond) => doubled(RESET_BACKOFF_MS, u32::try_from(beyond).unwrap_or(u32::MAX), RESET_BACKOFF_MAX_MS),
        }
    }

    pub(super) fn add_reset(&mut self, now_ms: u64) {
        if self.resets_at_ms.len() == STRIKES_MAX {
            self.resets_at_ms.pop_front();
        }
        self.resets_at_ms.push_back(now_ms);
    }
}

/// `first`, doubled so many times, but not beyond `max`.
pub(super) fn doubled(first: u64, times: u32, max: u64) -> u64 {
    let factor = 1_u64.checked_shl(times).unwrap_or(u64::MAX);
    first.saturating_mul(factor).min(max)
}

fn is_recent(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) < STRIKES_WINDOW_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> JobId {
        JobId(name.to_owned())
    }

    #[test]
    fn three_jobs_with_the_same_xid_within_a_day_are_repeated() {
        let mut strikes = Strikes::default();
        for (at_ms, xid, name) in [(0, 13, "a"), (1, 13, "a"), (2, 31, "b"), (3, 13, "b")] {
            strikes.add(at_ms, xid, &job(name));
        }
        assert_eq!(strikes.take_repeated(13), None, "one job twice is one job");
        strikes.add(4, 13, &job("c"));
        assert_eq!(strikes.take_repeated(13), Some(vec![job("a"), job("b"), job("c")]));
        assert_eq!(strikes.take_repeated(13), None, "they count once");
        assert_eq!(strikes.take_repeated(31), None);
    }

    #[test]
    fn strikes_of_yesterday_do_not_count() {
        let mut strikes = Strikes::default();
        for (at_ms, name) in [(0, "a"), (STRIKES_WINDOW_MS - 1, "b"), (STRIKES_WINDOW_MS, "c")] {
            strikes.add(at_ms, 13, &job(name));
        }
        assert_eq!(strikes.take_repeated(13), None);
    }

    #[test]
    fn resets_wait_longer_the_more_there_were() {
        let mut strikes = Strikes::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push(strikes.reset_wait_ms(0));
            strikes.add_reset(0);
        }
        let minute = 60_000;
        assert_eq!(waits[..6], [0, 0, 0, minute, 2 * minute, 4 * minute]);
        assert_eq!(waits[11], RESET_BACKOFF_MAX_MS);
        assert_eq!(strikes.reset_wait_ms(STRIKES_WINDOW_MS), 0);
        assert_eq!(doubled(1, 100, 7), 7);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut strikes = Strikes::default();
        for at_ms in 0..2 * u64::try_from(STRIKES_MAX).expect("small") {
            strikes.add(at_ms, 13, &job(&at_ms.to_string()));
            strikes.add_reset(at_ms);
        }
        assert_eq!((strikes.by_jobs.len(), strikes.resets_at_ms.len()), (STRIKES_MAX, STRIKES_MAX));
    }
}

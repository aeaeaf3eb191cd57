//! When a service that ended is started again: its compose file's word, with a back-off of ours.
//!
//! Pure: time arrives as an argument. A service that ended well is left alone unless it is to run always; one that may
//! not be started again is given up, and whoever needs it decides what that means.

use std::time::Duration;

use tokio::time::Instant;

use crate::compose::plan::Restart;

/// The first wait.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A service that ran for so long is started again as if for the first time.
const SOUND_AFTER: Duration = Duration::from_secs(600);

/// The restarts of one service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restarts {
    policy: Restart,
    /// Since when it has been seen running.
    running_since: Option<Instant>,
    /// Starts again since it was sound.
    tries: u32,
    /// When it is to be started again.
    due: Option<Instant>,
}

/// What to do about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it runs, or ended well.
    Leave,
    /// Nothing yet.
    Wait,
    /// Start it.
    Start,
    /// Nothing ever: it failed and is not to be started again.
    GiveUp,
}

// === impl Restarts ===

impl Restarts {
    pub(super) fn new(policy: Restart) -> Restarts {
        Restarts { policy, running_since: None, tries: 0, due: None }
    }

    /// Starts again since the service was last sound.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// It was seen running at `now`.
    pub(super) fn runs(&mut self, now: Instant) {
        let since = *self.running_since.get_or_insert(now);
        self.due = None;
        if now.saturating_duration_since(since) >= SOUND_AFTER {
            self.tries = 0;
        }
    }

    /// It was seen to have ended, well or not, at `now`. After [`Next::Start`] it counts as started.
    pub(super) fn ended(&mut self, is_well: bool, now: Instant) -> Next {
        self.running_since = None;
        if let Some(due) = self.due {
            if due > now {
                return Next::Wait;
            }
            self.due = None;
            return Next::Start;
        }
        match self.policy {
            Restart::No | Restart::OnFailure { .. } if is_well => Next::Leave,
            Restart::No => Next::GiveUp,
            Restart::OnFailure { max: Some(max) } if self.tries >= max => Next::GiveUp,
            Restart::OnFailure { .. } | Restart::Always => {
                let wait = WAIT_MIN.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(WAIT_MAX);
                self.tries = self.tries.saturating_add(1);
                self.due = Some(now + wait);
                Next::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits before each start of a service that fails at once, in seconds, until it is given up or 8 are seen.
    fn waits(policy: Restart) -> Vec<u64> {
        let mut restarts = Restarts::new(policy);
        let mut now = Instant::now();
        let mut waits = Vec::new();
        while waits.len() < 8 && restarts.ended(false, now) == Next::Wait {
            let began = now;
            while restarts.ended(false, now) == Next::Wait {
                now += Duration::from_millis(500);
            }
            waits.push((now - began).as_secs());
            restarts.runs(now);
        }
        waits
    }

    #[test]
    fn a_service_that_fails_is_started_ever_more_rarely_as_often_as_its_file_says() {
        assert!(waits(Restart::No).is_empty());
        assert!(waits(Restart::OnFailure { max: Some(0) }).is_empty());
        assert_eq!(waits(Restart::OnFailure { max: Some(3) }), [1, 2, 4]);
        for policy in [Restart::Always, Restart::OnFailure { max: None }] {
            assert_eq!(waits(policy), [1, 2, 4, 8, 16, 32, 60, 60]);
        }
    }

    #[test]
    fn a_service_that_ended_well_is_started_again_only_if_it_is_to_run_always() {
        let now = Instant::now();
        for (policy, next) in
            [(Restart::No, Next::Leave), (Restart::OnFailure { max: None }, Next::Leave), (Restart::Always, Next::Wait)]
        {
            assert_eq!(Restarts::new(policy).ended(true, now), next, "{policy:?}");
        }
    }

    #[test]
    fn a_service_that_ran_for_long_has_its_failures_forgiven() {
        let mut now = Instant::now();
        let mut restarts = Restarts::new(Restart::OnFailure { max: Some(1) });
        for _ in 0..3 {
            assert_eq!(restarts.ended(false, now), Next::Wait);
            now += WAIT_MIN;
            assert_eq!(restarts.ended(false, now), Next::Start);
            restarts.runs(now);
            now += SOUND_AFTER;
            restarts.runs(now);
            assert_eq!(restarts.tries(), 0);
        }
        assert_eq!(restarts.ended(false, now), Next::Wait);
        assert_eq!(restarts.ended(false, now + WAIT_MIN), Next::Start);
        assert_eq!(restarts.ended(false, now + WAIT_MIN), Next::GiveUp);
    }
}

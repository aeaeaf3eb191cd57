//! How fast it goes, and how long it will take.
//!
//! Invariant: chunks of zeros and chunks of content are timed apart, because they differ a hundredfold and lie in long
//! stretches: one speed for both would promise a minute and take an hour, or the other way round.

use std::time::Duration;

/// Bytes of one kind, and what those done so far took.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    total: u64,
    done: u64,
    spent: Duration,
}

/// Progress over a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    content: Kind,
    zeros: Kind,
}

// === impl Pace ===

impl Pace {
    /// For `bytes`, of which `zero_bytes` are known to be zero.
    pub(crate) fn new(bytes: u64, zero_bytes: u64) -> Pace {
        let zero_bytes = zero_bytes.min(bytes);
        let kind = |total| Kind { total, ..Kind::default() };
        Pace { content: kind(bytes - zero_bytes), zeros: kind(zero_bytes) }
    }

    pub(crate) fn count(&mut self, is_zero: bool, length: usize, spent: Duration) {
        let kind = if is_zero { &mut self.zeros } else { &mut self.content };
        kind.done = kind.done.saturating_add(u64::try_from(length).unwrap_or(0));
        kind.spent += spent;
    }

    pub(crate) fn done_bytes(&self) -> u64 {
        self.content.done.saturating_add(self.zeros.done).min(self.total_bytes())
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.content.total.saturating_add(self.zeros.total)
    }

    /// Content per second; `None` before there was any.
    pub(crate) fn bytes_per_second(&self) -> Option<u64> {
        let spent = self.content.spent.as_micros();
        let bytes = u128::from(self.content.done).checked_mul(1_000_000)?.checked_div(spent)?;
        u64::try_from(bytes).ok()
    }

    /// What is left at the speed so far; `None` before there was any.
    pub(crate) fn left(&self) -> Option<Duration> {
        if self.content.done == 0 {
            return None;
        }
        let fallback = (self.content.spent, self.content.done);
        Some(self.content.left(fallback) + self.zeros.left(fallback))
    }
}

impl Kind {
    /// At its own speed, or at `fallback`'s as long as it has none.
    fn left(&self, fallback: (Duration, u64)) -> Duration {
        let (spent, done) = if self.done == 0 { fallback } else { (self.spent, self.done) };
        let left = u128::from(self.total.saturating_sub(self.done));
        let micros = spent.as_micros().saturating_mul(left).checked_div(u128::from(done)).unwrap_or(0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_that_fly_past_do_not_promise_that_the_rest_will() {
        let mut pace = Pace::new(1_000_000_000, 900_000_000);
        assert_eq!((pace.left(), pace.bytes_per_second()), (None, None));
        pace.count(false, 10_000_000, Duration::from_secs(1));
        assert_eq!(pace.bytes_per_second(), Some(10_000_000));
        // Nothing is known of the zeros yet.
        assert_eq!(pace.left(), Some(Duration::from_secs(9 + 90)));
        pace.count(true, 450_000_000, Duration::from_secs(1));
        assert_eq!(pace.left(), Some(Duration::from_secs(9 + 1)));
        assert_eq!((pace.done_bytes(), pace.total_bytes()), (460_000_000, 1_000_000_000));
    }

    #[test]
    fn no_count_overflows_or_divides_by_nothing() {
        let mut pace = Pace::new(0, u64::MAX);
        pace.count(false, usize::MAX, Duration::ZERO);
        pace.count(true, usize::MAX, Duration::MAX);
        assert_eq!(pace.bytes_per_second(), None);
        assert_eq!(pace.left(), Some(Duration::ZERO));
        assert_eq!(pace.done_bytes(), 0);
    }
}

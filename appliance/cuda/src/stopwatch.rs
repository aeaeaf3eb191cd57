//! How long the steps of something take.

use std::time::Instant;

/// Measures one step after the other.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    since: Instant,
}

// === impl Stopwatch ===

impl Stopwatch {
    /// The first step begins.
    pub(crate) fn start() -> Self {
        Self { since: Instant::now() }
    }

    /// Microseconds that this step has taken so far.
    pub(crate) fn us(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Microseconds that this step took; the next one begins.
    pub(crate) fn lap_us(&mut self) -> u64 {
        let now = Instant::now();
        let took = now.duration_since(self.since);
        self.since = now;
        u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
    }
}

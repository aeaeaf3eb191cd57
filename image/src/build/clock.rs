//! What each step of a build takes.

use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;

/// What a step took.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Which.
    pub step: &'static str,
    /// By the clock.
    pub elapsed_ms: u64,
    /// Of all processors, the programs that were started included.
    pub cpu_ms: u64,
}

/// Times the steps and tells of them.
pub(super) struct Clock<'a> {
    tell: &'a mut dyn FnMut(&str),
    steps: Vec<Step>,
    began: Instant,
    cpu_began_ms: u64,
}

// === impl Clock ===

impl<'a> Clock<'a> {
    pub(super) fn new(tell: &'a mut dyn FnMut(&str)) -> Clock<'a> {
        Clock { tell, steps: Vec::new(), began: Instant::now(), cpu_began_ms: cpu_ms() }
    }

    /// Says what is being done within the step.
    pub(super) fn tell(&mut self, what: &str) {
        (self.tell)(what);
    }

    /// Begins `step`, which ends the one before.
    pub(super) fn begin(&mut self, step: &'static str) {
        self.finish();
        (self.tell)(step);
        self.steps.push(Step { step, elapsed_ms: 0, cpu_ms: 0 });
        (self.began, self.cpu_began_ms) = (Instant::now(), cpu_ms());
    }

    fn finish(&mut self) {
        if let Some(step) = self.steps.last_mut() {
            step.elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            step.cpu_ms = cpu_ms().saturating_sub(self.cpu_began_ms);
        }
    }

    pub(super) fn end(mut self) -> Vec<Step> {
        self.finish();
        self.steps
    }
}

/// Processor time of this program and of all that it has started and waited for.
fn cpu_ms() -> u64 {
    let of = |who| {
        let used = getrusage(who).ok();
        let sum = |time: TimeVal| time.num_milliseconds();
        used.map_or(0, |used| sum(used.user_time()) + sum(used.system_time()))
    };
    u64::try_from(of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)).unwrap_or(0)
}

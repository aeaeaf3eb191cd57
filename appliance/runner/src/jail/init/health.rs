//! Asks the service for its health: runs its test inside the jail from time to time.
//!
//! A test is a child of the jail's first process, so it has the service's ids, filter and limits and nothing
//! more. What it prints is dropped. One test runs at a time; one that takes too long is killed and has failed.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runner::protocol::{Health, HealthTest};
use rustix::fs::{Mode, OFlags};

use super::super::program::Program;
use super::Signals;
use crate::kernel::{self, Side};
use crate::orders::StepFailed;

/// The shortest time between two tests, in milliseconds, whatever the source asks for.
const INTERVAL_MS_MIN: u64 = 100;

/// The longest time that a source may name here, in milliseconds: a day.
const TIME_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The health of one service.
#[derive(Debug)]
pub(in crate::jail) struct HealthCheck {
    program: Program,
    interval: Duration,
    timeout: Duration,
    retries: u32,
    failures_count_from: Instant,
    failures: u32,
    said: Option<Health>,
    now: Health,
    turn: Turn,
}

#[derive(Debug)]
enum Turn {
    Waiting {
        until: Instant,
    },
    Testing {
        pid: Pid,
        until: Instant,
    },
    /// Killed, and not reaped yet.
    Ending {
        pid: Pid,
    },
}

// === impl HealthCheck ===

impl HealthCheck {
    /// Prepares the test; the first one runs one interval from now.
    pub(in crate::jail) fn new(test: &HealthTest, environment: &[String]) -> Result<Self, StepFailed> {
        let time = |millis: u64| Duration::from_millis(millis.clamp(INTERVAL_MS_MIN, TIME_MS_MAX));
        let now = Instant::now();
        let interval = time(test.interval_ms);
        Ok(Self {
            program: Program::new(&test.command, environment)?,
            interval,
            timeout: time(test.timeout_ms),
            retries: test.retries.max(1),
            failures_count_from: now + Duration::from_millis(test.start_period_ms.min(TIME_MS_MAX)),
            failures: 0,
            said: None,
            now: Health::Starting,
            turn: Turn::Waiting { until: now + interval },
        })
    }

    /// How long nothing is to be done here.
    pub(super) fn wakes_in(&self, now: Instant) -> Duration {
        match self.turn {
            Turn::Waiting { until } | Turn::Testing { until, .. } => until.saturating_duration_since(now),
            Turn::Ending { .. } => self.interval,
        }
    }

    /// Does what is due; answers what is to be told, if that is news.
    pub(super) fn go_on(&mut self, now: Instant) -> std::io::Result<Option<Health>> {
        match self.turn {
            Turn::Waiting { until } if until <= now => {
                let pid = self.begin()?;
                self.turn = Turn::Testing { pid, until: now + self.timeout };
            }
            Turn::Testing { pid, until } if until <= now => {
                // Its group: it leads a session of its own. It may just have ended by itself.
                let _ = kill(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
                let _ = kill(pid, Signal::SIGKILL);
                self.turn = Turn::Ending { pid };
            }
            Turn::Waiting { .. } | Turn::Testing { .. } | Turn::Ending { .. } => {}
        }
        let news = (self.said != Some(self.now)).then_some(self.now);
        self.said = Some(self.now);
        Ok(news)
    }

    /// A child of the jail's first process has been reaped; perhaps it was the test.
    pub(super) fn ended(&mut self, reaped: Pid, is_success: bool, now: Instant) {
        let is_success = match self.turn {
            Turn::Testing { pid, .. } if pid == reaped => is_success,
            Turn::Ending { pid } if pid == reaped => false,
            Turn::Waiting { .. } | Turn::Testing { .. } | Turn::Ending { .. } => return,
        };
        self.turn = Turn::Waiting { until: now + self.interval };
        if is_success {
            (self.failures, self.now) = (0, Health::Healthy);
        } else if self.now != Health::Starting || now >= self.failures_count_from {
            self.failures += 1;
            if self.failures >= self.retries {
                self.now = Health::Unhealthy;
            }
        }
    }

    fn begin(&self) -> std::io::Result<Pid> {
        match kernel::fork()? {
            Side::Parent(pid) => Ok(Pid::from_raw(pid.as_raw_pid())),
            Side::Child => {
                // What the test prints would drown what the service prints.
                let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                let muted = null.and_then(|null| {
                    rustix::stdio::dup2_stdout(&null)?;
                    rustix::stdio::dup2_stderr(&null)
                });
                if muted.is_ok() {
                    self.program.execute(&Signals::none());
                }
                kernel::exit_now(127)
            }
        }
    }
}

//! The machine's watchdog: armed here, so that no later hang is for ever, and then systemd's.
//!
//! Only the first one is armed: systemd feeds that and no other, and a second one that nobody feeds would restart a
//! healthy rig every minute. Closing without the magic letter leaves it running.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::path::Path;

use crate::console;
use crate::ioctl;
use crate::machine::read_bounded;

/// Seconds until it runs out: twice what we wait for a disk, so that a slow stick is not taken for a hang.
const TIMEOUT_S: i32 = 60;

/// The one that systemd opens.
const DEVICE: &str = "/dev/watchdog0";

/// So many are told of.
const WATCHDOGS_MAX: usize = 8;

/// A fact in sysfs is at most so long.
const FACT_MAX: u64 = 256;

/// Whether the watchdog runs.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    is_armed: bool,
}

// === impl Watchdog ===

impl Watchdog {
    /// Starts the watchdog if there is one and it does not run yet.
    pub(crate) fn arm_once(&mut self) {
        if !self.is_armed && Path::new(DEVICE).exists() {
            self.is_armed = true;
            self.feed();
        }
    }

    /// Starts its time again. One that cannot be opened is said, and the start goes on without.
    pub(crate) fn feed(&self) {
        if !self.is_armed {
            return;
        }
        let fed = OpenOptions::new().write(true).open(DEVICE).and_then(|device| {
            // Some have a fixed time; they run all the same.
            if let Err(error) = ioctl::watchdog_timeout(&device, TIMEOUT_S) {
                console::warn(&format!("the watchdog keeps its own time: {error}"));
            }
            // The right call would be a second kind of ioctl; any byte but the magic one feeds as well.
            rustix::io::write(&device, b"\0").map_err(Into::into)
        });
        if let Err(error) = fed {
            console::warn(&format!("the watchdog cannot be armed: {error}"));
        }
    }

    /// A line for each: name, what it is, seconds, and why the machine last started (32: it ran out), with tabs between.
    pub(crate) fn facts(&self) -> String {
        let mut facts = String::new();
        for number in 0..WATCHDOGS_MAX {
            let name = format!("watchdog{number}");
            let folder = Path::new("/sys/class/watchdog").join(&name);
            if fs::metadata(&folder).is_err() {
                continue;
            }
            let fact = |key| read_bounded(&folder.join(key), FACT_MAX).unwrap_or_default().trim().replace('\t', " ");
            let _ = writeln!(facts, "{name}\t{}\t{}\t{}", fact("identity"), fact("timeout"), fact("bootstatus"));
        }
        facts
    }
}

//! A machine that is on.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::console::{Console, Look};
use super::keeper::{Keeper, connect};
use super::qmp::Control;
use super::{Forward, Machine, VmError};

/// How long the last words of QEMU may be under way after it has let go of the serial port.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(10);

/// A machine that is on. Dropping it is a power cut.
#[derive(Debug)]
pub struct Running {
    console: Console,
    control: Control,
    forwards: Vec<Forward>,
    keeper: Keeper,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PoweredOff,
    /// It, or its watchdog, asked for a reset.
    Reset,
    /// QEMU was told to end.
    Cut,
    /// QEMU ended without a reason, or by a fault of its own; what it printed.
    Died(String),
}

/// What a disk was asked for since the machine was switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes of the disk's own cache.
    pub flushes: u64,
}

/// What the guest says of its memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel has, less what it keeps for itself from the start.
    pub total: u64,
    /// What programs could still have, caches given up.
    pub available: u64,
}

// === impl Running ===

impl Running {
    pub(super) fn start(machine: Machine) -> Result<Running, VmError> {
        let log = match &machine.log {
            Some(path) => Some(File::create(path).map_err(VmError::file("make", path))?),
            None => None,
        };
        let forwards = machine.forwards.clone();
        let console = Console::new(Instant::now());
        let (keeper, port) = Keeper::start(machine)?;
        let reader = console.clone();
        let thread = std::thread::Builder::new().name("vm-console".to_owned());
        thread.spawn(move || reader.read_from(port, log)).map_err(VmError::Prepare)?;
        // QEMU opens its socket before it looks at the rest of its orders, and closes it when it refuses one.
        let refused = |error: VmError| match keeper.complaints().trim() {
            "" => error,
            said => VmError::NotStarted { said: said.to_owned() },
        };
        let is_gone = || console.wait_closed(Duration::ZERO);
        let socket = connect(&keeper.control(), is_gone).map_err(VmError::Prepare).map_err(refused)?;
        let control = Control::open(socket).map_err(refused)?;
        Ok(Running { console, control, forwards, keeper })
    }

    /// The serial port.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The port here that leads to the machine's port `there`.
    pub fn port(&self, there: u16) -> Option<u16> {
        self.forwards.iter().find(|forward| forward.there == there).map(|forward| forward.here)
    }

    /// Waits until the console has shown `marker`. Returns how long after the start that was.
    ///
    /// Errors: the machine ended, or time is up; the console's end is in both.
    pub fn wait_for(&self, marker: &str, within: Duration) -> Result<Duration, VmError> {
        match self.console.look(marker, within) {
            Look::Shown(at) => Ok(at),
            Look::Closed => {
                Err(VmError::Ended { marker: marker.to_owned(), end: self.end(), tail: self.console.tail() })
            }
            Look::Late => Err(VmError::NotShown { marker: marker.to_owned(), within, tail: self.console.tail() }),
        }
    }

    /// Waits until the machine has ended.
    ///
    /// Errors: it runs on.
    pub fn wait_end(&self, within: Duration) -> Result<End, VmError> {
        if self.console.wait_closed(within) {
            Ok(self.end())
        } else {
            Err(VmError::StillRuns { within, tail: self.console.tail() })
        }
    }

    /// Whether the machine still runs.
    pub fn is_on(&self) -> bool {
        !self.console.wait_closed(Duration::ZERO)
    }

    /// Presses the power button.
    pub fn press_power(&self) -> Result<(), VmError> {
        self.control.ask("system_powerdown", json!({})).map(drop)
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<(), VmError> {
        self.control.ask("system_reset", json!({})).map(drop)
    }

    /// Holds the machine still; the clock of the guest stands too.
    pub fn pause(&self) -> Result<(), VmError> {
        self.control.ask("stop", json!({})).map(drop)
    }

    /// Lets it go on.
    pub fn go_on(&self) -> Result<(), VmError> {
        self.control.ask("cont", json!({})).map(drop)
    }

    /// Pulls the plug. Same as dropping.
    pub fn cut(self) {}

    /// Writes a picture of the screen to `png`.
    pub fn screenshot(&self, png: &Path) -> Result<(), VmError> {
        let path = std::path::absolute(png).map_err(VmError::file("find", png))?;
        self.control.ask("screendump", json!({ "filename": path, "format": "png" })).map(drop)
    }

    /// Asks the guest's balloon driver for its memory. What it said when it was loaded is not taken for an answer.
    ///
    /// Errors: no driver answers in time.
    pub fn memory(&self, within: Duration) -> Result<Memory, VmError> {
        let property = |name: &str| json!({ "path": "/machine/peripheral/balloon", "property": name });
        let mut polling = property("guest-stats-polling-interval");
        polling["value"] = 1.into();
        self.control.ask("qom-set", polling)?;
        let until = Instant::now() + within;
        let old = self.control.ask("qom-get", property("guest-stats"))?["last-update"].clone();
        loop {
            let told = self.control.ask("qom-get", property("guest-stats"))?;
            let is_new = told["last-update"] != old;
            // What the guest does not know is all ones; before its first answer nothing is there.
            let number = |name: &str| told["stats"][name].as_u64().filter(|bytes| *bytes != u64::MAX && *bytes > 0);
            if let (true, Some(total), Some(available)) =
                (is_new, number("stat-total-memory"), number("stat-available-memory"))
            {
                return Ok(Memory { total, available });
            }
            if Instant::now() > until {
                let said = "the guest's balloon driver does not answer".to_owned();
                return Err(VmError::Control { command: "qom-get".to_owned(), said });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether the watchdog has bitten since the machine was switched on.
    pub fn watchdog_bit(&self) -> bool {
        self.control.event("WATCHDOG").is_some()
    }

    /// What the disk was asked for.
    pub fn traffic(&self) -> Result<Traffic, VmError> {
        let devices = self.control.ask("query-blockstats", json!({}))?;
        let is_disk = |device: &&Value| device["device"] == "disk";
        let stats = devices.as_array().and_then(|devices| devices.iter().find(is_disk)).map(|device| &device["stats"]);
        let number = |name: &str| {
            let missing = || VmError::Control { command: "query-blockstats".to_owned(), said: format!("no {name}") };
            stats.and_then(|stats| stats[name].as_u64()).ok_or_else(missing)
        };
        Ok(Traffic {
            read_bytes: number("rd_bytes")?,
            written_bytes: number("wr_bytes")?,
            writes: number("wr_operations")?,
            flushes: number("flush_operations")?,
        })
    }

    #[cfg(test)]
    pub(super) fn keeper_socket(&self) -> std::path::PathBuf {
        self.keeper.control()
    }

    /// What QEMU said of the end. Its last event may come a moment after the serial port has closed.
    fn end(&self) -> End {
        let until = Instant::now() + LAST_WORDS;
        let reason = loop {
            match self.control.event("SHUTDOWN") {
                Some(data) => break data["reason"].as_str().unwrap_or_default().to_owned(),
                None if Instant::now() > until => break String::new(),
                None => std::thread::sleep(POLL),
            }
        };
        match reason.as_str() {
            "guest-shutdown" => End::PoweredOff,
            "guest-reset" | "host-qmp-system-reset" => End::Reset,
            "host-qmp-quit" => End::Cut,
            _ => End::Died(format!("{reason} {}", self.keeper.complaints()).trim().to_owned()),
        }
    }
}

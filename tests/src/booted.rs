//! A rig that was booted from a stick in a virtual machine, seen from outside: its page, its console, its screen.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use anyhow::{Context, Result, bail, ensure};
use image::vm::{Bus, End, Firmware, Forward, Machine, Running};
use serde_json::Value;

use crate::stick::Stick;

/// From power-on until the page answers, on an emulated processor that may share its core: the first start makes the
/// state partition and the key.
pub const PAGE_WITHIN: Duration = Duration::from_secs(900);

/// From the page to a rig that serves its sources.
pub const SERVING_WITHIN: Duration = Duration::from_secs(1200);

/// From the power button to the end.
pub const POWER_OFF_WITHIN: Duration = Duration::from_secs(300);

/// The page's port.
const PAGE_PORT: u16 = 80;

/// Between two looks at the page.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Longest time for one look.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// The firmware has found the loader. OVMF says so.
pub const LOADER_STARTS: &str = "BdsDxe: starting Boot";

/// The first words of the first process: the kernel is up.
pub const INIT_STARTS: &str = "rig-init: start";

/// Its last words before it becomes systemd.
pub const ROOT_IS_READY: &str = "rig-init: root is ready";

/// Where a picture of the screen is put when a machine does not do what was waited for.
const FAILED_PICTURE: &str = "failed.png";

/// What a machine consists of besides its stick. It is the same machine as long as the folder is the same.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// The firmware's variables, and the TPM's state.
    dir: PathBuf,
    /// Whether it has a TPM.
    pub has_tpm: bool,
    /// How the stick is plugged in.
    pub bus: Bus,
}

/// A machine that is on.
#[derive(Debug)]
pub struct Booted {
    /// The machine itself.
    pub running: Running,
    page: String,
    dir: Option<PathBuf>,
    began: Instant,
}

// === impl Hardware ===

impl Hardware {
    /// A machine with a TPM and a virtio disk, whose memory is in `dir`.
    pub fn new(dir: &Path) -> Result<Hardware> {
        std::fs::create_dir_all(dir)?;
        Ok(Hardware { dir: dir.to_owned(), has_tpm: true, bus: Bus::Virtio })
    }

    /// The machine with `stick` in it, for changes before it is switched on.
    pub fn machine(&self, stick: &Stick) -> Result<Machine> {
        let mut machine = Machine::new(stick.path(), Firmware::ovmf(&self.variables())?);
        machine.tpm = self.has_tpm.then(|| self.dir.join("tpm"));
        machine.disk.bus = self.bus;
        machine.forwards = vec![Forward { here: 0, there: PAGE_PORT }];
        machine.log = Some(self.dir.join("console.log"));
        Ok(machine)
    }

    /// Switches it on with `stick` in it. It may start anew by itself, as it does when the loader has enrolled keys.
    pub fn boot(&self, stick: &Stick) -> Result<Booted> {
        Booted::start(&Machine { reboots: true, ..self.machine(stick)? })
    }

    /// The same, for one start only: a reset is the end.
    pub fn boot_once(&self, stick: &Stick) -> Result<Booted> {
        Booted::start(&self.machine(stick)?)
    }

    /// Forgets what the firmware remembers, as an empty battery does.
    pub fn wipe_variables(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.variables())?)
    }

    /// Clears the TPM: everything that it ever sealed is lost.
    pub fn clear_tpm(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.dir.join("tpm"))?)
    }

    /// The file with the firmware's variables.
    pub fn variables(&self) -> PathBuf {
        self.dir.join("variables.fd")
    }
}

// === impl Booted ===

impl Booted {
    /// Switches `machine` on.
    pub fn start(machine: &Machine) -> Result<Booted> {
        let began = Instant::now();
        let running = machine.start()?;
        let port = running.port(PAGE_PORT).context("the page is forwarded")?;
        let dir = machine.log.as_deref().and_then(Path::parent).map(Path::to_owned);
        Ok(Booted { running, page: format!("http://127.0.0.1:{port}/"), dir, began })
    }

    /// Where its page is, for a browser.
    pub fn page(&self) -> &str {
        &self.page
    }

    /// Since it was switched on.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What its page says now.
    pub async fn face(&self) -> Result<Value> {
        let client = reqwest::Client::builder().timeout(LOOK_WITHIN).build()?;
        let answer = client.get(format!("{}status.json", self.page)).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    /// Waits until `is_so` of what the page says. Returns that.
    ///
    /// Errors: time is up, or the machine ended; the newest face and the console's end are in the message.
    pub async fn wait_face(&self, what: &str, within: Duration, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        loop {
            let look = self.face().await;
            if let Ok(face) = &look
                && is_so(face)
            {
                return Ok(face.clone());
            }
            let is_late = began.elapsed() > within;
            if is_late || !self.running.is_on() {
                let why = if is_late { format!("not within {within:?}") } else { "the machine ended".to_owned() };
                self.keep_screen();
                let seen = look.map_or_else(|error| format!("{error:#}"), |face| face.to_string());
                bail!("{what}: {why}; the page: {seen}; the console ends:\n{}", self.running.console().tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The serial port is nearly silent; the screen says more. Without one the error's text must do.
    fn keep_screen(&self) {
        if let Some(dir) = &self.dir
            && self.running.screenshot(&dir.join(FAILED_PICTURE)).is_ok()
        {
            eprintln!("the screen: {}", dir.join(FAILED_PICTURE).display());
        }
    }

    /// Waits until the page answers and shows an address.
    pub async fn wait_page(&self) -> Result<Value> {
        self.wait_face("the page answers", PAGE_WITHIN, |face| face["address"].is_string()).await
    }

    /// Waits until the rig serves `count` sources.
    pub async fn wait_serving(&self, count: usize) -> Result<Value> {
        let serving = |face: &Value| {
            let sources = face["sources"].as_array().map_or(&[][..], Vec::as_slice);
            sources.iter().filter(|source| source["stage"] == "serving").count() >= count
        };
        self.wait_face(&format!("the rig serves {count} sources"), SERVING_WITHIN, serving).await
    }

    /// Presses the power button, and waits until the machine is off.
    pub fn power_off(self) -> Result<Duration> {
        let began = Instant::now();
        self.running.press_power()?;
        let end = self.running.wait_end(POWER_OFF_WITHIN)?;
        ensure!(end == End::PoweredOff, "the machine ended as {end:?}: {}", self.running.console().tail());
        Ok(began.elapsed())
    }
}

/// The account that a page shows.
pub fn address(face: &Value) -> Result<Address> {
    Ok(face["address"].as_str().with_context(|| format!("the page shows no address: {face}"))?.parse()?)
}

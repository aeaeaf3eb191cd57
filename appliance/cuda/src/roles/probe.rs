//! What this machine has for CUDA. Not jailed, and not part of any job: the runner asks once, to know what a jail must
//! hold and whether there is anything to put in it.

use cuda::messages::{Probe, ProbedDevice};

use crate::Outcome;
use crate::driver::{Device, Driver, LIBRARY, Refused};
use crate::linker::{LIBRARY_STEM, Linker};
use crate::mapped::{find, mapped};
use crate::roles::gpu::hint;

/// Prints a [`Probe`]. A machine without anything is a good answer.
pub(crate) fn run() -> anyhow::Result<Outcome> {
    println!("{}", serde_json::to_string_pretty(&probe())?);
    Ok(Outcome::Done)
}

fn probe() -> Probe {
    let mut probe = Probe::default();
    if let Err(why) = ask_driver(&mut probe) {
        probe.why = Some(why);
    }
    probe.libcuda = find(&mapped(), LIBRARY).or_else(|| find(&mapped(), "libcuda.so"));
    if let Ok(linker) = Linker::load() {
        probe.linker_version = linker.version();
        probe.linker = find(&mapped(), LIBRARY_STEM);
    }
    probe.mapped = mapped();
    probe
}

/// Fills in what the driver says, as far as it goes.
fn ask_driver(probe: &mut Probe) -> Result<(), String> {
    let driver = Driver::load().map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
    probe.driver_version = driver.version().ok();
    driver.init().map_err(|refused| explain(&refused))?;
    let devices = driver.devices().map_err(|refused| explain(&refused))?;
    let probed: Result<_, _> = devices.into_iter().map(|device| ask_device(&driver, device)).collect();
    probe.devices = probed.map_err(|refused| explain(&refused))?;
    if probe.devices.is_empty() {
        return Err("the driver sees no device".to_owned());
    }
    Ok(())
}

fn ask_device(driver: &Driver, device: Device) -> Result<ProbedDevice, Refused> {
    Ok(ProbedDevice {
        name: driver.name(device)?,
        uuid: driver.uuid(device)?,
        compute_capability: driver.compute_capability(device)?,
        vram_bytes: driver.total_bytes(device)?,
    })
}

fn explain(refused: &Refused) -> String {
    match hint(refused.code) {
        Some(hint) => format!("{refused}: {hint}"),
        None => refused.to_string(),
    }
}

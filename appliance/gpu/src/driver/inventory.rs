//! Reads the inventory and the limits of settings.

use super::{Driver, GpuError, said};
use crate::inventory::{
    ComputeCapability, CudaVersion, GPUS_MAX, Gpu, GpuUuid, Inventory, Mode, NotAUuid, PcieLink, PowerLimits, Silent,
    TemperatureLimits,
};
use crate::settings::{ClockRange, Limits};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureThreshold};
use nvml_wrapper::error::NvmlError;

/// NVML's number for a mode that is switched on.
const ENABLED: u32 = 1;

/// Why a listed GPU is not in the inventory.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Nvml(#[from] NvmlError),
    #[error(transparent)]
    Uuid(#[from] NotAUuid),
}

// === impl Driver ===

impl Driver {
    /// All GPUs. One that does not answer is in [`Inventory::silent`]; what a board does not know is `None`.
    /// Errors: [`GpuError::System`] when the driver does not even say how many there are.
    pub fn inventory(&self) -> Result<Inventory, GpuError> {
        let system = |what| move |source| GpuError::System { what, source };
        let count = self.nvml.device_count().map_err(system("count its GPUs"))?;
        let driver_version = said(self.nvml.sys_driver_version()).map_err(system("tell its version"))?;
        let cuda_number = said(self.nvml.sys_cuda_driver_version()).map_err(system("tell its CUDA version"))?;
        let cuda_version = cuda_number.and_then(|number| u32::try_from(number).ok()).map(CudaVersion::from_number);
        let (mut gpus, mut silent) = (Vec::new(), Vec::new());
        for index in 0..count.min(GPUS_MAX) {
            match self.nvml.device_by_index(index).map_err(Unreadable::from).and_then(|device| gpu(index, &device)) {
                Ok(gpu) => gpus.push(gpu),
                Err(error) => silent.push(Silent { index, why: error.to_string() }),
            }
        }
        Ok(Inventory { driver_version, cuda_version, gpus, silent })
    }

    /// What the board takes for settings. Errors: [`GpuError::NoSuchGpu`], [`GpuError::Lost`], [`GpuError::Call`].
    pub fn limits(&self, uuid: &GpuUuid) -> Result<Limits, GpuError> {
        let device = self.device(uuid)?;
        let failed = |error| GpuError::of("tell the limits", uuid, error);
        let (fans, power) = (said(device.num_fans()).map_err(failed)?.unwrap_or(0), power(&device).map_err(failed)?);
        let temperatures = temperature_limits(&device).map_err(failed)?;
        let fan_percent = if fans == 0 { None } else { said(device.min_max_fan_speed()).map_err(failed)? };
        let memory_clocks = said(device.supported_memory_clocks()).map_err(failed)?.unwrap_or_default();
        let mut clocks = Vec::new();
        for memory_mhz in &memory_clocks {
            clocks.extend(said(device.supported_graphics_clocks(*memory_mhz)).map_err(failed)?.unwrap_or_default());
        }
        // For a board with more than 128 graphics clocks nvml-wrapper 0.13 returns zeros in their place.
        clocks.retain(|mhz| *mhz > 0);
        let clocks_mhz = match range(&clocks) {
            Some(range) => Some(range),
            None => said(device.max_clock_info(Clock::Graphics)).map_err(failed)?.map(below),
        };
        let memory_clocks_mhz = match range(&memory_clocks) {
            Some(range) => Some(range),
            None => said(device.max_clock_info(Clock::Memory)).map_err(failed)?.map(below),
        };
        Ok(Limits { gpu: uuid.clone(), power, clocks_mhz, memory_clocks_mhz, fans, fan_percent, temperatures })
    }
}

fn range(clocks_mhz: &[u32]) -> Option<ClockRange> {
    clocks_mhz.iter().copied().min().zip(clocks_mhz.iter().copied().max()).map(|(min, max)| ClockRange { min, max })
}

/// A board that lists no clocks but has a highest one: anything below it is the driver's to round.
fn below(max: u32) -> ClockRange {
    ClockRange { min: 1.min(max), max }
}

fn gpu(index: u32, device: &Device<'_>) -> Result<Gpu, Unreadable> {
    let compute = said(device.cuda_compute_capability())?;
    let compute_capability = compute.and_then(|capability| {
        let (major, minor) = (u32::try_from(capability.major).ok()?, u32::try_from(capability.minor).ok()?);
        Some(ComputeCapability { major, minor })
    });
    let ecc = said(device.is_ecc_enabled())?;
    let mig = said(device.mig_mode())?;
    Ok(Gpu {
        index,
        minor: said(device.minor_number())?,
        uuid: device.uuid()?.parse()?,
        model: said(device.name())?.unwrap_or_else(|| "NVIDIA GPU".to_owned()),
        pci_bus_id: said(device.pci_info())?.map(|pci| pci.bus_id),
        serial: said(device.serial())?,
        vbios_version: said(device.vbios_version())?,
        vram_bytes: said(device.memory_info())?.map(|memory| memory.total),
        compute_capability,
        pcie: PcieLink {
            generation: said(device.current_pcie_link_gen())?,
            generation_max: said(device.max_pcie_link_gen())?,
            width: said(device.current_pcie_link_width())?,
            width_max: said(device.max_pcie_link_width())?,
        },
        power: power(device)?,
        temperature_limits: temperature_limits(device)?,
        ecc: ecc.map(|ecc| Mode { is_on: ecc.currently_enabled, is_on_next: ecc.pending_enabled }),
        mig: mig.map(|mig| Mode { is_on: mig.current == ENABLED, is_on_next: mig.pending == ENABLED }),
        is_persistent: said(device.is_in_persistent_mode())?,
        fans: said(device.num_fans())?,
    })
}

fn power(device: &Device<'_>) -> Result<PowerLimits, NvmlError> {
    let constraints = said(device.power_management_limit_constraints())?;
    Ok(PowerLimits {
        limit_mw: said(device.power_management_limit())?,
        default_mw: said(device.power_management_limit_default())?,
        min_mw: constraints.as_ref().map(|constraints| constraints.min_limit),
        max_mw: constraints.as_ref().map(|constraints| constraints.max_limit),
        enforced_mw: said(device.enforced_power_limit())?,
    })
}

fn temperature_limits(device: &Device<'_>) -> Result<TemperatureLimits, NvmlError> {
    let limit = |threshold| said(device.temperature_threshold(threshold));
    Ok(TemperatureLimits {
        shutdown_c: limit(TemperatureThreshold::Shutdown)?,
        slowdown_c: limit(TemperatureThreshold::Slowdown)?,
        gpu_max_c: limit(TemperatureThreshold::GpuMax)?,
        memory_max_c: limit(TemperatureThreshold::MemoryMax)?,
    })
}

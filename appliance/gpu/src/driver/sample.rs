//! Reads one sample, and the processes on a GPU.

use super::{Driver, GpuError, said};
use crate::inventory::GpuUuid;
use crate::recovery::RecoveryAction;
use crate::telemetry::{Clocks, EccErrors, PcieTraffic, Process, RemappedRows, RetiredPages, Sample, Throttle};
use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, RetirementCause, TemperatureSensor,
};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// More fans than any board has; some drivers report nonsense.
const FANS_MAX: u32 = 16;

/// What NVML gives only as numbered fields, in the order in which [`fields`] returns them.
const FIELDS: [u32; 6] = [
    field_id::NVML_FI_DEV_MEMORY_TEMP,
    field_id::NVML_FI_DEV_REMAPPED_COR,
    field_id::NVML_FI_DEV_REMAPPED_UNC,
    field_id::NVML_FI_DEV_REMAPPED_PENDING,
    field_id::NVML_FI_DEV_REMAPPED_FAILURE,
    field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
];

// === impl Driver ===

impl Driver {
    /// One look at one GPU. Takes at least 40 ms where the board counts traffic over PCIe: NVML counts over 20 ms for
    /// each direction.
    /// Errors: [`GpuError::NoSuchGpu`], [`GpuError::Lost`], [`GpuError::ResetRequired`], [`GpuError::Call`].
    pub fn sample(&self, gpu: &GpuUuid) -> Result<Sample, GpuError> {
        sample(&self.device(gpu)?).map_err(|error| GpuError::of("tell the state", gpu, error))
    }

    /// The processes that compute on a GPU, in the process namespace of the caller.
    /// Errors: as [`Self::sample`].
    pub fn compute_processes(&self, gpu: &GpuUuid) -> Result<Vec<Process>, GpuError> {
        let answer = self.device(gpu)?.running_compute_processes();
        Ok(processes(answer.map_err(|error| GpuError::of("list the processes", gpu, error))?))
    }
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn sample(device: &Device<'_>) -> Result<Sample, NvmlError> {
    let utilization = said(device.utilization_rates())?;
    let [memory_c, rows @ .., recovery] = fields(device)?;
    Ok(Sample {
        at_ms: unix_ms(),
        gpu_percent: utilization.as_ref().map(|rates| rates.gpu),
        memory_percent: utilization.as_ref().map(|rates| rates.memory),
        memory_used_bytes: said(device.memory_info())?.map(|memory| memory.used),
        power_mw: said(device.power_usage())?,
        energy_mj: said(device.total_energy_consumption())?,
        gpu_c: said(device.temperature(TemperatureSensor::Gpu))?,
        // Boards whose memory has no sensor say 0.
        memory_c: memory_c.filter(|degrees| *degrees > 0),
        clocks: Clocks {
            graphics_mhz: said(device.clock_info(Clock::Graphics))?,
            sm_mhz: said(device.clock_info(Clock::SM))?,
            memory_mhz: said(device.clock_info(Clock::Memory))?,
            video_mhz: said(device.clock_info(Clock::Video))?,
        },
        throttle: said(device.current_throttle_reasons())?.map(throttle).unwrap_or_default(),
        pcie: PcieTraffic {
            replays: said(device.pcie_replay_counter())?,
            sent_kb_per_s: said(device.pcie_throughput(PcieUtilCounter::Send))?,
            received_kb_per_s: said(device.pcie_throughput(PcieUtilCounter::Receive))?,
        },
        ecc: ecc(device)?,
        rows: remapped_rows(rows),
        retired_pages: retired_pages(device)?,
        fans_percent: fans(device)?,
        processes: said(device.running_compute_processes())?.map(processes).unwrap_or_default(),
        recovery: recovery.map(RecoveryAction::from_code),
    })
}

fn throttle(reasons: ThrottleReasons) -> BTreeSet<Throttle> {
    let names = [
        (ThrottleReasons::GPU_IDLE, Throttle::Idle),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, Throttle::ApplicationClocks),
        (ThrottleReasons::SW_POWER_CAP, Throttle::PowerCap),
        (ThrottleReasons::HW_SLOWDOWN, Throttle::HardwareSlowdown),
        (ThrottleReasons::SYNC_BOOST, Throttle::SyncBoost),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, Throttle::Heat),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, Throttle::HardwareHeat),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, Throttle::PowerBrake),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, Throttle::DisplayClocks),
    ];
    names.into_iter().filter(|(bit, _)| reasons.contains(*bit)).map(|(_, name)| name).collect()
}

/// The values of [`FIELDS`]; `None` for those that the board or the driver does not have.
fn fields(device: &Device<'_>) -> Result<[Option<u32>; FIELDS.len()], NvmlError> {
    let mut values = [None; FIELDS.len()];
    let Some(answers) = said(device.field_values_for(&FIELDS.map(FieldId)))? else { return Ok(values) };
    for (value, answer) in values.iter_mut().zip(answers) {
        *value = match said(answer.and_then(|sample| sample.value))? {
            Some(SampleValue::U32(number)) => Some(number),
            Some(SampleValue::U64(number)) => u32::try_from(number).ok(),
            Some(SampleValue::I64(number)) => u32::try_from(number).ok(),
            Some(SampleValue::F64(_)) | None => None,
        };
    }
    Ok(values)
}

fn remapped_rows([corrected, uncorrected, pending, failed]: [Option<u32>; 4]) -> Option<RemappedRows> {
    Some(RemappedRows {
        corrected: corrected?,
        uncorrected: uncorrected?,
        is_pending: pending.is_some_and(|pending| pending > 0),
        has_failed: failed.is_some_and(|failed| failed > 0),
    })
}

fn retired_pages(device: &Device<'_>) -> Result<Option<RetiredPages>, NvmlError> {
    let count =
        |cause| said(device.retired_pages(cause)).map(|pages| pages.and_then(|pages| u32::try_from(pages.len()).ok()));
    let Some(corrected) = count(RetirementCause::MultipleSingleBitEccErrors)? else { return Ok(None) };
    let Some(uncorrected) = count(RetirementCause::DoubleBitEccError)? else { return Ok(None) };
    let is_pending = said(device.are_pages_pending_retired())?.unwrap_or(false);
    Ok(Some(RetiredPages { corrected, uncorrected, is_pending }))
}

fn ecc(device: &Device<'_>) -> Result<EccErrors, NvmlError> {
    let count = |error: MemoryError, since: EccCounter| said(device.total_ecc_errors(error, since));
    Ok(EccErrors {
        corrected: count(MemoryError::Corrected, EccCounter::Volatile)?,
        uncorrected: count(MemoryError::Uncorrected, EccCounter::Volatile)?,
        corrected_ever: count(MemoryError::Corrected, EccCounter::Aggregate)?,
        uncorrected_ever: count(MemoryError::Uncorrected, EccCounter::Aggregate)?,
    })
}

fn fans(device: &Device<'_>) -> Result<Vec<u32>, NvmlError> {
    let count = said(device.num_fans())?.unwrap_or(0).min(FANS_MAX);
    let speeds = (0..count).map(|fan| said(device.fan_speed(fan))).collect::<Result<Vec<_>, _>>()?;
    Ok(speeds.into_iter().flatten().collect())
}

fn processes(infos: Vec<nvml_wrapper::struct_wrappers::device::ProcessInfo>) -> Vec<Process> {
    let process = |info: nvml_wrapper::struct_wrappers::device::ProcessInfo| Process {
        pid: info.pid,
        memory_bytes: match info.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    };
    infos.into_iter().map(process).collect()
}

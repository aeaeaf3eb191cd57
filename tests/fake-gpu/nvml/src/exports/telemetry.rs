//! How a GPU does: power, energy, temperatures, clocks, load, processes.

use fake_gpu_edge::{Array, InOut, Out};
use nvml_wrapper_sys::bindings::{nvmlFieldValue_t, nvmlProcessInfo_t, nvmlUtilization_t, nvmlViolationTime_t};

use super::getters;
use crate::code::{Answer, Code};
use crate::fields;
use crate::machine::ask;
use crate::processes;

/// The driver has no number for what a process uses of an instance.
const NO_INSTANCE: u32 = u32::MAX;
/// More fields than NVML has.
const FIELDS_MAX: usize = 1024;

getters! {
    nvmlDeviceGetPowerUsage: u32 = |device| Ok(device.gpu.power_mw);
    nvmlDeviceGetPowerManagementMode: u32 = |_device| Ok(1);
    nvmlDeviceGetTotalEnergyConsumption: u64 = |device| Ok(device.gpu.energy_mj);
    nvmlDeviceGetCurrentClocksThrottleReasons: u64 = |device| Ok(device.gpu.throttle_reasons);
    nvmlDeviceGetCurrentClocksEventReasons: u64 = |device| Ok(device.gpu.throttle_reasons);
    nvmlDeviceGetSupportedClocksThrottleReasons: u64 = |_device| Ok(0x1ff);
    nvmlDeviceGetSupportedClocksEventReasons: u64 = |_device| Ok(0x1ff);
    nvmlDeviceGetPerformanceState: u32 = |device| Ok(if device.gpu.utilisation_percent[0] > 0 { 0 } else { 8 });
    nvmlDeviceGetPowerState: u32 = |device| Ok(if device.gpu.utilisation_percent[0] > 0 { 0 } else { 8 });
    nvmlDeviceGetUtilizationRates: nvmlUtilization_t = |device| {
        let [gpu, memory] = device.gpu.utilisation_percent;
        Ok(nvmlUtilization_t { gpu, memory })
    };
    nvmlDeviceGetPcieReplayCounter: u32 = |device| Ok(device.gpu.pcie_replays);
}

fn pick<T: Copy>(values: &[T], at: u32) -> Answer<T> {
    usize::try_from(at).ok().and_then(|at| values.get(at).copied()).ok_or(Code::INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTemperature(device: usize, sensor: u32, celsius: Out<u32>) -> u32 {
    ask("nvmlDeviceGetTemperature", device, |device| {
        celsius.set(pick(&[device.gpu.temperature_c], sensor)?).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTemperatureThreshold(device: usize, threshold: u32, celsius: Out<u32>) -> u32 {
    ask("nvmlDeviceGetTemperatureThreshold", device, |device| {
        let value = pick(&device.gpu.temperature_thresholds_c, threshold).map_err(|_| Code::NOT_SUPPORTED)?;
        celsius.set(value).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetClockInfo(device: usize, domain: u32, mhz: Out<u32>) -> u32 {
    ask("nvmlDeviceGetClockInfo", device, |device| mhz.set(device.clock_mhz(domain)?).ok_or(Code::INVALID_ARGUMENT))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetClock(device: usize, domain: u32, which: u32, mhz: Out<u32>) -> u32 {
    ask("nvmlDeviceGetClock", device, |device| {
        let value = match which {
            0 => device.clock_mhz(domain)?,
            1..=3 => pick(&device.gpu.max_clocks_mhz, domain)?,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        mhz.set(value).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMaxClockInfo(device: usize, domain: u32, mhz: Out<u32>) -> u32 {
    ask("nvmlDeviceGetMaxClockInfo", device, |device| {
        mhz.set(pick(&device.gpu.max_clocks_mhz, domain)?).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetApplicationsClock(device: usize, domain: u32, mhz: Out<u32>) -> u32 {
    ask("nvmlDeviceGetApplicationsClock", device, |device| {
        mhz.set(pick(&device.gpu.max_clocks_mhz, domain)?).ok_or(Code::INVALID_ARGUMENT)
    })
}

/// Says how many there are, or gives them if there is room.
fn list<T: Copy>(items: &[T], count: InOut<u32>, target: Array<T>) -> Answer {
    let room = usize::try_from(count.get().ok_or(Code::INVALID_ARGUMENT)?).unwrap_or(0);
    count.set(u32::try_from(items.len()).unwrap_or(u32::MAX)).ok_or(Code::INVALID_ARGUMENT)?;
    if items.is_empty() {
        return Ok(());
    }
    if target.is_null() || room < items.len() {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    target.set(items).ok_or(Code::INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetSupportedMemoryClocks(device: usize, count: InOut<u32>, mhz: Array<u32>) -> u32 {
    ask("nvmlDeviceGetSupportedMemoryClocks", device, |device| list(&[device.gpu.max_clocks_mhz[2], 405], count, mhz))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetSupportedGraphicsClocks(
    device: usize,
    _memory_mhz: u32,
    count: InOut<u32>,
    mhz: Array<u32>,
) -> u32 {
    ask("nvmlDeviceGetSupportedGraphicsClocks", device, |device| {
        let clocks: Vec<u32> = (210..=device.gpu.max_clocks_mhz[0]).rev().step_by(15).collect();
        list(&clocks, count, mhz)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPcieThroughput(device: usize, direction: u32, kbps: Out<u32>) -> u32 {
    ask("nvmlDeviceGetPcieThroughput", device, |device| {
        kbps.set(pick(&device.gpu.pcie_throughput_kbps, direction)?).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetViolationStatus(device: usize, policy: u32, time: Out<nvmlViolationTime_t>) -> u32 {
    ask("nvmlDeviceGetViolationStatus", device, |device| {
        let violation = pick(&device.gpu.violation_ns, policy).map_err(|_| Code::NOT_SUPPORTED)?;
        let answer = nvmlViolationTime_t { referenceTime: 0, violationTime: violation };
        time.set(answer).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetFieldValues(device: usize, count: i32, values: Array<nvmlFieldValue_t>) -> u32 {
    ask("nvmlDeviceGetFieldValues", device, |device| {
        let count = usize::try_from(count).ok().filter(|count| *count <= FIELDS_MAX).ok_or(Code::INVALID_ARGUMENT)?;
        values.change(count, |field| fields::answer(device, field)).ok_or(Code::INVALID_ARGUMENT)
    })
}

fn running(name: &str, device: usize, count: InOut<u32>, target: Array<nvmlProcessInfo_t>) -> u32 {
    ask(name, device, |device| {
        let found: Vec<nvmlProcessInfo_t> = processes::on(device)
            .into_iter()
            .map(|process| nvmlProcessInfo_t {
                pid: process.pid,
                usedGpuMemory: process.vram_bytes,
                gpuInstanceId: NO_INSTANCE,
                computeInstanceId: NO_INSTANCE,
            })
            .collect();
        list(&found, count, target)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: usize,
    count: InOut<u32>,
    target: Array<nvmlProcessInfo_t>,
) -> u32 {
    running("nvmlDeviceGetComputeRunningProcesses_v3", device, count, target)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetComputeRunningProcesses_v2(
    device: usize,
    count: InOut<u32>,
    target: Array<nvmlProcessInfo_t>,
) -> u32 {
    running("nvmlDeviceGetComputeRunningProcesses_v2", device, count, target)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: usize,
    count: InOut<u32>,
    target: Array<nvmlProcessInfo_t>,
) -> u32 {
    ask("nvmlDeviceGetGraphicsRunningProcesses_v3", device, |_| list(&[], count, target))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
    device: usize,
    count: InOut<u32>,
    target: Array<nvmlProcessInfo_t>,
) -> u32 {
    ask("nvmlDeviceGetMPSComputeRunningProcesses_v3", device, |_| list(&[], count, target))
}

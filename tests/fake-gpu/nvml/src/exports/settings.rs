//! What an owner may set, and what holds now. A value that equals the GPU's default is not kept.

use fake_gpu_edge::Out;

use super::getters;
use crate::code::{Answer, Code};
use crate::machine::{Device, ask};

/// The slowest that fans can be told to turn, percent.
const FAN_MIN: u32 = 20;
/// `NVML_FAN_POLICY_TEMPERATURE_CONTINOUS_SW`.
const FAN_AUTOMATIC: u32 = 0;
/// `NVML_FAN_POLICY_MANUAL`.
const FAN_MANUAL: u32 = 1;
/// The highest compute mode, `NVML_COMPUTEMODE_EXCLUSIVE_PROCESS`.
const COMPUTE_MODE_MAX: u32 = 3;

getters! {
    nvmlDeviceGetPowerManagementLimit: u32 = |device| Ok(device.power_limit_mw());
    nvmlDeviceGetEnforcedPowerLimit: u32 = |device| Ok(device.power_limit_mw());
    nvmlDeviceGetPowerManagementDefaultLimit: u32 = |device| Ok(device.gpu.power_limit_default_mw);
    nvmlDeviceGetPersistenceMode: u32 = |device| Ok(u32::from(device.set.persistence));
    nvmlDeviceGetComputeMode: u32 = |device| Ok(device.set.compute_mode.unwrap_or(0));
    nvmlDeviceGetNumFans: u32 = |device| if device.gpu.fans == 0 { Err(Code::NOT_SUPPORTED) } else { Ok(device.gpu.fans) };
    nvmlDeviceGetFanSpeed: u32 = |device| fan_percent(device, 0);
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPowerManagementLimitConstraints(device: usize, least: Out<u32>, most: Out<u32>) -> u32 {
    ask("nvmlDeviceGetPowerManagementLimitConstraints", device, |device| {
        let set = least.set(device.gpu.power_limit_min_mw).and_then(|()| most.set(device.gpu.power_limit_max_mw));
        set.ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetPowerManagementLimit(device: usize, limit_mw: u32) -> u32 {
    ask("nvmlDeviceSetPowerManagementLimit", device, |device| {
        let gpu = device.gpu;
        if !(gpu.power_limit_min_mw..=gpu.power_limit_max_mw).contains(&limit_mw) {
            return Err(Code::INVALID_ARGUMENT);
        }
        let kept = (limit_mw != gpu.power_limit_default_mw).then_some(limit_mw);
        device.change(&format!("power limit {limit_mw} mW"), |set| set.power_limit_mw = kept)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetPersistenceMode(device: usize, mode: u32) -> u32 {
    ask("nvmlDeviceSetPersistenceMode", device, |device| match mode {
        0 | 1 => device.change(&format!("persistence {mode}"), |set| set.persistence = mode == 1),
        _ => Err(Code::INVALID_ARGUMENT),
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetComputeMode(device: usize, mode: u32) -> u32 {
    ask("nvmlDeviceSetComputeMode", device, |device| {
        if mode > COMPUTE_MODE_MAX {
            return Err(Code::INVALID_ARGUMENT);
        }
        device.change(&format!("compute mode {mode}"), |set| set.compute_mode = (mode != 0).then_some(mode))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetGpuLockedClocks(device: usize, low_mhz: u32, high_mhz: u32) -> u32 {
    ask("nvmlDeviceSetGpuLockedClocks", device, |device| {
        let range = clock_range(low_mhz, high_mhz)?;
        device.change(&format!("gpu clocks {low_mhz} to {high_mhz} MHz"), |set| set.gpu_clocks_mhz = Some(range))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceResetGpuLockedClocks(device: usize) -> u32 {
    ask("nvmlDeviceResetGpuLockedClocks", device, |device| {
        device.change("gpu clocks reset", |set| set.gpu_clocks_mhz = None)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetMemoryLockedClocks(device: usize, low_mhz: u32, high_mhz: u32) -> u32 {
    ask("nvmlDeviceSetMemoryLockedClocks", device, |device| {
        let range = clock_range(low_mhz, high_mhz)?;
        device.change(&format!("memory clocks {low_mhz} to {high_mhz} MHz"), |set| set.memory_clocks_mhz = Some(range))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceResetMemoryLockedClocks(device: usize) -> u32 {
    ask("nvmlDeviceResetMemoryLockedClocks", device, |device| {
        device.change("memory clocks reset", |set| set.memory_clocks_mhz = None)
    })
}

fn clock_range(low_mhz: u32, high_mhz: u32) -> Answer<[u32; 2]> {
    if low_mhz <= high_mhz { Ok([low_mhz, high_mhz]) } else { Err(Code::INVALID_ARGUMENT) }
}

fn known_fan(device: &Device<'_>, fan: u32) -> Answer {
    match device.gpu.fans {
        0 => Err(Code::NOT_SUPPORTED),
        fans if fan < fans => Ok(()),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

fn fan_percent(device: &Device<'_>, fan: u32) -> Answer<u32> {
    known_fan(device, fan)?;
    Ok(device.set.fans_percent.get(&fan.to_string()).copied().unwrap_or(device.gpu.fan_percent))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetFanSpeed_v2(device: usize, fan: u32, percent: Out<u32>) -> u32 {
    ask("nvmlDeviceGetFanSpeed_v2", device, |device| {
        percent.set(fan_percent(device, fan)?).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMinMaxFanSpeed(device: usize, least: Out<u32>, most: Out<u32>) -> u32 {
    ask("nvmlDeviceGetMinMaxFanSpeed", device, |device| {
        known_fan(device, 0)?;
        least.set(FAN_MIN).and_then(|()| most.set(100)).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetFanControlPolicy_v2(device: usize, fan: u32, policy: Out<u32>) -> u32 {
    ask("nvmlDeviceGetFanControlPolicy_v2", device, |device| {
        known_fan(device, fan)?;
        let manual = device.set.fans_percent.contains_key(&fan.to_string());
        policy.set(if manual { FAN_MANUAL } else { FAN_AUTOMATIC }).ok_or(Code::INVALID_ARGUMENT)
    })
}

fn turn(device: &Device<'_>, fan: u32, percent: Option<u32>) -> Answer {
    known_fan(device, fan)?;
    let what = percent.map_or("automatic".to_owned(), |percent| format!("{percent} %"));
    device.change(&format!("fan {fan} {what}"), |set| {
        match percent {
            Some(percent) => set.fans_percent.insert(fan.to_string(), percent),
            None => set.fans_percent.remove(&fan.to_string()),
        };
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetFanControlPolicy(device: usize, fan: u32, policy: u32) -> u32 {
    ask("nvmlDeviceSetFanControlPolicy", device, |device| match policy {
        FAN_AUTOMATIC => turn(device, fan, None),
        FAN_MANUAL => turn(device, fan, Some(fan_percent(device, fan)?)),
        _ => Err(Code::INVALID_ARGUMENT),
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetFanSpeed_v2(device: usize, fan: u32, percent: u32) -> u32 {
    ask("nvmlDeviceSetFanSpeed_v2", device, |device| {
        if !(FAN_MIN..=100).contains(&percent) {
            return Err(Code::INVALID_ARGUMENT);
        }
        turn(device, fan, Some(percent))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceSetDefaultFanSpeed_v2(device: usize, fan: u32) -> u32 {
    ask("nvmlDeviceSetDefaultFanSpeed_v2", device, |device| turn(device, fan, None))
}

//! What a GPU is: names, numbers, memory, links.

use fake_gpu_edge::{InOut, Out, OutText};
use nvml_wrapper_sys::bindings::{nvmlBAR1Memory_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t};

use super::{getters, write};
use crate::code::{Answer, Code};
use crate::machine::{Device, ask};

/// Cores of a multiprocessor.
const CORES: u32 = 128;
/// `NVML_BRAND_GEFORCE`.
const BRAND: u32 = 5;
/// What the driver keeps of the memory for itself.
const RESERVED_BYTES: u64 = 16 << 20;
/// The window through which the host sees the memory.
const BAR1_BYTES: u64 = 256 << 20;

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetName(device: usize, name: OutText, room: u32) -> u32 {
    ask("nvmlDeviceGetName", device, |device| write(name, room, &device.gpu.name))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUUID(device: usize, uuid: OutText, room: u32) -> u32 {
    ask("nvmlDeviceGetUUID", device, |device| write(uuid, room, &device.gpu.uuid))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetSerial(device: usize, serial: OutText, room: u32) -> u32 {
    ask("nvmlDeviceGetSerial", device, |device| match device.gpu.serial.as_str() {
        "" => Err(Code::NOT_SUPPORTED),
        text => write(serial, room, text),
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetVbiosVersion(device: usize, version: OutText, room: u32) -> u32 {
    ask("nvmlDeviceGetVbiosVersion", device, |_| write(version, room, "95.02.18.80.01"))
}

getters! {
    nvmlDeviceGetIndex: u32 = |device| number(device.index);
    nvmlDeviceGetMinorNumber: u32 = |device| number(device.index);
    nvmlDeviceGetBoardId: u32 = |device| number((device.index + 1) << 8);
    nvmlDeviceGetBrand: u32 = |_device| Ok(BRAND);
    nvmlDeviceGetArchitecture: u32 = |device| Ok(architecture(device));
    nvmlDeviceGetNumGpuCores: u32 = |device| Ok(device.gpu.multiprocessors * CORES);
    nvmlDeviceGetMemoryBusWidth: u32 = |_device| Ok(384);
    nvmlDeviceGetPciInfo_v3: nvmlPciInfo_t = |device| Ok(pci(device));
    nvmlDeviceGetMemoryInfo: nvmlMemory_t = |device| Ok(memory(device));
    nvmlDeviceGetBAR1MemoryInfo: nvmlBAR1Memory_t = |_device| Ok(nvmlBAR1Memory_t {
        bar1Total: BAR1_BYTES,
        bar1Free: BAR1_BYTES - (1 << 20),
        bar1Used: 1 << 20,
    });
    nvmlDeviceGetCurrPcieLinkGeneration: u32 = |device| Ok(device.gpu.pcie_link[0]);
    nvmlDeviceGetCurrPcieLinkWidth: u32 = |device| Ok(device.gpu.pcie_link[1]);
    nvmlDeviceGetMaxPcieLinkGeneration: u32 = |device| Ok(device.gpu.pcie_link_max[0]);
    nvmlDeviceGetMaxPcieLinkWidth: u32 = |device| Ok(device.gpu.pcie_link_max[1]);
    nvmlDeviceGetPcieSpeed: u32 = |device| Ok(megatransfers(device.gpu.pcie_link[0]));
    nvmlDeviceGetDisplayActive: u32 = |_device| Ok(0);
    nvmlDeviceGetDisplayMode: u32 = |_device| Ok(0);
    nvmlDeviceIsMigDeviceHandle: u32 = |_device| Ok(0);
    nvmlDeviceGetMaxMigDeviceCount: u32 = |device| Ok(if device.gpu.mig.is_some() { 7 } else { 0 });
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMigMode(device: usize, current: Out<u32>, pending: Out<u32>) -> u32 {
    ask("nvmlDeviceGetMigMode", device, |device| {
        let mode = u32::from(device.gpu.mig.ok_or(Code::NOT_SUPPORTED)?);
        current.set(mode).and_then(|()| pending.set(mode)).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(device: usize, _index: u32, _instance: Out<usize>) -> u32 {
    ask("nvmlDeviceGetMigDeviceHandleByIndex", device, |device| {
        Err(if device.gpu.mig.is_some() { Code::NOT_FOUND } else { Code::NOT_SUPPORTED })
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCudaComputeCapability(device: usize, major: Out<i32>, minor: Out<i32>) -> u32 {
    ask("nvmlDeviceGetCudaComputeCapability", device, |device| {
        let [a, b] = device.gpu.compute_capability.map(|part| i32::try_from(part).unwrap_or(i32::MAX));
        major.set(a).and_then(|()| minor.set(b)).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, info: InOut<nvmlMemory_v2_t>) -> u32 {
    ask("nvmlDeviceGetMemoryInfo_v2", device, |device| {
        let asked = info.get().ok_or(Code::INVALID_ARGUMENT)?;
        if asked.version >> 24 != 2 {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let nvmlMemory_t { total, free, used } = memory(device);
        let reserved = RESERVED_BYTES.min(free);
        let answer = nvmlMemory_v2_t { version: asked.version, total, reserved, free: free - reserved, used };
        info.set(answer).ok_or(Code::INVALID_ARGUMENT)
    })
}

fn number(value: usize) -> Answer<u32> {
    u32::try_from(value).map_err(|_| Code::UNKNOWN)
}

fn memory(device: &Device<'_>) -> nvmlMemory_t {
    let (total, used) = (device.gpu.vram_bytes, device.gpu.vram_used_bytes);
    nvmlMemory_t { total, free: total.saturating_sub(used), used }
}

/// Source: `nvml.h`, `NVML_DEVICE_ARCH_*`.
fn architecture(device: &Device<'_>) -> u32 {
    match device.gpu.arch() {
        0..=69 => 4,
        70..=74 => 5,
        75..=79 => 6,
        80..=88 => 7,
        89 => 8,
        90..=99 => 9,
        100.. => 10,
    }
}

/// Megatransfers a second on each lane, by generation.
fn megatransfers(generation: u32) -> u32 {
    match generation {
        0 | 1 => 2_500,
        2 => 5_000,
        3 => 8_000,
        4 => 16_000,
        5.. => 32_000,
    }
}

fn pci(device: &Device<'_>) -> nvmlPciInfo_t {
    let address = &device.gpu.pci_bus_id;
    let mut parts = address.split([':', '.']).map(|part| u32::from_str_radix(part, 16).unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let legacy = address.strip_prefix("0000").unwrap_or(address);
    nvmlPciInfo_t {
        busIdLegacy: chars(legacy),
        domain: part(),
        bus: part(),
        device: part(),
        pciDeviceId: device.gpu.pci_device_id,
        pciSubSystemId: 0x0000_10de,
        busId: chars(address),
    }
}

/// The text in a field of fixed size that ends with NUL; what does not fit is cut.
fn chars<const N: usize>(text: &str) -> [std::ffi::c_char; N] {
    let mut field = [0; N];
    for (target, byte) in field[..N - 1].iter_mut().zip(text.bytes()) {
        *target = byte.cast_signed();
    }
    field
}

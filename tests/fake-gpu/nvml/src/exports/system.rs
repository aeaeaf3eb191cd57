//! Starting, ending, versions, finding a device.

use std::ffi::{CStr, c_char};

use fake_gpu_edge::{Out, OutText, Text};

use super::write;
use crate::code::{Answer, Code, describe};
use crate::machine::{Machine, call, handle, init, shutdown};

/// The version of the interface.
const NVML_VERSION: &str = "12.570.124.06";

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> u32 {
    init("nvmlInit_v2")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: u32) -> u32 {
    init("nvmlInitWithFlags")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> u32 {
    shutdown()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(code: u32) -> *const c_char {
    CStr::as_ptr(describe(code))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetDriverVersion(version: OutText, room: u32) -> u32 {
    call("nvmlSystemGetDriverVersion", |machine| write(version, room, &machine.script.nvml.driver_version))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetNVMLVersion(version: OutText, room: u32) -> u32 {
    call("nvmlSystemGetNVMLVersion", |_| write(version, room, NVML_VERSION))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetCudaDriverVersion(version: Out<i32>) -> u32 {
    call("nvmlSystemGetCudaDriverVersion", |machine| cuda_version(machine, version))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: Out<i32>) -> u32 {
    call("nvmlSystemGetCudaDriverVersion_v2", |machine| cuda_version(machine, version))
}

fn cuda_version(machine: &Machine, version: Out<i32>) -> Answer {
    version.set(machine.script.cuda.driver_version).ok_or(Code::INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetProcessName(pid: u32, name: OutText, room: u32) -> u32 {
    call("nvmlSystemGetProcessName", |_| {
        let path = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|_| Code::NOT_FOUND)?;
        write(name, room, &path.to_string_lossy())
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCount_v2(count: Out<u32>) -> u32 {
    call("nvmlDeviceGetCount_v2", |machine| {
        count.set(u32::try_from(machine.script.gpus.len()).unwrap_or(u32::MAX)).ok_or(Code::INVALID_ARGUMENT)
    })
}

/// A lost GPU is found by nothing but its index being in range: NVML says so at once.
fn find(machine: &Machine, index: Option<usize>, missing: Code, device: Out<usize>) -> Answer {
    let found = index.and_then(|index| machine.script.gpus.get(index).map(|gpu| (index, gpu)));
    match found {
        None => Err(missing),
        Some((_, gpu)) if gpu.lost => Err(Code::GPU_IS_LOST),
        Some((index, _)) => device.set(handle(index)).ok_or(Code::INVALID_ARGUMENT),
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: u32, device: Out<usize>) -> u32 {
    call("nvmlDeviceGetHandleByIndex_v2", |machine| {
        find(machine, usize::try_from(index).ok(), Code::INVALID_ARGUMENT, device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByUUID(uuid: Text, device: Out<usize>) -> u32 {
    call("nvmlDeviceGetHandleByUUID", |machine| {
        let uuid = uuid.read().ok_or(Code::INVALID_ARGUMENT)?;
        let index = machine.script.gpus.iter().position(|gpu| gpu.uuid == uuid);
        find(machine, index, Code::NOT_FOUND, device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleBySerial(serial: Text, device: Out<usize>) -> u32 {
    call("nvmlDeviceGetHandleBySerial", |machine| {
        let serial = serial.read().filter(|serial| !serial.is_empty()).ok_or(Code::INVALID_ARGUMENT)?;
        let index = machine.script.gpus.iter().position(|gpu| gpu.serial == serial);
        find(machine, index, Code::NOT_FOUND, device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(address: Text, device: Out<usize>) -> u32 {
    call("nvmlDeviceGetHandleByPciBusId_v2", |machine| {
        let same = |text: &str| text.trim_start_matches("0000").to_ascii_lowercase();
        let address = same(&address.read().ok_or(Code::INVALID_ARGUMENT)?);
        let index = machine.script.gpus.iter().position(|gpu| same(&gpu.pci_bus_id) == address);
        find(machine, index, Code::NOT_FOUND, device)
    })
}

//! Starting, errors, looking names up, devices.

use std::ffi::{c_char, c_void};

use fake_gpu_edge::{Out, OutText, Text, own_symbol};

use crate::code::{Answer, Code, describe};
use crate::device;
use crate::driver::{Needs, call};

/// The found address fits the asked version (`CU_GET_PROC_ADDRESS_SUCCESS`).
const FOUND: i32 = 0;
/// No such name (`CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND`).
const SYMBOL_NOT_FOUND: i32 = 1;

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> i32 {
    call("cuInit", Needs::Nothing, |driver| {
        match driver.script.cuda.init {
            0 if flags != 0 => return Err(Code::INVALID_VALUE),
            0 if driver.gpus.is_empty() => return Err(Code::NO_DEVICE),
            0 => driver.initialised = true,
            code => return Err(Code(code)),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<i32>) -> i32 {
    call("cuDriverGetVersion", Needs::Nothing, |driver| {
        version.set(driver.script.cuda.driver_version).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: i32, name: Out<*const c_char>) -> i32 {
    let found = describe(code).and_then(|(text, _)| name.set(text.as_ptr()));
    found.map_or(Code::INVALID_VALUE.0, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: i32, sentence: Out<*const c_char>) -> i32 {
    let found = describe(code).and_then(|(_, text)| sentence.set(text.as_ptr()));
    found.map_or(Code::INVALID_VALUE.0, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress_v2(
    name: Text,
    function: Out<*mut c_void>,
    _version: i32,
    _flags: u64,
    status: Out<i32>,
) -> i32 {
    let found = newest(name);
    let _unwanted = status.set(if found.is_ok() { FOUND } else { SYMBOL_NOT_FOUND });
    give(found, function)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress(name: Text, function: Out<*mut c_void>, _version: i32, _flags: u64) -> i32 {
    give(newest(name), function)
}

/// The newest version of the name that is exported, whatever version the caller asked for.
fn newest(name: Text) -> Answer<*mut c_void> {
    let name = name.read().ok_or(Code::INVALID_VALUE)?;
    let found = ["_v4", "_v3", "_v2", ""].into_iter().find_map(|suffix| own_symbol(&format!("{name}{suffix}")));
    found.ok_or(Code::NOT_FOUND)
}

fn give(found: Answer<*mut c_void>, function: Out<*mut c_void>) -> i32 {
    match found.and_then(|address| function.set(address).ok_or(Code::INVALID_VALUE)) {
        Ok(()) => 0,
        Err(Code(code)) => code,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: Out<i32>) -> i32 {
    call("cuDeviceGetCount", Needs::Init, |driver| {
        count.set(i32::try_from(driver.gpus.len()).unwrap_or(i32::MAX)).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: Out<i32>, ordinal: i32) -> i32 {
    call("cuDeviceGet", Needs::Init, |driver| {
        driver.gpu(ordinal)?;
        device.set(ordinal).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: OutText, room: i32, device: i32) -> i32 {
    call("cuDeviceGetName", Needs::Init, |driver| {
        let text = &driver.gpu(device)?.name;
        let room = usize::try_from(room).map_err(|_| Code::INVALID_VALUE)?;
        let end = text.char_indices().map(|(at, _)| at).chain([text.len()]).take_while(|end| *end < room).last();
        let fits = end.and_then(|end| name.set(room, &text[..end]));
        fits.filter(|fits| *fits).map(|_| ()).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) -> i32 {
    call("cuDeviceGetUuid", Needs::Init, |driver| uuid.set(driver.gpu(device)?.uuid_bytes()).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) -> i32 {
    call("cuDeviceGetUuid_v2", Needs::Init, |driver| {
        uuid.set(driver.gpu(device)?.uuid_bytes()).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetPCIBusId(address: OutText, room: i32, device: i32) -> i32 {
    call("cuDeviceGetPCIBusId", Needs::Init, |driver| {
        let text = &driver.gpu(device)?.pci_bus_id;
        let room = usize::try_from(room).map_err(|_| Code::INVALID_VALUE)?;
        address.set(room, text).filter(|fits| *fits).map(|_| ()).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) -> i32 {
    call("cuDeviceTotalMem_v2", Needs::Init, |driver| {
        let total = usize::try_from(driver.gpu(device)?.vram_bytes).unwrap_or(usize::MAX);
        bytes.set(total).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<i32>, attribute: i32, device: i32) -> i32 {
    call("cuDeviceGetAttribute", Needs::Init, |driver| {
        let found = device::attribute(driver.gpu(device)?, attribute).ok_or(Code::INVALID_VALUE)?;
        value.set(found).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) -> i32 {
    call("cuDeviceComputeCapability", Needs::Init, |driver| {
        let gpu = driver.gpu(device)?;
        let number = |attribute| device::attribute(gpu, attribute).ok_or(Code::INVALID_VALUE);
        major.set(number(75)?).ok_or(Code::INVALID_VALUE)?;
        minor.set(number(76)?).ok_or(Code::INVALID_VALUE)
    })
}

//! What is broken: memory errors, retired pages, remapped rows, events.

use std::ptr::without_provenance_mut;
use std::time::Duration;

use fake_gpu_edge::{Array, InOut, Out};
use fake_gpu_script::{Ecc, EventKind};
use nvml_wrapper_sys::bindings::{nvmlEventData_t, nvmlRowRemapperHistogramValues_t};

use super::getters;
use crate::code::{Answer, Code};
use crate::events;
use crate::machine::{Device, ask, call, handle};

/// `NVML_MEMORY_LOCATION_DEVICE_MEMORY`: where all errors of a script are.
const DEVICE_MEMORY: u32 = 2;
/// The banks of the memory, all with all of their spare rows, unless rows were remapped.
const BANKS: u32 = 640;

getters! {
    nvmlDeviceGetSupportedEventTypes: u64 = |_device| Ok(supported());
    nvmlDeviceGetRetiredPagesPendingStatus: u32 = |device| Ok(u32::from(ecc(device)?.remap_pending));
    nvmlDeviceGetRowRemapperHistogram: nvmlRowRemapperHistogramValues_t = |device| {
        let rows: u32 = ecc(device)?.remapped_rows.iter().sum();
        let none = u32::from(ecc(device)?.remap_failed);
        let high = rows.min(BANKS - none);
        Ok(nvmlRowRemapperHistogramValues_t { max: BANKS - none - high, high, partial: 0, low: 0, none })
    };
}

fn ecc(device: &Device<'_>) -> Answer<Ecc> {
    device.gpu.ecc.ok_or(Code::NOT_SUPPORTED)
}

fn supported() -> u64 {
    let kinds =
        [EventKind::SingleBitEcc, EventKind::DoubleBitEcc, EventKind::Xid, EventKind::Clock, EventKind::RecoveryAction];
    kinds.into_iter().map(EventKind::bit).sum()
}

/// Errors since the driver was loaded (counter 0) or since the GPU was made (1); corrected (0) or not (1).
fn count(device: &Device<'_>, error: u32, counter: u32) -> Answer<u64> {
    let ecc = ecc(device)?;
    let counts = match counter {
        0 => ecc.volatile,
        1 => ecc.aggregate,
        _ => return Err(Code::INVALID_ARGUMENT),
    };
    usize::try_from(error).ok().and_then(|error| counts.get(error).copied()).ok_or(Code::INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetEccMode(device: usize, current: Out<u32>, pending: Out<u32>) -> u32 {
    ask("nvmlDeviceGetEccMode", device, |device| {
        ecc(device)?;
        current.set(1).and_then(|()| pending.set(1)).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTotalEccErrors(device: usize, error: u32, counter: u32, errors: Out<u64>) -> u32 {
    ask("nvmlDeviceGetTotalEccErrors", device, |device| {
        errors.set(count(device, error, counter)?).ok_or(Code::INVALID_ARGUMENT)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryErrorCounter(
    device: usize,
    error: u32,
    counter: u32,
    location: u32,
    errors: Out<u64>,
) -> u32 {
    ask("nvmlDeviceGetMemoryErrorCounter", device, |device| {
        let all = count(device, error, counter)?;
        errors.set(if location == DEVICE_MEMORY { all } else { 0 }).ok_or(Code::INVALID_ARGUMENT)
    })
}

fn retired(
    device: &Device<'_>,
    cause: u32,
    pages: InOut<u32>,
    addresses: Array<u64>,
    times: Option<Array<u64>>,
) -> Answer {
    let retired = ecc(device)?.retired_pages;
    let retired = *usize::try_from(cause).ok().and_then(|cause| retired.get(cause)).ok_or(Code::INVALID_ARGUMENT)?;
    let room = pages.get().ok_or(Code::INVALID_ARGUMENT)?;
    pages.set(retired).ok_or(Code::INVALID_ARGUMENT)?;
    if retired == 0 {
        return Ok(());
    }
    if addresses.is_null() || room < retired {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    let list: Vec<u64> = (1..=u64::from(retired)).map(|page| page << 16).collect();
    let times = times.map(|times| times.set(&list));
    addresses.set(&list).filter(|()| times != Some(None)).ok_or(Code::INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetRetiredPages(device: usize, cause: u32, pages: InOut<u32>, addresses: Array<u64>) -> u32 {
    ask("nvmlDeviceGetRetiredPages", device, |device| retired(device, cause, pages, addresses, None))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetRetiredPages_v2(
    device: usize,
    cause: u32,
    pages: InOut<u32>,
    addresses: Array<u64>,
    times: Array<u64>,
) -> u32 {
    ask("nvmlDeviceGetRetiredPages_v2", device, |device| retired(device, cause, pages, addresses, Some(times)))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetRemappedRows(
    device: usize,
    corrected: Out<u32>,
    uncorrected: Out<u32>,
    pending: Out<u32>,
    failed: Out<u32>,
) -> u32 {
    ask("nvmlDeviceGetRemappedRows", device, |device| {
        let ecc = ecc(device)?;
        let [after_corrected, after_uncorrected] = ecc.remapped_rows;
        let values = [after_corrected, after_uncorrected, u32::from(ecc.remap_pending), u32::from(ecc.remap_failed)];
        for (target, value) in [corrected, uncorrected, pending, failed].into_iter().zip(values) {
            target.set(value).ok_or(Code::INVALID_ARGUMENT)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetCreate(set: Out<usize>) -> u32 {
    call("nvmlEventSetCreate", |_| set.set(events::create()).ok_or(Code::INVALID_ARGUMENT))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: usize) -> u32 {
    call("nvmlEventSetFree", |_| events::free(set))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(device: usize, kinds: u64, set: usize) -> u32 {
    ask("nvmlDeviceRegisterEvents", device, |device| {
        if kinds & !supported() != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        events::register(set, device.index, kinds)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetWait_v2(set: usize, data: Out<nvmlEventData_t>, timeout_ms: u32) -> u32 {
    call("nvmlEventSetWait_v2", |_| {
        let event = events::wait(set, Duration::from_millis(u64::from(timeout_ms)))?;
        let answer = nvmlEventData_t {
            device: without_provenance_mut(handle(event.gpu)),
            eventType: event.kind.bit(),
            eventData: event.data,
            gpuInstanceId: u32::MAX,
            computeInstanceId: u32::MAX,
        };
        data.set(answer).ok_or(Code::INVALID_ARGUMENT)
    })
}

//! Device memory, pinned host memory, copies, fills.

use fake_gpu_edge::{Host, Out};

use crate::code::{Answer, Code};
use crate::driver::{Driver, beside, enqueue, wait};

/// Free and total bytes of the context's GPU.
fn room(driver: &mut Driver, context: usize) -> Answer<(u64, u64)> {
    let device = driver.context(context)?.device;
    let here = driver.contexts.values().filter(|context| context.device == device);
    let mine: u64 = here.map(|context| context.memory.used_bytes()).sum();
    let gpu = driver.gpu(device)?;
    Ok((gpu.vram_bytes.saturating_sub(gpu.vram_used_bytes).saturating_sub(mine), gpu.vram_bytes))
}

fn allocate(driver: &mut Driver, context: usize, bytes: usize) -> Answer<u64> {
    let bytes = bytes as u64;
    let (free, _) = room(driver, context)?;
    let used = driver.context(context)?.memory.used_bytes();
    let limit = driver.script.cuda.out_of_memory_at_bytes.unwrap_or(u64::MAX);
    if bytes > free || used.checked_add(bytes).is_none_or(|sum| sum > limit) {
        return Err(Code::OUT_OF_MEMORY);
    }
    driver.context(context)?.memory.allocate(bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> i32 {
    beside("cuMemAlloc_v2", |driver, context| {
        let fresh = allocate(driver, context, bytes)?;
        address.set(fresh).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> i32 {
    wait("cuMemFree_v2", |driver, context| driver.context(context)?.memory.free(address))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> i32 {
    beside("cuMemGetInfo_v2", |driver, context| {
        let (free_bytes, total_bytes) = room(driver, context)?;
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        free.set(size(free_bytes)).ok_or(Code::INVALID_VALUE)?;
        total.set(size(total_bytes)).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) -> i32 {
    beside("cuMemGetAddressRange_v2", |driver, context| {
        let memory = &driver.context(context)?.memory;
        let (start, _) = memory.locate(address).map_err(|_| Code::NOT_FOUND)?;
        let _unwanted = (base.set(start), size.set(memory.size(start)));
        Ok(())
    })
}

fn alloc_host(name: &str, address: Out<*mut u8>, bytes: usize) -> i32 {
    beside(name, |driver, _| {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut memory = vec![0; bytes];
        let start = memory.as_mut_ptr();
        driver.pinned.insert(start.addr(), memory);
        address.set(start).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(address: Out<*mut u8>, bytes: usize, _flags: u32) -> i32 {
    alloc_host("cuMemHostAlloc", address, bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(address: Out<*mut u8>, bytes: usize) -> i32 {
    alloc_host("cuMemAllocHost_v2", address, bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: Host) -> i32 {
    wait("cuMemFreeHost", |driver, _| driver.pinned.remove(&address.address()).map(|_| ()).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(_address: Host, _bytes: usize, _flags: u32) -> i32 {
    beside("cuMemHostRegister_v2", |_, _| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(_address: Host) -> i32 {
    beside("cuMemHostUnregister", |_, _| Ok(()))
}

fn to_device(driver: &mut Driver, context: usize, target: u64, source: Host, bytes: usize) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    source.read_into(driver.context(context)?.memory.range(target, bytes)?).ok_or(Code::INVALID_VALUE)
}

fn to_host(driver: &mut Driver, context: usize, target: Host, source: u64, bytes: usize) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    target.write(driver.context(context)?.memory.range(source, bytes)?).ok_or(Code::INVALID_VALUE)
}

fn on_device(driver: &mut Driver, context: usize, target: u64, source: u64, bytes: usize) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    driver.context(context)?.memory.copy(target, source, bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(target: u64, source: Host, bytes: usize) -> i32 {
    wait("cuMemcpyHtoD_v2", |driver, context| to_device(driver, context, target, source, bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(target: u64, source: Host, bytes: usize, _stream: usize) -> i32 {
    enqueue("cuMemcpyHtoDAsync_v2", |driver, context| to_device(driver, context, target, source, bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(target: Host, source: u64, bytes: usize) -> i32 {
    wait("cuMemcpyDtoH_v2", |driver, context| to_host(driver, context, target, source, bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(target: Host, source: u64, bytes: usize, _stream: usize) -> i32 {
    enqueue("cuMemcpyDtoHAsync_v2", |driver, context| to_host(driver, context, target, source, bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(target: u64, source: u64, bytes: usize) -> i32 {
    enqueue("cuMemcpyDtoD_v2", |driver, context| on_device(driver, context, target, source, bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(target: u64, source: u64, bytes: usize, _stream: usize) -> i32 {
    enqueue("cuMemcpyDtoDAsync_v2", |driver, context| on_device(driver, context, target, source, bytes))
}

/// Writes `pattern` `count` times. Its address must be a multiple of its size.
fn fill(driver: &mut Driver, context: usize, target: u64, pattern: &[u8], count: usize) -> Answer {
    let bytes = pattern.len().checked_mul(count).ok_or(Code::INVALID_VALUE)?;
    if !target.is_multiple_of(pattern.len() as u64) {
        return Err(Code::INVALID_VALUE);
    }
    if bytes == 0 {
        return Ok(());
    }
    for element in driver.context(context)?.memory.range(target, bytes)?.chunks_exact_mut(pattern.len()) {
        element.copy_from_slice(pattern);
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(target: u64, value: u8, count: usize) -> i32 {
    enqueue("cuMemsetD8_v2", |driver, context| fill(driver, context, target, &[value], count))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(target: u64, value: u8, count: usize, _stream: usize) -> i32 {
    enqueue("cuMemsetD8Async", |driver, context| fill(driver, context, target, &[value], count))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16_v2(target: u64, value: u16, count: usize) -> i32 {
    enqueue("cuMemsetD16_v2", |driver, context| fill(driver, context, target, &value.to_le_bytes(), count))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16Async(target: u64, value: u16, count: usize, _stream: usize) -> i32 {
    enqueue("cuMemsetD16Async", |driver, context| fill(driver, context, target, &value.to_le_bytes(), count))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32_v2(target: u64, value: u32, count: usize) -> i32 {
    enqueue("cuMemsetD32_v2", |driver, context| fill(driver, context, target, &value.to_le_bytes(), count))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(target: u64, value: u32, count: usize, _stream: usize) -> i32 {
    enqueue("cuMemsetD32Async", |driver, context| fill(driver, context, target, &value.to_le_bytes(), count))
}

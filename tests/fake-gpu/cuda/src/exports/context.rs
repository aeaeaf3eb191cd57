//! Contexts: the primary one of each GPU, others, and which is the thread's current one.

use std::ffi::c_void;

use fake_gpu_edge::Out;

use crate::code::{Answer, Code};
use crate::context::Context;
use crate::driver::{Driver, Needs, beside, call, make_current, pop_current, push_current, wait};

fn primary(driver: &Driver, device: i32) -> Option<usize> {
    driver.contexts.iter().find(|(_, context)| context.primary && context.device == device).map(|(handle, _)| *handle)
}

fn create(name: &str, context: Out<usize>, device: i32) -> i32 {
    call(name, Needs::Init, |driver| {
        driver.gpu(device)?;
        let handle = driver.fresh_handle();
        driver.contexts.insert(handle, Context::new(device, false, driver.script.cuda.scrub));
        push_current(handle);
        context.set(handle).ok_or(Code::INVALID_VALUE)
    })
}

fn remove(driver: &mut Driver, handle: usize) {
    driver.contexts.remove(&handle);
    driver.modules.retain(|_, module| module.context != handle);
    driver.streams.retain(|_, context| *context != handle);
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: i32) -> i32 {
    call("cuDevicePrimaryCtxRetain", Needs::Init, |driver| {
        driver.gpu(device)?;
        let handle = match primary(driver, device) {
            Some(handle) => {
                driver.context(handle)?.retained += 1;
                handle
            }
            None => {
                let handle = driver.fresh_handle();
                driver.contexts.insert(handle, Context::new(device, true, driver.script.cuda.scrub));
                handle
            }
        };
        context.set(handle).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> i32 {
    call("cuDevicePrimaryCtxRelease_v2", Needs::Init, |driver| {
        let handle = primary(driver, device).ok_or(Code::INVALID_CONTEXT)?;
        let context = driver.context(handle)?;
        context.retained -= 1;
        if context.retained == 0 {
            remove(driver, handle);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> i32 {
    call("cuDevicePrimaryCtxReset_v2", Needs::Init, |driver| {
        if let Some(handle) = primary(driver, device) {
            remove(driver, handle);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, _flags: u32) -> i32 {
    call("cuDevicePrimaryCtxSetFlags_v2", Needs::Init, |driver| driver.gpu(device).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) -> i32 {
    call("cuDevicePrimaryCtxGetState", Needs::Init, |driver| {
        driver.gpu(device)?;
        flags.set(0).ok_or(Code::INVALID_VALUE)?;
        active.set(i32::from(primary(driver, device).is_some())).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v2(context: Out<usize>, _flags: u32, device: i32) -> i32 {
    create("cuCtxCreate_v2", context, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v3(
    context: Out<usize>,
    _affinity: Out<c_void>,
    _count: i32,
    _flags: u32,
    device: i32,
) -> i32 {
    create("cuCtxCreate_v3", context, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v4(context: Out<usize>, _how: Out<c_void>, _flags: u32, device: i32) -> i32 {
    create("cuCtxCreate_v4", context, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: usize) -> i32 {
    call("cuCtxDestroy_v2", Needs::Init, |driver| {
        if driver.context(context)?.primary {
            return Err(Code::INVALID_CONTEXT);
        }
        if driver.current() == Ok(context) {
            make_current(0);
        }
        remove(driver, context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: usize) -> i32 {
    call("cuCtxSetCurrent", Needs::Init, |driver| {
        if context != 0 {
            driver.context(context)?;
        }
        make_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: Out<usize>) -> i32 {
    call("cuCtxGetCurrent", Needs::Init, |driver| context.set(driver.current().unwrap_or(0)).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: usize) -> i32 {
    call("cuCtxPushCurrent_v2", Needs::Init, |driver| {
        driver.context(context)?;
        push_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(context: Out<usize>) -> i32 {
    call("cuCtxPopCurrent_v2", Needs::Init, |_| {
        let popped = pop_current().ok_or(Code::INVALID_CONTEXT)?;
        let _unwanted = context.set(popped);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(device: Out<i32>) -> i32 {
    beside("cuCtxGetDevice", |driver, context| device.set(driver.context(context)?.device).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> i32 {
    wait("cuCtxSynchronize", |_, _| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(_flags: u32) -> i32 {
    beside("cuCtxSetFlags", nothing)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetLimit(_limit: i32, _value: usize) -> i32 {
    beside("cuCtxSetLimit", nothing)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetLimit(value: Out<usize>, _limit: i32) -> i32 {
    beside("cuCtxGetLimit", |_, _| value.set(0).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCacheConfig(_config: i32) -> i32 {
    beside("cuCtxSetCacheConfig", nothing)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCacheConfig(config: Out<i32>) -> i32 {
    beside("cuCtxGetCacheConfig", |_, _| config.set(0).ok_or(Code::INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> i32 {
    beside("cuCtxGetStreamPriorityRange", |_, _| {
        let _unwanted = (least.set(0), greatest.set(-5));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetApiVersion(_context: usize, version: Out<u32>) -> i32 {
    beside("cuCtxGetApiVersion", |_, _| version.set(3020).ok_or(Code::INVALID_VALUE))
}

fn nothing(_driver: &mut Driver, _context: usize) -> Answer {
    Ok(())
}

//! Modules, their functions, and the linker that this driver does not have.

use fake_gpu_edge::{Array, Host, Out, Text};

use crate::code::Code;
use crate::driver::{Driver, Function, beside, wait};
use crate::module::{Loader, Module, copy_image, kernels};

/// `CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK`.
const MAX_THREADS: i32 = 0;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: i32 = 8;
/// `CU_JIT_INPUT_PTX`.
const INPUT_PTX: i32 = 1;
/// `CU_MODULE_EAGER_LOADING`.
const EAGER: i32 = 1;
/// `CU_MODULE_LAZY_LOADING`.
const LAZY: i32 = 2;

/// PTX is compiled unless the environment forbids it.
fn jit() -> bool {
    ["CUDA_DISABLE_PTX_JIT", "CUDA_DISABLE_JIT"].iter().all(|name| std::env::var(name).as_deref() != Ok("1"))
}

fn load(name: &str, module: Out<usize>, image: Host) -> i32 {
    beside(name, |driver, context| {
        let device = driver.context(context)?.device;
        let arch = driver.gpu(device)?.arch();
        let loader = Loader { arch, driver_version: driver.script.cuda.driver_version, jit: jit() };
        let kernels = kernels(&copy_image(image)?, loader)?;
        let handle = driver.fresh_handle();
        driver.modules.insert(handle, Module { context, kernels });
        module.set(handle).ok_or(Code::INVALID_VALUE)
    })
}

fn function_of(driver: &mut Driver, function: usize) -> Result<&mut Function, Code> {
    driver.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: Out<usize>, image: Host) -> i32 {
    load("cuModuleLoadData", module, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    module: Out<usize>,
    image: Host,
    _count: u32,
    _options: Array<i32>,
    _values: Array<usize>,
) -> i32 {
    load("cuModuleLoadDataEx", module, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadFatBinary(module: Out<usize>, image: Host) -> i32 {
    load("cuModuleLoadFatBinary", module, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> i32 {
    wait("cuModuleUnload", |driver, _| {
        driver.modules.remove(&module).ok_or(Code::INVALID_HANDLE)?;
        driver.functions.retain(|_, function| function.module != module);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(function: Out<usize>, module: usize, name: Text) -> i32 {
    beside("cuModuleGetFunction", |driver, _| {
        let kernel = name.read().ok_or(Code::INVALID_VALUE)?;
        let known = driver.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if !known.kernels.contains(&kernel) {
            return Err(Code::NOT_FOUND);
        }
        let handle = driver.fresh_handle();
        driver.functions.insert(handle, Function { module, kernel, dynamic_shared_max: 0 });
        function.set(handle).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(_address: Out<u64>, _bytes: Out<usize>, module: usize, _name: Text) -> i32 {
    beside("cuModuleGetGlobal_v2", |driver, _| {
        driver.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        Err(Code::NOT_FOUND)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetLoadingMode(mode: Out<i32>) -> i32 {
    let asked = std::env::var("CUDA_MODULE_LOADING").unwrap_or_default();
    let found = mode.set(if asked == "EAGER" { EAGER } else { LAZY });
    found.map_or(Code::INVALID_VALUE.0, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: usize, attribute: i32, value: i32) -> i32 {
    beside("cuFuncSetAttribute", |driver, context| {
        let device = driver.context(context)?.device;
        let most = crate::device::shared_bytes_max(driver.gpu(device)?);
        let function = function_of(driver, function)?;
        match (attribute, u32::try_from(value)) {
            (MAX_DYNAMIC_SHARED, Ok(bytes)) if bytes <= most => {
                function.dynamic_shared_max = bytes;
                Ok(())
            }
            (9, _) => Ok(()), // the preferred carve-out is a wish
            (_, Ok(_) | Err(_)) => Err(Code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: usize) -> i32 {
    beside("cuFuncGetAttribute", |driver, _| {
        let function = function_of(driver, function)?;
        let found = match attribute {
            MAX_THREADS => 1024,
            MAX_DYNAMIC_SHARED => i32::try_from(function.dynamic_shared_max).unwrap_or(i32::MAX),
            _ => 0,
        };
        value.set(found).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: usize, _config: i32) -> i32 {
    beside("cuFuncSetCacheConfig", |driver, _| function_of(driver, function).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkCreate_v2(_count: u32, _options: Array<i32>, _values: Array<usize>, linker: Out<usize>) -> i32 {
    beside("cuLinkCreate_v2", |driver, _| {
        let handle = driver.fresh_handle();
        linker.set(handle).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkAddData_v2(
    _linker: usize,
    kind: i32,
    _data: Host,
    _bytes: usize,
    _name: Text,
    _count: u32,
    _options: Array<i32>,
    _values: Array<usize>,
) -> i32 {
    beside("cuLinkAddData_v2", |_, _| match kind {
        INPUT_PTX if !jit() => Err(Code::UNSUPPORTED_PTX_VERSION),
        _ => Err(Code::NOT_SUPPORTED),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkComplete(_linker: usize, _cubin: Out<usize>, _bytes: Out<usize>) -> i32 {
    beside("cuLinkComplete", |_, _| Err(Code::NOT_SUPPORTED))
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkDestroy(_linker: usize) -> i32 {
    beside("cuLinkDestroy", |_, _| Ok(()))
}

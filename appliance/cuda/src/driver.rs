//! The calls of NVIDIA's driver that this crate makes, each behind a function that is safe to call.
//!
//! Invariants:
//! - Every call that is ever made is found by name when the library is mapped; a driver that lacks one is refused
//!   then, in words, before anything else is done with it.
//! - What a call returns is a number until [`Refused`] names it. `cudarc` declares it as a Rust enum of the codes that
//!   were known when it was written, and any other value in it would be undefined behaviour; a newer driver has more.
//! - The library is `libcuda.so.1` as the loader finds it. `cudarc` would take a `libcuda.so` first, which on a
//!   machine with a toolkit is a stub that can do nothing.
//!
//! So `cudarc` gives the types, and the compiler compares each declaration below with its own.
//!
//! Handles are plain numbers to us; they are made here only, and contexts, modules, streams and events live as long
//! as the process, which runs one job. A [`DevicePointer`] is not checked: the device checks, and what a kernel may
//! do to the device's memory, a copy may as well.
#![expect(unsafe_code, reason = "the driver is a C library, opened at run time")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ushort, c_void};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use bundle::Version;
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUmodule,
    CUresult, CUstream, CUuuid,
};
use libloading::Library;

use cuda::class::Class;

use crate::launch::Arguments;

/// The driver's library, by the only name under which every driver has it.
pub(crate) const LIBRARY: &str = "libcuda.so.1";

/// The longest name of a device, in bytes; those in use have some 40.
const NAME_BYTES_MAX: usize = 128;

/// A driver that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The loader does not find the library, or one that it needs.
    #[error("the NVIDIA driver's library {LIBRARY} cannot be loaded: install the driver, or serve without a GPU")]
    Library(#[source] libloading::Error),
    /// The library is not as old or as new as it must be.
    #[error("the NVIDIA driver's {LIBRARY} has no call {name}: it is older than 525 or damaged, so install another")]
    Call {
        /// What is missing.
        name: &'static str,
        /// What the loader said.
        #[source]
        source: libloading::Error,
    },
}

/// The driver said no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} ended with {name} ({code})")]
pub(crate) struct Refused {
    /// Which call.
    pub(crate) call: &'static str,
    /// The `CUresult`.
    pub(crate) code: i32,
    /// The driver's name of it.
    pub(crate) name: String,
}

/// The driver's library, mapped, and all that is called of it.
#[derive(Debug)]
pub(crate) struct Driver {
    calls: Calls,
}

/// A device, by the driver's number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device(CUdevice);

/// An address in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevicePointer(CUdeviceptr);

/// A module of machine code on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module(CUmodule);

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel(CUfunction);

/// An order in which the device does things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream(CUstream);

/// A point in a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event(CUevent);

/// Memory of the host that the device reads and writes at full speed. Lives as long as the process. A kernel can reach
/// it, too, so nothing but the job's own inputs and outputs is ever in it.
#[derive(Debug)]
pub(crate) struct Pinned {
    address: *mut u8,
    bytes: usize,
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Blocks in x, y and z.
    pub(crate) grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub(crate) block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub(crate) shared_bytes: u32,
}

macro_rules! calls {
    ($($name:ident($($argument:ty),*);)*) => {
        /// One pointer for each call, with the result as the number that it is.
        #[derive(Debug)]
        #[expect(non_snake_case, reason = "the driver's own names")]
        struct Calls {
            $($name: unsafe extern "C" fn($($argument),*) -> c_uint,)*
            cuGetErrorName: unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint,
        }

        impl Calls {
            fn find(library: &Library) -> Result<Self, LoadError> {
                // SAFETY: each is called with the arguments that its declaration below names, and that declaration
                // is the one in cudarc's bindings, or the program does not compile; `CUresult` is a C enum without
                // negative values, which the ABI passes as an unsigned int. The last differs in that alone.
                unsafe {
                    Ok(Self {
                        $($name: find(library, stringify!($name))?,)*
                        cuGetErrorName: find(library, "cuGetErrorName")?,
                    })
                }
            }
        }

        const _: () = {
            $(let _: unsafe fn($($argument),*) -> CUresult = sys::$name;)*
            let _: unsafe fn(CUresult, *mut *const c_char) -> CUresult = sys::cuGetErrorName;
        };
    };
}

calls! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetUuid_v2(*mut CUuuid, CUdevice);
    cuDeviceGetAttribute(*mut c_int, CUdevice_attribute, CUdevice);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuCtxSetCurrent(CUcontext);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemAllocHost_v2(*mut *mut c_void, usize);
    cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
    cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
    cuMemsetD16Async(CUdeviceptr, c_ushort, usize, CUstream);
    cuMemsetD32Async(CUdeviceptr, c_uint, usize, CUstream);
    cuModuleLoadData(*mut CUmodule, *const c_void);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuFuncSetAttribute(CUfunction, CUfunction_attribute, c_int);
    cuLaunchKernel(
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void,
        *mut *mut c_void
    );
    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamSynchronize(CUstream);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventRecord(CUevent, CUstream);
    cuEventSynchronize(CUevent);
    cuEventElapsedTime(*mut f32, CUevent, CUevent);
}

/// `CU_STREAM_NON_BLOCKING`: nothing else runs on the device, so nothing is to be waited for.
const STREAM_NON_BLOCKING: c_uint = 1;

/// # Safety
/// `F` is the type of the function that the library exports as `name`, and outlives no call of it.
unsafe fn find<F: Copy>(library: &Library, name: &'static str) -> Result<F, LoadError> {
    // SAFETY: the caller's.
    let found = unsafe { library.get::<F>(name) };
    found.map(|call| *call).map_err(|source| LoadError::Call { name, source })
}

// === impl Refused ===

impl Refused {
    /// The kind of failure.
    pub(crate) fn class(&self) -> Class {
        Class::of(self.code)
    }
}

// === impl Driver ===

impl Driver {
    /// Maps the library and finds every call, without making any.
    ///
    /// # Errors
    /// [`LoadError`]: what is missing.
    pub(crate) fn load() -> Result<Self, LoadError> {
        // SAFETY: the driver's library may run code when it is mapped, as it does in every CUDA program; the loader's
        // path is the starter's to choose, and no other thread runs yet.
        let library = unsafe { Library::new(LIBRARY) }.map_err(LoadError::Library)?;
        let calls = Calls::find(&library)?;
        // Never unmapped: the pointers in `calls` must stay good, and the driver has threads of its own.
        std::mem::forget(library);
        Ok(Self { calls })
    }

    /// Begins; everything but [`Self::version`] comes after this.
    pub(crate) fn init(&self) -> Result<(), Refused> {
        // SAFETY: no pointers; 0 is the only flag that is allowed.
        self.check("cuInit", unsafe { (self.calls.cuInit)(0) })
    }

    /// The newest CUDA that the driver supports.
    pub(crate) fn version(&self) -> Result<Version, Refused> {
        let mut number: c_int = 0;
        // SAFETY: one integer is written, and it is ours.
        self.check("cuDriverGetVersion", unsafe { (self.calls.cuDriverGetVersion)(&raw mut number) })?;
        let number = number.unsigned_abs();
        Ok(Version { major: number / 1000, minor: number % 1000 / 10 })
    }

    /// Devices that the driver sees, after `CUDA_VISIBLE_DEVICES`.
    pub(crate) fn devices(&self) -> Result<Vec<Device>, Refused> {
        let mut count: c_int = 0;
        // SAFETY: one integer is written, and it is ours.
        self.check("cuDeviceGetCount", unsafe { (self.calls.cuDeviceGetCount)(&raw mut count) })?;
        (0..count).map(|ordinal| self.device(ordinal)).collect()
    }

    /// The device with this number.
    pub(crate) fn device(&self, ordinal: c_int) -> Result<Device, Refused> {
        let mut device: CUdevice = 0;
        // SAFETY: one integer is written, and it is ours.
        self.check("cuDeviceGet", unsafe { (self.calls.cuDeviceGet)(&raw mut device, ordinal) })?;
        Ok(Device(device))
    }

    /// The driver's name of the device.
    pub(crate) fn name(&self, device: Device) -> Result<String, Refused> {
        let mut name = [0_u8; NAME_BYTES_MAX];
        let length = c_int::try_from(NAME_BYTES_MAX - 1).expect("a small number");
        // SAFETY: at most `length` bytes are written, one less than there are, so that a zero stays behind them.
        let result = unsafe { (self.calls.cuDeviceGetName)(name.as_mut_ptr().cast(), length, device.0) };
        self.check("cuDeviceGetName", result)?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// `GPU-` and the UUID.
    pub(crate) fn uuid(&self, device: Device) -> Result<String, Refused> {
        let mut uuid = CUuuid { bytes: [0; 16] };
        // SAFETY: sixteen bytes are written, and they are ours.
        self.check("cuDeviceGetUuid", unsafe { (self.calls.cuDeviceGetUuid_v2)(&raw mut uuid, device.0) })?;
        let mut text = String::from("GPU");
        for (at, byte) in uuid.bytes.into_iter().enumerate() {
            let dash = if matches!(at, 0 | 4 | 6 | 8 | 10) { "-" } else { "" };
            text.push_str(&format!("{dash}{:02x}", byte.cast_unsigned()));
        }
        Ok(text)
    }

    /// Major and minor.
    pub(crate) fn compute_capability(&self, device: Device) -> Result<(u32, u32), Refused> {
        let attribute = |attribute| {
            let mut value: c_int = 0;
            // SAFETY: one integer is written, and it is ours.
            let result = unsafe { (self.calls.cuDeviceGetAttribute)(&raw mut value, attribute, device.0) };
            self.check("cuDeviceGetAttribute", result).map(|()| value.unsigned_abs())
        };
        Ok((
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ))
    }

    /// Memory of the device, in bytes.
    pub(crate) fn total_bytes(&self, device: Device) -> Result<u64, Refused> {
        let mut bytes = 0_usize;
        // SAFETY: one size is written, and it is ours.
        self.check("cuDeviceTotalMem", unsafe { (self.calls.cuDeviceTotalMem_v2)(&raw mut bytes, device.0) })?;
        Ok(wide(bytes))
    }

    /// Makes the device's primary context and works in it from now on; what follows needs this.
    pub(crate) fn enter(&self, device: Device) -> Result<(), Refused> {
        let mut context: CUcontext = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours.
        let result = unsafe { (self.calls.cuDevicePrimaryCtxRetain)(&raw mut context, device.0) };
        self.check("cuDevicePrimaryCtxRetain", result)?;
        // SAFETY: the context was just made, and is never released.
        self.check("cuCtxSetCurrent", unsafe { (self.calls.cuCtxSetCurrent)(context) })
    }

    /// Free and all memory of the device, in bytes.
    pub(crate) fn memory(&self) -> Result<(u64, u64), Refused> {
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: two sizes are written, and they are ours.
        self.check("cuMemGetInfo", unsafe { (self.calls.cuMemGetInfo_v2)(&raw mut free, &raw mut total) })?;
        Ok((wide(free), wide(total)))
    }

    /// Memory of the device; what is in it is not known.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<DevicePointer, Refused> {
        let mut pointer: CUdeviceptr = 0;
        // SAFETY: one address is written, and it is ours.
        self.check("cuMemAlloc", unsafe { (self.calls.cuMemAlloc_v2)(&raw mut pointer, narrow(bytes)) })?;
        Ok(DevicePointer(pointer))
    }

    /// Gives memory of the device back.
    pub(crate) fn free(&self, pointer: DevicePointer) -> Result<(), Refused> {
        // SAFETY: no memory of the host; the driver refuses an address that it did not give.
        self.check("cuMemFree", unsafe { (self.calls.cuMemFree_v2)(pointer.0) })
    }

    /// Memory of the host for copies, filled with zeros.
    pub(crate) fn pinned(&self, bytes: usize) -> Result<Pinned, Refused> {
        let mut address: *mut c_void = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours.
        self.check("cuMemAllocHost", unsafe { (self.calls.cuMemAllocHost_v2)(&raw mut address, bytes) })?;
        let address: *mut u8 = address.cast();
        // SAFETY: the driver gave `bytes` bytes here, and nobody else knows the address.
        unsafe { address.write_bytes(0, bytes) };
        Ok(Pinned { address, bytes })
    }

    /// Begins a copy of the first `bytes` bytes of `from` to the device, and puts `done` behind it.
    ///
    /// The caller touches `from` again after [`Self::wait`] for `done`; until then the device reads it.
    pub(crate) fn upload(
        &self,
        from: &Pinned,
        to: DevicePointer,
        bytes: usize,
        stream: Stream,
        done: Event,
    ) -> Result<(), Refused> {
        assert!(bytes <= from.bytes, "a copy of more than the buffer has");
        let address: *const c_void = from.address.cast_const().cast();
        // SAFETY: `from` has that many bytes and lives as long as the process, so the device may read it at any time.
        let result = unsafe { (self.calls.cuMemcpyHtoDAsync_v2)(to.0, address, bytes, stream.0) };
        self.check("cuMemcpyHtoDAsync", result)?;
        self.record(done, stream)
    }

    /// Begins a copy of `bytes` bytes from the device to the beginning of `to`, and puts `done` behind it.
    ///
    /// The caller looks at `to` after [`Self::wait`] for `done`; it is borrowed for the call alone, as a device has
    /// no lifetimes.
    pub(crate) fn download(
        &self,
        from: DevicePointer,
        to: &mut Pinned,
        bytes: usize,
        stream: Stream,
        done: Event,
    ) -> Result<(), Refused> {
        assert!(bytes <= to.bytes, "a copy of more than the buffer holds");
        // SAFETY: `to` has that many bytes and lives as long as the process; they are plain bytes, of which every
        // value is good, so one that is read too early is wrong but not undefined.
        let result = unsafe { (self.calls.cuMemcpyDtoHAsync_v2)(to.address.cast(), from.0, bytes, stream.0) };
        self.check("cuMemcpyDtoHAsync", result)?;
        self.record(done, stream)
    }

    /// Copies within the device.
    pub(crate) fn copy(&self, from: DevicePointer, to: DevicePointer, bytes: u64, on: Stream) -> Result<(), Refused> {
        // SAFETY: addresses of the device's memory, which the device checks.
        let result = unsafe { (self.calls.cuMemcpyDtoDAsync_v2)(to.0, from.0, narrow(bytes), on.0) };
        self.check("cuMemcpyDtoDAsync", result)
    }

    /// Writes `value` over each of `count` bytes.
    pub(crate) fn fill_8(&self, at: DevicePointer, value: u8, count: u64, on: Stream) -> Result<(), Refused> {
        // SAFETY: an address of the device's memory, which the device checks.
        let result = unsafe { (self.calls.cuMemsetD8Async)(at.0, value, narrow(count), on.0) };
        self.check("cuMemsetD8Async", result)
    }

    /// Writes `value` over each of `count` 16-bit words.
    pub(crate) fn fill_16(&self, at: DevicePointer, value: u16, count: u64, on: Stream) -> Result<(), Refused> {
        // SAFETY: an address of the device's memory, which the device checks.
        let result = unsafe { (self.calls.cuMemsetD16Async)(at.0, value, narrow(count), on.0) };
        self.check("cuMemsetD16Async", result)
    }

    /// Writes `value` over each of `count` 32-bit words.
    pub(crate) fn fill_32(&self, at: DevicePointer, value: u32, count: u64, on: Stream) -> Result<(), Refused> {
        // SAFETY: an address of the device's memory, which the device checks.
        let result = unsafe { (self.calls.cuMemsetD32Async)(at.0, value, narrow(count), on.0) };
        self.check("cuMemsetD32Async", result)
    }

    /// Loads machine code.
    ///
    /// The driver is not told how long `image` is: it reads as far as the tables in it say. So `image` is a
    /// [`crate::image::Image`], whose tables lie within it.
    pub(crate) fn load_module(&self, image: &crate::image::Image) -> Result<Module, Refused> {
        let mut module: CUmodule = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours; the image's headers and tables lie within its bytes. What
        // its sections make the driver do is as trusted as the sections: this process holds nothing but one job.
        let result = unsafe { (self.calls.cuModuleLoadData)(&raw mut module, image.bytes().as_ptr().cast()) };
        self.check("cuModuleLoadData", result)?;
        Ok(Module(module))
    }

    /// A kernel of `module`.
    pub(crate) fn kernel(&self, module: Module, name: &CStr) -> Result<Kernel, Refused> {
        let mut kernel: CUfunction = ptr::null_mut();
        // SAFETY: the module was loaded and never is unloaded; the name ends with a zero.
        let result = unsafe { (self.calls.cuModuleGetFunction)(&raw mut kernel, module.0, name.as_ptr()) };
        self.check("cuModuleGetFunction", result)?;
        Ok(Kernel(kernel))
    }

    /// Lets launches of `kernel` ask for up to `bytes` of dynamic shared memory; without this, 48 KiB.
    pub(crate) fn allow_shared_bytes(&self, kernel: Kernel, bytes: u32) -> Result<(), Refused> {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        // SAFETY: the kernel's module is loaded; no pointers of the host.
        let result = unsafe { (self.calls.cuFuncSetAttribute)(kernel.0, attribute, bytes) };
        self.check("cuFuncSetAttribute", result)
    }

    /// Begins a launch. The arguments are copied before this returns.
    pub(crate) fn launch(
        &self,
        kernel: Kernel,
        shape: Shape,
        arguments: &Arguments,
        on: Stream,
    ) -> Result<(), Refused> {
        let Shape { grid: [x, y, z], block: [u, v, w], shared_bytes } = shape;
        let table = arguments.table().as_ptr().cast_mut();
        // SAFETY: the kernel's module is loaded. The driver reads from the table as many addresses as the kernel has
        // parameters, and at each as many bytes as the parameter has; `Arguments` has more of both than a kernel can
        // have. It writes to neither. The last argument is the other way to give parameters, not used.
        let result = unsafe {
            (self.calls.cuLaunchKernel)(kernel.0, x, y, z, u, v, w, shared_bytes, on.0, table, ptr::null_mut())
        };
        self.check("cuLaunchKernel", result)
    }

    /// A new order of things.
    pub(crate) fn stream(&self) -> Result<Stream, Refused> {
        let mut stream: CUstream = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours.
        self.check("cuStreamCreate", unsafe { (self.calls.cuStreamCreate)(&raw mut stream, STREAM_NON_BLOCKING) })?;
        Ok(Stream(stream))
    }

    /// Waits until the device has done all that was put on `stream`. A fault of what it did is told here.
    pub(crate) fn drain(&self, stream: Stream) -> Result<(), Refused> {
        // SAFETY: the stream was made and is never destroyed.
        self.check("cuStreamSynchronize", unsafe { (self.calls.cuStreamSynchronize)(stream.0) })
    }

    /// A new event, at no point yet.
    pub(crate) fn event(&self) -> Result<Event, Refused> {
        let mut event: CUevent = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours; flag 0 is an event that keeps the time.
        self.check("cuEventCreate", unsafe { (self.calls.cuEventCreate)(&raw mut event, 0) })?;
        Ok(Event(event))
    }

    /// Puts `event` behind all that is on `stream`.
    pub(crate) fn record(&self, event: Event, stream: Stream) -> Result<(), Refused> {
        // SAFETY: both were made and are never destroyed.
        self.check("cuEventRecord", unsafe { (self.calls.cuEventRecord)(event.0, stream.0) })
    }

    /// Waits until the device has reached `event`, at once if it never was put anywhere.
    pub(crate) fn wait(&self, event: Event) -> Result<(), Refused> {
        // SAFETY: the event was made and is never destroyed.
        self.check("cuEventSynchronize", unsafe { (self.calls.cuEventSynchronize)(event.0) })
    }

    /// Milliseconds between two events that the device has reached.
    pub(crate) fn elapsed_ms(&self, from: Event, until: Event) -> Result<f64, Refused> {
        let mut elapsed_ms = 0_f32;
        // SAFETY: one number is written, and it is ours; both events were made and are never destroyed.
        let result = unsafe { (self.calls.cuEventElapsedTime)(&raw mut elapsed_ms, from.0, until.0) };
        self.check("cuEventElapsedTime", result)?;
        Ok(f64::from(elapsed_ms))
    }

    fn check(&self, call: &'static str, result: c_uint) -> Result<(), Refused> {
        if result == 0 {
            return Ok(());
        }
        let mut name: *const c_char = ptr::null();
        // SAFETY: one pointer is written, and it is ours. A code that the driver does not know is refused.
        let named = unsafe { (self.calls.cuGetErrorName)(result, &raw mut name) };
        let name = if named == 0 && !name.is_null() {
            // SAFETY: the driver points to a text of its own that ends with a zero and stays.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        } else {
            "a code without a name".to_owned()
        };
        Err(Refused { call, code: i32::try_from(result).unwrap_or(i32::MAX), name })
    }
}

// === impl DevicePointer ===

impl DevicePointer {
    /// The address that is `bytes` further on.
    pub(crate) fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// What a kernel gets as its argument.
    pub(crate) fn address(self) -> u64 {
        self.0
    }

    /// An address that no driver gave, for tests of what is done with addresses.
    #[cfg(test)]
    pub(crate) fn at(address: u64) -> Self {
        Self(address)
    }
}

// === impl Pinned ===

impl Pinned {
    /// The bytes, to be read or written while no copy is under way.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the driver gave these bytes, they were initialised, and they live as long as the process; this is
        // the only reference. A copy that the caller let run on changes bytes, of which every value is good.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a pointer has at most 64 bits")
}

fn narrow(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The socket that whoever started this process left at descriptor `number`. Called once, before anything is opened.
///
/// It stands here because a descriptor that is only a number is, like all of the above, what the types cannot see.
///
/// # Errors
/// What the kernel says if there is no such descriptor.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for the next call alone, which fails if nothing is open there.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(there)?;
    // SAFETY: it is open, and nothing in this process has opened it or knows of it: what this process opens gets
    // numbers of its own, and this is called once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

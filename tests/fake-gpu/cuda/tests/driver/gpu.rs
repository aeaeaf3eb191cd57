//! Calls through cudarc, each with its `CUresult` as a number.
#![expect(unsafe_code, reason = "cudarc's `result` and `sys` levels are unsafe")]

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

/// A call's `CUresult`; 0 is success.
pub(crate) type Code = i32;

/// The primary context of device 0, current on this thread.
#[derive(Debug)]
pub(crate) struct Worker {
    _context: Arc<CudaContext>,
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    Address(u64),
    U32(u32),
}

/// Grid, block, shared bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape(pub(crate) [u32; 3], pub(crate) [u32; 3], pub(crate) u32);

pub(crate) fn code<T>(result: Result<T, DriverError>) -> Code {
    result.map_or_else(|error| error.0 as Code, |_| 0)
}

pub(crate) fn has_symbol(name: &str) -> bool {
    // SAFETY: the library is there, and the address is only compared with nothing.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()).is_ok() }
}

pub(crate) fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: the pointer is to a local.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    assert_eq!(code.result(), Ok(()));
    version
}

pub(crate) fn describe(ordinal: i32) -> Result<String, DriverError> {
    let device = result::device::get(ordinal)?;
    let (name, uuid) = (result::device::get_name(device)?, result::device::get_uuid(device)?);
    let mut capability = [0; 2];
    let attributes = [
        sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    ];
    for (value, attribute) in capability.iter_mut().zip(attributes) {
        // SAFETY: the device comes from `get`.
        *value = unsafe { result::device::get_attribute(device, attribute)? };
    }
    // SAFETY: as above.
    let bytes = unsafe { result::device::total_mem(device)? };
    let uuid: String = uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{name} {}.{} {uuid} {bytes} bytes", capability[0], capability[1]))
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new() -> Result<Worker, DriverError> {
        CudaContext::new(0).map(|context| Worker { _context: context })
    }

    pub(crate) fn load(&self, image: &[u8]) -> Result<sys::CUmodule, DriverError> {
        // SAFETY: the image says its own length, or ends with NUL.
        unsafe { result::module::load_data(image.as_ptr().cast()) }
    }

    pub(crate) fn function(&self, module: sys::CUmodule, name: &str) -> Result<sys::CUfunction, DriverError> {
        let name = CString::new(name).expect("a name without NUL");
        // SAFETY: the module was loaded and is never unloaded.
        unsafe { result::module::get_function(module, name) }
    }

    pub(crate) fn allow_shared(&self, function: sys::CUfunction, bytes: i32) -> Result<(), DriverError> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module is never unloaded.
        unsafe { result::function::set_function_attribute(function, attribute, bytes) }
    }

    pub(crate) fn launch(
        &self,
        function: sys::CUfunction,
        shape: Shape,
        arguments: &[Argument],
    ) -> Result<(), DriverError> {
        let mut pointers: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Address(address) => (&raw const *address).cast_mut().cast(),
                Argument::U32(number) => (&raw const *number).cast_mut().cast(),
            })
            .collect();
        let Shape([x, y, z], [bx, by, bz], shared) = shape;
        // SAFETY: the pointers live as long as the call, which copies what they point to.
        unsafe {
            result::launch_kernel(function, (x, y, z), (bx, by, bz), shared, result::stream::null(), &mut pointers)
        }
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<u64, DriverError> {
        // SAFETY: the address is only passed back to the driver.
        unsafe { result::malloc_sync(bytes) }
    }

    pub(crate) fn free(&self, address: u64) -> Result<(), DriverError> {
        // SAFETY: this driver refuses an address that it did not give.
        unsafe { result::free_sync(address) }
    }

    pub(crate) fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        // SAFETY: the copy is over when the call returns, and this driver checks the range.
        unsafe { result::memcpy_htod_sync(address, bytes) }
    }

    pub(crate) fn download(&self, address: u64, bytes: usize) -> Result<Vec<u8>, DriverError> {
        let mut target = vec![0; bytes];
        // SAFETY: as in `upload`.
        unsafe { result::memcpy_dtoh_sync(&mut target, address) }.map(|()| target)
    }

    pub(crate) fn event(&self) -> Result<sys::CUevent, DriverError> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        // SAFETY: the event was made here and is never destroyed.
        unsafe { result::event::record(event, result::stream::null()) }.map(|()| event)
    }

    pub(crate) fn query(&self, event: sys::CUevent) -> Result<(), DriverError> {
        // SAFETY: events are never destroyed.
        unsafe { result::event::query(event) }
    }

    pub(crate) fn milliseconds(&self, begin: sys::CUevent, end: sys::CUevent) -> Result<f32, DriverError> {
        // SAFETY: events are never destroyed.
        unsafe { result::event::elapsed(begin, end) }
    }
}

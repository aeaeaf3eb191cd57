//! A bare CUDA program: the driver's calls and nothing around them. What a bundle costs is measured against this.
//!
//! It does what the plan of a bundle's function says, as one writes it by hand: load the module, allocate, copy the
//! inputs, launch, copy the outputs. It runs as a child process of the report, so that it has its own context, and prints
//! a [`Ran`]. The code and inputs are the report's own; no stranger's bundle ever comes here.
//!
//! Results are numbers until they are checked, as in the worker: see `appliance/cuda/src/driver.rs`.
#![expect(unsafe_code, reason = "the driver is a C library, opened at run time")]

use std::ffi::{CString, c_char, c_int, c_uint, c_ushort, c_void};
use std::path::PathBuf;
use std::ptr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bundle::{Argument, Bundle, Digest, Kind, Launch, Operation, Parameters, Plan, View};
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUmodule, CUresult, CUstream,
};
use libloading::Library;
use serde::{Deserialize, Serialize};

/// Places for arguments, each of 8 bytes; more than a launch of a bundle has.
const ARGUMENTS: usize = 64;

/// Dynamic shared memory that every launch may have without asking, in bytes.
const SHARED_BYTES_UNASKED: u32 = 48 << 10;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Order {
    /// A bundle
    #[arg(long)]
    archive: PathBuf,
    /// Which function of it
    #[arg(long)]
    function: String,
    /// A JSON file with its parameters
    #[arg(long)]
    parameters: PathBuf,
    /// A file with its inputs, one behind the other
    #[arg(long)]
    inputs: PathBuf,
    /// Machine code of each PTX module, in order
    #[arg(long = "cubin")]
    cubins: Vec<PathBuf>,
}

/// What it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) marks_ms: Vec<f64>,
    pub(crate) init_us: u64,
    pub(crate) context_us: u64,
    pub(crate) load_us: u64,
    pub(crate) upload_us: u64,
    pub(crate) run_us: u64,
    pub(crate) download_us: u64,
    /// What the outputs hash to.
    pub(crate) outputs: Digest,
}

macro_rules! calls {
    ($($name:ident($($argument:ty),*);)*) => {
        #[expect(non_snake_case, reason = "the driver's own names")]
        struct Calls {
            $($name: unsafe extern "C" fn($($argument),*) -> c_uint,)*
        }

        impl Calls {
            fn find(library: &Library) -> Result<Self> {
                // SAFETY: each is called with the arguments that its declaration below names, and that declaration is
                // the one in cudarc's bindings, or the program does not compile; `CUresult` is a C enum without
                // negative values, which the ABI passes as an unsigned int.
                unsafe { Ok(Self { $($name: *library.get(stringify!($name)).context(stringify!($name))?,)* }) }
            }
        }

        const _: () = {
            $(let _: unsafe fn($($argument),*) -> CUresult = sys::$name;)*
        };
    };
}

calls! {
    cuInit(c_uint);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuCtxSetCurrent(CUcontext);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
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
    cuEventElapsedTime(*mut f32, CUevent, CUevent);
}

/// The driver, and what is on the device.
struct Program {
    calls: Calls,
    stream: CUstream,
    kernels: Vec<CUfunction>,
    buffers: Vec<CUdeviceptr>,
    marks: Vec<CUevent>,
    begin: CUevent,
}

/// Does it, and prints what it took.
pub(crate) fn run(order: &Order) -> Result<()> {
    let archive = std::fs::read(&order.archive)?;
    let bundle = Bundle::parse(&archive)?;
    let parameters: Parameters = serde_json::from_slice(&std::fs::read(&order.parameters)?)?;
    let plan = bundle.function(&order.function).context("no such function")?.plan(&parameters)?;
    let inputs = std::fs::read(&order.inputs)?;
    ensure!(u64::try_from(inputs.len())? == plan.input_bytes(), "inputs of another length");
    let mut codes = Vec::new();
    let mut cubins = order.cubins.iter();
    for module in bundle.modules() {
        codes.push(match module.kind() {
            Kind::Ptx => std::fs::read(cubins.next().context("a PTX module without its machine code")?)?,
            Kind::Cubin | Kind::Fatbin => module.bytes().to_vec(),
        });
    }
    println!("{}", serde_json::to_string(&Program::perform(&plan, &codes, &inputs)?)?);
    Ok(())
}

// === impl Program ===

impl Program {
    fn perform(plan: &Plan, codes: &[Vec<u8>], inputs: &[u8]) -> Result<Ran> {
        let began = Instant::now();
        // SAFETY: the driver's library may run code when it is mapped, as in every CUDA program; no other thread runs.
        let library = unsafe { Library::new("libcuda.so.1") }.context("load the driver")?;
        let calls = Calls::find(&library)?;
        // Never unmapped: the pointers must stay good.
        std::mem::forget(library);
        // SAFETY: no pointers.
        check("cuInit", unsafe { (calls.cuInit)(0) })?;
        let init_us = us(began);

        let since = Instant::now();
        let mut program = Self::enter(calls)?;
        let context_us = us(since);

        let since = Instant::now();
        program.load(plan, codes)?;
        let load_us = us(since);

        program.allocate(plan)?;
        let since = Instant::now();
        program.upload(plan, inputs)?;
        let upload_us = us(since);

        let since = Instant::now();
        program.operate(plan)?;
        let run_us = us(since);

        let mut outputs = vec![0_u8; usize::try_from(plan.output_bytes())?];
        let since = Instant::now();
        program.download(plan, &mut outputs)?;
        let download_us = us(since);
        let marks_ms = program.marks_ms()?;
        let outputs = Digest::of(&outputs);
        Ok(Ran { marks_ms, init_us, context_us, load_us, upload_us, run_us, download_us, outputs })
    }

    fn enter(calls: Calls) -> Result<Self> {
        let mut device: CUdevice = 0;
        // SAFETY: one integer is written, and it is ours.
        check("cuDeviceGet", unsafe { (calls.cuDeviceGet)(&raw mut device, 0) })?;
        let mut context: CUcontext = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours.
        check("cuDevicePrimaryCtxRetain", unsafe { (calls.cuDevicePrimaryCtxRetain)(&raw mut context, device) })?;
        // SAFETY: the context was just made, and is never released.
        check("cuCtxSetCurrent", unsafe { (calls.cuCtxSetCurrent)(context) })?;
        let mut stream: CUstream = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours; 1 is a stream that waits for no other.
        check("cuStreamCreate", unsafe { (calls.cuStreamCreate)(&raw mut stream, 1) })?;
        let mut program =
            Self { calls, stream, kernels: Vec::new(), buffers: Vec::new(), marks: Vec::new(), begin: ptr::null_mut() };
        program.begin = program.event()?;
        Ok(program)
    }

    fn event(&self) -> Result<CUevent> {
        let mut event: CUevent = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours; flag 0 is an event that keeps the time.
        check("cuEventCreate", unsafe { (self.calls.cuEventCreate)(&raw mut event, 0) })?;
        Ok(event)
    }

    /// The kernel of each launch of the plan, in the plan's order.
    fn load(&mut self, plan: &Plan, codes: &[Vec<u8>]) -> Result<()> {
        let mut modules: Vec<Option<CUmodule>> = vec![None; codes.len()];
        let mut found: Vec<(usize, &str, CUfunction)> = Vec::new();
        for operation in &plan.operations {
            let Operation::Launch(launch) = operation else { continue };
            let known = found.iter().find(|(module, name, _)| *module == launch.module && *name == launch.kernel);
            let kernel = match known {
                Some((_, _, kernel)) => *kernel,
                None => {
                    let module = match modules[launch.module] {
                        Some(module) => module,
                        None => self.module(&codes[launch.module])?,
                    };
                    modules[launch.module] = Some(module);
                    let kernel = self.kernel(module, launch)?;
                    found.push((launch.module, &launch.kernel, kernel));
                    kernel
                }
            };
            self.kernels.push(kernel);
        }
        for _ in &plan.marks {
            let event = self.event()?;
            self.marks.push(event);
        }
        Ok(())
    }

    fn module(&self, code: &[u8]) -> Result<CUmodule> {
        let mut module: CUmodule = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours; the code is a whole cubin of the report's own build.
        check("cuModuleLoadData", unsafe { (self.calls.cuModuleLoadData)(&raw mut module, code.as_ptr().cast()) })?;
        Ok(module)
    }

    fn kernel(&self, module: CUmodule, launch: &Launch) -> Result<CUfunction> {
        let name = CString::new(launch.kernel.as_str())?;
        let mut kernel: CUfunction = ptr::null_mut();
        // SAFETY: one pointer is written, and it is ours; the module stays loaded; the name ends with a zero.
        let result = unsafe { (self.calls.cuModuleGetFunction)(&raw mut kernel, module, name.as_ptr()) };
        check("cuModuleGetFunction", result)?;
        if launch.shared_bytes > SHARED_BYTES_UNASKED {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = c_int::try_from(launch.shared_bytes)?;
            // SAFETY: the kernel's module is loaded; no pointers of the host.
            check("cuFuncSetAttribute", unsafe { (self.calls.cuFuncSetAttribute)(kernel, attribute, bytes) })?;
        }
        Ok(kernel)
    }

    fn allocate(&mut self, plan: &Plan) -> Result<()> {
        for buffer in &plan.buffers {
            let mut pointer: CUdeviceptr = 0;
            let bytes = usize::try_from(buffer.bytes)?;
            // SAFETY: one address is written, and it is ours.
            check("cuMemAlloc", unsafe { (self.calls.cuMemAlloc_v2)(&raw mut pointer, bytes) })?;
            self.buffers.push(pointer);
        }
        Ok(())
    }

    fn upload(&self, plan: &Plan, mut inputs: &[u8]) -> Result<()> {
        for (buffer, pointer) in plan.buffers.iter().zip(&self.buffers) {
            let bytes = usize::try_from(buffer.bytes)?;
            if buffer.has_input {
                let (own, rest) = inputs.split_at_checked(bytes).context("too few inputs")?;
                // SAFETY: `own` has that many bytes and is not touched before the stream is drained below.
                let result =
                    unsafe { (self.calls.cuMemcpyHtoDAsync_v2)(*pointer, own.as_ptr().cast(), bytes, self.stream) };
                check("cuMemcpyHtoDAsync", result)?;
                inputs = rest;
            } else {
                // SAFETY: an address that the driver gave, and as many bytes as were asked for there.
                check("cuMemsetD8Async", unsafe { (self.calls.cuMemsetD8Async)(*pointer, 0, bytes, self.stream) })?;
            }
        }
        self.drain()
    }

    fn operate(&self, plan: &Plan) -> Result<()> {
        self.record(self.begin)?;
        let mut kernels = self.kernels.iter();
        for operation in &plan.operations {
            match operation {
                Operation::Launch(launch) => {
                    self.launch(*kernels.next().context("a launch without kernel")?, launch)?
                }
                Operation::Copy { from, to } => {
                    let bytes = usize::try_from(from.bytes)?;
                    // SAFETY: views of a plan lie in their buffers, which are as long as the plan says.
                    let result =
                        unsafe { (self.calls.cuMemcpyDtoDAsync_v2)(self.at(to), self.at(from), bytes, self.stream) };
                    check("cuMemcpyDtoDAsync", result)?;
                }
                Operation::Fill { view, pattern } => self.fill(view, pattern)?,
                Operation::Mark(mark) => self.record(self.marks[*mark])?,
            }
        }
        self.drain()
    }

    fn launch(&self, kernel: CUfunction, launch: &Launch) -> Result<()> {
        ensure!(launch.arguments.len() <= ARGUMENTS, "too many arguments");
        let mut places = [0_u64; ARGUMENTS];
        for (place, argument) in places.iter_mut().zip(&launch.arguments) {
            *place = match argument {
                Argument::View { view, access: _ } => self.at(view),
                Argument::Scalar(scalar) => {
                    let mut bytes = [0; 8];
                    let little = scalar.to_le_bytes();
                    bytes[..little.len()].copy_from_slice(&little);
                    u64::from_le_bytes(bytes)
                }
            };
        }
        let mut table = places.each_mut().map(|place| ptr::from_mut(place).cast::<c_void>());
        let ([x, y, z], [u, v, w]) = (launch.grid, launch.block);
        // SAFETY: the kernel is loaded; the bundle was parsed, so the kernel takes as many arguments as the launch has,
        // each of at most 8 bytes, which is what every place holds. The driver copies them before it returns.
        let result = unsafe {
            let table = table.as_mut_ptr();
            let shared = launch.shared_bytes;
            (self.calls.cuLaunchKernel)(kernel, x, y, z, u, v, w, shared, self.stream, table, ptr::null_mut())
        };
        check("cuLaunchKernel", result)
    }

    fn fill(&self, view: &View, pattern: &[u8]) -> Result<()> {
        let (at, on) = (self.at(view), self.stream);
        let count = usize::try_from(view.bytes)? / pattern.len().max(1);
        // SAFETY, for each of the three: views of a plan lie in their buffers, which are as long as the plan says.
        let result = match *pattern {
            // SAFETY: see above.
            [a] => unsafe { (self.calls.cuMemsetD8Async)(at, a, count, on) },
            // SAFETY: see above.
            [a, b] => unsafe { (self.calls.cuMemsetD16Async)(at, c_ushort::from_le_bytes([a, b]), count, on) },
            // SAFETY: see above.
            [a, b, c, d] => unsafe {
                (self.calls.cuMemsetD32Async)(at, c_uint::from_le_bytes([a, b, c, d]), count, on)
            },
            _ => bail!("the driver has no fill with {} bytes", pattern.len()),
        };
        check("cuMemset", result)
    }

    fn download(&self, plan: &Plan, mut outputs: &mut [u8]) -> Result<()> {
        for (buffer, pointer) in plan.buffers.iter().zip(&self.buffers).filter(|(buffer, _)| buffer.has_output) {
            let bytes = usize::try_from(buffer.bytes)?;
            let (own, rest) = outputs.split_at_mut_checked(bytes).context("too little room")?;
            // SAFETY: `own` has that many bytes and is not touched before the stream is drained below.
            let result =
                unsafe { (self.calls.cuMemcpyDtoHAsync_v2)(own.as_mut_ptr().cast(), *pointer, bytes, self.stream) };
            check("cuMemcpyDtoHAsync", result)?;
            outputs = rest;
        }
        self.drain()
    }

    fn marks_ms(&self) -> Result<Vec<f64>> {
        let since_begin = |mark: &CUevent| {
            let mut elapsed_ms = 0_f32;
            // SAFETY: one number is written, and it is ours; both events were recorded and reached.
            let result = unsafe { (self.calls.cuEventElapsedTime)(&raw mut elapsed_ms, self.begin, *mark) };
            check("cuEventElapsedTime", result).map(|()| f64::from(elapsed_ms))
        };
        self.marks.iter().map(since_begin).collect()
    }

    fn record(&self, event: CUevent) -> Result<()> {
        // SAFETY: both were made and are never destroyed.
        check("cuEventRecord", unsafe { (self.calls.cuEventRecord)(event, self.stream) })
    }

    fn drain(&self) -> Result<()> {
        // SAFETY: the stream was made and is never destroyed.
        check("cuStreamSynchronize", unsafe { (self.calls.cuStreamSynchronize)(self.stream) })
    }

    fn at(&self, view: &View) -> CUdeviceptr {
        self.buffers[view.buffer].wrapping_add(view.offset_bytes)
    }
}

fn check(call: &str, result: c_uint) -> Result<()> {
    ensure!(result == 0, "{call} ended with {result}");
    Ok(())
}

fn us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

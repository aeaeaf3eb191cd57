//! One launch: what a driver checks before it, how it ends, and what it leaves in memory.
//!
//! A kernel sees each buffer from the pointer's address to the end of its allocation. Two pointers into one allocation get
//! a copy each, and what the kernel writes through is copied back in the order of the parameters.

use std::collections::BTreeMap;

use fake_gpu_edge::Parameters;
use fake_gpu_script::Fault;
use kernels::{Argument, Kind, LaunchError, Parameter};

use crate::code::{Answer, Code};
use crate::context::Work;
use crate::device::shared_bytes_max;
use crate::driver::Driver;
use crate::memory::Memory;

/// Threads of a block.
const BLOCK_THREADS_MAX: u64 = 1024;
/// Dynamic shared memory that a kernel may use without asking for more first.
const SHARED_BYTES_DEFAULT: u32 = 49_152;

/// What a launch is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) function: usize,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
}

/// One argument: a scalar's bytes or a device address.
enum Value {
    Scalar(Vec<u8>),
    Address(u64),
}

/// Runs a launch to its end. A fault becomes the context's state, and the launch succeeds all the same.
/// Errors: what a driver refuses before the kernel starts.
pub(crate) fn launch(driver: &mut Driver, context: usize, request: Request, arguments: Parameters) -> Answer {
    let function = driver.functions.get(&request.function).cloned().ok_or(Code::INVALID_HANDLE)?;
    if !driver.modules.contains_key(&function.module) {
        return Err(Code::INVALID_HANDLE);
    }
    let device = driver.context(context)?.device;
    let shared_max = SHARED_BYTES_DEFAULT.max(function.dynamic_shared_max).min(shared_bytes_max(driver.gpu(device)?));
    check_shape(request, shared_max)?;

    let number = driver.launches;
    driver.launches += 1;
    let fault = match driver.script.cuda.lost_after_launches {
        Some(limit) if driver.launches >= limit => Some(Fault::Lost),
        Some(_) | None => driver.script.cuda.fault(number, &function.kernel),
    };
    if let Some(fault) = fault {
        driver.context(context)?.work = Work::Ended(fault);
        return Ok(());
    }

    let signature = kernels::parameters(&function.kernel).ok_or(Code::NOT_SUPPORTED)?;
    let values = read_arguments(signature, arguments)?;
    let context = driver.context(context)?;
    match run(&mut context.memory, &function.kernel, request, signature, &values) {
        Ok(()) => Ok(()),
        Err(LaunchError::IllegalAddress { .. }) => {
            context.work = Work::Ended(Fault::IllegalAddress);
            Ok(())
        }
        Err(LaunchError::UnknownKernel { .. }) => Err(Code::NOT_FOUND),
        Err(LaunchError::WrongShape { .. } | LaunchError::WrongArgument { .. }) => Err(Code::INVALID_VALUE),
    }
}

fn check_shape(request: Request, shared_max: u32) -> Answer {
    let [_, grid_y, grid_z] = request.grid;
    let threads: u64 = request.block.into_iter().map(u64::from).product();
    let some = request.grid.into_iter().chain(request.block).all(|size| size > 0);
    let grid_fits = request.grid[0] <= 0x7fff_ffff && grid_y <= 65_535 && grid_z <= 65_535;
    let fits =
        grid_fits && threads <= BLOCK_THREADS_MAX && request.block[2] <= 64 && request.shared_bytes <= shared_max;
    if some && fits { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

fn read_arguments(signature: &[Parameter], arguments: Parameters) -> Answer<Vec<Value>> {
    let size = |parameter: &Parameter| match parameter.kind {
        Kind::Pointer { .. } => 8,
        Kind::Scalar { bytes } => usize::try_from(bytes).unwrap_or(usize::MAX),
    };
    let sizes: Vec<usize> = signature.iter().map(size).collect();
    let bytes = arguments.read(&sizes).ok_or(Code::INVALID_VALUE)?;
    let value = |(parameter, bytes): (&Parameter, Vec<u8>)| match parameter.kind {
        Kind::Scalar { .. } => Ok(Value::Scalar(bytes)),
        Kind::Pointer { .. } => <[u8; 8]>::try_from(bytes)
            .map(|bytes| Value::Address(u64::from_le_bytes(bytes)))
            .map_err(|_| Code::INVALID_VALUE),
    };
    signature.iter().zip(bytes).map(value).collect()
}

/// An address outside every allocation is an empty buffer: a kernel that touches it ends badly, and one that does not is
/// none the wiser, as on a GPU.
fn run(
    memory: &mut Memory,
    kernel: &str,
    request: Request,
    signature: &[Parameter],
    values: &[Value],
) -> Result<(), LaunchError> {
    let places: Vec<Option<(u64, usize)>> = values
        .iter()
        .map(|value| match value {
            Value::Scalar(_) => None,
            Value::Address(address) => memory.locate(*address).ok(),
        })
        .collect();
    let mut uses: BTreeMap<u64, usize> = BTreeMap::new();
    for (base, _) in places.iter().flatten() {
        *uses.entry(*base).or_default() += 1;
    }
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    for place in &places {
        buffers.push(match place {
            None => Vec::new(),
            Some((base, _)) if uses.get(base) == Some(&1) => memory.take(*base),
            Some((base, _)) => memory.range(*base, memory.size(*base)).map(|bytes| bytes.to_vec()).unwrap_or_default(),
        });
    }
    let mut arguments: Vec<Argument<'_>> = Vec::new();
    for ((value, place), buffer) in values.iter().zip(&places).zip(&mut buffers) {
        arguments.push(match value {
            Value::Scalar(bytes) => Argument::Scalar(bytes),
            Value::Address(_) => Argument::Buffer(&mut buffer[place.map_or(0, |(_, offset)| offset)..]),
        });
    }
    let ended = kernels::launch(kernel, request.grid, request.block, &mut arguments);
    for ((parameter, place), buffer) in signature.iter().zip(&places).zip(buffers) {
        let Some((base, offset)) = *place else { continue };
        if uses.get(&base) == Some(&1) {
            memory.put(base, buffer);
        } else if matches!(parameter.kind, Kind::Pointer { writes: true, .. }) {
            let length = buffer.len() - offset;
            if let Ok(target) = memory.range(base + offset as u64, length) {
                target.copy_from_slice(&buffer[offset..]);
            }
        }
    }
    ended
}

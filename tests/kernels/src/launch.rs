//! One launch: the name looked up, the arguments compared with the signature, the grid run.

use crate::memory::{Argument, Outside};
use crate::signature::{Kind, Signature, signature};
use crate::{bench, gemm, mlp, n_body, path_tracer};

/// Largest grid in y and z (compute capability 5.0 and later).
const GRID_YZ_MAX: u32 = 65_535;

/// Largest grid in x (compute capability 5.0 and later).
const GRID_X_MAX: u32 = 0x7fff_ffff;

/// Why a launch did not end well. The numbers are what a driver returns (`CUresult`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// 500, `CUDA_ERROR_NOT_FOUND`.
    #[error("no kernel is called {name:?}")]
    UnknownKernel {
        /// As asked for.
        name: String,
    },
    /// The arguments are not those of the signature. A driver cannot notice and passes garbage.
    #[error("{kernel}: argument {position} is not what the signature says")]
    WrongArgument {
        /// Whose signature.
        kernel: &'static str,
        /// Counted from 0; the number of parameters if there are too many arguments.
        position: usize,
    },
    /// 1, `CUDA_ERROR_INVALID_VALUE`: a dimension is 0 or too large, or the block has more threads than the kernel
    /// was compiled for.
    #[error("{kernel}: grid {grid:?} of blocks {block:?} cannot be launched")]
    WrongShape {
        /// Which kernel.
        kernel: &'static str,
        /// Blocks in x, y, z.
        grid: [u32; 3],
        /// Threads in x, y, z.
        block: [u32; 3],
    },
    /// 700, `CUDA_ERROR_ILLEGAL_ADDRESS`. What the launch wrote before it stays written.
    #[error("{kernel}: an access outside a buffer")]
    IllegalAddress {
        /// Which kernel.
        kernel: &'static str,
    },
}

/// How many threads a launch has, and in which blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) grid: [usize; 3],
    pub(crate) block: [usize; 3],
}

/// A kernel on the CPU.
type Body = fn(Shape, &mut [Argument<'_>]) -> Result<(), Outside>;

/// Runs the kernel called `name` to its end.
///
/// `grid` is in blocks and `block` in threads, x first. `arguments` are in the order of [`crate::parameters`]; no two
/// buffers overlap, as `&mut` says.
/// Errors: the first [`LaunchError`] in the order of its variants.
pub fn launch(name: &str, grid: [u32; 3], block: [u32; 3], arguments: &mut [Argument<'_>]) -> Result<(), LaunchError> {
    let (Some(signature), Some(body)) = (signature(name), body(name)) else {
        return Err(LaunchError::UnknownKernel { name: name.to_owned() });
    };
    check_arguments(signature, arguments)?;
    let shape = Shape::of(signature, grid, block)?;
    body(shape, arguments).map_err(|Outside| LaunchError::IllegalAddress { kernel: signature.name })
}

fn body(name: &str) -> Option<Body> {
    Some(match name {
        "backward_hidden" => mlp::backward_hidden,
        "backward_input" => mlp::backward_input,
        "backward_output" => mlp::backward_output,
        "bench_fma_f32" => bench::bench_fma_f32,
        "bench_mma_f16" => bench::bench_mma_f16,
        "forces" => n_body::forces,
        "forward_hidden" => mlp::forward_hidden,
        "forward_output" => mlp::forward_output,
        "gemm_f16" => gemm::gemm_f16,
        "gemm_f32" => gemm::gemm_f32,
        "integrate" => n_body::integrate,
        "output_gradient" => mlp::output_gradient,
        "sgd" => mlp::sgd,
        "tonemap" => path_tracer::tonemap,
        "trace" => path_tracer::trace,
        _ => return None,
    })
}

fn check_arguments(signature: &Signature, arguments: &[Argument<'_>]) -> Result<(), LaunchError> {
    let wrong = |position| LaunchError::WrongArgument { kernel: signature.name, position };
    for (position, parameter) in signature.parameters.iter().enumerate() {
        let argument = arguments.get(position).ok_or_else(|| wrong(position))?;
        let agrees = match (parameter.kind, argument) {
            (Kind::Pointer { .. }, Argument::Buffer(_)) => true,
            (Kind::Scalar { bytes }, Argument::Scalar(given)) => usize::try_from(bytes) == Ok(given.len()),
            (Kind::Pointer { .. }, Argument::Scalar(_)) | (Kind::Scalar { .. }, Argument::Buffer(_)) => false,
        };
        if !agrees {
            return Err(wrong(position));
        }
    }
    if arguments.len() > signature.parameters.len() {
        return Err(wrong(signature.parameters.len()));
    }
    Ok(())
}

// === impl Shape ===

impl Shape {
    fn of(signature: &Signature, grid: [u32; 3], block: [u32; 3]) -> Result<Shape, LaunchError> {
        let wrong = || LaunchError::WrongShape { kernel: signature.name, grid, block };
        let threads = block.iter().try_fold(1_u32, |product, &side| product.checked_mul(side)).ok_or_else(wrong)?;
        let sides = grid.iter().all(|&side| side > 0) && threads > 0 && threads <= signature.threads_max;
        if !sides || grid[0] > GRID_X_MAX || grid[1] > GRID_YZ_MAX || grid[2] > GRID_YZ_MAX {
            return Err(wrong());
        }
        let [x, y, z] = grid.map(usize::try_from);
        let [u, v, w] = block.map(usize::try_from);
        match (x, y, z, u, v, w) {
            (Ok(x), Ok(y), Ok(z), Ok(u), Ok(v), Ok(w)) => Ok(Shape { grid: [x, y, z], block: [u, v, w] }),
            _ => Err(wrong()),
        }
    }

    /// How many threads stand in x.
    pub(crate) fn columns(self) -> usize {
        self.grid[0].saturating_mul(self.block[0])
    }

    /// How many threads stand in y.
    pub(crate) fn rows(self) -> usize {
        self.grid[1].saturating_mul(self.block[1])
    }
}

//! `gemm_f32` and `gemm_f16`: products of matrices.
//!
//! In single precision each element is one chain of fused multiply-adds over k in ascending order, as in the CUDA
//! source, so both give the same bits. A tensor core orders its sums as it likes; here they ascend.

use crate::launch::Shape;
use crate::memory::{Argument, Outside};

/// Rows or columns of C that a block of `gemm_f32` makes, and those of one thread.
const TILE: usize = 64;
const EACH: usize = 4;

/// Rows or columns of C that a block of `gemm_f16` makes, and the part of each of its warps: 2 down, 4 across.
const TENSOR_TILE: usize = 128;
const WARP_ROWS: usize = 64;
const WARP_COLUMNS: usize = 32;
const WARPS_ACROSS: usize = 4;
const WARP: usize = 32;

pub(crate) fn gemm_f32(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let threads: usize = shape.block.iter().product();
    // The thread that owns an element of a tile: 16 stand side by side, each with 4 by 4 elements.
    let owned = |row: usize, column: usize| row / EACH * (TILE / EACH) + column / EACH < threads;
    product(
        arguments,
        |argument, index| argument.f32(index),
        |row, column| row / TILE < shape.grid[1] && column / TILE < shape.grid[0] && owned(row % TILE, column % TILE),
    )
}

pub(crate) fn gemm_f16(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let warps = shape.block.iter().product::<usize>() / WARP;
    let owned = |row: usize, column: usize| row / WARP_ROWS * WARPS_ACROSS + column / WARP_COLUMNS < warps;
    product(
        arguments,
        |argument, index| argument.f16(index),
        |row, column| {
            let here = row / TENSOR_TILE < shape.grid[1] && column / TENSOR_TILE < shape.grid[0];
            here && owned(row % TENSOR_TILE, column % TENSOR_TILE)
        },
    )
}

/// Computes the elements of C that `owned` says a launched thread owns, reading A and B with `element`.
fn product(
    arguments: &mut [Argument<'_>],
    element: impl Fn(&Argument<'_>, usize) -> Result<f32, Outside>,
    owned: impl Fn(usize, usize) -> bool,
) -> Result<(), Outside> {
    let [a, b, c, m, n, k] = arguments else { return Err(Outside) };
    let (m, n, k) = (m.count()?, n.count()?, k.count()?);
    for row in 0..m {
        for column in 0..n {
            if !owned(row, column) {
                continue;
            }
            let mut sum = 0.0_f32;
            for depth in 0..k {
                sum = element(a, row * k + depth)?.mul_add(element(b, depth * n + column)?, sum);
            }
            c.set_f32(row * n + column, sum)?;
        }
    }
    Ok(())
}

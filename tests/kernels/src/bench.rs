//! `bench_fma_f32` and `bench_mma_f16`: the runner's own measure of arithmetic. Their PTX stands in the runner.
//!
//! Every block writes the same 256 numbers, and each chain of operations is known in closed form or soon stands still,
//! so a launch costs little here, whatever its grid.

use crate::launch::Shape;
use crate::memory::{Argument, Outside};

/// Numbers that a launch writes, one for each thread of a block.
const LANES: u16 = 256;

/// Chains of `bench_fma_f32`, and operations on each of them in a round.
const FMA_CHAINS: u8 = 8;
const FMA_OPERATIONS: usize = 16;

/// Accumulators of `bench_mma_f16`, and operations on each of them in a round.
const MMA_ACCUMULATORS: f32 = 32.0;
const MMA_OPERATIONS: u32 = 8;

pub(crate) fn bench_fma_f32(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [out, rounds] = arguments else { return Err(Outside) };
    let operations = rounds.count()?.saturating_mul(FMA_OPERATIONS);
    for lane in lanes(shape) {
        let chain = |number: u8| settled(f32::from(lane) + f32::from(number), operations);
        let sum: f32 = (0..FMA_CHAINS).map(chain).sum();
        out.set_f32(usize::from(lane), sum)?;
    }
    Ok(())
}

/// `value` after so many times `value / 2 + 1`; what no operation changes any more stays as it is.
fn settled(mut value: f32, operations: usize) -> f32 {
    for _ in 0..operations {
        let next = value.mul_add(0.5, 1.0);
        if next.to_bits() == value.to_bits() {
            break;
        }
        value = next;
    }
    value
}

pub(crate) fn bench_mma_f16(shape: Shape, arguments: &mut [Argument<'_>]) -> Result<(), Outside> {
    let [out, rounds] = arguments else { return Err(Outside) };
    // Each operation adds 16 products of a quarter and a quarter, which is one: exact below 2^24.
    let added = rounds.u32(0)?.saturating_mul(MMA_OPERATIONS).min(1 << 24);
    let added: f32 = exact(added);
    for lane in lanes(shape) {
        out.set_f32(usize::from(lane), (f32::from(lane) + added) * MMA_ACCUMULATORS)?;
    }
    Ok(())
}

/// A number of at most 2^24, which `f32` holds exactly, from its two halves.
fn exact(number: u32) -> f32 {
    let [low, low_high, high, _] = number.to_le_bytes();
    f32::from(u16::from_le_bytes([low, low_high])) + f32::from(high) * 65_536.0
}

/// The lanes that a block of this shape has.
fn lanes(shape: Shape) -> std::ops::Range<u16> {
    0..u16::try_from(shape.block[0]).unwrap_or(LANES).min(LANES)
}

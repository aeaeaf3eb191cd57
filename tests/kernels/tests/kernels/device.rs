//! Means of the tests: memory of a device, and numbers that are the same in every run.

use kernels::{Argument, LaunchError, launch};

/// A number by value, as its bytes.
pub(crate) struct Number([u8; 4]);

impl From<u32> for Number {
    fn from(value: u32) -> Number {
        Number(value.to_le_bytes())
    }
}

impl From<f32> for Number {
    fn from(value: f32) -> Number {
        Number(value.to_le_bytes())
    }
}

/// The bytes of `values` on the device.
pub(crate) fn upload(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The bytes of counts or labels.
pub(crate) fn upload_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The bytes of `count` floats of 0.
pub(crate) fn zeros(count: usize) -> Vec<u8> {
    vec![0; count * 4]
}

/// A launch of a kernel whose buffers come before its numbers, as all do.
pub(crate) fn start(
    kernel: &str,
    grid: [u32; 2],
    block: [u32; 2],
    buffers: &mut [&mut [u8]],
    numbers: &[Number],
) -> Result<(), LaunchError> {
    let buffers = buffers.iter_mut().map(|buffer| Argument::Buffer(buffer));
    let numbers = numbers.iter().map(|number| Argument::Scalar(&number.0));
    let mut arguments: Vec<Argument<'_>> = buffers.chain(numbers).collect();
    launch(kernel, [grid[0], grid[1], 1], [block[0], block[1], 1], &mut arguments)
}

/// `count` numbers between -1 and 1.
pub(crate) fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [.., low, high] = state.to_le_bytes();
        (f32::from(u16::from_le_bytes([low, high])) - 32_767.5) / 32_767.5
    };
    (0..count).map(|_| next()).collect()
}

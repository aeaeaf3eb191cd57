//! Numbers that are the same in every run, and their bytes.

use bundle::{Parameters, Scalar};

/// `count` numbers between -1 and 1 (a linear congruential generator, Numerical Recipes' constants).
pub(crate) fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [.., low, high] = state.to_le_bytes();
        (f32::from(u16::from_le_bytes([low, high])) - 32_767.5) / 32_767.5
    };
    (0..count).map(|_| next()).collect()
}

/// Little-endian.
pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Little-endian.
pub(crate) fn half_bytes(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Little-endian words.
pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().copied().map(u32::from_le_bytes).collect()
}

/// Parameters that are counts.
pub(crate) fn counts(pairs: &[(&str, u32)]) -> Parameters {
    pairs.iter().map(|(name, value)| (*name, Scalar::U32(*value))).collect()
}

/// A size as a count; none here is so large.
pub(crate) fn count(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

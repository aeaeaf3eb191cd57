//! The product of two matrices.

use super::Tolerance;

/// Sizes of C = A B: A is m by k, B is k by n, C is m by n, all row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

/// Half a unit in the last place of single precision.
const ROUNDING: f64 = 1.0 / 16_777_216.0;

/// What `gemm_f32` makes of `a` and `b`.
pub fn product(a: &[f32], b: &[f32], sizes: Sizes) -> Vec<f64> {
    let a: Vec<f64> = a.iter().copied().map(f64::from).collect();
    let b: Vec<f64> = b.iter().copied().map(f64::from).collect();
    multiply(&a, &b, sizes)
}

/// What `gemm_f16` makes of `a` and `b`, given as the bits of half-precision numbers.
pub fn product_of_halves(a: &[u16], b: &[u16], sizes: Sizes) -> Vec<f64> {
    let wide = |bits: &u16| half::f16::from_bits(*bits).to_f64();
    let a: Vec<f64> = a.iter().map(wide).collect();
    let b: Vec<f64> = b.iter().map(wide).collect();
    multiply(&a, &b, sizes)
}

/// The bits of the half-precision numbers nearest to `values`.
pub fn halves(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&value| half::f16::from_f32(value).to_bits()).collect()
}

/// How far `gemm_f32` may be off where the elements of A and B are independent and between -1 and 1.
///
/// A sum of k such products is a walk of length about sqrt(k) / 3, and each of its k roundings adds an error of random
/// sign in proportion: k / 3 roundings in all. This allows twelve times as much.
pub fn tolerance(sizes: Sizes) -> Tolerance {
    Tolerance { absolute: 4.0 * terms(sizes) * ROUNDING, relative: 0.0 }
}

/// How far `gemm_f16` may be off on the same inputs. A tensor core cuts its sums off instead of rounding them, so the
/// errors have one sign and grow faster: sixteen times the tolerance of `gemm_f32`.
pub fn tolerance_of_halves(sizes: Sizes) -> Tolerance {
    Tolerance { absolute: 64.0 * terms(sizes) * ROUNDING, relative: 0.0 }
}

fn terms(sizes: Sizes) -> f64 {
    u32::try_from(sizes.k).map_or(f64::INFINITY, f64::from)
}

/// By rows of B, so that the inner loop runs along memory.
fn multiply(a: &[f64], b: &[f64], Sizes { m, n, k }: Sizes) -> Vec<f64> {
    assert!(a.len() == m * k && b.len() == k * n, "the matrices are of the sizes");
    let mut c = vec![0.0; m * n];
    for (a_row, c_row) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
        for (factor, b_row) in a_row.iter().zip(b.chunks_exact(n)) {
            for (sum, element) in c_row.iter_mut().zip(b_row) {
                *sum += factor * element;
            }
        }
    }
    c
}

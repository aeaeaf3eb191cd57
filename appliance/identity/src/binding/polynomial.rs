//! Polynomials over the scalars of secp256k1: the prime field of 256 bits that the workspace has already.
//!
//! Coefficients stand from the constant up.

use k256::elliptic_curve::PrimeField;
use k256::elliptic_curve::ops::Reduce;
use k256::{FieldBytes, Scalar, U256};
use zeroize::DefaultIsZeroes;

/// A place, and the value there.
#[derive(Clone, Copy, Default)]
pub(super) struct Point {
    pub(super) x: Scalar,
    pub(super) y: Scalar,
}

impl DefaultIsZeroes for Point {}

/// Random bytes as a random scalar. The field's order is so near to 2^256 that the bias is below 2^-127.
pub(super) fn reduce(bytes: &[u8; 32]) -> Scalar {
    <Scalar as Reduce<U256>>::reduce_bytes(&FieldBytes::from(*bytes))
}

/// The scalar that `bytes` are the one encoding of.
pub(super) fn decode(bytes: [u8; 32]) -> Option<Scalar> {
    Scalar::from_repr(FieldBytes::from(bytes)).into()
}

/// The value at `x`.
pub(super) fn evaluate(coefficients: &[Scalar], x: Scalar) -> Scalar {
    coefficients.iter().rev().fold(Scalar::ZERO, |value, coefficient| value * x + coefficient)
}

/// The polynomial of the least degree through `points`, whose places are all different: as many coefficients as points.
pub(super) fn interpolate(points: &[Point]) -> Vec<Scalar> {
    // Newton's way: what is found so far, and the product that vanishes at every point so far.
    let mut found = vec![Scalar::ZERO; points.len()];
    let mut vanishing = vec![Scalar::ONE];
    for point in points {
        let gap = point.y - evaluate(&found, point.x);
        let factor = gap * inverse(evaluate(&vanishing, point.x));
        for (coefficient, vanish) in found.iter_mut().zip(&vanishing) {
            *coefficient += factor * vanish;
        }
        vanishing.insert(0, Scalar::ZERO);
        for place in 1..vanishing.len() {
            let above = vanishing[place];
            vanishing[place - 1] -= above * point.x;
        }
    }
    found
}

/// `scalar`'s inverse. Zero only where two places are equal, that is where Argon2id gave two fields one output.
pub(super) fn inverse(scalar: Scalar) -> Scalar {
    scalar.invert().unwrap_or(Scalar::ZERO)
}

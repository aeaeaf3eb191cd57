//! Finds the points that lie on one polynomial of low degree, among others that lie anywhere.
//!
//! Plain enumeration of every choice of as many points as are needed. With sixteen points that is some ten thousand
//! choices at the most, each a few microseconds: a decoder of error-correcting codes would be quicker, and would need
//! more right points than half for it.

use k256::Scalar;
use zeroize::Zeroizing;

use super::polynomial::{Point, evaluate, interpolate, inverse};

/// Choices of 8 of 16, the most that [`crate::fields::FIELDS_MAX`] allows.
pub(super) const COMBINATIONS_MAX: usize = 12_870;

/// What the right points say.
pub(super) struct Found {
    /// The polynomial's value at zero.
    pub(super) secret: Scalar,
    /// How many points lie on it.
    pub(super) matched: usize,
}

/// The choice of `needed` of the `points` whose value at zero `is_right`, and every other point on its polynomial.
/// Points that stand first are tried together first. `needed` is at least one.
pub(super) fn search(points: &[Point], needed: usize, is_right: impl Fn(&Scalar) -> bool) -> Option<Found> {
    let weights = weights(points);
    let mut choice: Vec<usize> = (0..needed).collect();
    if needed > points.len() {
        return None;
    }
    for _ in 0..COMBINATIONS_MAX {
        let secret = at_zero(points, &weights, &choice);
        if is_right(&secret) {
            let chosen: Zeroizing<Vec<Point>> = Zeroizing::new(choice.iter().map(|place| points[*place]).collect());
            let polynomial = Zeroizing::new(interpolate(&chosen));
            let matched = points.iter().filter(|point| evaluate(&polynomial, point.x) == point.y).count();
            return Some(Found { secret, matched });
        }
        if !advance(&mut choice, points.len()) {
            return None;
        }
    }
    None
}

/// Lagrange's factors at zero: `weights[a][b]` is what point `b` contributes to the weight of point `a`.
fn weights(points: &[Point]) -> Zeroizing<Vec<Vec<Scalar>>> {
    let row = |a: &Point| points.iter().map(|b| b.x * inverse(b.x - a.x)).collect();
    Zeroizing::new(points.iter().map(row).collect())
}

fn at_zero(points: &[Point], weights: &[Vec<Scalar>], choice: &[usize]) -> Scalar {
    let term = |a: &usize| {
        let others = choice.iter().filter(|b| *b != a);
        others.fold(points[*a].y, |product, b| product * weights[*a][*b])
    };
    choice.iter().map(term).fold(Scalar::ZERO, |sum, term| sum + term)
}

/// The next choice in order of the numbers below `count`. False after the last.
fn advance(choice: &mut [usize], count: usize) -> bool {
    let length = choice.len();
    let Some(moved) = (0..length).rev().find(|place| choice[*place] < count - length + place) else { return false };
    let first = choice[moved] + 1;
    for (place, number) in choice[moved..].iter_mut().zip(first..) {
        *place = number;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::FIELDS_MAX;

    #[test]
    fn every_choice_is_tried_once_and_the_bound_holds_the_most_of_them() {
        let mut most = 0;
        for count in 1..=FIELDS_MAX {
            for needed in 1..=count {
                let mut choice: Vec<usize> = (0..needed).collect();
                let mut seen = vec![choice.clone()];
                while advance(&mut choice, count) {
                    seen.push(choice.clone());
                }
                assert!(seen.iter().all(|choice| choice.windows(2).all(|pair| pair[0] < pair[1])));
                assert!(seen.iter().all(|choice| choice.last().is_some_and(|last| *last < count)));
                assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "in order, so none twice");
                let expected = (0..needed).fold(1, |product, step| product * (count - step) / (step + 1));
                assert_eq!(seen.len(), expected, "{needed} of {count}");
                most = most.max(expected);
            }
        }
        assert_eq!(most, COMBINATIONS_MAX);
    }

    #[test]
    fn the_points_of_one_polynomial_are_found_among_others_wherever_they_stand() {
        let polynomial: Vec<Scalar> = [7_u64, 5, 3, 11].map(Scalar::from).to_vec();
        let anywhere = |x: u64| (0..9).fold(Scalar::from(x + 12_345_678_901), |value, _| value.square());
        for first in 0..4 {
            let point = |x: u64| {
                let y = evaluate(&polynomial, Scalar::from(x));
                let is_off = (first..first + 4).contains(&x);
                Point { x: Scalar::from(x), y: if is_off { y + anywhere(x) } else { y } }
            };
            let points: Vec<Point> = (1..=9).map(point).collect();
            let off = (first..first + 4).filter(|x| (1..=9).contains(x)).count();
            let found = search(&points, 4, |secret| *secret == Scalar::from(7_u64)).expect("five lie on it");
            assert_eq!(found.matched, 9 - off);
            assert!(search(&points, 4, |_| false).is_none());
        }
        assert!(search(&[], 1, |_| true).is_none());
    }
}

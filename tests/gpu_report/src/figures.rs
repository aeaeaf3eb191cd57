//! What a handful of measurements come to.
//!
//! Invariants: a summary is of at least one sample, and its three numbers are samples, not sums of them.

use serde::{Deserialize, Serialize};

/// Median, and what nine of ten lie above and below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// Half of the samples lie below.
    pub(crate) median: f64,
    /// A tenth lies below.
    pub(crate) p10: f64,
    /// Nine tenths lie below.
    pub(crate) p90: f64,
    /// How many there were.
    pub(crate) n: usize,
}

// === impl Summary ===

impl Summary {
    /// Nothing of no samples; what is not a number counts as the largest.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent| sorted.get(rank(sorted.len(), percent)).copied();
        Some(Self { median: at(50)?, p10: at(10)?, p90: at(90)?, n: sorted.len() })
    }
}

/// The place of the sample below which so many in a hundred lie, rounded to the nearest.
fn rank(len: usize, percent: usize) -> usize {
    (len.saturating_sub(1) * percent + 50) / 100
}

/// A count as a number, rounded beyond 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of bytes and microseconds are far below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Microseconds as milliseconds.
pub(crate) fn ms(us: u64) -> f64 {
    float(us) / 1e3
}

/// A number as people read it: four digits that count, and no more behind the point than that takes.
pub(crate) fn shown(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        size if size >= 1.0 => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_samples() {
        let check = |samples: &[f64], expected: Option<(f64, f64, f64)>| {
            let found = Summary::of(samples).map(|summary| (summary.median, summary.p10, summary.p90));
            assert_eq!(found, expected, "{samples:?}");
            assert!(Summary::of(samples).is_none_or(|summary| summary.n == samples.len()));
        };
        check(&[], None);
        check(&[7.0], Some((7.0, 7.0, 7.0)));
        check(&[3.0, 1.0, 2.0], Some((2.0, 1.0, 3.0)));
        let eleven: Vec<f64> = (0..11_u8).rev().map(f64::from).collect();
        check(&eleven, Some((5.0, 1.0, 9.0)));
    }

    #[test]
    fn one_wild_sample_does_not_move_the_median() {
        let summary = Summary::of(&[1.0, 1.1, 0.9, 900.0, 1.05]).expect("samples");
        assert!((summary.median - 1.05).abs() < 1e-12 && summary.p90 > 100.0, "{summary:?}");
    }

    #[test]
    fn numbers_are_shown_with_the_digits_that_count() {
        let check = |value, expected: &str| assert_eq!(shown(value), expected);
        check(0.0, "0.0000");
        check(0.01234, "0.0123");
        check(1.23456, "1.235");
        check(98.765, "98.77");
        check(987.65, "987.6");
        check(-1234.5, "-1234");
        check(123_456.7, "123457");
    }
}

//! Whether two results agree, and where they first do not.

/// How far a number may be from the expected one: `absolute + relative * |expected|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In the unit of the numbers.
    pub absolute: f64,
    /// As a share of the expected number's magnitude.
    pub relative: f64,
}

/// The first place where two results differ.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Difference {
    /// A number is too far off, or not a number.
    #[error("element {index}: got {got}, expected {expected} within {allowed}; {count} of {of} elements differ")]
    Value {
        /// Counted from 0.
        index: usize,
        /// What came out.
        got: f64,
        /// What the reference says.
        expected: f64,
        /// How far it may be off there.
        allowed: f64,
        /// How many elements are too far off.
        count: usize,
        /// How many there are.
        of: usize,
    },
    /// There are too few numbers or too many.
    #[error("got {got} elements, expected {expected}")]
    Length {
        /// What came out.
        got: usize,
        /// What the reference says.
        expected: usize,
    },
}

/// How far a picture may be from the expected one. A path that takes another turn changes a pixel by any amount, so a
/// few pixels may be anything; the rest may not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageTolerance {
    /// How far a channel may be off, of 255.
    pub levels: u8,
    /// The share of the pixels that may have a channel further off.
    pub pixels: f64,
    /// The most that all channels may be off on average, of 255.
    pub mean_levels: f64,
}

/// How two pictures differ.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum ImageDifference {
    /// Too many pixels are too far off.
    #[error("{count} of {of} pixels are off, the first at ({x}, {y}): got {got:?}, expected {expected:?}")]
    Pixels {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// Column of the first, from the left.
        x: usize,
        /// Row of the first, from the top.
        y: usize,
        /// The first's red, green and blue.
        got: [u8; 3],
        /// What the reference says.
        expected: [u8; 3],
    },
    /// The pictures are everywhere a little different.
    #[error("channels are off by {levels} of 255 on average")]
    Mean {
        /// Of 255.
        levels: f64,
    },
    /// There are too few bytes or too many.
    #[error("got {got} bytes, expected {expected}")]
    Length {
        /// What came out.
        got: usize,
        /// What the reference says.
        expected: usize,
    },
}

/// Little-endian bytes as floats. Bytes behind the last whole float are left out.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect()
}

/// Compares numbers. Errors: the first [`Difference`]; what is not a number agrees with nothing.
pub fn compare(got: &[f32], expected: &[f64], tolerance: Tolerance) -> Result<(), Difference> {
    if got.len() != expected.len() {
        return Err(Difference::Length { got: got.len(), expected: expected.len() });
    }
    let allowed = |expected: f64| tolerance.absolute + tolerance.relative * expected.abs();
    let pairs = got.iter().zip(expected).enumerate();
    let mut differing = pairs
        .map(|(index, (&got, &expected))| (index, f64::from(got), expected))
        .filter(|&(_, got, expected)| (got - expected).is_nan() || (got - expected).abs() > allowed(expected));
    let Some((index, value, reference)) = differing.next() else { return Ok(()) };
    Err(Difference::Value {
        index,
        got: value,
        expected: reference,
        allowed: allowed(reference),
        count: 1 + differing.count(),
        of: got.len(),
    })
}

/// Compares pictures of three bytes per pixel, `width` pixels per row.
/// Errors: the first [`ImageDifference`] in the order of lengths, pixels, mean.
pub fn compare_images(
    got: &[u8],
    expected: &[u8],
    width: usize,
    tolerance: ImageTolerance,
) -> Result<(), ImageDifference> {
    if got.len() != expected.len() {
        return Err(ImageDifference::Length { got: got.len(), expected: expected.len() });
    }
    let (got, expected) = (got.as_chunks::<3>().0, expected.as_chunks::<3>().0);
    let mut sum = 0_u64;
    let mut count = 0;
    let mut first = None;
    for (index, (pixel, reference)) in got.iter().zip(expected).enumerate() {
        let off = [0, 1, 2].map(|channel| pixel[channel].abs_diff(reference[channel]));
        sum += off.iter().copied().map(u64::from).sum::<u64>();
        if off.iter().any(|&levels| levels > tolerance.levels) {
            count += 1;
            first.get_or_insert((index, *pixel, *reference));
        }
    }
    if let Some((index, pixel, reference)) = first
        && ratio(count, got.len()) > tolerance.pixels
    {
        let (x, y) = (index % width.max(1), index / width.max(1));
        return Err(ImageDifference::Pixels { count, of: got.len(), x, y, got: pixel, expected: reference });
    }
    let channels = u64::try_from(got.len()).map_or(u64::MAX, |pixels| pixels.saturating_mul(3)).max(1);
    let levels = float(sum) / float(channels);
    if levels > tolerance.mean_levels {
        return Err(ImageDifference::Mean { levels });
    }
    Ok(())
}

fn ratio(part: usize, whole: usize) -> f64 {
    match (u64::try_from(part), u64::try_from(whole)) {
        (Ok(part), Ok(whole)) if whole > 0 => float(part) / float(whole),
        _ => 0.0,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of pixels are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIGHT: Tolerance = Tolerance { absolute: 1e-3, relative: 0.0 };

    #[test]
    fn the_first_number_that_is_off_is_named_and_the_others_counted() {
        let got = compare(&[1.0, 2.5, f32::NAN], &[1.0, 2.0, 3.0], TIGHT);
        assert!(matches!(got, Err(Difference::Value { index: 1, count: 2, of: 3, .. })), "{got:?}");
    }

    #[test]
    fn numbers_agree_within_the_tolerance_and_not_beyond() {
        assert_eq!(compare(&[1.0, -2.0], &[1.0009, -2.0], TIGHT), Ok(()));
        assert!(compare(&[1.0], &[1.002], TIGHT).is_err());
        assert!(compare(&[f32::INFINITY], &[f64::INFINITY], TIGHT).is_err());
        assert_eq!(compare(&[1.0], &[], TIGHT), Err(Difference::Length { got: 1, expected: 0 }));
    }

    #[test]
    fn a_few_pixels_may_be_off_and_no_more() {
        let tolerance = ImageTolerance { levels: 2, pixels: 0.25, mean_levels: 50.0 };
        let expected = [10_u8; 12];
        let mut got = expected;
        got[4] = 200;
        assert_eq!(compare_images(&got, &expected, 2, tolerance), Ok(()));
        got[11] = 13;
        let two = compare_images(&got, &expected, 2, tolerance);
        assert!(matches!(two, Err(ImageDifference::Pixels { count: 2, of: 4, x: 1, y: 0, .. })), "{two:?}");
        let all = compare_images(&[12; 12], &expected, 2, ImageTolerance { mean_levels: 1.0, ..tolerance });
        assert!(matches!(all, Err(ImageDifference::Mean { .. })), "{all:?}");
    }
}

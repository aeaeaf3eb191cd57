//! Which of two versions is newer, as the boot loader decides (UAPI version format specification).

use std::cmp::Ordering;

/// Compares `one` and `other` part by part: `~` before anything, then the end, then `-`, `^`, `.`, letters, digits.
/// Numbers by value, letters by their bytes; every other character only separates.
///
/// The loader picks what compares greatest, so a release must compare greater than all before it.
#[must_use]
pub fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    loop {
        one = from_part(one);
        other = from_part(other);
        match older_with(b'~', &mut one, &mut other) {
            Ordering::Equal => {}
            decided => return decided,
        }
        if one.is_empty() || other.is_empty() {
            return other.is_empty().cmp(&one.is_empty());
        }
        for mark in [b'-', b'^', b'.'] {
            match older_with(mark, &mut one, &mut other) {
                Ordering::Equal => {}
                decided => return decided,
            }
        }
        let decided = if starts_with_digit(one) || starts_with_digit(other) {
            let (left, right) = (take(&mut one, u8::is_ascii_digit), take(&mut other, u8::is_ascii_digit));
            // A part without a number is older than one with; then by value, however long.
            let by_presence = right.is_empty().cmp(&left.is_empty());
            let (left, right) = (without_zeros(left), without_zeros(right));
            by_presence.then(left.len().cmp(&right.len())).then(left.cmp(right))
        } else {
            take(&mut one, u8::is_ascii_alphabetic).cmp(take(&mut other, u8::is_ascii_alphabetic))
        };
        if decided != Ordering::Equal {
            return decided;
        }
    }
}

/// Whether `c` means anything to [`compare`].
pub(crate) fn is_meant(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '~' | '-' | '^' | '.')
}

fn from_part(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| is_meant(char::from(*byte))).unwrap_or(text.len());
    &text[start..]
}

/// The one that stands at `mark` alone is older; if both do, both pass it.
fn older_with(mark: u8, one: &mut &[u8], other: &mut &[u8]) -> Ordering {
    match (one.strip_prefix(&[mark]), other.strip_prefix(&[mark])) {
        (Some(left), Some(right)) => {
            (*one, *other) = (left, right);
            Ordering::Equal
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

fn starts_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

fn take<'a>(text: &mut &'a [u8], belongs: fn(&u8) -> bool) -> &'a [u8] {
    let end = text.iter().position(|byte| !belongs(byte)).unwrap_or(text.len());
    let (taken, rest) = text.split_at(end);
    *text = rest;
    taken
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    &digits[start..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each is older than all below it.
    const RISING: [&str; 16] = [
        "122.1",
        "123~rc1-1",
        "123",
        "123-a",
        "123-a.1",
        "123-1",
        "123-1.1",
        "123^post1",
        "123.a-1",
        "123.1-1",
        "123a-1",
        "124-1",
        "2026.1.9",
        "2026.1.10",
        "2026.11.1",
        "10000.1",
    ];

    #[test]
    fn versions_rise_in_the_order_of_the_specification() {
        for (low, older) in RISING.iter().enumerate() {
            for (high, newer) in RISING.iter().enumerate() {
                assert_eq!(compare(older, newer), low.cmp(&high), "{older} and {newer}");
            }
        }
    }

    #[test]
    fn zeros_in_front_and_separators_say_nothing() {
        for (one, other) in [("2026.01.2", "2026.1.2"), ("1_2", "1+2"), ("", ""), ("_", "")] {
            assert_eq!(compare(one, other), Ordering::Equal, "{one} and {other}");
        }
    }

    #[test]
    fn an_early_release_is_older_than_the_release_and_a_fix_newer() {
        for (older, newer) in [("0.2.0~rc1", "0.2.0"), ("0.2.0", "0.2.0^1"), ("0.2", "0.2.0"), ("", "0"), ("a", "1")] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} and {newer}");
        }
    }

    proptest! {
        #[test]
        fn turning_two_versions_around_turns_the_answer(one in "[a-c0-2~^._-]{0,8}", other in "[a-c0-2~^._-]{0,8}") {
            prop_assert_eq!(compare(&one, &other), compare(&other, &one).reverse());
        }

        #[test]
        fn order_carries_over(a in "[a-b0-1~^.-]{0,5}", b in "[a-b0-1~^.-]{0,5}", c in "[a-b0-1~^.-]{0,5}") {
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }

        #[test]
        fn numbers_compare_by_value(one: u32, other: u32) {
            prop_assert_eq!(compare(&format!("1.{one}"), &format!("1.{other}")), one.cmp(&other));
        }
    }
}

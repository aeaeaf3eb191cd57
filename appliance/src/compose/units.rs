//! Sizes (`16G`), durations (`1m30s`) and shares of a processor (`0.5`) as compose files write them.
//!
//! Everything is whole numbers: no size depends on how a fraction is rounded by a processor.

use super::ComposeError;
use super::document::Value;
use super::node::{Node, Reading};

/// The largest size that is read, in bytes: 1 PiB, more than any rig has.
const SIZE_BYTES_MAX: u64 = 1 << 50;

/// The longest duration that is read, in milliseconds: a week.
const DURATION_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// The most processors that are read, in thousandths: 4096, more than any machine has.
const CPU_MILLIS_MAX: u64 = 4_096_000;

/// Digits of a number that are read, before and after its point.
const DIGITS_MAX: usize = 15;

/// A size in bytes. Units are powers of 1024, whatever their case.
pub(super) fn bytes(node: &Node<'_>, reading: &Reading<'_>) -> Result<u64, ComposeError> {
    const WANTED: &str = "a size such as `512m` or `16g`";
    let text = scalar(node, reading, WANTED)?;
    bytes_of(&text).ok_or_else(|| node.bad(&text, WANTED))
}

/// A duration in milliseconds, rounded up.
pub(super) fn duration_ms(node: &Node<'_>, reading: &Reading<'_>) -> Result<u64, ComposeError> {
    const WANTED: &str = "a duration such as `30s` or `1m30s`, at most a week";
    let text = scalar(node, reading, WANTED)?;
    duration_of(&text).ok_or_else(|| node.bad(&text, WANTED))
}

/// A share of processors in thousandths, `None` for 0, which means no limit.
pub(super) fn cpu_millis(node: &Node<'_>, reading: &Reading<'_>) -> Result<Option<u32>, ComposeError> {
    const WANTED: &str = "a number of processors such as `0.5`";
    let text = scalar(node, reading, WANTED)?;
    let millis = decimal(&text, 1000).filter(|millis| *millis <= CPU_MILLIS_MAX);
    let millis = millis.and_then(|millis| u32::try_from(millis).ok()).ok_or_else(|| node.bad(&text, WANTED))?;
    Ok((millis > 0).then_some(millis))
}

fn scalar(node: &Node<'_>, reading: &Reading<'_>, wanted: &'static str) -> Result<String, ComposeError> {
    match node.value {
        Value::Text(_) | Value::Whole(_) | Value::Real(_) => node.text(reading),
        Value::Nothing | Value::Flag(_) | Value::List(_) | Value::Map(_) => Err(node.kind(wanted)),
    }
}

/// The bytes of a size.
pub(super) fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    decimal(number, 1 << shift).filter(|bytes| *bytes <= SIZE_BYTES_MAX)
}

fn duration_of(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut all_ns = 0_u64;
    loop {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit_ns = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        all_ns = all_ns.checked_add(decimal(number, unit_ns)?)?;
        if after.is_empty() {
            return Some(all_ns.div_ceil(1_000_000)).filter(|ms| *ms <= DURATION_MS_MAX);
        }
        rest = after;
    }
}

/// `number × unit`, rounded down. `None` if it is no decimal number or too large.
fn decimal(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.len() <= DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let value = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = value(whole)? * scale + value(fraction)?;
    u64::try_from(parts * u128::from(unit) / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("16G", Some(16 << 30)),
            ("16gb", Some(16 << 30)),
            ("64m", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("512 MiB", Some(512 << 20)),
            (".5k", Some(512)),
            ("1024t", Some(1 << 50)),
            ("1025t", None),
            ("-1", None),
            ("16X", None),
            ("G", None),
            ("1.2.3", None),
            ("", None),
            ("1e9", None),
            ("9999999999999999", None),
            ("999999999999999t", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations_add_up_their_parts() {
        for (text, ms) in [
            ("0", Some(0)),
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("1.5s", Some(1_500)),
            ("500ms", Some(500)),
            ("1us", Some(1)),
            ("168h", Some(DURATION_MS_MAX)),
            ("169h", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1s ", None),
            ("", None),
            ("999999999999999h", None),
        ] {
            assert_eq!(duration_of(text), ms, "{text}");
        }
    }
}

//! What people write, as types: addresses, amounts of coin, spans of time.
//!
//! Invariants: an address with mixed case has a right checksum or is refused, because a slip of one letter sends coins
//! to nobody; amounts are exact, never through floating point.

use std::time::Duration;

use alloy::primitives::utils::format_ether;
use alloy::primitives::{Address, U256};

/// Decimal places of the network's coin.
const COIN_DECIMALS: usize = 18;

/// Reads an address: `0x` and 40 digits, all of one case, or of mixed case with a right EIP-55 checksum.
///
/// Errors: a sentence that says what is wrong.
pub(crate) fn address(text: &str) -> Result<Address, String> {
    let address: Address = text.parse().map_err(|_| format!("`{text}` is not 0x and 40 hexadecimal digits"))?;
    let digits = text.trim_start_matches("0x");
    let is_mixed =
        digits.contains(|c: char| c.is_ascii_uppercase()) && digits.contains(|c: char| c.is_ascii_lowercase());
    if is_mixed && digits != address.to_checksum(None).trim_start_matches("0x") {
        return Err(format!("`{text}` has a wrong checksum: a letter is mistyped"));
    }
    Ok(address)
}

/// Reads an amount of coin such as `0.25`, in wei. Alloy's `parse_units` was not taken: it drops what follows the last
/// decimal place, whatever it is.
///
/// Errors: a sentence that says what is wrong.
pub(crate) fn coin(text: &str) -> Result<U256, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if text.starts_with('-') {
        return Err(format!("an amount of coin is not negative, `{text}` is"));
    }
    if !is_number(whole) || !is_number(fraction) {
        return Err(format!("an amount of coin looks like 0.25, not `{text}`"));
    }
    if fraction.len() > COIN_DECIMALS {
        return Err(format!("`{text}` is finer than the smallest coin: {COIN_DECIMALS} decimal places"));
    }
    let digits = format!("{whole}{fraction:0<COIN_DECIMALS$}");
    digits.parse().map_err(|_| format!("`{text}` is more coins than there can be"))
}

/// Writes wei as coin, without zeros at the end.
pub(crate) fn coin_words(wei: U256) -> String {
    let text = format_ether(wei);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads a span of time: a whole number and `s`, `m`, `h` or `d`.
///
/// Errors: a sentence that says what is wrong.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("a span of time looks like 90s, 10m, 2h or 1d, not `{text}`");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(60 * 60),
        "d" => number.checked_mul(24 * 60 * 60),
        _ => None,
    };
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_mixed_case_needs_its_checksum() {
        let right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert!(address(right).is_ok());
        assert!(address(&right.to_lowercase()).is_ok());
        assert!(address("0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED").is_ok());
        let slip = address("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD").expect_err("the last letter is wrong");
        assert!(slip.contains("wrong checksum"), "{slip}");
        assert!(address("0x5aAe").expect_err("short").contains("40 hexadecimal digits"));
    }

    #[test]
    fn coins_are_exact_and_read_back_as_they_were_written() {
        for text in ["0.25", "1", "0.000000000000000001", "123456789.5", "0"] {
            assert_eq!(coin_words(coin(text).expect(text)), text);
        }
        let huge = "9".repeat(70);
        for text in ["-1", "a little", "", ".5", "1.", "1.2.3", "0x1", "1_0", "0.0000000000000000001", huge.as_str()] {
            assert!(coin(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_span_needs_its_unit() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7200)));
        for text in ["90", "m", "1w", "-5s", "99999999999999999d", ""] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}

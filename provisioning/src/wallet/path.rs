//! Which account of a device: a derivation path, as BIP 32 writes it.

/// Where Ledger's own program keeps its first account.
pub(super) const USUAL: &str = "m/44'/60'/0'/0/0";

/// The device's app takes no more.
const STEPS_MAX: usize = 10;

/// Numbers below this; a step with an apostrophe is the number plus this.
const HARDENED: u32 = 1 << 31;

/// Reads a path such as `m/44'/60'/0'/0/0`.
///
/// Errors: a sentence that says what is wrong.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let wrong = || format!("a derivation path looks like {USUAL}, not `{text}`");
    let steps: Vec<&str> = text.strip_prefix("m/").ok_or_else(wrong)?.split('/').collect();
    if steps.len() > STEPS_MAX {
        return Err(format!("a derivation path has at most {STEPS_MAX} steps, this one has {}", steps.len()));
    }
    for step in steps {
        let number = step.strip_suffix('\'').unwrap_or(step);
        let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number || number.parse().map_or(true, |number: u32| number >= HARDENED) {
            return Err(wrong());
        }
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_numbers_between_slashes() {
        for path in [USUAL, "m/44'/60'/0'/7", "m/0", "m/2147483647'"] {
            assert_eq!(parse(path), Ok(path.to_owned()));
        }
        let long = format!("m{}", "/0".repeat(11));
        let bad = ["", "m", "m/", "44'/60'", "m/44h", "m//0", "m/-1", "m/+1", "m/2147483648", "m/0''", "0x12", &long];
        for path in bad {
            assert!(parse(path).is_err(), "{path}");
        }
    }
}

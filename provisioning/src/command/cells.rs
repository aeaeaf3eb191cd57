//! Fields of a rig's answer as cells of a table. A field that is missing is a dash: the rig may be older or newer.

use alloy::primitives::U256;
use serde_json::Value;

use crate::parse::coin_words;

/// A text or number as it stands.
pub(super) fn word_of(answer: &Value, name: &str) -> String {
    match &answer[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn number_of(answer: &Value, name: &str) -> String {
    answer[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// An amount in wei, as decimal text or number, in coin.
pub(super) fn coin_of(answer: &Value, name: &str) -> String {
    let wei: Option<U256> = word_of(answer, name).parse().ok();
    wei.map_or_else(|| "-".to_owned(), |wei| format!("{} coin", coin_words(wei)))
}

/// A size as people say it, in decimal units with one digit after the point.
pub(super) fn bytes_words(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = bytes / (unit / 10);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A list of texts in one cell; a dash if there is none.
pub(super) fn list_of(answer: &Value, name: &str) -> String {
    let texts: Vec<&str> = answer[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_have_a_unit_that_fits() {
        for (bytes, words) in
            [(0, "0 B"), (999, "999 B"), (1_234, "1.2 kB"), (64 << 20, "67.1 MB"), (3_400_000_000, "3.4 GB")]
        {
            assert_eq!(bytes_words(bytes), words);
        }
    }

    #[test]
    fn amounts_are_read_from_text_and_from_numbers_and_what_is_missing_is_a_dash() {
        let answer = json!({ "text": "1500000000000000000", "hex": "0x0de0b6b3a7640000", "number": 0, "odd": [] });
        assert_eq!(coin_of(&answer, "text"), "1.5 coin");
        assert_eq!(coin_of(&answer, "hex"), "1 coin");
        assert_eq!(coin_of(&answer, "number"), "0 coin");
        assert_eq!(coin_of(&answer, "odd"), "-");
        assert_eq!(coin_of(&answer, "missing"), "-");
    }
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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

//! What a rig is doing for a source, in words. What this `rig` does not know is shown by the rig's own name for it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::command::cells::{bytes_words, word_of};

/// Bytes below which what a source received is not worth a word.
const WORTH_A_WORD: u64 = 10_000_000;

/// The words for `doing`, as the rig gives it; `None` if nothing is being done.
pub(super) fn words(doing: &Value) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    words_at(doing, now)
}

fn words_at(doing: &Value, now: u64) -> Option<String> {
    let number = |name: &str| doing[name].as_u64().unwrap_or(0);
    Some(match doing["doing"].as_str()? {
        "reading" => "reading its metadata and compose file".to_owned(),
        "pulling" => {
            let (bytes, of_bytes) = (number("bytes"), number("of_bytes"));
            let layer = format!("layer {} of {}", number("layer"), number("layers"));
            format!("pulling {} of {} ({layer})", bytes_words(bytes), bytes_words(of_bytes))
        }
        "unpacking" => format!("unpacking {}", word_of(doing, "image")),
        "fetching" => "fetching its bundle".to_owned(),
        "compiling" => {
            let (module, arch) = (word_of(doing, "module"), word_of(doing, "arch"));
            format!("compiling {module} for {arch} ({} of {})", number("number"), number("of"))
        }
        "starting" => starting(doing, now.saturating_sub(number("since_unix"))),
        other => other.to_owned(),
    })
}

fn starting(doing: &Value, waited_s: u64) -> String {
    let until = match doing["until"].as_str().unwrap_or_default() {
        "healthy" => "waiting for healthy",
        "completed" => "waiting for its end",
        "listening" => "waiting for its port",
        other => other,
    };
    let received = doing["received_bytes"].as_u64().filter(|bytes| *bytes >= WORTH_A_WORD);
    let received = received.map_or_else(String::new, |bytes| format!(", {} received", bytes_words(bytes)));
    let log = doing["log"].as_str().map_or_else(String::new, |line| format!(": {line}"));
    format!("starting service {}: {until}, {waited_s} s{received}{log}", word_of(doing, "service"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_being_done_is_said_with_its_numbers() {
        let starting = |until: &str, received_bytes: u64, log: Option<&str>| {
            json!({
                "doing": "starting", "service": "ollama", "until": until, "since_unix": 60,
                "received_bytes": received_bytes, "log": log,
            })
        };
        for (doing, says) in [
            (
                json!({ "doing": "pulling", "image": "a", "bytes": 1_200_000_000_u64, "of_bytes": 3_400_000_000_u64, "layer": 3, "layers": 7 }),
                "pulling 1.2 GB of 3.4 GB (layer 3 of 7)",
            ),
            (json!({ "doing": "fetching", "link": "ipfs://x" }), "fetching its bundle"),
            (
                json!({ "doing": "compiling", "module": "gemm", "arch": "sm_90", "number": 1, "of": 2 }),
                "compiling gemm for sm_90 (1 of 2)",
            ),
            (json!({ "doing": "unpacking", "image": "a/b:1" }), "unpacking a/b:1"),
            (
                starting("healthy", 1_300_000_000, Some("50%")),
                "starting service ollama: waiting for healthy, 40 s, 1.3 GB received: 50%",
            ),
            (starting("listening", 7, None), "starting service ollama: waiting for its port, 40 s"),
            (json!({ "doing": "dancing" }), "dancing"),
        ] {
            assert_eq!(words_at(&doing, 100).as_deref(), Some(says));
        }
        assert_eq!(words_at(&Value::Null, 100), None);
    }
}

//! A GPU's state and what holds it back, in words. What this `rig` does not know is shown by the rig's own name for it.

use serde_json::Value;

use crate::command::cells::word_of;

/// Where it stands, with the reason.
pub(super) fn state(state: &Value) -> String {
    let why = || word_of(state, "why");
    match state["state"].as_str().unwrap_or("-") {
        "unproven" => format!("not proven yet: {}", proof(&state["proof"])),
        "offered" => "offered: it takes work".to_owned(),
        "busy" => format!("busy with {}{}", word_of(state, "job"), then(&state["then"])),
        "suspect" => format!("suspect: {}; {}", why(), proof(&state["proof"])),
        "needs-reset" => format!("to be reset: {}", why()),
        "withdrawn" => format!("withdrawn: {}", why()),
        "gave-up" => format!("given up: {}", why()),
        other => other.to_owned(),
    }
}

fn proof(proof: &Value) -> &str {
    match proof["step"].as_str().unwrap_or("-") {
        "draining" => "its last processes have to leave it",
        "waiting" => "its next test is due soon",
        "running" => "its test runs",
        other => other,
    }
}

fn then(then: &Value) -> String {
    match then["then"].as_str() {
        Some("prove") => format!(", then to be tested: {}", word_of(then, "why")),
        Some("reset") => format!(", then to be reset: {}", word_of(then, "why")),
        Some(_) | None => String::new(),
    }
}

/// What its owner can do, if it is for him to do something.
pub(super) fn next(state: &Value) -> Option<&'static str> {
    match (state["state"].as_str()?, state["remedy"].as_str()) {
        ("withdrawn", Some("reset")) => Some("reset its bus by hand, or reboot the machine; then rig gpu retry"),
        ("withdrawn", Some("reboot")) => Some("reboot the machine"),
        ("withdrawn", Some("power-cycle")) => Some("switch the machine off, wait a minute, and switch it on"),
        ("withdrawn", _) => Some("look at its cables, its cooling and its driver; then rig gpu retry"),
        ("gave-up", _) => Some("look at journalctl -u rig-runner; rig gpu retry has it tested again"),
        _ => None,
    }
}

/// Why its clocks are not the highest.
pub(super) fn throttle(reasons: &Value) -> String {
    let Some(reasons) = reasons.as_array() else { return "-".to_owned() };
    let word = |reason: &Value| match reason.as_str().unwrap_or("-") {
        "idle" => "having nothing to do".to_owned(),
        "application-clocks" => "clocks set for applications".to_owned(),
        "power-cap" => "its power limit".to_owned(),
        "hardware-slowdown" => "a slowdown of its hardware".to_owned(),
        "sync-boost" => "a slower GPU of its group".to_owned(),
        "heat" => "heat".to_owned(),
        "hardware-heat" => "heat, to save its hardware".to_owned(),
        "power-brake" => "its power supply".to_owned(),
        "display-clocks" => "clocks set for displays".to_owned(),
        other => other.to_owned(),
    };
    let words: Vec<String> = reasons.iter().map(word).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_state_says_why_and_what_to_do() {
        let check = |value: Value, words: &str, to_do: Option<&str>| {
            assert_eq!(state(&value), words);
            let next = next(&value);
            assert_eq!(next.is_some(), to_do.is_some(), "{value}");
            assert!(to_do.is_none_or(|part| next.is_some_and(|next| next.contains(part))), "{value}: {next:?}");
        };
        let waiting = json!({ "step": "waiting", "until_ms": 1 });
        check(json!({ "state": "unproven", "proof": waiting }), "not proven yet: its next test is due soon", None);
        check(json!({ "state": "offered" }), "offered: it takes work", None);
        check(json!({ "state": "busy", "job": "0x01", "then": { "then": "offer" } }), "busy with 0x01", None);
        check(
            json!({ "state": "busy", "job": "a", "then": { "then": "prove", "why": "Xid 43" } }),
            "busy with a, then to be tested: Xid 43",
            None,
        );
        check(
            json!({ "state": "suspect", "why": "Xid 31", "proof": { "step": "running" } }),
            "suspect: Xid 31; its test runs",
            None,
        );
        check(json!({ "state": "needs-reset", "why": "Xid 95" }), "to be reset: Xid 95", None);
        let withdrawn = |remedy: &str| json!({ "state": "withdrawn", "why": "Xid 79", "remedy": remedy });
        check(withdrawn("power-cycle"), "withdrawn: Xid 79", Some("switch the machine off"));
        check(withdrawn("reboot"), "withdrawn: Xid 79", Some("reboot"));
        check(withdrawn("reset"), "withdrawn: Xid 79", Some("rig gpu retry"));
        check(withdrawn("operator"), "withdrawn: Xid 79", Some("cables"));
        check(json!({ "state": "gave-up", "why": "wrong bytes" }), "given up: wrong bytes", Some("rig gpu retry"));
        check(json!({ "state": "dancing" }), "dancing", None);
        check(Value::Null, "-", None);
    }

    #[test]
    fn what_holds_it_back_is_listed() {
        for (reasons, words) in [
            (json!([]), "nothing"),
            (json!(["heat", "power-cap"]), "heat, its power limit"),
            (json!(["witchcraft"]), "witchcraft"),
            (Value::Null, "-"),
        ] {
            assert_eq!(throttle(&reasons), words);
        }
    }
}

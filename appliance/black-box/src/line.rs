//! One entry of the journal as one line of text.
//!
//! `2026-01-31 23:59:59.123 3 rig-runner[412] what it said`: the time in UTC, the priority (0 emergency to 7 debug), who.
//! Whatever an entry holds, the line is one, printable, and at most [`LINE_BYTES_MAX`] long.

use serde::Deserialize;
use serde_json::Value;

/// Bytes of a line at most, its end included.
pub(crate) const LINE_BYTES_MAX: usize = 1024;

/// An error or worse.
const ERROR: u8 = 3;

/// What says nothing, however loudly: each job's disk is ended so on purpose, and each job's network is a new one.
const NOISE: [&str; 2] = ["shut down requested", "Network configuration changed, trying to establish connection."];

/// What is asked of the journal. Source: `systemd.journal-fields(7)`.
pub(crate) const FIELDS: [&str; 6] =
    ["PRIORITY", "SYSLOG_IDENTIFIER", "_PID", "MESSAGE", "F_ERROR", "__REALTIME_TIMESTAMP"];

/// A line, and whether it is worth a write of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Where in the text the time has ended.
    pub(crate) said_at: usize,
    pub(crate) is_urgent: bool,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at_us: Option<String>,
    #[serde(rename = "PRIORITY")]
    priority: Option<String>,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    who: Value,
    #[serde(rename = "_PID", default)]
    pid: Value,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
    /// As tracing calls the field `error` of the rig's programs.
    #[serde(rename = "F_ERROR", default)]
    error: Value,
}

// === impl Line ===

impl Line {
    /// Of one JSON object. `None`: it is none, or says nothing.
    pub(crate) fn of(entry: &[u8]) -> Option<Line> {
        let entry: Entry = serde_json::from_slice(entry).ok()?;
        let priority: u8 = entry.priority.as_deref().and_then(|word| word.parse().ok()).unwrap_or(6);
        let at_us: u64 = entry.at_us.as_deref().and_then(|word| word.parse().ok()).unwrap_or(0);
        let mut text = moment(at_us / 1000);
        let said_at = text.len();
        text.push_str(&format!(" {priority} {}", words(&entry.who)));
        let pid = words(&entry.pid);
        if !pid.is_empty() {
            text.push_str(&format!("[{pid}]"));
        }
        let message = words(&entry.message);
        if NOISE.iter().any(|noise| message.contains(noise)) {
            return None;
        }
        for part in [message, words(&entry.error)] {
            if !part.is_empty() {
                text.push(' ');
                text.push_str(&part);
            }
        }
        let mut line: String = text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect();
        line.truncate(line.floor_char_boundary(LINE_BYTES_MAX - 1));
        line.push('\n');
        Some(Line { text: line, said_at, is_urgent: priority <= ERROR })
    }
}

/// The journal writes what is no UTF-8 as a list of bytes, a field that is there twice as a list of both.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let bytes: Option<Vec<u8>> =
                parts.iter().map(|part| part.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            match bytes {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => parts.first().map(words).unwrap_or_default(),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

/// Unix milliseconds as date and time in UTC. The calendar by counting in eras of 400 years from a first of March.
fn moment(at_ms: u64) -> String {
    const DAY_MS: u64 = 86_400_000;
    const ERA_DAYS: u64 = 146_097;
    let days = at_ms / DAY_MS + 719_468;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let of_day = at_ms % DAY_MS;
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}", of_day % 1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(entry: &str, text: &str, is_urgent: bool) {
        let expected = Line { text: format!("{text}\n"), said_at: 23, is_urgent };
        assert_eq!(Line::of(entry.as_bytes()), Some(expected));
    }

    #[test]
    fn an_entry_becomes_a_line_that_a_person_reads() {
        check(
            r#"{"__REALTIME_TIMESTAMP":"1769903999123456","PRIORITY":"3","SYSLOG_IDENTIFIER":"rig-runner","_PID":"412",
            "MESSAGE":"a jail was not made","F_ERROR":"out of memory"}"#,
            "2026-01-31 23:59:59.123 3 rig-runner[412] a jail was not made out of memory",
            true,
        );
        check(
            r#"{"__REALTIME_TIMESTAMP":"951782400000000","PRIORITY":"4","SYSLOG_IDENTIFIER":"kernel","MESSAGE":[111,107,10]}"#,
            "2000-02-29 00:00:00.000 4 kernel ok ",
            false,
        );
        check(r#"{"MESSAGE":["one","two"],"_PID":null}"#, "1970-01-01 00:00:00.000 6  one", false);
    }

    #[test]
    fn what_is_no_entry_is_left_out() {
        let noise = r#"{"PRIORITY":"1","MESSAGE":"EXT4-fs (loop0): shut down requested (2)"}"#;
        for entry in ["", "{", "[]", "\"MESSAGE\"", "{\"PRIORITY\":3}", noise] {
            assert_eq!(Line::of(entry.as_bytes()), None, "{entry}");
        }
    }

    proptest! {
        #[test]
        fn a_line_is_one_and_short(message in ".{0,3000}", who in ".{0,50}") {
            let entry = serde_json::json!({ "MESSAGE": message, "SYSLOG_IDENTIFIER": who }).to_string();
            let line = Line::of(entry.as_bytes()).expect("an entry").text;
            prop_assert!(line.len() <= LINE_BYTES_MAX);
            prop_assert_eq!(line.find(|sign: char| sign.is_control()), Some(line.len() - 1));
        }
    }
}

//! `healthcheck`: the command that says whether a service is ready, and how often it is asked.

use super::ComposeError;
use super::document::Value;
use super::node::{Node, Reading};
use super::plan::Health;
use super::service::{WORDS_MAX, words_bound};
use super::units::duration_ms;

const KEYS: &[&str] = &["test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"];

/// What is asked where the file says nothing, in milliseconds. Source: the compose specification's defaults.
const INTERVAL_MS: u64 = 30_000;
const TIMEOUT_MS: u64 = 30_000;
const RETRIES: u32 = 3;

/// The shortest time between two looks, in milliseconds: each costs a process.
const INTERVAL_MS_MIN: u64 = 100;

/// Reads `healthcheck`; `None` where nothing is asked.
pub(super) fn health(node: &Node<'_>, reading: &mut Reading<'_>) -> Result<Option<Health>, ComposeError> {
    let fields = node.fields(KEYS)?;
    if fields.flag("disable", reading)? {
        return Ok(None);
    }
    let Some(test) = fields.get("test") else {
        reading.ignore(&node.path, "it has no `test`, and the image's own is not read");
        return Ok(None);
    };
    let Some(test) = command(&test, reading)? else { return Ok(None) };
    fields.ignore(&[("start_interval", "`interval` holds from the start")], reading);
    // Zero means the default, as for the tools that these files are written for.
    let time = |key: &str, default, min| -> Result<u64, ComposeError> {
        let ms = fields.get(key).map(|node| duration_ms(&node, reading)).transpose()?;
        Ok(ms.filter(|ms| *ms > 0).unwrap_or(default).max(min))
    };
    let retries = fields.get("retries").map(|node| node.whole(reading, "a number of tries, at least 1")).transpose()?;
    Ok(Some(Health {
        test,
        interval_ms: time("interval", INTERVAL_MS, INTERVAL_MS_MIN)?,
        timeout_ms: time("timeout", TIMEOUT_MS, 1)?,
        retries: retries.filter(|retries| *retries > 0).unwrap_or(RETRIES),
        start_period_ms: time("start_period", 0, 0)?,
    }))
}

/// `test` as words; `None` for `NONE`.
fn command(test: &Node<'_>, reading: &Reading<'_>) -> Result<Option<Vec<String>>, ComposeError> {
    const WANTED: &str = "`NONE`, `CMD` with words, or `CMD-SHELL` with one line";
    let shell = |line: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), line];
    if !matches!(test.value, Value::List(_)) {
        return Ok(Some(shell(test.text(reading)?)));
    }
    let words: Result<Vec<String>, _> = test.list(WORDS_MAX)?.iter().map(|word| word.text(reading)).collect();
    let words = words?;
    words_bound(test, &words)?;
    match words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("NONE", [])) => Ok(None),
        Some(("CMD", words)) if !words.is_empty() => Ok(Some(words.to_vec())),
        Some(("CMD-SHELL", [line])) => Ok(Some(shell(line.clone()))),
        Some((first, _)) => Err(test.bad(first, WANTED)),
        None => Err(test.bad("", WANTED)),
    }
}

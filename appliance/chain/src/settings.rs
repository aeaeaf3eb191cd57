//! Reads a settings file written by a person: TOML in, a plain type or a sentence that helps out.
//!
//! An unknown key is refused with its line and the nearest key that exists at that place, because a silently ignored
//! setting costs its owner money.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// The longest settings file that is read, in bytes.
pub const SETTINGS_BYTES_MAX: u64 = 256 * 1024;

/// A settings file that cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is far longer than any settings.
    #[error("{} has {bytes} bytes, settings have at most {SETTINGS_BYTES_MAX}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A key that does not exist at this place.
    #[error("{} line {line}: unknown key `{key}`{}", path.display(), hint(nearest.as_deref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key as written.
        key: String,
        /// The key at this place that is closest to it.
        nearest: Option<String>,
    },
    /// Not TOML, a value of the wrong kind, or a key is missing.
    #[error("{} line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser found.
        message: String,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|key| format!(", did you mean `{key}`?")).unwrap_or_default()
}

/// Reads and parses the settings at `path`. Errors: every variant of [`SettingsError`].
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, SettingsError> {
    let read = |source| SettingsError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > SETTINGS_BYTES_MAX {
        return Err(SettingsError::TooLong { path: path.to_owned(), bytes });
    }
    parse_toml(&std::fs::read_to_string(path).map_err(read)?, path)
}

/// Parses `text`; `path` is only for messages. Errors: all of [`SettingsError`] but those of reading.
pub fn parse_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, SettingsError> {
    toml::from_str(text).map_err(|error| explain(text, path, &error))
}

/// Turns the parser's error into one that names line and key.
fn explain(text: &str, path: &Path, error: &toml::de::Error) -> SettingsError {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
    let path = path.to_owned();
    match unknown_key(error.message()) {
        Some((key, nearest)) => SettingsError::UnknownKey { path, line, key, nearest },
        None => SettingsError::Syntax { path, line, message: error.message().replace('\n', " ") },
    }
}

/// The key, and the nearest of those it could have been, in serde's own sentence for an unknown field:
/// ``unknown field `a`, expected one of `b`, `c` ``. Its wording is pinned by a test.
fn unknown_key(message: &str) -> Option<(String, Option<String>)> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let key = quoted.next()?.to_owned();
    let nearest = quoted.min_by_key(|valid| strsim::damerau_levenshtein(&key, valid)).map(str::to_owned);
    Some((key, nearest))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its keys matter")]
    struct Example {
        confirmations: u64,
        request_timeout_ms: u64,
    }

    fn words(text: &str) -> String {
        parse_toml::<Example>(text, Path::new("rig.toml")).expect_err("the text is bad").to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
        assert_eq!(
            words("request_timeout_ms = 1\nconfirmation = 2\n"),
            "rig.toml line 2: unknown key `confirmation`, did you mean `confirmations`?"
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_and_a_missing_key_are_named_with_their_line() {
        assert!(
            words("request_timeout_ms = 1\nconfirmations = \"two\"\n").starts_with("rig.toml line 2: invalid type")
        );
        assert!(words("confirmations = 2\n").contains("missing field `request_timeout_ms`"));
        assert!(words("confirmations = \n").starts_with("rig.toml line 1: "));
    }
}

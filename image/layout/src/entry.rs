//! Names of boot entries: `rig_VERSION.efi`, or `rig_VERSION+LEFT-DONE.efi` while it is on trial.
//!
//! The boot loader renames a file on trial before each start: one less left, one more done. A start that comes up well
//! takes the counter away. Nothing else remembers a trial, so the name is parsed strictly and written in one form.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::version;

/// A version is at most so long; FAT names end at 255 and a person reads it on a small screen.
pub const VERSION_MAX: usize = 64;

/// So many tries at most. From ten on the loader would pad with zeros as it counts down.
pub const TRIES_MAX: u32 = 9;

const PREFIX: &str = "rig_";
const SUFFIX: &str = ".efi";

/// The name of one kernel image on the EFI partition. The order is the loader's: what it would start first is least.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntryName {
    /// Of the release.
    pub version: String,
    /// `None` once it came up well.
    pub tries: Option<Tries>,
}

/// How a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tries {
    /// Starts that it has left; at 0 it is bad.
    pub left: u32,
    /// Starts that it had.
    pub done: u32,
}

/// Why a name is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// It does not begin or end as ours do.
    #[error("not the name of a boot entry: it begins with rig_ and ends with .efi")]
    Foreign,
    /// The version is empty, too long, or has characters that the loader does not compare.
    #[error("not a version: 1 to {VERSION_MAX} of letters, digits and . ~ ^ -, the first a letter or digit")]
    Version,
    /// What follows the `+` is not a counter.
    #[error("not a counter of tries: +LEFT or +LEFT-DONE, each 0 to {TRIES_MAX}")]
    Tries,
}

// === impl EntryName ===

impl EntryName {
    /// The name of a release that came up well, or comes with the image.
    pub fn good(version: &str) -> Result<EntryName, EntryError> {
        EntryName::new(version, None)
    }

    /// The name of a release that has `left` starts to come up well.
    pub fn on_trial(version: &str, left: u32) -> Result<EntryName, EntryError> {
        EntryName::new(version, Some(Tries { left, done: 0 }))
    }

    /// Whether the loader keeps it for when nothing else is left.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }

    fn new(version: &str, tries: Option<Tries>) -> Result<EntryName, EntryError> {
        let begins = version.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins || version.len() > VERSION_MAX || !version.chars().all(version::is_meant) {
            return Err(EntryError::Version);
        }
        if tries.is_some_and(|tries| tries.left > TRIES_MAX || tries.done > TRIES_MAX) {
            return Err(EntryError::Tries);
        }
        Ok(EntryName { version: version.to_owned(), tries })
    }
}

impl FromStr for EntryName {
    type Err = EntryError;

    fn from_str(name: &str) -> Result<EntryName, EntryError> {
        let inner = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX)).ok_or(EntryError::Foreign)?;
        let Some((version, counter)) = inner.split_once('+') else { return EntryName::good(inner) };
        let (left, done) = match counter.split_once('-') {
            Some((left, done)) => (left, digit(done)?),
            None => (counter, 0),
        };
        EntryName::new(version, Some(Tries { left: digit(left)?, done }))
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}", self.version)?;
        match self.tries {
            None => {}
            Some(Tries { left, done: 0 }) => write!(out, "+{left}")?,
            Some(Tries { left, done }) => write!(out, "+{left}-{done}")?,
        }
        out.write_str(SUFFIX)
    }
}

impl PartialOrd for EntryName {
    fn partial_cmp(&self, other: &EntryName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EntryName {
    fn cmp(&self, other: &EntryName) -> Ordering {
        // Without a counter counts as more left than any.
        let left = |name: &EntryName| name.tries.map_or(u32::MAX, |tries| tries.left);
        let done = |name: &EntryName| name.tries.map_or(0, |tries| tries.done);
        let by_trial = left(other).cmp(&left(self)).then(done(self).cmp(&done(other)));
        let by_version = version::compare(&other.version, &self.version).then_with(|| other.version.cmp(&self.version));
        self.is_bad().cmp(&other.is_bad()).then(by_version).then(by_trial)
    }
}

/// One digit: the loader and we write no more.
fn digit(text: &str) -> Result<u32, EntryError> {
    match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Ok(u32::from(digit - b'0')),
        _ => Err(EntryError::Tries),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(name: &str, version: &str, tries: Option<(u32, u32)>) {
        let entry: EntryName = name.parse().expect("it is a name");
        assert_eq!(entry.version, version);
        assert_eq!(entry.tries, tries.map(|(left, done)| Tries { left, done }));
    }

    #[test]
    fn names_say_their_version_and_how_their_trial_stands() {
        check("rig_0.1.0.efi", "0.1.0", None);
        check("rig_2026.11.2+3.efi", "2026.11.2", Some((3, 0)));
        check("rig_2026.11.2+2-1.efi", "2026.11.2", Some((2, 1)));
        check("rig_1.2~rc1+0-3.efi", "1.2~rc1", Some((0, 3)));
        check("rig_1-2.efi", "1-2", None);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let long = format!("rig_{}.efi", "1".repeat(VERSION_MAX + 1));
        let table = [
            ("", EntryError::Foreign),
            ("rig_1", EntryError::Foreign),
            ("linux_1.efi", EntryError::Foreign),
            ("RIG_1.EFI", EntryError::Foreign),
            ("rig_.efi", EntryError::Version),
            ("rig_.1.efi", EntryError::Version),
            ("rig_1 2.efi", EntryError::Version),
            ("rig_1/2.efi", EntryError::Version),
            ("rig_1_2.efi", EntryError::Version),
            (&long, EntryError::Version),
            ("rig_1+.efi", EntryError::Tries),
            ("rig_1+3-.efi", EntryError::Tries),
            ("rig_1+03.efi", EntryError::Tries),
            ("rig_1+10.efi", EntryError::Tries),
            ("rig_1+3-1-1.efi", EntryError::Tries),
            ("rig_1+3+1.efi", EntryError::Tries),
            ("rig_1+٣.efi", EntryError::Tries),
        ];
        for (name, expected) in table {
            assert_eq!(name.parse::<EntryName>(), Err(expected), "{name}");
        }
    }

    #[test]
    fn the_loader_starts_the_newest_that_is_not_bad() {
        let order = [
            "rig_0.10.0.efi",
            "rig_0.10.0+3.efi",
            "rig_0.10.0+2-1.efi",
            "rig_0.10.0~rc2.efi",
            "rig_0.9.0+1-2.efi",
            "rig_0.8.0.efi",
            "rig_0.11.0+0-3.efi",
            "rig_0.7.0+0-1.efi",
        ];
        let mut names: Vec<EntryName> = order.iter().rev().map(|name| name.parse().expect("it is a name")).collect();
        names.sort();
        assert_eq!(names.iter().map(EntryName::to_string).collect::<Vec<_>>(), order);
    }

    proptest! {
        #[test]
        fn a_name_that_is_shown_is_parsed_again(
            version in "[a-z0-9][a-z0-9.~^-]{0,20}",
            tries in proptest::option::of((0..=TRIES_MAX, 0..=TRIES_MAX)),
        ) {
            let name = EntryName { version, tries: tries.map(|(left, done)| Tries { left, done }) };
            prop_assert_eq!(name.to_string().parse::<EntryName>(), Ok(name));
        }

        #[test]
        fn no_name_panics(name in "(rig_)?.{0,30}(\\.efi)?") {
            let _ = name.parse::<EntryName>();
        }
    }
}

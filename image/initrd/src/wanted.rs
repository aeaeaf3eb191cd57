//! What the kernel's command line asks of the first process.

use layout::verity::RootHash;

/// A version is at most so long, as in the name of a boot entry.
const VERSION_MAX: usize = 64;

/// The root to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the root must hash to.
    pub root_hash: RootHash,
    /// The release, where the command line says it.
    pub version: Option<String>,
}

/// Why the command line names no root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WantedError {
    /// It has no `roothash=`.
    #[error("the kernel's command line names no root (roothash=)")]
    None,
    /// It has several that differ.
    #[error("the kernel's command line names two roots")]
    Two,
    /// What it has is no root hash.
    #[error("the kernel's command line names a root that is not 64 hexadecimal digits")]
    Hash,
}

// === impl Wanted ===

impl Wanted {
    /// Reads `/proc/cmdline`. Words of others are passed over.
    pub fn parse(line: &str) -> Result<Wanted, WantedError> {
        let mut roots = values(line, "roothash=");
        let root = roots.next().ok_or(WantedError::None)?;
        if roots.any(|other| other != root) {
            return Err(WantedError::Two);
        }
        let root_hash = root.parse().map_err(|_| WantedError::Hash)?;
        let version = values(line, "rig.version=").find(|version| is_version(version)).map(str::to_owned);
        Ok(Wanted { root_hash, version })
    }
}

fn values<'a>(line: &'a str, key: &'static str) -> impl Iterator<Item = &'a str> {
    line.split_ascii_whitespace().filter_map(move |word| word.strip_prefix(key))
}

/// It becomes a file that others read: no more than what a release is called.
fn is_version(text: &str) -> bool {
    let is_of_version = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '~' | '^' | '-');
    !text.is_empty() && text.len() <= VERSION_MAX && text.chars().all(is_of_version)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0102030405060708090a0b0c0d0e0f10";

    #[track_caller]
    fn check(line: &str, expected: Result<Option<&str>, WantedError>) {
        let found = Wanted::parse(line);
        assert_eq!(found.as_ref().map(|wanted| wanted.version.as_deref()).map_err(Clone::clone), expected, "{line}");
        if let Ok(wanted) = found {
            assert_eq!(wanted.root_hash.to_string(), HASH);
        }
    }

    #[test]
    fn the_root_and_the_release_are_found_among_other_words() {
        check(&format!("roothash={HASH}"), Ok(None));
        check(&format!("quiet roothash={HASH} ro rig.version=0.1.0 console=ttyS0\n"), Ok(Some("0.1.0")));
        check(&format!("roothash={HASH} roothash={HASH}"), Ok(None));
        check(&format!("roothash={HASH} rig.version= rig.version=../x rig.version=1"), Ok(Some("1")));
        check(&format!("roothash={HASH} rig.version={}", "1".repeat(65)), Ok(None));
    }

    #[test]
    fn a_line_without_one_root_is_refused() {
        check("", Err(WantedError::None));
        check("quiet ro", Err(WantedError::None));
        check(&format!("xroothash={HASH}"), Err(WantedError::None));
        check("roothash=", Err(WantedError::Hash));
        check(&format!("roothash={}", &HASH[1..]), Err(WantedError::Hash));
        check(&format!("roothash={}x", &HASH[1..]), Err(WantedError::Hash));
        check(&format!("roothash=\"{HASH}\""), Err(WantedError::Hash));
        check(&format!("roothash={HASH} roothash={}", HASH.replace('0', "1")), Err(WantedError::Two));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(roothash=)?.{0,100}") {
            let _ = Wanted::parse(&line);
        }
    }
}

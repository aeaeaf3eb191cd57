//! Notices: what is wrong with this rig and what to do, one small file each, for whoever shows them.
//!
//! `/run/rig/notices/NAME` holds what is wrong in its first line, and what to do in the rest. Root writes them, one whole
//! file at a time; the provider reads them and trusts none: count and length are bounded and control signs are gone.

use std::fs;
use std::io;
use std::path::Path;

use crate::files::{self, Access};

/// Notices that are read. There are fewer kinds.
pub const NOTICES_MAX: usize = 16;

/// The longest notice, in bytes.
pub const NOTICE_BYTES_MAX: usize = 2048;

/// Names in the folder that are looked at, whatever they are.
const ENTRIES_MAX: usize = 256;

/// The longest name of a notice.
const NAME_BYTES_MAX: usize = 32;

/// One notice. Ordered by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// Which one: letters, digits and hyphens.
    pub name: String,
    /// What is wrong, in one line.
    pub what: String,
    /// What to do; may be empty.
    pub next: String,
}

// === impl Notice ===

impl Notice {
    /// A notice.
    pub fn new(name: &str, what: impl Into<String>, next: impl Into<String>) -> Notice {
        Notice { name: name.to_owned(), what: what.into(), next: next.into() }
    }

    /// As its file holds it, within [`NOTICE_BYTES_MAX`].
    #[must_use]
    pub fn text(&self) -> String {
        let text = format!("{}\n{}\n", clean(&self.what).replace('\n', " "), clean(&self.next));
        cut(&text, NOTICE_BYTES_MAX).to_owned()
    }

    fn read(name: &str, bytes: &[u8]) -> Option<Notice> {
        // A sign that was cut in two at the end is left away.
        let text = String::from_utf8_lossy(bytes).replace('\u{fffd}', "?");
        let text = clean(cut(&text, NOTICE_BYTES_MAX));
        let (what, next) = text.split_once('\n').unwrap_or((&text, ""));
        let (what, next) = (what.trim(), next.trim());
        (!what.is_empty()).then(|| Notice::new(name, what, next))
    }
}

/// Writes this boot's `notices` into `folder`, and takes away those of `ours` that are not among them.
/// Errors: what the system said.
pub fn write(folder: &Path, ours: &[&str], notices: &[Notice]) -> io::Result<()> {
    files::folder(folder, Access::root(0o755))?;
    for name in ours {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    for notice in notices.iter().take(NOTICES_MAX) {
        files::write(&folder.join(&notice.name), notice.text().as_bytes(), Access::root(0o644))?;
    }
    Ok(())
}

/// The notices in `folder`, in the order of their names. What cannot be read is left out.
#[must_use]
pub fn read(folder: &Path) -> Vec<Notice> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.take(ENTRIES_MAX).flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_name(name)).collect();
    names.sort_unstable();
    names.truncate(NOTICES_MAX);
    let one = |name: &String| Notice::read(name, &files::read(&folder.join(name), NOTICE_BYTES_MAX).ok()??);
    names.iter().filter_map(one).collect()
}

fn is_name(name: &str) -> bool {
    let is_sign = |sign: u8| sign.is_ascii_alphanumeric() || sign == b'-';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_sign)
}

fn clean(text: &str) -> String {
    text.chars().map(|sign| if sign.is_control() && sign != '\n' { ' ' } else { sign }).collect()
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there(files: &[(&str, &[u8])]) -> Vec<Notice> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).expect("writes");
        }
        read(folder.path())
    }

    #[test]
    fn what_was_written_is_read_and_what_no_longer_holds_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("notices");
        assert!(read(&at).is_empty());
        let (state, file) = (Notice::new("state", "a", "b\nc"), Notice::new("rig-toml", "d", ""));
        write(&at, &["state", "rig-toml"], &[state.clone(), file.clone()]).expect("writes");
        fs::write(at.join("signer"), "not ours\nleft alone\n").expect("writes");
        assert_eq!(read(&at), [file, Notice::new("signer", "not ours", "left alone"), state.clone()]);
        write(&at, &["state", "rig-toml"], &[state]).expect("writes");
        assert_eq!(read(&at).iter().map(|notice| notice.name.as_str()).collect::<Vec<_>>(), ["signer", "state"]);
    }

    #[test]
    fn a_strangers_files_are_bounded_and_cleaned() {
        let check = |name: &str, bytes: &[u8], expected: Option<(&str, &str)>| {
            let expected: Vec<_> = expected.map(|(what, next)| Notice::new(name, what, next)).into_iter().collect();
            assert_eq!(there(&[(name, bytes)]), expected, "{name}");
        };
        check("a", b"what\nnext\nmore\n", Some(("what", "next\nmore")));
        check("a", b"\x1b[2Jwhat\x07\r\nnext", Some(("[2Jwhat", "next")));
        check("a", b"\xff\xfe", Some(("??", "")));
        check("a", b"", None);
        check("a", b"\n\nnext", None);
        check(".hidden", b"what", None);
        check("a.part", b"what", None);
        check(&"a".repeat(33), b"what", None);
        let long = there(&[("a", &[b'x'; 5000])]);
        assert_eq!(long[0].what.len(), NOTICE_BYTES_MAX);
        let many: Vec<(String, &[u8])> = (0..40).map(|number| (format!("n{number:02}"), &b"what"[..])).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        assert_eq!(there(&many).len(), NOTICES_MAX);
    }

    proptest! {
        #[test]
        fn no_notice_is_longer_than_its_bound(what in ".{0,3000}", next in ".{0,3000}", bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let text = Notice::new("a", what, next).text();
            prop_assert!(text.len() <= NOTICE_BYTES_MAX);
            for bytes in [text.as_bytes(), &bytes[..]] {
                for notice in there(&[("a", bytes)]) {
                    prop_assert!(!notice.what.chars().any(char::is_control) && !notice.what.is_empty());
                    prop_assert!(!notice.next.chars().any(|sign| sign.is_control() && sign != '\n'));
                }
            }
        }
    }
}

//! Two text files that together hold the newest lines.
//!
//! ```text
//! DIR/now.log      what is written, at most HALF_BYTES
//! DIR/before.log   what was now.log until it was full
//! ```
//!
//! Invariants: never more than twice [`HALF_BYTES`]; an append is on the disk when it returns; a reset in the middle of
//! one costs that one's end, and what is written next begins on a line of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Bytes of one file: some 10,000 lines.
pub(crate) const HALF_BYTES: u64 = 2 << 20;

const NOW: &str = "now.log";
const BEFORE: &str = "before.log";

/// Open for writing. There is one owner of a directory.
#[derive(Debug)]
pub(crate) struct Ring {
    directory: PathBuf,
    now: File,
    bytes: u64,
}

// === impl Ring ===

impl Ring {
    /// In `directory`, behind what is there. Errors: it cannot be written.
    pub(crate) fn open(directory: &Path) -> anyhow::Result<Self> {
        let (now, bytes) = open(directory).with_context(|| format!("open {}/{NOW}", directory.display()))?;
        let mut ring = Self { directory: directory.to_owned(), now, bytes };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        ring.append(format!("\n=== boot {} ===\n", boot.trim()).as_bytes()).context("begin")?;
        Ok(ring)
    }

    /// Adds lines; nothing does nothing. Errors: the disk is full or failing.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let more = u64::try_from(lines.len()).map_err(io::Error::other)?;
        if self.bytes > 0 && self.bytes.saturating_add(more) > HALF_BYTES {
            fs::rename(self.directory.join(NOW), self.directory.join(BEFORE))?;
            (self.now, self.bytes) = open(&self.directory)?;
        }
        self.now.write_all(lines)?;
        self.bytes += more;
        self.now.sync_data()
    }
}

fn open(directory: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(directory.join(NOW))?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_newest_and_never_more_than_two_halves() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut ring = Ring::open(directory.path()).expect("open");
        let line = format!("{}\n", "x".repeat(64 * 1024 - 1));
        let length = |name: &str| fs::metadata(directory.path().join(name)).map_or(0, |found| found.len());
        for _ in 0..100 {
            ring.append(line.as_bytes()).expect("append");
            assert!(length(NOW) <= HALF_BYTES && length(BEFORE) <= HALF_BYTES);
        }
        ring.append(b"the last\n").expect("append");
        assert!(fs::read_to_string(directory.path().join(NOW)).expect("text").ends_with("the last\n"));
        assert!(length(BEFORE) > HALF_BYTES - 64 * 1024 - 1);
    }

    #[test]
    fn a_new_start_goes_on_behind_a_line_that_was_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        Ring::open(directory.path()).expect("open").append(b"cut he").expect("append");
        Ring::open(directory.path()).expect("open").append(b"and on\n").expect("append");
        let text = fs::read_to_string(directory.path().join(NOW)).expect("text");
        assert!(text.contains("cut he\n=== boot ") && text.ends_with(" ===\nand on\n"), "{text}");
    }
}

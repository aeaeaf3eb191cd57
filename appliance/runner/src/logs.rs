//! What a service printed, in two files that take turns.
//!
//! Invariants: a source's log never takes more than twice [`FILE_BYTES_MAX`] on disk; what is handed out is
//! text in which no control character is left but the line feed, nor one that turns text around, and fits its message.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// When the current file has this many bytes it becomes the previous one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Writes the log of one run.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    current: File,
    bytes: u64,
}

const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";

// === impl Log ===

impl Log {
    /// Begins the log of a new run in `dir`, in place of the last run's.
    pub(crate) fn begin(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        match fs::remove_file(dir.join(PREVIOUS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let current = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join(CURRENT))?;
        Ok(Self { dir: dir.to_owned(), current, bytes: 0 })
    }

    /// Copies everything from `pipe` until every writer is gone. A disk that takes no more loses output, and
    /// never blocks the service.
    pub(crate) fn follow(mut self, mut pipe: File) {
        let mut chunk = [0; 16 * 1024];
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    if let Err(error) = self.append(&chunk[..count]) {
                        tracing::warn!(%error, "a source's output is lost");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "a source's output cannot be read");
                    return;
                }
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes >= FILE_BYTES_MAX {
            fs::rename(self.dir.join(CURRENT), self.dir.join(PREVIOUS))?;
            self.current = OpenOptions::new().write(true).create_new(true).open(self.dir.join(CURRENT))?;
            self.bytes = 0;
        }
        self.bytes += bytes.len() as u64;
        self.current.write_all(bytes)
    }
}

/// The end of the log in `dir`: at most `bytes_max` bytes once JSON has quoted it. Empty if there is none.
pub(crate) fn tail(dir: &Path, bytes_max: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    for name in [CURRENT, PREVIOUS] {
        let wanted = (bytes_max as u64).saturating_sub(bytes.len() as u64);
        if wanted > 0 {
            let mut older = last_bytes(&dir.join(name), wanted)?;
            older.append(&mut bytes);
            bytes = older;
        }
    }
    Ok(printable_tail(&String::from_utf8_lossy(&bytes), bytes_max))
}

fn last_bytes(path: &Path, count: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(count)))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Characters that change the direction in which what follows is shown, and so what a reader takes it for.
fn turns_text(character: char) -> bool {
    matches!(character, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The end of `text` with its control characters escaped, at most `bytes_max` bytes as a JSON string's inside.
fn printable_tail(text: &str, bytes_max: usize) -> String {
    let mut kept: VecDeque<String> = VecDeque::new();
    let mut bytes = 0;
    for character in text.chars().rev() {
        let shown = match character {
            '\n' => "\n".to_owned(),
            control if control.is_control() || turns_text(control) => control.escape_unicode().to_string(),
            plain => plain.to_string(),
        };
        // JSON puts a backslash before each of these.
        bytes += shown.len() + shown.matches(['\n', '"', '\\']).count();
        if bytes > bytes_max {
            break;
        }
        kept.push_front(shown);
    }
    kept.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_takes_two_files_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Log::begin(dir.path()).expect("begin");
        let line = [b'x'; 4096];
        for _ in 0..1024 {
            log.append(&line).expect("append");
        }
        log.append(b"the end\n").expect("append");
        let bytes: u64 = fs::read_dir(dir.path())
            .expect("list")
            .map(|entry| entry.expect("entry").metadata().expect("metadata").len())
            .sum();
        assert!(bytes <= 2 * (FILE_BYTES_MAX + 4096), "{bytes}");
        assert!(tail(dir.path(), 100).expect("tail").ends_with("the end\n"));
    }

    #[test]
    fn a_tail_is_printable_and_fits_its_message() {
        let shown = printable_tail("a\x1b[31m\r\0b\u{9b}c\n", 1000);
        assert_eq!(shown, "a\\u{1b}[31m\\u{d}\\u{0}b\\u{9b}c\n");
        for text in ["\"".repeat(9000), "\x1b".repeat(9000), "\u{1F600}".repeat(9000), "\n".repeat(9000)] {
            let tail = printable_tail(&text, 4000);
            let quoted = serde_json::to_string(&tail).expect("text");
            assert!(quoted.len() <= 4002 && quoted.len() > 3900, "{}", quoted.len());
        }
    }
}
